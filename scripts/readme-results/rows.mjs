/* The rows of README's table of results: which figure of which committed file each one shows. Used by
 *  readme-results.mjs and its test.
   Invariant: every figure, commit and command comes from JSON under docs/results; only names and aims'
   directions are written here. */

/** A table row before it is text.
 * @typedef {{ what: string, on: string, measured: string, against: string, ratio: string, aim: string,
 * commit: string, command: string, source: string }} Row */

/** `read(file)` gives the JSON of a file under docs/results, or null where there is none. Throws when a file
 *  lacks what its row shows. */
export function rowsOf(read) {
  return [
    ...routerRows(read),
    ...twoGpuRows(read),
    ...gpuRows(read),
    ...transferRows(read),
    ...cpuRows(read),
  ];
}

const figure = (value, digits = 3) => {
  if (!Number.isFinite(value)) throw new Error(`a row of the table has no figure: ${value}`);
  return value.toLocaleString('en-US', {
    minimumSignificantDigits: digits,
    maximumSignificantDigits: digits,
  });
};
const percent = (share) => `${Math.round(100 * share)} %`;
const times = (value) => `${figure(value)} ×`;
const commitOf = (text) => /^[0-9a-f]{7}/.exec(text)?.[0] ?? '';

function required(read, source) {
  const json = read(source);
  if (json === null) throw new Error(`docs/results/${source} is missing: the table has rows of it`);
  return json;
}

/** docs/results/headline.json names the point to show, `{"sweep": FOLDER, "rateFraction": 0.5}`; without that
 *  file there is no row. */
function routerRows(read) {
  const headline = read('headline.json');
  if (headline === null) return [];
  const { sweep: folder, rateFraction } = headline;
  const { points } = required(read, `${folder}/summary.json`);
  const { metadata, machine } = required(read, `${folder}/sweep.json`);
  const point = points.find((each) => each.rateFraction === rateFraction);
  if (point === undefined)
    throw new Error(`docs/results/${folder} has no point at ${rateFraction} of saturation`);
  const goodputOf = (name) => point.modes.find(({ mode }) => mode === name).goodRequestsPerSecond['1'];
  const { ratio, low95, high95 } = point.comparison.goodput['1'];
  return [
    {
      what: `adaptive router, ${point.workload}, ${figure(point.ratePerSecond)} requests/s: goodput`,
      on: metadata.gpu ?? machine,
      measured: `${figure(goodputOf('adaptive'))} requests/s`,
      against: `${point.reference} ${figure(goodputOf(point.reference))} requests/s`,
      ratio: `${times(ratio)} (${figure(low95)}–${figure(high95)})`,
      aim: '≥ 0.97 ×',
      commit: commitOf(metadata.commit),
      command: metadata.command,
      source: `${folder}/summary.json`,
    },
  ];
}

/** Adaptive on two GPUs, under both answers to overload, beside collocated steps of a fixed budget. */
function twoGpuRows(read) {
  const folder = '2026-11-30-two-gpu/mixed';
  const { points } = required(read, `${folder}/summary.json`);
  const { metadata } = required(read, `${folder}/sweep.json`);
  return points.flatMap(({ ratePerSecond, modes }) => {
    const attained = new Map(modes.map(({ mode, summary }) => [mode, summary.sloAttainment]));
    const fixed = attained.get('collocated-2048');
    return [
      ['adaptive', 'late'],
      ['adaptive-shed', 'shed'],
    ].map(([mode, onOverload]) => ({
      what: `adaptive, \`--on-overload ${onOverload}\`, mixed prompts, ${figure(ratePerSecond)} requests/s: within SLO`,
      on: metadata.gpu,
      measured: percent(attained.get(mode)),
      against: `collocated, fixed budget of 2,048 tokens: ${percent(fixed)}`,
      ratio: times(attained.get(mode) / fixed),
      aim: '',
      commit: commitOf(metadata.commit),
      command: metadata.command,
      source: `${folder}/summary.json`,
    }));
  });
}

/** [name in the JSON, what the row is called, what its floor is] */
const gpuNames = [
  ['decode step, batch 1, KV 512', 'decode step, batch 1, 512 keys', 'floor'],
  ['decode step, batch 32, KV 2048', 'decode step, batch 32, 2,048 keys', 'floor'],
  ['decode step, batch 256, KV 1024', 'decode step, batch 256, 1,024 keys', 'floor'],
  ['prefill, 2048 tokens', 'prefill, 2,048 tokens', 'floor'],
  ['fp8 weights, prefill, 2048 tokens', 'prefill, 2,048 tokens, fp8 weights', 'floor'],
  ['fp8 weights and KV, prefill, 2048 tokens', 'prefill, 2,048 tokens, fp8 weights and KV', 'floor'],
  ['engine 256 x 512 in 256 out: output rate', '256 requests at once, 512 in, 256 out', 'sum of its steps'],
];

function gpuRows(read) {
  const source = '2026-11-22-gpu-h200/results.json';
  const { machine, commit, command, rows } = required(read, source);
  return gpuNames.map(([name, what, floorName]) => {
    const row = rows.find((each) => each.name === name);
    if (row === undefined) throw new Error(`docs/results/${source} has no row "${name}"`);
    const { value, unit, floor, ratio, aim, higherIsBetter } = row;
    const isMet = higherIsBetter ? ratio >= aim : ratio <= aim;
    const withUnit = (number) =>
      `${figure(number, number >= 1000 ? 4 : 3)} ${unit === 'tok/s' ? 'tokens/s' : unit}`;
    return {
      what: `Qwen3-8B shape, ${what}`,
      on: machine,
      measured: withUnit(value),
      against: `${floorName} ${withUnit(floor)}`,
      ratio: `${beside(ratio, aim)} ×`,
      aim: `${higherIsBetter ? '≥' : '≤'} ${aim} ×${isMet ? '' : ' **missed**'}`,
      commit: commitOf(commit),
      command,
      source,
    };
  });
}

/** As many digits as show on which side of its aim a ratio lies. */
function beside(ratio, aim) {
  const digits = [3, 4, 5, 6].find((count) => Number(ratio.toPrecision(count)) !== aim);
  return figure(ratio, digits);
}

function transferRows(read) {
  const source = '2026-11-22-transfer-gpu/results.json';
  const { machine, commit, command, kv, copies, peer, requests } = required(read, source);
  const row = (what, measured, against, ratio, aim) => ({
    what: `KV transfer over \`peer\`, ${what}`,
    on: `${machine.devices.length} × ${machine.devices[0]}`,
    measured,
    against,
    ratio,
    aim,
    commit: commitOf(commit),
    command,
    source,
  });
  const megabytes = `${figure(kv.bytes / 1e6)} MB`;
  const copy = `peer copy ${figure(copies.peerCopy)} GB/s`;
  const rate = (what, { median }, aim) =>
    row(`${megabytes}, ${what}`, `${figure(median)} GB/s`, copy, times(median / copies.peerCopy), aim);
  const behind = requests.peer.prompts['2048'];
  return [
    rate('blocks in one run', peer.whole, '≥ 0.9 ×'),
    rate('blocks in no order', peer.wholeShuffled, ''),
    row(
      'exposed behind a prefill of 2,048 tokens',
      `${figure(behind.exposedMs.median)} ms`,
      `TTFT ${figure(behind.ttftMsMedian.disaggregated)} ms`,
      `${figure(behind.exposedShareOfTtftPercent, 2)} %`,
      '≤ 2 %',
    ),
  ];
}

const cpuNames = { prefill: 'prefill, 512 tokens', decode1: 'decode, batch 1', decode8: 'decode, batch 8' };

function cpuRows(read) {
  const source = '2026-11-22-cpu/bench-cpu.json';
  const { machine, commit, versions, settings, summary } = required(read, source);
  return summary.rows.map(({ phase, engine: { ours, llama, ratio } }) => ({
    what: `Qwen3-0.6B shape, ${cpuNames[phase]}`,
    on: `${machine.cpu}, ${settings.threadCount} threads`,
    measured: `${figure(ours.median)} tokens/s`,
    against: `llama.cpp ${versions['llama.cpp']} ${figure(llama.speed.median)} tokens/s`,
    ratio: `${times(ratio.median)} (${figure(ratio.min)}–${figure(ratio.max)})`,
    aim: '',
    commit: commitOf(commit),
    command: 'npm run bench:cpu',
    source,
  }));
}
