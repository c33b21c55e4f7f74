/** What --kv-checksum costs in served tokens: the demo model on two CPU workers over peer, rounds with and
 *  without in turn, so that what else the machine does falls on both. Run: npm run build && node
 *  bench/transfer/checksum.mjs [--rounds N] [--json FILE] Rates are medians of the rounds; processor time is
 *  of the workers alone, and less noisy. */
import { readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import { parseArgs } from 'node:util';
import { systemClock } from '#built/base/clock.js';
import { greedy } from '#built/engine/sampling-params.js';
import { commitOf, goldens, startDemoPair } from './cluster.mjs';

const { values } = parseArgs({
  options: { rounds: { type: 'string', default: '12' }, json: { type: 'string' } },
});
const roundCount = Number(values.rounds);
const ticksPerSecond = 100;
let serial = 0;

async function start(kvChecksum) {
  const gateway = await startDemoPair({ connector: 'peer', kvChecksum });
  await gateway.ready;
  return gateway;
}

/** User and system time of its workers. */
function cpuMs(gateway) {
  const ticks = gateway.workers().map(({ pid }) => {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1).split(' ');
    return Number(fields[11]) + Number(fields[12]);
  });
  return (1000 * ticks.reduce((sum, count) => sum + count, 0)) / ticksPerSecond;
}

async function round(gateway) {
  const before = { startMs: systemClock.nowMs(), cpuMs: cpuMs(gateway) };
  const counts = await Promise.all(
    goldens.cases.map(async (golden) => {
      const sampling = {
        ...greedy,
        maxTokenCount: golden.max_new_tokens,
        endTokenIds: goldens.eos_token_ids,
      };
      let count = 0;
      for await (const event of gateway.submit({
        id: `k${++serial}`,
        promptIds: golden.prompt_ids,
        sampling,
      })) {
        if (event.kind === 'tokens') count += event.tokens.length;
      }
      return count;
    }),
  );
  const tokenCount = counts.reduce((sum, count) => sum + count, 0);
  const elapsedMs = systemClock.nowMs() - before.startMs;
  return {
    tokensPerSecond: (1000 * tokenCount) / elapsedMs,
    cpuMsPerToken: (cpuMs(gateway) - before.cpuMs) / tokenCount,
  };
}

const median = (numbers) => [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
const gateways = { off: await start('off'), on: await start('on') };
const rounds = { off: [], on: [] };
for (const gateway of Object.values(gateways)) await round(gateway);
for (let i = 0; i < roundCount; i++)
  for (const name of i % 2 === 0 ? ['off', 'on'] : ['on', 'off'])
    rounds[name].push(await round(gateways[name]));
await Promise.all(Object.values(gateways).map((gateway) => gateway.stop()));
const of = (name, field) => Number(median(rounds[name].map((each) => each[field])).toPrecision(5));
const figures = Object.fromEntries(
  ['tokensPerSecond', 'cpuMsPerToken'].map((field) => [
    field,
    { off: of('off', field), on: of('on', field) },
  ]),
);
const paired = rounds.on.map((each, i) => each.cpuMsPerToken / rounds.off[i].cpuMsPerToken);
const result = {
  command: `node bench/transfer/checksum.mjs --rounds ${roundCount}`,
  commit: commitOf(),
  machine: {
    cpu: os.cpus()[0]?.model,
    cores: os.availableParallelism(),
    node: process.version,
    load1m: os.loadavg()[0],
  },
  requestsPerRound: goldens.cases.length,
  ...figures,
  cpuPercentMore: Number((100 * (median(paired) - 1)).toFixed(2)),
  rounds,
};
console.log(JSON.stringify({ ...result, rounds: undefined }, null, 2));
if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(result, null, 2)}\n`);
