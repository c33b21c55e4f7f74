/** The tokenizer and chat template against transformers, and streams against whole decodes. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { InvalidRequestError, ModelError } from '../../src/base/errors.js';
import { findChatTemplate, loadChatTemplate } from '../../src/model/chat-template.js';
import { byteLevelCharacters } from '../../src/model/text/pre-tokenizers.js';
import { TextStream } from '../../src/model/text-stream.js';
import { loadTokenizer, type Tokenizer } from '../../src/model/tokenizer.js';
import { demoFolder, fixtureFolder } from './harness.js';

interface TokenizerGolden {
  readonly vocab_size: number;
  readonly cases: readonly { text: string; ids: number[]; decoded: string; decoded_skip_special: string }[];
  readonly decode_prefixes: readonly { ids: number[]; decoded: string }[];
  readonly chat: readonly {
    messages: { role: string; content: string }[];
    add_generation_prompt: boolean;
    text: string;
    ids: number[];
  }[];
}

const golden = JSON.parse(
  readFileSync(path.join(demoFolder, 'tokenizer_golden.json'), 'utf8'),
) as TokenizerGolden;
const tokenizer = loadTokenizer(demoFolder);
const temporary = mkdtempSync(path.join(tmpdir(), 'twostroke-tokenizer-'));
afterAll(() => rmSync(temporary, { recursive: true }));

/** A folder with these files. */
function folderWith(files: Record<string, unknown>): string {
  const folder = mkdtempSync(path.join(temporary, 'folder-'));
  for (const [name, content] of Object.entries(files)) {
    writeFileSync(path.join(folder, name), typeof content === 'string' ? content : JSON.stringify(content));
  }
  return folder;
}

function streamed(
  by: Tokenizer,
  ids: readonly number[],
  options: ConstructorParameters<typeof TextStream>[1],
): string {
  const stream = new TextStream(by, options);
  return ids.map((id) => stream.push(id).text).join('') + stream.flush();
}

const plain = { stopStrings: [], includeStopString: false, special: 'keep' } as const;

describe('tokenizer goldens', () => {
  it('knows its vocabulary', () => expect(tokenizer.vocabCount).toBe(golden.vocab_size));

  it.each(golden.cases)('$text', ({ text, ids, decoded, decoded_skip_special }) => {
    expect(tokenizer.encode(text, { addSpecialTokens: 'auto' })).toEqual(ids);
    expect(tokenizer.decode(ids, { special: 'keep' })).toBe(decoded);
    expect(tokenizer.decode(ids, { special: 'skip' })).toBe(decoded_skip_special);
    expect(streamed(tokenizer, ids, plain)).toBe(decoded);
    expect(streamed(tokenizer, ids, { ...plain, special: 'skip' })).toBe(decoded_skip_special);
  });

  it.each(golden.decode_prefixes)('decodes $ids', ({ ids, decoded }) => {
    expect(tokenizer.decode(ids, { special: 'keep' })).toBe(decoded);
    expect(streamed(tokenizer, ids, plain)).toBe(decoded);
  });

  it.each(golden.chat)('chat $text', ({ messages, add_generation_prompt, text, ids }) => {
    const rendered = loadChatTemplate(demoFolder).render(messages, {
      addGenerationPrompt: add_generation_prompt,
    });
    expect(rendered).toBe(text);
    expect(tokenizer.encode(rendered, { addSpecialTokens: 'auto' })).toEqual(ids);
  });
});

describe('tokens', () => {
  it('gives exact bytes, parts of characters included', () => {
    expect([...tokenizer.tokenBytes(165)]).toEqual([0xe6]);
    expect(tokenizer.tokenText(165)).toBe('\ufffd');
    expect(tokenizer.tokenText(284)).toBe(tokenizer.decode([284], { special: 'keep' }));
    expect(tokenizer.isSpecial(2)).toBe(true);
    expect(tokenizer.isSpecial(284)).toBe(false);
    expect([...tokenizer.tokenBytes(999_999)]).toEqual([]);
  });
});

describe('text streams', () => {
  const anyIds = fc.array(fc.integer({ min: 0, max: golden.vocab_size - 1 }), { maxLength: 60 });

  it('equal the whole decode for any ids, broken characters included', () => {
    fc.assert(
      fc.property(anyIds, (ids) => {
        expect(streamed(tokenizer, ids, plain)).toBe(tokenizer.decode(ids, { special: 'keep' }));
      }),
      { numRuns: 500, seed: 1 },
    );
  });

  it('never give out a part of a character', () => {
    const text = '日本 👨‍👩‍👧‍👦 é';
    const stream = new TextStream(tokenizer, plain);
    for (const id of tokenizer.encode(text, { addSpecialTokens: 'none' }))
      expect(stream.push(id).text).not.toContain('\ufffd');
  });

  /** What a reader one character at a time would do. */
  function untilStop(text: string, stops: readonly string[]): { text: string; stop: string | undefined } {
    for (let end = 1; end <= text.length; end++) {
      const matches = stops
        .filter((stop) => text.slice(0, end).endsWith(stop))
        .sort((a, b) => b.length - a.length);
      if (matches[0] !== undefined) return { text: text.slice(0, end - matches[0].length), stop: matches[0] };
    }
    return { text, stop: undefined };
  }

  it('stop where a reader one character at a time would, however tokens cut the text', () => {
    const letters = fc.string({ unit: fc.constantFrom('a', 'b', 'é', '🦊'), maxLength: 24 });
    const stops = fc.array(
      fc.string({ unit: fc.constantFrom('a', 'b', 'é', '🦊'), minLength: 1, maxLength: 4 }),
      {
        maxLength: 3,
      },
    );
    const bytes = [...Array(256).keys()];
    const idOfByte = new Map(
      bytes.map((byte) => [byte, bytes.find((id) => tokenizer.tokenBytes(id + 3)[0] === byte)! + 3]),
    );
    fc.assert(
      fc.property(letters, stops, fc.boolean(), (text, stopStrings, cutBytes) => {
        const ids = cutBytes
          ? [...Buffer.from(text)].map((byte) => idOfByte.get(byte)!)
          : tokenizer.encode(text, { addSpecialTokens: 'none' });
        const expected = untilStop(text, stopStrings);
        const stream = new TextStream(tokenizer, { ...plain, stopStrings });
        const pieces = ids.map((id) => stream.push(id));
        expect(pieces.map((piece) => piece.text).join('') + stream.flush()).toBe(expected.text);
        expect(pieces.find((piece) => piece.stopString !== undefined)?.stopString).toBe(expected.stop);
      }),
      { numRuns: 1000, seed: 2 },
    );
  });

  it('include the stop string on request, and end there', () => {
    const stream = new TextStream(tokenizer, { ...plain, stopStrings: ['lo, w'], includeStopString: true });
    const ids = tokenizer.encode('Hello, world!', { addSpecialTokens: 'none' });
    expect(ids.map((id) => stream.push(id).text).join('') + stream.flush()).toBe('Hello, w');
  });

  it('give back a held prefix of a stop string when no more comes', () => {
    const stream = new TextStream(tokenizer, { ...plain, stopStrings: ['world!!'] });
    const ids = tokenizer.encode('Hello world!', { addSpecialTokens: 'none' });
    expect(ids.map((id) => stream.push(id).text).join('')).toBe('Hello ');
    expect(stream.flush()).toBe('world!');
    expect(stream.flush()).toBe('');
  });
});

describe('SentencePiece-style tokenizers', () => {
  const vocab = {
    '<unk>': 0,
    '<s>': 1,
    '▁Hello': 2,
    '▁world': 3,
    '<0xE6>': 4,
    '<0x97>': 5,
    '<0xA5>': 6,
    '▁': 7,
    '!': 8,
    '▁▁': 9,
  };
  const folder = folderWith({
    'tokenizer.json': {
      version: '1.0',
      added_tokens: [
        {
          id: 1,
          content: '<s>',
          special: true,
          normalized: false,
          lstrip: false,
          rstrip: false,
          single_word: false,
        },
      ],
      normalizer: {
        type: 'Sequence',
        normalizers: [
          { type: 'Prepend', prepend: '▁' },
          { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
        ],
      },
      pre_tokenizer: null,
      post_processor: {
        type: 'TemplateProcessing',
        single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
        pair: [],
        special_tokens: { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] } },
      },
      decoder: {
        type: 'Sequence',
        decoders: [
          { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
          { type: 'ByteFallback' },
          { type: 'Fuse' },
          { type: 'Strip', content: ' ', start: 1, stop: 0 },
        ],
      },
      model: {
        type: 'BPE',
        vocab,
        merges: [],
        unk_token: '<unk>',
        byte_fallback: true,
        fuse_unk: true,
        ignore_merges: true,
      },
    },
  });
  const loaded = loadTokenizer(folder);

  it('adds its begin token on auto alone', () => {
    expect(loaded.encode('Hello', { addSpecialTokens: 'auto' })[0]).toBe(1);
    expect(loaded.encode('Hello', { addSpecialTokens: 'none' })[0]).not.toBe(1);
  });

  it('joins byte tokens and takes the leading space off a start, not off a continuation', () => {
    const ids = [1, 2, 3, 4, 5, 6, 8];
    expect(loaded.decode(ids, { special: 'skip' })).toBe('Hello world日!');
    expect(loaded.decode(ids, { special: 'skip', position: 'continuation' })).toBe(' Hello world日!');
    expect(streamed(loaded, ids, { ...plain, special: 'skip' })).toBe('Hello world日!');
    expect(streamed(loaded, ids, { ...plain, special: 'skip', position: 'continuation' })).toBe(
      ' Hello world日!',
    );
    expect(loaded.decode([9, 2], { special: 'skip' })).toBe('  Hello');
  });

  it('streams equal decodes', () => {
    const anyIds = fc.array(fc.integer({ min: 0, max: 9 }), { maxLength: 20 });
    fc.assert(
      fc.property(anyIds, (ids) => {
        expect(streamed(loaded, ids, plain)).toBe(loaded.decode(ids, { special: 'keep' }));
      }),
      { numRuns: 300, seed: 3 },
    );
  });
});

describe('Metaspace decoders', () => {
  const vocab = { '<unk>': 0, '▁': 1, '▁▁': 2, '▁a': 3, b: 4, '▁a▁b': 5, '<s>': 6 };
  const load = (scheme: string) =>
    loadTokenizer(
      folderWith({
        'tokenizer.json': {
          added_tokens: [{ id: 6, content: '<s>', special: true }],
          decoder: { type: 'Metaspace', replacement: '▁', prepend_scheme: scheme },
          model: { type: 'BPE', vocab, merges: [] },
        },
      }),
    );

  /** Of the Rust library: every mark of the first token shown goes. */
  it.each([
    [[2, 3], ' a', ' a', '   a'],
    [[3, 4], 'ab', 'ab', ' ab'],
    [[5, 3], 'ab a', 'ab a', ' a b a'],
    [[1, 2, 3], '   a', '   a', '    a'],
    [[6, 3], 'a', '<s> a', '<s> a'],
    [[2, 2], '  ', '  ', '    '],
  ])('%j', (ids, skipped, kept, never) => {
    const loaded = load('always');
    expect(loaded.decode(ids, { special: 'skip' })).toBe(skipped);
    expect(streamed(loaded, ids, { ...plain, special: 'skip' })).toBe(skipped);
    expect(loaded.decode(ids, { special: 'keep' })).toBe(kept);
    expect(streamed(loaded, ids, plain)).toBe(kept);
    expect(load('never').decode(ids, { special: 'keep' })).toBe(never);
    expect(loaded.decode(ids, { special: 'keep', position: 'continuation' })).toBe(never);
  });
});

describe('tokenizer_config.json', () => {
  /** A byte-level tokenizer of single bytes: a token id is its byte, added tokens follow. */
  const byteLevel = (
    added: readonly object[],
    preTokenizer: object = { type: 'ByteLevel', add_prefix_space: false },
  ) => {
    const vocab = Object.fromEntries(
      Array.from({ length: 256 }, (_, byte) => [byteLevelCharacters[byte], byte]),
    );
    return {
      added_tokens: added,
      normalizer: null,
      pre_tokenizer: preTokenizer,
      post_processor: null,
      decoder: { type: 'ByteLevel' },
      model: { type: 'BPE', vocab, merges: [] },
    };
  };
  const decoderOf = (tokens: Record<string, object>) => ({ added_tokens_decoder: tokens });
  const encode = (by: Tokenizer, text: string) => by.encode(text, { addSpecialTokens: 'none' });

  it('adds tokens that tokenizer.json does not have: one id each, their text back, skipped when special', () => {
    const loaded = loadTokenizer(
      folderWith({
        'tokenizer.json': byteLevel([{ id: 256, content: '<|end|>', special: true }]),
        'tokenizer_config.json': decoderOf({
          256: { content: '<|end|>', special: true },
          257: { content: '<think>', special: false },
          258: { content: '<|pad|>', special: true },
        }),
      }),
    );
    expect(encode(loaded, 'a<think>b<|pad|><|end|>')).toEqual([97, 257, 98, 258, 256]);
    expect(loaded.vocabCount).toBe(259);
    expect(loaded.decode([97, 257, 258, 98], { special: 'keep' })).toBe('a<think><|pad|>b');
    expect(loaded.decode([97, 257, 258, 98], { special: 'skip' })).toBe('a<think>b');
    expect(streamed(loaded, [97, 257, 258, 98], { ...plain, special: 'skip' })).toBe('a<think>b');
  });

  it('gives ids as transformers: a known text keeps its own, a new one the next free', () => {
    const loaded = loadTokenizer(
      folderWith({
        'tokenizer.json': byteLevel([{ id: 256, content: '<a>', special: false }]),
        'tokenizer_config.json': decoderOf({
          900: { content: '<b>' },
          800: { content: '<c>' },
          700: { content: '<a>', special: true },
        }),
      }),
    );
    expect(encode(loaded, '<a><b><c>')).toEqual([256, 258, 257]);
    expect(loaded.isSpecial(256)).toBe(true);
  });

  it('makes special what it names, where the vocabulary has it', () => {
    const tokenizer = byteLevel([]);
    Object.assign(tokenizer.model.vocab, { '</s>': 256, '<tool>': 257 });
    const config = {
      eos_token: '</s>',
      pad_token: '[nowhere]',
      additional_special_tokens: ['<tool>', { content: 'x' }],
    };
    const loaded = loadTokenizer(
      folderWith({ 'tokenizer.json': tokenizer, 'tokenizer_config.json': config }),
    );
    expect(encode(loaded, 'a</s><tool>x[')).toEqual([97, 256, 257, 120, 91]);
    expect(loaded.decode([97, 256, 257, 120, 91], { special: 'skip' })).toBe('a[');
    expect(loaded.vocabCount).toBe(258);
  });

  it('names the token that ends a text', () => {
    const ended = (config: object) =>
      loadTokenizer(
        folderWith({
          'tokenizer.json': byteLevel([{ id: 256, content: '<e>', special: true }]),
          'tokenizer_config.json': config,
        }),
      ).endTokenId;
    expect(ended({ eos_token: '<e>' })).toBe(256);
    expect(ended({ eos_token: { content: '<e>' } })).toBe(256);
    expect(ended({ eos_token: '<f>', ...decoderOf({ 257: { content: '<f>', special: true } }) })).toBe(257);
    expect(ended({ eos_token: 'nowhere' })).toBeNull();
    expect(ended({})).toBeNull();
  });

  it('writes replacements as they are', () => {
    const decoder = {
      type: 'Sequence',
      decoders: [{ type: 'Replace', pattern: { String: 'a' }, content: '$&$$' }, { type: 'Fuse' }],
    };
    const loaded = loadTokenizer(folderWith({ 'tokenizer.json': { ...byteLevel([]), decoder } }));
    expect(loaded.decode([97], { special: 'keep' })).toBe('$&$$');
  });
});

describe('chat templates', () => {
  const messages = [{ role: 'user', content: 'Hi' }];
  const render = (template: string, options = {}) =>
    loadChatTemplate(
      folderWith({
        'chat_template.jinja': template,
        'tokenizer_config.json': { bos_token: { content: '<s>' } },
      }),
    ).render(messages, { addGenerationPrompt: true, ...options });

  it('renders special tokens, tools and extra variables', () => {
    const tools = [{ type: 'function', function: { name: 'f', parameters: { a: '<é>' } } }];
    expect(
      render('{{ bos_token }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{{ mode }}', {
        tools,
        extra: { mode: 'x' },
      }),
    ).toBe('<s>{"type": "function", "function": {"name": "f", "parameters": {"a": "<é>"}}}x');
    expect(render('{% if tools is none %}none{% endif %}')).toBe('none');
    expect(render("{{ strftime_now('%Y') }}")).toMatch(/^\d{4}$/);
  });

  it('trims blocks as transformers does', () => {
    expect(
      render('{% for m in messages %}\n  {% if true %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}\n'),
    ).toBe('Hi\n');
  });

  it('turns what the template refuses into a request error', () => {
    const act = () => render("{{ raise_exception('roles must alternate') }}");
    expect(act).toThrow(InvalidRequestError);
    expect(act).toThrow(/roles must alternate/);
  });

  it('chooses among named templates', () => {
    const folder = folderWith({
      'tokenizer_config.json': {
        chat_template: [
          { name: 'default', template: 'plain' },
          { name: 'tool_use', template: 'tools' },
        ],
      },
    });
    const template = loadChatTemplate(folder);
    expect(template.render(messages, { addGenerationPrompt: true })).toBe('plain');
    expect(template.render(messages, { addGenerationPrompt: true, tools: [] })).toBe('tools');
  });

  it('says what to do without one', () => {
    expect(findChatTemplate(fixtureFolder('llama'))).toBeNull();
    expect(() => loadChatTemplate(fixtureFolder('llama'))).toThrow(ModelError);
    expect(() => loadChatTemplate(fixtureFolder('llama'))).toThrow(/no chat template.*completions/);
    expect(() => render('{% for %}')).toThrow(/chat_template.jinja: the chat template does not parse/);
  });
});

describe('tokenizer errors', () => {
  it.each([
    ['no file', {}, /tokenizer.json: no such file.*--skip-tokenizer-init/],
    ['bad JSON', { 'tokenizer.json': '{"model": ' }, /tokenizer.json: not valid JSON at line 1/],
    ['no vocabulary', { 'tokenizer.json': { decoder: { type: 'ByteLevel' } } }, /"model.vocab" is missing/],
    [
      'another decoder',
      { 'tokenizer.json': { model: { vocab: {} }, decoder: { type: 'WordPiece' } } },
      /decoder WordPiece is not supported/,
    ],
  ])('%s', (_, files, message) => {
    const folder = folderWith(files);
    expect(() => loadTokenizer(folder)).toThrow(ModelError);
    expect(() => loadTokenizer(folder)).toThrow(message);
  });
});
