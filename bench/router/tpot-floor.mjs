// How well a collocated request's time per token can be foreseen at all, when it arrives: `node bench/router/tpot-floor.mjs [--json]`, after
// `npm run build`. One worker of the committed H200 profile is stepped through (replay.ts), mixed prompts, 128 tokens out, Poisson arrivals.
// At a request's arrival the whole state is known and the future is not: so the same past is continued with many drawn futures, and the
// median over them is what nobody can better by much. Beside it the router's own prediction. Errors are |predicted - real| / real, where the
// real one is a future that was not among those drawn. The output's length is known to both.
import os from 'node:os';
import { Prng } from '../../dist/src/base/prng.js';
import { readProfile } from '../../dist/src/profile/profile-file.js';
import { chooseRoute } from '../../dist/src/router/choose-route.js';
import { replay } from '../../dist/src/router/replay.js';
import { uncorrected } from '../../dist/src/router/request-correction.js';
import { asCosted } from '../../dist/src/router/unloaded-ratios.js';

const file = 'profiles/nvidia-h200-qwen3-4096x36-151936-bf16-kv-bf16.json';
const worker = { id: 'w0', role: 'any', costs: readProfile(file).parameters, corrections: uncorrected, unloaded: asCosted };
const [pastMs, futureMs] = [6000, 6000];
const [targetCount, futureCount] = [120, 31];

/** Requests from one moment to another. */
function drawn(prng, ratePerSecond, fromMs, toMs) {
  const requests = [];
  for (let arrivalMs = fromMs; ; ) {
    arrivalMs += prng.exponential(1000 / ratePerSecond);
    if (arrivalMs >= toMs) return requests;
    const promptTokenCount = prng.uniform() < 0.5 ? prng.integer(64, 256) : prng.integer(1024, 2048);
    requests.push({ arrivalMs, promptTokenCount, outputTokenCount: 128, expectedTokenCount: 128 });
  }
}

function errorsAt(ratePerSecond) {
  const errors = { floor: [], ours: [] };
  for (let target = 0; target < targetCount; target++) {
    const past = drawn(new Prng(1000 + target), ratePerSecond, 0, pastMs);
    const index = past.length - 1;
    if (index < 0) continue;
    const nowMs = past[index].arrivalMs;
    const outcomeOf = (future) => {
      const requests = [...past, ...drawn(new Prng(7919 * target + future + 1), ratePerSecond, nowMs, nowMs + futureMs)];
      return replay(requests, [worker], (facts, workers) => chooseRoute(facts, workers, 'collocated'))[index];
    };
    const real = outcomeOf(0);
    const futures = Array.from({ length: futureCount }, (_, future) => outcomeOf(future + 1).tpotMs).sort((a, b) => a - b);
    errors.floor.push(Math.abs(futures[futureCount >> 1] / real.tpotMs - 1));
    errors.ours.push(Math.abs(real.route.estimate.tpotMs / real.tpotMs - 1));
  }
  return Object.fromEntries(Object.entries(errors).map(([name, values]) => [name, summary(values)]));
}

function summary(values) {
  const sorted = values.sort((a, b) => a - b);
  const at = (share) => Number(sorted[Math.floor(share * sorted.length)].toFixed(3));
  return { median: at(0.5), p90: at(0.9) };
}

const machine = { cpu: os.cpus()[0]?.model, node: process.version };
const rates = Object.fromEntries([9, 12, 15, 22, 28].map((rate) => [rate, errorsAt(rate)]));
const result = { profile: file, machine, targetCount, futureCount, requestsPerSecondOfOneWorker: rates };
console.log(process.argv.includes('--json') ? JSON.stringify(result) : JSON.stringify(result, null, 2));
