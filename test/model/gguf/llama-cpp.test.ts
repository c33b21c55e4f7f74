/** Beside llama.cpp on the same file, where node-llama-cpp is installed (`npm run bench:cpu` installs it,
 *  or TWOSTROKE_LLAMA_CPP names its folder); skipped elsewhere. Token ids are equal, greedy texts up to
 *  near ties, log-probabilities within the format's noise. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { at } from '../../../src/base/assert.js';
import { Prng } from '../../../src/base/prng.js';
import { loadTokenizer } from '../../../src/model/tokenizer.js';
import { median } from '../agreement.js';
import { demoFolder, fixtureFolder, Harness, logSoftmax, packageFolder, readGolden } from '../harness.js';
import { convertedFolder, type MatrixType, tokenizerPairs, writeGguf } from './writer.js';

const llamaFolder =
  process.env.TWOSTROKE_LLAMA_CPP ??
  path.join(packageFolder, 'build/bench/peers/node_modules/node-llama-cpp');
const temporary = mkdtempSync(path.join(tmpdir(), 'twostroke-llama-'));
afterAll(() => rmSync(temporary, { recursive: true }));

/** What is used of node-llama-cpp. */
interface Sequence {
  controlledEvaluate(
    input: readonly (number | readonly [number, object])[],
  ): Promise<
    readonly ({ readonly next: { readonly probabilities?: ReadonlyMap<number, number> } } | undefined)[]
  >;
}
interface LlamaModel {
  tokenize(text: string, specialTokens: boolean, options: 'trimLeadingSpace' | undefined): readonly number[];
  createContext(options: object): Promise<{ getSequence(): Sequence; dispose(): Promise<void> }>;
  dispose(): Promise<void>;
}

async function openLlama(file: string): Promise<LlamaModel> {
  const { getLlama, LlamaLogLevel } = await import(
    pathToFileURL(path.join(llamaFolder, 'dist/index.js')).href
  );
  const settings = { gpu: false, build: 'never', skipDownload: true, logLevel: LlamaLogLevel.error };
  const llama = await getLlama({ ...settings, maxThreads: 2 });
  return llama.loadModel({ modelPath: file, gpuLayers: 0 });
}

function fileOf(type: MatrixType | 'q4_k_m'): string {
  if (type === 'q4_k_m') return path.join(fixtureFolder('ggml'), 'demo-q4_k_m.gguf');
  const parts = convertedFolder(demoFolder, () => type);
  const pairs = [...parts.pairs, ...tokenizerPairs(demoFolder, 'qwen2', 4096)];
  return writeGguf(path.join(temporary, `demo-${type}.gguf`), { ...parts, pairs });
}

const runs = [
  // The largest difference of a log-probability above 1 %: llama.cpp rounds activations to 8 bits for
  // quantised weights.
  { type: 'f32', bound: 0.02 },
  { type: 'q8_0', bound: 0.15 },
  { type: 'q4_0', bound: 0.3 },
  { type: 'q4_k_m', bound: 0.3 },
] as const;

describe.skipIf(!existsSync(path.join(llamaFolder, 'dist/index.js')))('beside llama.cpp', () => {
  it('has the same token ids', async () => {
    const file = fileOf('q4_k_m');
    const [llama, ours] = [await openLlama(file), loadTokenizer(file)];
    const prng = new Prng(5);
    const alphabet = [..."aé ß\n\t09.,!'sStT-_你好🙂<|im_start|>  \u0308"];
    for (let i = 0; i < 500; i++) {
      const text = Array.from({ length: prng.integer(0, 60) }, () => prng.pick(alphabet)).join('');
      expect(ours.encode(text, { addSpecialTokens: 'none' }), JSON.stringify(text)).toEqual([
        ...llama.tokenize(text, true, undefined),
      ]);
    }
    await llama.dispose();
  });

  it.each(runs)(
    '$type has close log-probabilities and the same choices up to near ties',
    async ({ type, bound }) => {
      const file = fileOf(type);
      const llama = await openLlama(file);
      const harness = await Harness.open({ folder: file, dtype: 'auto', maxTokenCount: 512 });
      const errors: number[] = [];
      for (const name of ['chat_capital', 'chat_story_short', 'raw_once']) {
        const { prompt_ids: prompt, continuation_ids: continuation } = readGolden(demoFolder).cases.find(
          (each) => each.name === name,
        )!;
        const ids = [...prompt, ...continuation.slice(0, -1)];
        const context = await llama.createContext({ contextSize: 512, batchSize: 512, threads: 2 });
        const asked = ids.map((id) => [id, { generateNext: { probabilities: true } }] as const);
        const theirs = await context.getSequence().controlledEvaluate(asked);
        const rows = await harness.prefill(harness.start(ids.length), ids, 200, 'all');
        for (const [position, row] of rows.entries()) {
          if (position < prompt.length - 1) continue;
          const ours = logSoftmax(row);
          const probabilities = theirs[position]?.next.probabilities ?? new Map<number, number>();
          const [[first, p1] = [-1, 0], [, p2] = [-1, 0]] = [...probabilities].sort((a, b) => b[1] - a[1]);
          for (const [id, probability] of probabilities) {
            if (probability > 0.01) errors.push(Math.abs(Math.log(probability) - at(ours, id)));
          }
          const sure = Math.log(p1) - Math.log(p2) > 2 * bound;
          if (sure) expect(ours.indexOf(Math.max(...ours)), `${name} at ${position}`).toBe(first);
        }
        await context.dispose();
      }
      errors.sort((a, b) => a - b);
      expect(errors.length).toBeGreaterThan(100);
      expect(median(errors)).toBeLessThan(bound / 10);
      expect(at(errors, errors.length - 1)).toBeLessThan(bound);
      await harness.close();
      await llama.dispose();
    },
  );
});
