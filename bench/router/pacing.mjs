// What pacing costs a step on the worker's main thread: `node bench/router/pacing.mjs [--json]`, after `npm
// run build`. For batches of up to 256 sequences that decode, with a long prompt beside them and a prompt
// that waits: prompt tokens for the step, whether it is late, whether it may join, and what the launch and
// the end of the step are told, with the step-time model that workers have. The aim is 20 us.
import os from 'node:os';
import { performance } from 'node:perf_hooks';
import { Pacer } from '#built/engine/pacer.js';
import { greedy } from '#built/engine/sampling-params.js';
import { RequestState } from '#built/engine/sequence.js';
import { StepPlan } from '#built/engine/step-plan.js';
import { stepWorkOf } from '#built/engine/step-work.js';
import { readProfile } from '#built/profile/profile-file.js';
import { OwnStepTimes } from '#built/worker/own-step-times.js';

const file = 'profiles/nvidia-h200-qwen3-4096x36-151936-bf16-kv-bf16.json';
const limits = { rowCountMax: 2048, sampleCountMax: 256 };
let nowMs = 0;
const clock = { nowMs: () => nowMs };

function sequenceOf(index, promptTokenCount) {
  const request = {
    id: `r${index}`,
    promptIds: new Array(promptTokenCount).fill(1),
    sampling: { ...greedy, maxTokenCount: 1000 },
  };
  const deadlines = { firstTokenDueMs: 1e9, ttftMs: 500, tpotMs: 20 };
  return new RequestState(request, 'generate', { arrival: index, deadlines, maxModelTokenCount: 8192 })
    .choices[0];
}

function decoding(index) {
  const sequence = sequenceOf(index, 500);
  sequence.advance(500);
  sequence.firstTokenMs = 0;
  return sequence;
}

/** Microseconds a step. */
function microsecondsAt(count) {
  const stepTimes = new OwnStepTimes();
  stepTimes.use(readProfile(file).parameters.step);
  const pacer = new Pacer(stepTimes, clock, limits.rowCountMax);
  const sequences = Array.from({ length: count }, (_, index) => decoding(index));
  const [prompt, waiting] = [sequenceOf(count, 4000), sequenceOf(count + 1, 4000)];
  const together = { count, kvTokenCount: 500 * count };
  const samples = [];
  for (let step = 0; step < 6000; step++) {
    const plan = new StepPlan(step, limits);
    for (const sequence of sequences) plan.addEntry(sequence, 500, 501);
    const startMs = performance.now();
    const room = pacer.promptRoom(plan, prompt.computedCount);
    pacer.isLate(prompt);
    pacer.isLate(waiting);
    pacer.mayJoin(waiting, together, 20);
    pacer.onLaunch(stepWorkOf(plan));
    nowMs += 10;
    pacer.onEnd(stepWorkOf(plan), 10);
    samples.push(1000 * (performance.now() - startMs));
    if (room < 1) throw new Error('a step without room');
  }
  const sorted = samples.slice(1000).sort((a, b) => a - b);
  const at = (share) => Number(sorted[Math.floor(share * sorted.length)].toFixed(1));
  return { p50: at(0.5), p90: at(0.9), p99: at(0.99) };
}

const result = {
  machine: {
    cpu: os.cpus()[0]?.model,
    cores: os.cpus().length,
    node: process.version,
    loadAverage: os.loadavg()[0],
  },
  stepMicroseconds: Object.fromEntries([1, 16, 64, 256].map((count) => [count, microsecondsAt(count)])),
};
console.log(process.argv.includes('--json') ? JSON.stringify(result) : JSON.stringify(result, null, 2));
