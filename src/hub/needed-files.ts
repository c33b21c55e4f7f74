/** Which files of a repository a model needs: nothing else is downloaded. Pure. Used by pull.ts, and by
 *  find-model.ts for what is cached.
 *
 *    safetensors   the folder's own: config, tokenizer, chat template, weights, and the card for its licence
 *    GGUF          the one file, or all its parts */
import { ModelError } from '../base/errors.js';
import { describeJson } from '../model/json-file.js';
import type { ModelName } from './model-name.js';

const configFiles = new Set(['config.json', 'README.md']);
const textFiles = new Set([
  ...['config.json', 'generation_config.json', 'README.md'],
  ...['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'added_tokens.json'],
  ...['tokenizer.model', 'vocab.json', 'merges.txt', 'chat_template.jinja', 'chat_template.json'],
]);
const weightFiles = /^model(-\d+-of-\d+)?\.safetensors$|^model\.safetensors\.index\.json$/;
const ggufPart = /-(\d{5})-of-(\d{5})\.gguf$/;
const namedMax = 12;

/** `text`: no weights, for random ones. `config`: for what is only shown. */
export type ModelParts = 'all' | 'text' | 'config';

interface NeededFiles<T> {
  readonly files: readonly T[];
  /** What is opened: the first part of a GGUF; null: the folder. */
  readonly entry: string | null;
}

/** Throws ModelError naming what there is instead. */
export function neededFiles<T extends { readonly path: string }>(
  files: readonly T[],
  { id, file }: ModelName,
  parts: ModelParts,
): NeededFiles<T> {
  if (file !== null) return ggufFiles(files, id, file);
  const weightsThere = files.filter(({ path }) => weightFiles.test(path));
  if (weightsThere.length > 0 || parts !== 'all') {
    const needed = files.filter(({ path }) => (parts === 'config' ? configFiles : textFiles).has(path));
    if (needed.some(({ path }) => path === 'config.json')) {
      return { files: parts !== 'all' ? needed : [...needed, ...onlyIndexed(weightsThere)], entry: null };
    }
  }
  const ggufs = firstParts(files);
  const [only] = ggufs;
  if (ggufs.length === 1 && only !== undefined) return ggufFiles(files, id, only);
  if (ggufs.length > 1)
    throw new ModelError(`${id} has several GGUF files: name one, ${id}:FILE, of ${some(ggufs)}`);
  const others = files
    .map(({ path }) => path)
    .filter((name) => /\.(bin|pt|pth|h5|onnx|msgpack|safetensors)$/.test(name));
  throw new ModelError(
    `${id}: neither config.json with model.safetensors (or its shards and index) nor a GGUF file is in it` +
      (others.length === 0
        ? ''
        : `; it has ${some(others)}: look for a repository that has the model as safetensors`),
  );
}

/** Shards and a single file may both be there: transformers takes the single file. */
function onlyIndexed<T extends { readonly path: string }>(weights: readonly T[]): readonly T[] {
  const single = weights.filter(({ path }) => path === 'model.safetensors');
  return single.length > 0 ? single : weights;
}

function ggufFiles<T extends { readonly path: string }>(
  files: readonly T[],
  id: string,
  wanted: string,
): NeededFiles<T> {
  const firsts = firstParts(files);
  const entry = firsts.find((name) => name === wanted) ?? onlyOneWith(firsts, wanted);
  if (entry === null) {
    const list = firsts.length === 0 ? 'it has no GGUF files' : `its GGUF files are ${some(firsts)}`;
    throw new ModelError(`${id}: ${describeJson(wanted)} is not exactly one GGUF file of it; ${list}`);
  }
  const [, , total] = ggufPart.exec(entry) ?? [];
  const stem = entry.replace(ggufPart, '');
  const parts = files.filter(
    ({ path }) => path === entry || (total !== undefined && isPart(path, stem, total)),
  );
  if (total === undefined || parts.length === Number(total)) return { files: parts, entry };
  throw new ModelError(`${id}: ${parts.length} of the ${Number(total)} parts of ${entry} are there`);
}

function isPart(path: string, stem: string, total: string): boolean {
  return path.startsWith(stem) && ggufPart.exec(path)?.[2] === total && path.replace(ggufPart, '') === stem;
}

/** Without case, and as a whole word: Q4_K must not find Q4_K_M. */
function onlyOneWith(names: readonly string[], wanted: string): string | null {
  const word = new RegExp(`(^|[^A-Za-z0-9_])${wanted.replace(/[^\w]/g, '\\$&')}([^A-Za-z0-9_]|$)`, 'i');
  const found = names.filter((name) => word.test(name));
  return found.length === 1 ? (found[0] ?? null) : null;
}

function firstParts(files: readonly { readonly path: string }[]): string[] {
  const names = files.map(({ path }) => path).filter((name) => name.endsWith('.gguf'));
  return names.filter((name) => Number(ggufPart.exec(name)?.[1] ?? 1) === 1);
}

function some(names: readonly string[]): string {
  const shown = names.slice(0, namedMax).join(', ');
  return names.length > namedMax ? `${shown} and ${names.length - namedMax} more` : shown;
}
