/** Scores hand-overs in a smaller dtype against those that go as they are: the demo model's reference prompts
 *  through a gateway and two CPU workers over tcp, greedy. Only the prompt's K and V travel; what decode
 *  computes itself is exact. Run: npm run build && node bench/transfer/dtypes.mjs [--out
 *  docs/results/<date>-transfer-dtype] tokens equal: positions where both say the same token, over all
 *  positions. Log-probability error: of the tokens before the first difference, because behind it the two
 *  continue other texts; first token excluded, which prefill samples before anything is handed over. */
import { mkdirSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { greedy } from '#built/engine/sampling-params.js';
import { commitOf, goldens, startDemoPair } from './cluster.mjs';

const { values } = parseArgs({ options: { out: { type: 'string' } } });

async function answers(kvDtype, kvTransferDtype) {
  const gateway = await startDemoPair({ kvDtype, kvTransferDtype, connector: 'tcp', sequenceCountMax: 16 });
  const records = [];
  gateway.onRequestDone((record) => records.push(record));
  try {
    await gateway.ready;
    const outputs = [];
    for (const [index, golden] of goldens.cases.entries()) {
      const sampling = {
        ...greedy,
        maxTokenCount: golden.max_new_tokens,
        endTokenIds: goldens.eos_token_ids,
        topLogprobCount: 1,
      };
      const tokens = [];
      for await (const event of gateway.submit({ id: `c${index}`, promptIds: golden.prompt_ids, sampling })) {
        if (event.kind === 'tokens')
          tokens.push(
            ...event.tokens.map(({ tokenId, logprob }) => ({
              id: tokenId,
              logprob: logprob?.logprob ?? logprob,
            })),
          );
      }
      outputs.push(tokens);
    }
    if (
      records.some(
        ({ handOverFailures, routes }) => handOverFailures.length > 0 || routes[0].path !== 'disaggregated',
      )
    )
      throw new Error('a hand-over failed');
    return { outputs, bytes: records.reduce((sum, { transferBytes }) => sum + transferBytes, 0) };
  } finally {
    await gateway.stop();
  }
}

function score(base, other) {
  const counts = {
    position: 0,
    equal: 0,
    caseCount: base.outputs.length,
    wholeCase: 0,
    error: 0,
    errorSum: 0,
    errorMax: 0,
  };
  for (const [index, expected] of base.outputs.entries()) {
    const actual = other.outputs[index];
    const end = Math.max(expected.length, actual.length);
    const firstDifference = expected.findIndex(({ id }, i) => id !== actual[i]?.id);
    counts.position += end;
    counts.equal += expected.filter(({ id }, i) => id === actual[i]?.id).length;
    if (firstDifference === -1 && expected.length === actual.length) counts.wholeCase++;
    for (let i = 1; i < (firstDifference === -1 ? expected.length : firstDifference); i++) {
      const error = Math.abs(expected[i].logprob - actual[i].logprob);
      counts.error++;
      counts.errorSum += error;
      counts.errorMax = Math.max(counts.errorMax, error);
    }
  }
  return {
    tokensEqualPercent: Math.round((10000 * counts.equal) / counts.position) / 100,
    answersEqual: `${counts.wholeCase} of ${counts.caseCount}`,
    tokenCount: counts.position,
    logprobErrorMean: Number((counts.errorSum / counts.error).toPrecision(3)),
    logprobErrorMax: Number(counts.errorMax.toPrecision(3)),
    bytesPercent: Math.round((1000 * other.bytes) / base.bytes) / 10,
  };
}

const rows = [];
for (const kvDtype of ['f32', 'bf16']) {
  const base = await answers(kvDtype, 'auto').catch((error) => {
    if (kvDtype === 'f32') throw error;
    return null; // not every CPU library keeps this dtype
  });
  if (base === null) continue;
  for (const transfer of ['auto', 'fp8', 'int8'])
    rows.push({ cache: kvDtype, transfer, ...score(base, await answers(kvDtype, transfer)) });
}
const commit = commitOf();
const result = {
  command: 'node bench/transfer/dtypes.mjs',
  commit,
  machine: { cpu: os.cpus()[0]?.model, node: process.version },
  model: 'demo-6m',
  rows,
};
const names = Object.keys(rows[0]);
const line = (cells) => `| ${cells.join(' | ')} |`;
const table = [
  line(names),
  line(names.map(() => '---')),
  ...rows.map((row) => line(names.map((name) => row[name]))),
].join('\n');
console.log(table);
if (values.out !== undefined) {
  mkdirSync(values.out, { recursive: true });
  writeFileSync(path.join(values.out, 'results.json'), `${JSON.stringify(result, null, 2)}\n`);
  const text = `# Hand-overs in a smaller dtype, demo-6m\n\nCommit ${commit}, \`${result.command}\`; what the columns mean is said in that file.\n\n${table}\n`;
  writeFileSync(path.join(values.out, 'README.md'), text);
}
