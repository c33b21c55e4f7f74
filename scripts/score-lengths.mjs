#!/usr/bin/env node
/* npm run score:lengths: the output-length predictor on a trace, against simpler ones. In order of arrival:
 *  predict, then observe.

     npm run score:lengths -- --trace FILE [--json] [--censor 0.3] [--cut uniform|independent] [--seed N]
     [--skip SHARE] [--out DIR]

   --censor SHARE cuts that share of the requests at random: the predictors see the cut length only (and ours
   that it was cut); scores
   are against the uncut truth. `uniform`: after a uniform part of its own length. `independent`: where
   another, random request of
   the trace ended, as a limit or a timeout would. --skip scores only what comes after that share of the trace
   (all of it is learned from).
   --json ends the output with one line: {"ours": {mae, pinball50, pinball90, coverage80}, "globalMean": …,
   …}; coverage is a share. */
import fs from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { Prng } from '#built/base/prng.js';
import { parseTrace } from '#built/bench/trace.js';
import { samplePrefixes } from '#built/router/length-levels.js';
import { LengthPredictor } from '#built/router/length-predictor.js';
import { BucketMean, Constant, GlobalMean, RollingQuantiles } from './score-lengths/baselines.mjs';
import { censorer } from './score-lengths/censor.mjs';
import { Score } from './score-lengths/scores.mjs';

function readOptions() {
  const { values } = parseArgs({
    options: {
      trace: { type: 'string' },
      json: { type: 'boolean', default: false },
      censor: { type: 'string', default: '0' },
      cut: { type: 'string', default: 'uniform' },
      seed: { type: 'string', default: '1' },
      skip: { type: 'string', default: '0' },
      out: { type: 'string' },
    },
  });
  if (values.trace === undefined) throw new Error('--trace: which file? An Azure CSV or Mooncake JSON lines');
  if (!fs.existsSync(values.trace)) throw new Error(`--trace: ${values.trace} does not exist`);
  if (!['uniform', 'independent'].includes(values.cut)) throw new Error('--cut: uniform or independent');
  return {
    ...values,
    censor: share('--censor', values.censor),
    skip: share('--skip', values.skip),
    seed: wholeNumber('--seed', values.seed),
  };
}

function share(name, text) {
  const value = Number(text);
  if (text.trim() === '' || !(value >= 0 && value < 1))
    throw new Error(`${name}: a share from 0 to below 1, not ${text}`);
  return value;
}

function wholeNumber(name, text) {
  const value = Number(text);
  if (text.trim() === '' || !Number.isSafeInteger(value) || value < 0)
    throw new Error(`${name}: a whole number, not ${text}`);
  return value;
}

/** Our predictor in the baselines' shape. */
function ours() {
  const predictor = new LengthPredictor();
  return {
    predict: (facts) => {
      const lengths = predictor.predict(facts);
      return {
        point: lengths.quantile(0.5),
        quantile: (p) => lengths.quantile(p),
        cumulative: (n) => 1 - lengths.survival(n),
      };
    },
    observe: (facts, observation) => predictor.observe(facts, observation),
  };
}

/** In the order of their arrival. */
function requestsOf(file) {
  return parseTrace(fs.readFileSync(file, 'utf8'), file).map(
    ({ promptTokenCount, outputTokenCount: tokenCount, blockIds }) => ({
      facts:
        blockIds === undefined
          ? { promptTokenCount }
          : { promptTokenCount, prefixIds: samplePrefixes(blockIds) },
      tokenCount,
    }),
  );
}

function score(options) {
  const requests = requestsOf(options.trace);
  const cut = censorer(requests, options, new Prng(options.seed));
  const predictors = {
    ours: ours(),
    globalMean: new GlobalMean(),
    bucketMean: new BucketMean(),
    constant: new Constant(),
    rollingQuantiles: new RollingQuantiles(),
  };
  const observations = requests.map((request) => cut(request.tokenCount));
  const scores = Object.fromEntries(
    Object.entries(predictors).map(([name, each]) => [name, runOne(each, requests, observations, options)]),
  );
  return {
    scores,
    requestCount: requests.length,
    cutCount: observations.filter((each) => each.isCensored).length,
  };
}

function runOne(predictor, requests, observations, { skip }) {
  const score = new Score();
  const skipCount = Math.floor(skip * requests.length);
  requests.forEach(({ facts, tokenCount }, index) => {
    if (index >= skipCount) score.add(predictor.predict(facts), tokenCount);
    predictor.observe(facts, observations[index]);
  });
  return score.result();
}

function print(options, { scores, requestCount, cutCount }) {
  console.log(
    `${path.basename(options.trace)}: ${requestCount} requests, ${cutCount} cut${cutCount > 0 ? ` (${options.cut})` : ''}`,
  );
  const cells = (name, row) => name.padEnd(18) + row.map((cell) => String(cell).padStart(11)).join('');
  console.log(cells('', ['MAE', 'pinball50', 'pinball90', 'coverage80']));
  for (const [name, row] of Object.entries(scores)) {
    const tokens = [row.mae, row.pinball50, row.pinball90].map((value) => value.toFixed(2));
    console.log(cells(name, [...tokens, `${(100 * row.coverage80).toFixed(1)} %`]));
  }
}

function save(options, result) {
  fs.mkdirSync(options.out, { recursive: true });
  const suffix = options.censor > 0 ? `-${options.cut}-${options.censor}` : '';
  const name = `${path.basename(options.trace).replace(/\.[^.]+$/, '')}${suffix}.json`;
  const { censor, cut, seed, skip } = options;
  const record = {
    trace: path.basename(options.trace),
    censor,
    ...(censor > 0 ? { cut, seed } : {}),
    skip,
    ...result,
  };
  fs.writeFileSync(path.join(options.out, name), `${JSON.stringify(record, null, 2)}\n`);
}

try {
  const options = readOptions();
  const result = score(options);
  print(options, result);
  if (options.out !== undefined) save(options, result);
  if (options.json) console.log(JSON.stringify(result.scores));
} catch (error) {
  console.error(`score:lengths: ${error.message}`);
  process.exitCode = 1;
}
