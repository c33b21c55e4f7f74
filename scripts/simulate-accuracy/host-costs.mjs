/** What serving costs the processors of this host (sim/host.ts), measured from a running, warm server. Used by scripts/simulate-accuracy.mjs.
 *  Linux: processor times are read from /proc. */
import { readdirSync, readFileSync } from 'node:fs';
import os from 'node:os';
import { fitNonNegative } from '../../dist/src/profile/least-squares.js';
import { stepMs } from '../../dist/src/router/step-cost.js';

/** Processor time of event loops, from closed-loop runs that differ in tokens and in how many share a step; processor milliseconds of a request are
 *  requestMs + frames · frameMs + tokens · tokenMs. Under load, where it matters: caches are warm then, and one wake-up does more. Only the first thread of a worker is its event loop: the others compute. */
export async function measureHost(baseUrl, { load, neighbourSlowdown }) {
  await load({ name: 'short' }, { concurrencyMax: 16, requestCount: 600 });
  const runsMade = [];
  for (const [tokenCount, concurrencyMax, requestCount] of [
    [2, 8, 200],
    [2, 24, 200],
    [48, 4, 60],
    [48, 8, 80],
    [48, 24, 120],
  ]) {
    const before = await processorMs(baseUrl);
    const workload = { name: 'random', inputTokenCount: 128, outputTokenCount: tokenCount, outputShape: 'range' };
    const records = await load(workload, { concurrencyMax, requestCount });
    const after = await processorMs(baseUrl);
    const each = Object.fromEntries(
      Object.entries(after).map(([name, value]) => [name, (value - before[name]) / records.length]),
    );
    runsMade.push({ ...each, tokenCount });
  }
  const costOf = (name) => {
    const [requestMs, frameMs, tokenMs] = fitNonNegative(
      runsMade.map((run) => ({ features: [1, run.stepCount, run.tokenCount], value: run[name] })),
    );
    return { requestMs, frameMs, tokenMs };
  };
  const costs = { gateway: costOf('gateway'), worker: costOf('worker'), generator: costOf('generator') };
  const cores = { coreCount: os.availableParallelism(), neighbourSlowdown };
  return { ...cores, frontMs: await frontMsOf(baseUrl, load), ...costs, runs: runsMade };
}

/** By prompts alone: in short steps it is the event loops that take time, and they are counted. */
export function neighbourSlowdown(alone, busy, otherCount) {
  const medianOf = ({ samples }) => {
    const ratios = samples
      .filter(({ prefillTokenCount }) => prefillTokenCount >= 64)
      .map((sample) => sample.ms / stepMs(alone.parameters.step, sample));
    return ratios.sort((a, b) => a - b)[Math.floor(ratios.length / 2)];
  };
  return otherCount === 0 ? 0 : Math.max(0, medianOf(busy) / medianOf(alone) - 1) / otherCount;
}

async function processorMs(baseUrl) {
  const { workers } = await (await fetch(`${baseUrl}/workers`)).json();
  await new Promise((resolve) => setTimeout(resolve, 150)); // a snapshot more
  const gatewayPid = Number(readFileSync(`/proc/${workers[0].pid}/stat`, 'utf8').split(') ')[1].split(' ')[1]);
  const ofThread = (pid, thread) => Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]) / 1e6;
  const ofProcess = (pid) => readdirSync(`/proc/${pid}/task`).reduce((sum, thread) => sum + ofThread(pid, thread), 0);
  const told = (await (await fetch(`${baseUrl}/workers`)).json()).workers;
  return {
    gateway: ofProcess(gatewayPid),
    generator: ofProcess(process.pid),
    worker: workers.reduce((sum, { pid }) => sum + ofThread(pid, pid), 0),
    stepCount: told.reduce((sum, { snapshot }) => sum + snapshot.stepCount, 0),
  };
}

/** Median over requests that have the server to themselves of what the client waits for its first token beside workers and messages: HTTP,
 *  parsing, the choice of a route. */
async function frontMsOf(baseUrl, load) {
  const records = await load({ name: 'short' }, { ratePerSecond: 8, requestCount: 40 });
  const { requests } = await (await fetch(`${baseUrl}/routes?count=60`)).json();
  const workerMs = new Map(requests.map(({ id, firstTokenMs, routedMs }) => [id, firstTokenMs - routedMs]));
  const differences = records.flatMap(({ id, firstTokenMs, sentMs }) => {
    const inner = workerMs.get(id);
    return inner === undefined ? [] : [firstTokenMs - sentMs - inner];
  });
  return differences.sort((a, b) => a - b)[Math.floor(differences.length / 2)] ?? 0;
}
