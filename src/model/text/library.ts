/** The parts of @huggingface/tokenizers that this folder uses, with their types: the package's own
 *  declarations lack file extensions and do not resolve here. */
import * as library from '@huggingface/tokenizers';

interface LibraryModel {
  (words: readonly string[]): readonly string[];
  readonly tokens_to_ids: ReadonlyMap<string, number>;
  readonly unk_token_id?: number;
}

interface LibraryTokenizer {
  readonly model: LibraryModel | null;
}

interface Library {
  readonly Tokenizer: new (tokenizer: object, config: object) => LibraryTokenizer;
  readonly SplitPreTokenizer: new (config: object) => { readonly pattern: RegExp | null };
}

export type { LibraryModel };
export const { Tokenizer: LibraryTokenizerClass, SplitPreTokenizer: LibrarySplit } =
  library as unknown as Library;
