/** Option texts and parsing that `twostroke bench serve`, `static` and `sweep` share. Names are those of
 *  `vllm bench serve` where it has them. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { InvalidRequestError } from '../base/errors.js';
import { type MetricName, metricNames } from '../bench/result-json.js';
import type { LoadSettings } from '../bench/serve.js';
import type { ClientSettings, WorkloadSettings } from '../bench/setup.js';
import { parseGoodput, type SloByClass } from '../bench/slo.js';
import { type WorkloadName, workloadNames } from '../bench/workload.js';
import { key, realNumber, wholeNumber } from './option-values.js';

export interface CommonBenchOptions {
  readonly backend: 'openai' | 'openai-chat';
  readonly model?: string;
  readonly apiKey?: string;
  readonly temperature?: number;
  readonly ignoreEos: boolean;
  readonly forceOutputLength: boolean;
  readonly datasetPath?: string;
  readonly randomInputLen: number;
  readonly randomOutputLen: number;
  readonly randomRangeRatio: number;
  readonly outputShape: 'auto' | 'range' | 'lognormal';
  readonly lengthScale: number;
  readonly timeScale: number;
  readonly numPrompts?: number;
  readonly seed: number;
  readonly warmup: number;
  readonly drain: number;
  readonly json: boolean;
}

export function addCommonOptions(
  command: Command,
  defaults: { readonly forceOutputLength: boolean },
): Command {
  return command
    .addOption(
      new Option('--backend <api>', 'openai: /v1/completions')
        .choices(['openai', 'openai-chat'])
        .default('openai'),
    )
    .option('--model <name>', "the server's model; default: its first")
    .addOption(new Option('--api-key <key>', 'key to send').env('TWOSTROKE_API_KEY').argParser(key))
    .option('--temperature <number>', "default: the server's own", realNumber(0, 100))
    .option('--ignore-eos', 'go on to max_tokens', false)
    .option(
      '--force-output-length',
      'send forced_output_tokens (needs serve --allow-forced-length); max_tokens says nothing',
      defaults.forceOutputLength,
    )
    .option('--no-force-output-length', 'max_tokens is the wanted length')
    .option('--dataset-path <file>', 'of trace (Azure CSV or Mooncake JSON lines) and sharegpt')
    .option('--random-input-len <tokens>', 'mean prompt of the random dataset', wholeNumber(1), 1024)
    .option('--random-output-len <tokens>', 'mean answer', wholeNumber(1), 128)
    .option('--random-range-ratio <ratio>', 'lengths lie in mean × (1 ± ratio)', realNumber(0, 0.99), 0)
    .addOption(
      new Option('--output-shape <shape>', 'of answer lengths; auto: range for random, else lognormal')
        .choices(['auto', 'range', 'lognormal'])
        .default('auto'),
    )
    .option('--length-scale <factor>', 'multiplies the lengths of a trace', realNumber(1e-4, 100), 1)
    .option('--time-scale <factor>', 'replays a trace this much faster', realNumber(1e-3, 1e5), 1)
    .option('--num-prompts <count>', 'requests', wholeNumber(1))
    .option('--seed <number>', 'same seed, same requests and gaps', wholeNumber(0), 0)
    .option('--warmup <seconds>', 'arrivals before this are sent, not measured', realNumber(0, 3600), 0)
    .option(
      '--drain <seconds>',
      'how long open requests may go on after the last arrival',
      realNumber(0, 36000),
      120,
    )
    .option('--json', 'one JSON object on the last line', false);
}

export function clientSettings(options: CommonBenchOptions): ClientSettings {
  return {
    api: options.backend === 'openai' ? 'completions' : 'chat',
    model: options.model ?? null,
    apiKey: options.apiKey ?? null,
    temperature: options.temperature ?? null,
    ignoreEos: options.ignoreEos,
    outputLength: options.forceOutputLength ? 'forced' : 'limit',
  };
}

export function workloadSettings(
  options: CommonBenchOptions,
  name: WorkloadName,
  requestCountMax: number,
): WorkloadSettings {
  return {
    name,
    path: options.datasetPath ?? null,
    inputTokenCount: options.randomInputLen,
    outputTokenCount: options.randomOutputLen,
    rangeRatio: options.randomRangeRatio,
    outputShape: options.outputShape,
    lengthScale: options.lengthScale,
    requestCountMax,
  };
}

export function loadSettings(
  options: CommonBenchOptions,
): Pick<LoadSettings, 'timeScale' | 'warmupMs' | 'drainMs' | 'seed'> {
  return {
    timeScale: options.timeScale,
    warmupMs: options.warmup * 1000,
    drainMs: options.drain * 1000,
    seed: options.seed,
  };
}

export const datasetOption = () =>
  new Option('--dataset-name <name>', 'what requests ask for').choices([...workloadNames]).default('random');

export const sendSloOption = () =>
  new Option(
    '--send-slo',
    'tell the server the SLOs of --goodput with each request (x-slo-… headers): it paces by what it knows',
  ).default(false);

/** Null: no SLOs. Throws when there are none to send. */
export function goodputOf({
  goodput,
  sendSlo,
}: {
  goodput?: readonly string[];
  sendSlo: boolean;
}): SloByClass | null {
  if (goodput !== undefined) return parseGoodput(goodput);
  if (sendSlo) throw new InvalidRequestError('--send-slo needs --goodput: the SLOs to send', 'send-slo');
  return null;
}

/** A number, or inf. */
export function positiveOrInf(text: string): number {
  const value = text === 'inf' ? Number.POSITIVE_INFINITY : Number(text);
  if (!(value > 0)) throw new InvalidArgumentError('Expected a number above 0, or inf.');
  return value;
}

export function metricList(text: string): readonly MetricName[] {
  return text.split(',').map((part) => {
    const name = metricNames.find((known) => known === part.trim());
    if (name === undefined) throw new InvalidArgumentError(`Expected some of ${metricNames.join(',')}.`);
    return name;
  });
}

export function wordList<Word extends string>(known: readonly Word[]): (text: string) => readonly Word[] {
  return (text) =>
    text.split(',').map((part) => {
      const word = known.find((name) => name === part.trim());
      if (word === undefined) throw new InvalidArgumentError(`Expected some of ${known.join(',')}.`);
      return word;
    });
}

export function numberList(text: string): readonly number[] {
  return text.split(',').map((part) => realNumber(1e-6, 1e6)(part));
}
