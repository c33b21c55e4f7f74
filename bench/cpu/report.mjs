/* Samples → medians, ratios, bandwidth shares → text, Markdown and the one JSON line. Pure; used by bench.mjs
 *  and tested on made-up samples. */
import { decodeStepBytes, phases, prefillOperations, promptTokenCount } from './workload.mjs';

const speed = (tokenCount, ms) => (tokenCount / ms) * 1000;

/** Median and range of numbers. */
function spread(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = (sorted.length - 1) / 2;
  const median = (sorted[Math.floor(middle)] + sorted[Math.ceil(middle)]) / 2;
  return { median, min: sorted[0], max: sorted.at(-1), count: sorted.length };
}

/** Tokens per second of one variant in one phase; null when it was not run. */
function speeds(samples, phase, side, variant, field = 'ms') {
  const chosen = samples.filter(
    (sample) => sample.phase === phase && sample.side === side && sample.variant === variant,
  );
  return chosen.length === 0 ? null : spread(chosen.map((sample) => speed(sample.tokenCount, sample[field])));
}

/** Of flash attention on and off, the one with the better median. */
function bestLlama(samples, phase, field) {
  const found = ['flash', 'plain']
    .map((variant) => ({ variant, speed: speeds(samples, phase, 'llama', variant, field) }))
    .filter((entry) => entry.speed !== null)
    .sort((a, b) => b.speed.median - a.speed.median);
  return found[0] ?? null;
}

const alternationsOf = (samples) => [...new Set(samples.map((sample) => sample.alternation))];

/** Ratio of medians, and the range of the ratios within each alternation. */
function ratioOf(samples, phase, ours, llama, field) {
  if (ours === null || llama === null) return null;
  const of = (side, variant, alternation) =>
    samples.find(
      (s) => s.phase === phase && s.side === side && s.variant === variant && s.alternation === alternation,
    );
  const paired = alternationsOf(samples).map((alternation) => {
    const a = of('twostroke', field === 'ms' ? 'engine' : 'forward', alternation);
    const b = of('llama', llama.variant, alternation);
    return speed(a.tokenCount, a.ms) / speed(b.tokenCount, b[field]);
  });
  const { min, max } = spread(paired);
  return { median: ours.median / llama.speed.median, min, max };
}

export function summariseRun(run) {
  const { samples, reads } = run;
  const read = reads.length === 0 ? null : readSpread(reads);
  const rows = phases.map(({ name, batchCount }) => {
    const row = { phase: name, batchCount };
    for (const [level, field, variant] of [
      ['engine', 'ms', 'engine'],
      ['forward', 'forwardMs', 'forward'],
    ]) {
      const ours = speeds(samples, name, 'twostroke', variant);
      const llama = bestLlama(samples, name, field);
      row[level] = { ours, llama, ratio: ratioOf(samples, name, ours, llama, field) };
    }
    return { ...row, ...workOf(row, run) };
  });
  return { read, rows, sameFirstToken: countSameFirstTokens(samples), line: jsonLine(rows, read, run) };
}

function readSpread(reads) {
  return {
    oneThread: spread(reads.map((sample) => sample.oneThread)),
    allThreads: spread(reads.map((sample) => sample.allThreads)),
  };
}

/** What our engine moved or computed: decode is judged by bytes, prefill by operations. */
function workOf(row, { settings, loaded, samples, reads }) {
  const { ours } = row.engine;
  if (ours === null) return {};
  const { config } = loaded.twostroke;
  if (row.batchCount === 0)
    return { gigaflops: (prefillOperations(config) * ours.median) / promptTokenCount / 1e9 };
  const keyCount = promptTokenCount + settings.stepCount / 2;
  const elementBytes = settings.quantize === 'int8' ? 1 : 2;
  const stepBytes = decodeStepBytes(config, {
    batchCount: row.batchCount,
    keyCount,
    elementBytes,
    kvElementBytes: 2,
  });
  const bytesPerToken = stepBytes / row.batchCount;
  const shares = samples
    .filter(({ phase, variant }) => phase === row.phase && variant === 'engine')
    .map(
      (sample) =>
        (bytesPerToken * speed(sample.tokenCount, sample.ms)) / readBefore(reads, sample).allThreads,
    );
  return { stepBytes, bytesPerSecond: bytesPerToken * ours.median, bandwidthShare: spread(shares).median };
}

/** The bandwidth measured just before a decode sample. */
function readBefore(reads, { alternation, phase }) {
  return reads.find((read) => read.alternation === alternation && read.phase === phase);
}

/** The same greedy first token of the same prompt: both run the same model. */
function countSameFirstTokens(samples) {
  const firsts = (side, variant) =>
    samples.filter((s) => s.phase === 'prefill' && s.side === side && s.variant === variant);
  const theirs = new Map(firsts('llama', 'flash').map((sample) => [sample.alternation, sample.firstToken]));
  const pairs = firsts('twostroke', 'engine').filter((sample) => theirs.has(sample.alternation));
  return {
    same: pairs.filter((sample) => theirs.get(sample.alternation) === sample.firstToken).length,
    of: pairs.length,
  };
}

function jsonLine(rows, read, { settings, commit, samples }) {
  const each = (pick) =>
    Object.fromEntries(
      rows.map((row) => [row.phase, rounded(pick(row))]).filter(([, value]) => value !== null),
    );
  return {
    ratios: each((row) => row.engine.ratio?.median),
    bandwidthShare: each((row) => row.bandwidthShare),
    forwardRatios: each((row) => row.forward.ratio?.median),
    tokensPerSecond: {
      twostroke: each((row) => row.engine.ours?.median),
      llama: each((row) => row.engine.llama?.speed.median),
    },
    readBytesPerSecond:
      read === null
        ? null
        : { oneThread: rounded(read.oneThread.median), allThreads: rounded(read.allThreads.median) },
    alternations: alternationsOf(samples).length,
    othersShare: rounded(othersOf(samples)?.median),
    settings,
    commit,
  };
}

/** Part of the cores that others took while we measured; null where the system does not tell. */
function othersOf(samples) {
  const shares = samples.map((sample) => sample.othersShare).filter((share) => share !== null);
  return shares.length === 0 ? null : spread(shares);
}

function rounded(value) {
  return value === undefined || value === null ? null : Number(value.toPrecision(4));
}

// ---- words

const fixed = (value) => value.toFixed(value < 100 ? 1 : 0);
const range = (entry) =>
  entry === null ? '–' : `${fixed(entry.median)} (${fixed(entry.min)}–${fixed(entry.max)})`;
const gigabytes = (bytesPerSecond) => `${(bytesPerSecond / 1e9).toFixed(1)} GB/s`;
const times = (ratio) =>
  ratio === null ? '–' : `${ratio.median.toFixed(2)} (${ratio.min.toFixed(2)}–${ratio.max.toFixed(2)})`;
const titles = { prefill: 'prefill, 512 tokens', decode1: 'decode, batch 1', decode8: 'decode, batch 8' };
const variantTitles = { flash: 'flash attention', plain: 'no flash attention' };

function workText(row) {
  if (row.gigaflops !== undefined) return `${row.gigaflops.toFixed(0)} GFLOP/s`;
  if (row.bytesPerSecond === undefined) return '–';
  return `${gigabytes(row.bytesPerSecond)}, ${(row.bandwidthShare * 100).toFixed(0)} % of read`;
}

function tableRows(summary, level) {
  return summary.rows.map((row) => {
    const { ours, llama, ratio } = row[level];
    const llamaText = llama === null ? '–' : `${range(llama.speed)}, ${variantTitles[llama.variant]}`;
    return [
      titles[row.phase],
      range(ours),
      llamaText,
      times(ratio),
      level === 'engine' ? workText(row) : hostText(row),
    ];
  });
}

/** What the scheduler, sampling and the event loop add to a forward pass. */
function hostText(row) {
  const { ours } = row.forward;
  if (ours === null) return '–';
  return `${((1 - row.engine.ours.median / ours.median) * 100).toFixed(1)} %`;
}

const engineHead = ['', 'Twostroke, tokens/s', 'llama.cpp, tokens/s', 'ratio', 'Twostroke moves or computes'];
const forwardHead = [
  '',
  'Twostroke, tokens/s',
  'llama.cpp, tokens/s',
  'ratio',
  'Twostroke engine over its forward',
];

function markdownTable(head, rows) {
  return [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

function textTable(head, rows) {
  const widths = head.map((_, column) => Math.max(...[head, ...rows].map((cells) => cells[column].length)));
  return [head, ...rows]
    .map((cells) =>
      cells
        .map((cell, column) => cell.padEnd(widths[column]))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

function readText(summary) {
  const { read } = summary;
  if (read === null) return '';
  return `Memory reads: ${gigabytes(read.oneThread.median)} with one thread, ${gigabytes(read.allThreads.median)} with all (medians).`;
}

function sameText({ same, of }) {
  return of === 0 ? '' : `The same first token as llama.cpp in ${same} of ${of} prefills.`;
}

export function renderText(run, summary) {
  return [
    textTable(engineHead, tableRows(summary, 'engine')),
    '',
    'Forward pass alone (ours: Model.forward, theirs: llama_decode; no sampling on either side):',
    textTable(forwardHead, tableRows(summary, 'forward')),
    '',
    [readText(summary), sameText(summary.sameFirstToken), `Took ${run.wallSeconds.toFixed(0)} s.`]
      .filter(Boolean)
      .join(' '),
  ].join('\n');
}

export function renderMarkdown(run, summary) {
  const { machine, settings } = run;
  const weights = settings.quantize === 'int8' ? 'int8 (llama.cpp: q8_0)' : 'bf16';
  return `# CPU: Twostroke and llama.cpp, ${run.date.slice(0, 10)}

Qwen3-0.6B's shape with random ${weights} weights, the same on both sides; ${settings.threadCount} threads on both; medians of
${alternationsOf(run.samples).length} alternations in one run, ranges in brackets. Ratio = Twostroke ÷ llama.cpp in speed, its range over the single alternations.

\`npm run bench:cpu\` at commit ${run.commit}, on ${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB, ${machine.system}, Node ${machine.node};
${softwareText(run)} ${othersText(othersOf(run.samples))}

${markdownTable(engineHead, tableRows(summary, 'engine'))}

${readText(summary)} ${sameText(summary.sameFirstToken)}

Decode starts from ${promptTokenCount} keys and runs ${settings.stepCount} steps. Both sides sample greedily: Twostroke through \`Engine.step()\`, from \`add()\` to the first
token (prefill) or from the first to the last token (decode); llama.cpp through node-llama-cpp's native calls (fill the batch,
\`llama_decode\`, one sampler call a row), below its JavaScript queue, with flash attention on and off, of which the better counts. Batch and
micro-batch are 512; every prefill is a fresh prompt, checked on both sides; at batch 8, eight sequences with their own keys go into
one \`llama_decode\`. "% of read" = bytes that a step must read (each matrix once, each key and value) ÷ time ÷ the read bandwidth measured just before,
median of the alternations.

## The forward pass alone

\`Model.forward\` and \`llama_decode\` without sampling. The last column is the time that scheduling, sampling and the event loop add.

${markdownTable(forwardHead, tableRows(summary, 'forward'))}

Every sample is in [bench-cpu.json](bench-cpu.json).
`;
}

function softwareText({ loaded, versions }) {
  const ours = loaded.twostroke === undefined ? [] : [`Twostroke's kernels: ${loaded.twostroke.isa}`];
  const theirs =
    loaded.llama === undefined
      ? []
      : [`node-llama-cpp ${versions['node-llama-cpp']} (llama.cpp ${versions['llama.cpp']})`];
  return `${[...ours, ...theirs].join('; ')}.`;
}

function othersText(others) {
  if (others === null) return '';
  return `Other processes took ${(others.median * 100).toFixed(1)} % of the cores (at most ${(others.max * 100).toFixed(1)} %).`;
}
