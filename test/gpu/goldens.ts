/** Goldens of every architecture through the real engine on a GPU, in float32 and bf16. Used by engine.ts.
 *  Invariant: what passes here passed against the same goldens and bounds as the CPU's tests. */
import path from 'node:path';
import type { Device } from '../../src/device/device.js';
import { ask, check, folders, type GoldenCase, load, openEngine, readCases } from './rig.js';

/** From which gap on bf16 must choose the demo model's golden token. The CPU's bf16 (float32 activations)
 *  keeps to 0.05. With bf16 activations the errors of log-probabilities are as large as rounding alone makes
 *  them: exact arithmetic that rounds where our kernels round has a median of 1.8e-2 and a largest of 0.20,
 *  ours 1.6e-2 and 0.21 (docs/experiments/cuda-kernels.md), so two of them may differ by twice that at worst;
 *  from 0.05 on all but a few of a thousand must agree. */
const demoGap = 0.2;
const nearGap = 0.05;
const nearWrongShare = 0.003;

/** Where two greedy texts first differ, and whether the golden was sure there. */
function divergence(one: GoldenCase, ids: readonly number[]): { at: number; gap: number } | null {
  const at = one.continuation_ids.findIndex((id, i) => ids[i] !== id);
  return at < 0 ? null : { at, gap: one.gaps[at] ?? 0 };
}

export async function goldens(device: Device): Promise<void> {
  for (const folder of folders) {
    const cases = readCases(folder);
    for (const dtype of ['f32', 'bf16'] as const) {
      const model = await load(device, folder, dtype);
      for (const prefillChunkTokenCount of dtype === 'f32' ? [512, 64, 16] : [512]) {
        const engine = openEngine(device, model, {
          prefillChunkTokenCount,
          kv: { blockTokenCount: 16, blockCount: 2048, dtype },
        });
        const results = await engine.generate(cases.map((one) => ask(one)));
        engine.checkIntegrity();
        let worst = 0;
        let sureCount = 0;
        let earliest = '';
        for (const [i, one] of cases.entries()) {
          const tokens = results[i]!.choices[0]!.tokens;
          const ids = tokens.map(({ tokenId }) => tokenId);
          const apart = divergence(one, ids);
          const threshold = dtype === 'f32' ? 0 : folder.includes('demo') ? demoGap : 0.5;
          if (apart !== null) {
            earliest ||= `${one.name} at ${apart.at} (gap ${apart.gap.toFixed(3)})`;
            if (apart.gap >= threshold) sureCount++;
          }
          const end = apart?.at ?? ids.length;
          for (let j = 0; j < end; j++)
            worst = Math.max(
              worst,
              Math.abs((tokens[j]!.logprob?.logprob ?? Number.NaN) - one.continuation_logprobs[j]!),
            );
        }
        const bound = dtype === 'f32' ? 1e-3 : 0.6;
        const name = `${path.basename(folder)} ${dtype} chunks of ${prefillChunkTokenCount}`;
        // A choice of expert is a step: rounding flips some near ties, and with them the rest of a
        // free-running text, in any bf16 arithmetic.
        const isMoe = folder.endsWith('moe') && dtype === 'bf16';
        check(
          name,
          sureCount <= (isMoe ? cases.length / 2 : 0) && (isMoe || worst < bound),
          `${sureCount} sure tokens differ, worst log-probability error ${worst.toExponential(1)} ${earliest}`,
        );
        await engine.close();
      }
      model.close();
    }
  }
}

/** The goldens' tokens are fed; each position's best five are compared. The bounds are those of the CPU's
 *  bf16 test, which has float32 activations. */
export async function teacherForced(device: Device): Promise<void> {
  for (const folder of folders) {
    const cases = readCases(folder);
    const model = await load(device, folder, 'bf16');
    const engine = openEngine(device, model, {
      kv: { blockTokenCount: 16, blockCount: 2048, dtype: 'bf16' },
      prefixCaching: 'off',
    });
    const requests = cases.map((one) => ({
      ...ask(one, { maxTokenCount: 1, promptLogprobCount: 20 }),
      promptIds: [...one.prompt_ids, ...one.continuation_ids],
    }));
    const results = await engine.generate(requests);
    const errors: number[] = [];
    const threshold = folder.includes('demo') ? demoGap : 0.5;
    const wrong: string[] = [];
    const near = { count: 0, wrongCount: 0 };
    let checkedCount = 0;
    for (const [i, one] of cases.entries()) {
      for (const [position, gap] of one.gaps.entries()) {
        const found = new Map(results[i]!.promptLogprobs![one.prompt_ids.length - 1 + position]!.top);
        const { ids = [], logprobs = [] } = one.top5[position] ?? {};
        for (const [j, id] of ids.entries())
          if (found.has(id)) errors.push(Math.abs(found.get(id)! - logprobs[j]!));
        const isWrong = [...found.keys()][0] !== one.continuation_ids[position];
        if (gap >= nearGap) near.count++;
        if (gap >= nearGap && isWrong) near.wrongCount++;
        if (gap < threshold) continue;
        checkedCount++;
        if (isWrong) wrong.push(`${one.name} at ${position} gap ${gap.toFixed(3)}`);
      }
    }
    errors.sort((x, y) => x - y);
    const median = errors[Math.floor(errors.length / 2)] ?? Number.NaN;
    const most = errors.at(-1) ?? Number.NaN;
    const isMoe = folder.endsWith('moe');
    const isNearFine = !folder.includes('demo') || near.wrongCount <= nearWrongShare * near.count;
    const ok =
      isNearFine &&
      median < 0.25 &&
      (isMoe ? wrong.length < 0.03 * checkedCount : wrong.length === 0 && most < 0.6);
    const detail = `${wrong.length} of ${checkedCount} wrong, top-5 error median ${median.toExponential(1)}, most ${most.toFixed(3)} ${wrong.slice(0, 3).join(', ')}; from gap ${nearGap} on ${near.wrongCount} of ${near.count}`;
    check(`${path.basename(folder)} bf16 teacher-forced`, ok, detail);
    await engine.close();
    model.close();
  }
}
