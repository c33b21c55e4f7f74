/** A GGUF file's vocabulary as the tokenizer.json and tokenizer_config.json that tokenizer.ts reads. Used
 *  by model-files.ts. Two kinds: "gpt2" (byte-level BPE with a named pre-tokenizer) and "llama"
 *  (SentencePiece: merges by score, byte fallback). Rules are llama.cpp's. */
import { ModelError } from '../../base/errors.js';
import { describeJson, type JsonObject } from '../json-file.js';
import type { Metadata } from './metadata.js';
import { preTokenizerNames, preTokenizerOf } from './pre-tokenizers.js';

/** tokenizer.ggml.token_type */
const tokenTypes = { unknown: 2, control: 3, userDefined: 4 } as const;
/** Texts of control tokens that end an answer, whatever the file names as its end. */
const endTexts = new Set([
  ...[
    '<|eot_id|>',
    '<|im_end|>',
    '<|end|>',
    '<|return|>',
    '<end_of_turn>',
    '<|endoftext|>',
    '<|eom_id|>',
    '<EOT>',
    '_<EOT>',
  ],
  ...['<|end_of_text|>', '<end_of_utterance>', '<｜end▁of▁sentence｜>', '[EOT]', '[EOS]'],
]);

interface Vocabulary {
  readonly tokens: readonly string[];
  readonly types: readonly number[];
}

/** tokenizer.json. @throws ModelError */
export function ggufTokenizer(metadata: Metadata): JsonObject {
  const vocabulary = readVocabulary(metadata);
  const kind =
    metadata.text('tokenizer.ggml.model') ?? metadata.fail('tokenizer.ggml.model', '"gpt2" or "llama"');
  const rest = { added_tokens: addedTokens(metadata, vocabulary) };
  if (kind === 'gpt2') return { ...rest, ...byteLevel(metadata, vocabulary) };
  if (kind === 'llama') return { ...rest, ...sentencePiece(metadata, vocabulary) };
  throw new ModelError(
    `${metadata.file}: tokenizer ${describeJson(kind)} is not supported (supported: gpt2, llama): put a tokenizer.json and the model as ` +
      'safetensors into a folder, or run it on token ids with --skip-tokenizer-init',
  );
}

/** tokenizer_config.json: special tokens by name and the chat template. @throws ModelError */
export function ggufTokenizerConfig(metadata: Metadata): JsonObject {
  const { tokens } = readVocabulary(metadata);
  const tokenOf = (name: string) => {
    const id = metadata.number(`tokenizer.ggml.${name}_token_id`);
    return id === null ? undefined : tokens[id];
  };
  const template = metadata.text('tokenizer.chat_template');
  const more = metadata.texts('tokenizer.chat_templates') ?? [];
  const named = more.map((name) => ({
    name,
    template: metadata.text(`tokenizer.chat_template.${name}`) ?? '',
  }));
  const templates = [...(template === null ? [] : [{ name: 'default', template }]), ...named];
  return {
    bos_token: tokenOf('bos'),
    eos_token: tokenOf('eos'),
    unk_token: tokenOf('unknown'),
    pad_token: tokenOf('padding'),
    chat_template: named.length > 0 ? templates : (template ?? undefined),
  };
}

/** generation_config.json: all tokens that end an answer. @throws ModelError */
export function ggufGenerationConfig(metadata: Metadata): JsonObject {
  const named = ['eos', 'eot', 'eom'].map((name) => metadata.number(`tokenizer.ggml.${name}_token_id`));
  const { tokens, types } = readVocabulary(metadata);
  const found = tokens.flatMap((token, id) =>
    endTexts.has(token) && types[id] === tokenTypes.control ? [id] : [],
  );
  const ids = new Set([...named.filter((id) => id !== null), ...found]);
  return ids.size > 0 ? { eos_token_id: [...ids] } : {};
}

function readVocabulary(metadata: Metadata): Vocabulary {
  const tokens =
    metadata.texts('tokenizer.ggml.tokens') ?? metadata.fail('tokenizer.ggml.tokens', 'a list of strings');
  const types = metadata.numbers('tokenizer.ggml.token_type') ?? [];
  if (types.length > 0 && types.length !== tokens.length)
    metadata.fail('tokenizer.ggml.token_type', `a list of ${tokens.length} numbers, one a token`);
  return { tokens, types };
}

/** Control tokens are special; user-defined ones are found in a text as they are, too. */
function addedTokens(metadata: Metadata, { tokens, types }: Vocabulary): readonly JsonObject[] {
  const stripsAfter = /phi-?3/i.test(metadata.text('general.name') ?? '');
  return tokens.flatMap((content, id) => {
    const type = types[id];
    const isSpecial = type === tokenTypes.control || type === tokenTypes.unknown;
    if ((!isSpecial && type !== tokenTypes.userDefined) || content === '') return [];
    const rstrip = stripsAfter && isSpecial && !['<unk>', '<s>', '<|endoftext|>'].includes(content);
    return [
      { id, content, special: isSpecial, normalized: false, single_word: false, lstrip: false, rstrip },
    ];
  });
}

function byteLevel(metadata: Metadata, { tokens }: Vocabulary): JsonObject {
  const name = metadata.text('tokenizer.ggml.pre') ?? 'default';
  const preTokenizer = preTokenizerOf(name);
  if (preTokenizer === undefined) {
    throw new ModelError(
      `${metadata.file}: pre-tokenizer ${describeJson(name)} is not supported (supported: ${preTokenizerNames}): use the model as safetensors ` +
        'with its tokenizer.json, or run it on token ids with --skip-tokenizer-init',
    );
  }
  const merges =
    metadata.texts('tokenizer.ggml.merges') ?? metadata.fail('tokenizer.ggml.merges', 'a list of strings');
  return {
    model: {
      type: 'BPE',
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
      ignore_merges: preTokenizer.ignoresMerges,
      byte_fallback: false,
    },
    normalizer: null,
    pre_tokenizer: preTokenizer.steps,
    decoder: { type: 'ByteLevel' },
    post_processor: surroundings(metadata, tokens, preTokenizer.addsBos),
  };
}

function sentencePiece(metadata: Metadata, { tokens }: Vocabulary): JsonObject {
  const scores =
    metadata.numbers('tokenizer.ggml.scores') ?? metadata.fail('tokenizer.ggml.scores', 'a list of numbers');
  if (scores.length !== tokens.length)
    metadata.fail('tokenizer.ggml.scores', `a list of ${tokens.length} numbers, one a token`);
  const addsSpace = metadata.flag('tokenizer.ggml.add_space_prefix', true);
  const spaces = { type: 'Replace', pattern: { String: ' ' }, content: '▁' };
  const back = [
    { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
    { type: 'ByteFallback' },
    { type: 'Fuse' },
  ];
  const unknown = metadata.number('tokenizer.ggml.unknown_token_id') ?? 0;
  return {
    model: {
      type: 'SentencePiece',
      vocab: tokens.map((token, id) => [token, scores[id] ?? 0]),
      unk_id: unknown,
      byte_fallback: true,
    },
    normalizer: {
      type: 'Sequence',
      normalizers: addsSpace ? [{ type: 'Prepend', prepend: '▁' }, spaces] : [spaces],
    },
    pre_tokenizer: null,
    decoder: {
      type: 'Sequence',
      decoders: addsSpace ? [...back, { type: 'Strip', content: ' ', start: 1, stop: 0 }] : back,
    },
    post_processor: surroundings(metadata, tokens, true),
  };
}

/** What goes around a text, as the file says or the kind of vocabulary has it. */
function surroundings(metadata: Metadata, tokens: readonly string[], addsBos: boolean): JsonObject | null {
  const piecesOf = (name: 'bos' | 'eos', fallback: boolean) => {
    const id = metadata.number(`tokenizer.ggml.${name}_token_id`);
    if (!metadata.flag(`tokenizer.ggml.add_${name}_token`, fallback) || id === null) return [];
    if (tokens[id] === undefined)
      metadata.fail(`tokenizer.ggml.${name}_token_id`, `an id below ${tokens.length}`);
    return [{ name, id }];
  };
  const before = piecesOf('bos', addsBos);
  const after = piecesOf('eos', false);
  if (before.length + after.length === 0) return null;
  const special = ({ name }: { readonly name: string }) => ({ SpecialToken: { id: name, type_id: 0 } });
  return {
    type: 'TemplateProcessing',
    single: [...before.map(special), { Sequence: { id: 'A', type_id: 0 } }, ...after.map(special)],
    special_tokens: Object.fromEntries(
      [...before, ...after].map(({ name, id }) => [name, { id: name, ids: [id], tokens: [name] }]),
    ),
  };
}
