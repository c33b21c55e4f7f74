/** `bench sweep`: every workload × rate × strategy, several times. Used by cli/bench-sweep.ts; what it means
 *  is worked out in sweep-summary.ts.
 *  Invariant: at one point and repetition all strategies get the same arrivals and lengths, one after the
 *  other, in an order that turns with every repetition; no two runs share prompts, so nothing is won from a
 *  prefix cache by having been there before. Every server, the candidate and the twin too, has had the same
 *  load before the first run that counts, and a point's rate before the point: none is measured cold, and
 *  none while it still settles. */
import { at } from '../base/assert.js';
import { TwostrokeError } from '../base/errors.js';
import type { TargetSpec } from './command-line.js';
import type { LoadRecord } from './load-record.js';
import { type LoadContext, type LoadSettings, loadServer } from './serve.js';
import type { ServerFacts } from './server-facts.js';
import { ServerProcess } from './server-process.js';
import { type ClientSettings, openServer, openWorkload, type WorkloadSettings } from './setup.js';
import { summariseRun } from './summary.js';
import type { Stage, SweepHeader, SweepRun } from './sweep-file.js';
import { unloadedSlos } from './sweep-summary.js';

export interface SweepSettings {
  readonly targets: readonly TargetSpec[];
  readonly candidate: string;
  readonly workloads: readonly WorkloadSettings[];
  readonly client: ClientSettings;
  /** Of the saturation of the better static mode, or requests per second. */
  readonly rates: { readonly unit: 'fraction' | 'perSecond'; readonly values: readonly number[] };
  readonly repetitionCount: number;
  /** Counted from when the servers are up, shared out among the points by how long their arrivals take, so
   *  that all get about as many repetitions: none of a point after its first begins that would probably end
   *  after its share. */
  readonly timeLimitMs: number;
  /** How long every server has a point's rate before its first repetition, unmeasured. */
  readonly settleMs: number;
  /** Of a point: a fixed number, or as many as arrive in `seconds`, within `min` and `max`. */
  readonly requestCount: number | { readonly seconds: number; readonly min: number; readonly max: number };
  readonly unloadedRequestCount: number;
  readonly saturationConcurrency: number;
  readonly saturationRequestCount: number;
  /** A second server of the first static strategy, for the A/A row. */
  readonly twin: 'none' | 'started';
  /** Warm-up of every run: by count, and of those with arrival times by time too. */
  readonly load: Pick<LoadSettings, 'drainMs' | 'warmupMs' | 'warmupRequestCount' | 'seed'>;
  readonly burstiness: number;
  readonly readyMs: number;
  /** The SLOs that points are judged by are sent along with their requests, as multiples of what requests
   *  take alone. null: the servers go by their own. */
  readonly sentSlo: Pick<SweepHeader, 'ttftFactor' | 'tpotFactor'> | null;
}

export interface SweepOutcome {
  readonly model: string;
  readonly runs: readonly SweepRun[];
  readonly records: ReadonlyMap<number, readonly LoadRecord[]>;
}

interface OpenTarget {
  /** The strategy. */
  readonly name: string;
  readonly baseUrl: string;
  readonly facts: ServerFacts;
}

interface SweepListener {
  tell(line: string): void;
  /** After every repetition, all there is so far: what is kept then survives a sweep that is killed. */
  keep(outcome: SweepOutcome): void;
}

export async function runSweep(
  settings: SweepSettings,
  context: LoadContext,
  listener: SweepListener,
): Promise<SweepOutcome> {
  const processes: ServerProcess[] = [];
  const open = async ({ name, source }: TargetSpec): Promise<OpenTarget> => {
    listener.tell(`starting ${name}`);
    const server =
      source.kind === 'url' ? null : await ServerProcess.start(source.words, context.clock, settings.readyMs);
    if (server !== null) processes.push(server);
    const baseUrl = source.kind === 'url' ? source.baseUrl : (server?.baseUrl ?? '');
    return { name, baseUrl, facts: await openServer(baseUrl, settings.client) };
  };
  try {
    const targets: OpenTarget[] = [];
    for (const spec of settings.targets) targets.push(await open(spec));
    const twinSpec = settings.targets.find(({ name }) => name !== settings.candidate);
    const twin = settings.twin === 'none' || twinSpec === undefined ? null : await open(twinSpec);
    const sweep = new Sweep(settings, { targets, twin }, context, listener);
    await sweep.measure();
    return sweep.outcome();
  } finally {
    await Promise.all(processes.map((server) => server.stop()));
  }
}

/** What is measured: a server per strategy. The twin is another server of the first static one: what differs
 *  between the two is noise of time and of processes. All stay up; one is asked at a time, and the others
 *  rest. */
interface OpenTargets {
  readonly targets: readonly OpenTarget[];
  readonly twin: OpenTarget | null;
}

class Sweep {
  readonly #settings: SweepSettings;
  readonly #targets: readonly OpenTarget[];
  readonly #twin: OpenTarget | null;
  readonly #context: LoadContext;
  readonly #listener: SweepListener;
  readonly #runs: SweepRun[] = [];
  readonly #records = new Map<number, readonly LoadRecord[]>();

  constructor(
    settings: SweepSettings,
    { targets, twin }: OpenTargets,
    context: LoadContext,
    listener: SweepListener,
  ) {
    this.#settings = settings;
    this.#targets = targets;
    this.#twin = twin;
    this.#context = context;
    this.#listener = listener;
  }

  outcome(): SweepOutcome {
    return { model: at(this.#targets, 0).facts.model, runs: this.#runs, records: this.#records };
  }

  async measure(): Promise<void> {
    const { workloads, timeLimitMs } = this.#settings;
    const { clock } = this.#context;
    const limitMs = clock.nowMs() + timeLimitMs;
    for (const target of this.#distinctServers()) {
      await this.#run(target, at(workloads, 0), { stage: 'warmup', repetition: 0, rate: null });
    }
    const points: WorkloadRate[] = [];
    for (const workload of workloads) {
      const rates = await this.#prepare(workload);
      points.push(...rates.map((rate) => ({ workload, rate })));
    }
    const spans = points.map(
      ({ rate }) => this.#requestCountOf({ stage: 'point', repetition: 0, rate }) / rate.perSecond,
    );
    for (const [pointIndex, point] of points.entries()) {
      const leftSpan = spans.slice(pointIndex).reduce((all, span) => all + span, 0);
      const shareMs = ((limitMs - clock.nowMs()) * at(spans, pointIndex)) / leftSpan;
      await this.#measurePoint(point, pointIndex, clock.nowMs() + shareMs);
    }
  }

  /** Repetitions of one point follow each other: a router that learns from what came has had this rate for a
   *  while. */
  async #measurePoint({ workload, rate }: WorkloadRate, pointIndex: number, limitMs: number): Promise<void> {
    const { repetitionCount, settleMs } = this.#settings;
    const { clock } = this.#context;
    for (const target of settleMs > 0 ? this.#distinctServers() : []) {
      await this.#run(target, workload, { stage: 'warmup', repetition: 0, rate });
    }
    let longestMs = 0;
    for (let repetition = 0; repetition < repetitionCount && !this.#isStopped; repetition++) {
      const beginMs = clock.nowMs();
      if (repetition > 0 && beginMs + longestMs > limitMs) {
        this.#listener.tell(
          `time is up for this point after ${repetition} of ${repetitionCount} repetitions`,
        );
        return;
      }
      for (const target of turned(this.#servers(), repetition + pointIndex)) {
        await this.#run(target, workload, {
          stage: target === this.#twin ? 'repeat' : 'point',
          repetition,
          rate,
        });
      }
      this.#listener.keep(this.outcome());
      longestMs = Math.max(longestMs, clock.nowMs() - beginMs);
    }
  }

  /** How much each strategy bears, then single requests; and so the rates. */
  async #prepare(workload: WorkloadSettings): Promise<readonly Rate[]> {
    const { candidate, rates } = this.#settings;
    let best = 0;
    for (const target of this.#targets) {
      const records = await this.#run(target, workload, { stage: 'saturation', repetition: 0, rate: null });
      if (target.name !== candidate)
        best = Math.max(best, summariseRun(records, null).requestsPerSecond || 0);
    }
    for (const target of this.#targets)
      await this.#run(target, workload, { stage: 'unloaded', repetition: 0, rate: null });
    if (rates.unit === 'perSecond') return rates.values.map((perSecond) => ({ perSecond, fraction: null }));
    if (best === 0 && !this.#isStopped)
      throw new TwostrokeError('unavailable', `no static mode completed a request of ${workload.name}`);
    return rates.values.map((fraction) => ({ perSecond: best * fraction, fraction }));
  }

  #servers(): readonly OpenTarget[] {
    return [...this.#targets, ...(this.#twin === null ? [] : [this.#twin])];
  }

  /** Without a twin that is one of the targets asked again. */
  #distinctServers(): readonly OpenTarget[] {
    return this.#targets.some(({ baseUrl }) => baseUrl === this.#twin?.baseUrl)
      ? this.#targets
      : this.#servers();
  }

  #requestCountOf({ stage, rate }: Point): number {
    const { requestCount, unloadedRequestCount, saturationRequestCount, settleMs, load } = this.#settings;
    if (stage === 'unloaded') return unloadedRequestCount;
    if (rate === null) return saturationRequestCount;
    if (stage === 'warmup') return Math.round((settleMs / 1000) * rate.perSecond);
    if (typeof requestCount === 'number') return requestCount;
    const { seconds, min, max } = requestCount;
    const warmupCount = Math.round((load.warmupMs / 1000) * rate.perSecond);
    return Math.min(max, warmupCount + Math.max(min, Math.round(seconds * rate.perSecond)));
  }

  /** Of points, their warm-up included: how much a server bears and what it takes alone is measured
   *  without. */
  #sentSlos(workload: string, { rate }: Point): Pick<LoadSettings, 'sentSlos'> {
    const { sentSlo, candidate } = this.#settings;
    if (sentSlo === null || rate === null) return {};
    const header = { ...sentSlo, candidate, runs: this.#runs };
    return { sentSlos: unloadedSlos({ header, records: this.#records }, workload) };
  }

  get #isStopped(): boolean {
    return this.#context.signal?.aborted === true;
  }

  /** After a stop: nothing is sent and no run is listed. */
  async #run(target: OpenTarget, settings: WorkloadSettings, point: Point): Promise<readonly LoadRecord[]> {
    if (this.#isStopped) return [];
    const { client, load, saturationConcurrency, burstiness } = this.#settings;
    const runIndex = this.#runs.length;
    const label = `${settings.name} ${point.rate === null ? point.stage : `${point.rate.perSecond.toFixed(2)}/s #${point.repetition + 1}`} ${target === this.#twin ? 'A/A of ' : ''}${target.name}`;
    const seed = load.seed + 1000 * point.repetition;
    const address = { baseUrl: target.baseUrl, apiKey: client.apiKey };
    const seeds = { seed, contentSeed: load.seed + 7919 * (runIndex + 1) };
    const workload = await openWorkload(settings, seeds, address, target.facts, client);
    const serialOrFull = point.stage === 'unloaded' ? 1 : saturationConcurrency;
    const result = await loadServer(
      { baseUrl: target.baseUrl, facts: target.facts, client, workload, label },
      {
        ...load,
        seed,
        arrival: { ratePerSecond: point.rate?.perSecond ?? Number.POSITIVE_INFINITY, burstiness },
        timeScale: 1,
        concurrencyMax: point.rate === null ? serialOrFull : Number.POSITIVE_INFINITY,
        requestCountMax: load.warmupRequestCount + this.#requestCountOf(point),
        durationMs: Number.POSITIVE_INFINITY,
        warmupMs: point.rate === null ? 0 : load.warmupMs,
        ...this.#sentSlos(settings.name, point),
      },
      this.#context,
    );
    if (this.#isStopped) return [];
    this.#runs.push({
      runIndex,
      stage: point.stage,
      workload: settings.name,
      mode: target.name,
      repetition: point.repetition,
      ratePerSecond: point.rate?.perSecond ?? null,
      rateFraction: point.rate?.fraction ?? null,
      coreShare: result.coreShare,
      shortenedCount: result.shortenedCount,
    });
    this.#records.set(runIndex, result.records);
    this.#listener.tell(`${label}: ${endLine(result.records)}`);
    return result.records;
  }
}

interface Rate {
  readonly perSecond: number;
  readonly fraction: number | null;
}

interface WorkloadRate {
  readonly workload: WorkloadSettings;
  readonly rate: Rate;
}

interface Point {
  readonly stage: Stage;
  readonly repetition: number;
  readonly rate: Rate | null;
}

function endLine(records: readonly LoadRecord[]): string {
  const { completedCount, requestCount, requestsPerSecond, ttftMs, tpotMs, generatorDelayMsP99, isVoid } =
    summariseRun(records, null);
  const late = isVoid ? `, VOID: generator ${generatorDelayMsP99.toFixed(1)} ms late` : '';
  return `${completedCount} of ${requestCount} completed, ${requestsPerSecond.toFixed(2)} req/s, TTFT p50 ${ttftMs.p50.toFixed(1)} ms, TPOT p50 ${tpotMs.p50.toFixed(2)} ms${late}`;
}

/** Every second time backwards, so that nobody always comes after the same neighbour. */
function turned<T>(items: readonly T[], by: number): readonly T[] {
  const start = (by >> 1) % items.length;
  const order = [...items.slice(start), ...items.slice(0, start)];
  return by % 2 === 0 ? order : order.reverse();
}
