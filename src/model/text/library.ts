/** The parts of @huggingface/tokenizers that this folder uses, with their types: the package's own declarations lack file extensions and do not
 *  resolve here. */
import * as library from '@huggingface/tokenizers';

interface LibraryModel {
  (words: readonly string[]): readonly string[];
  readonly tokens_to_ids: ReadonlyMap<string, number>;
  readonly unk_token_id?: number;
}

interface LibraryPostProcessor {
  post_process(tokens: readonly string[], pair: null, addSpecialTokens: boolean): { readonly tokens: readonly string[] };
}

interface LibraryTokenizer {
  readonly model: LibraryModel | null;
  readonly post_processor: LibraryPostProcessor | null;
}

interface Library {
  readonly Tokenizer: new (tokenizer: object, config: object) => LibraryTokenizer;
  readonly SplitPreTokenizer: new (config: object) => { readonly pattern: RegExp | null };
}

export type { LibraryModel, LibraryTokenizer };
export const { Tokenizer: LibraryTokenizerClass, SplitPreTokenizer: LibrarySplit } = library as unknown as Library;
