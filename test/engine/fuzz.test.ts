/** Random requests, hand-overs, stops and aborts on two small engines, paced and not; accounting checked
 *  after every operation, output against the oracle. TWOSTROKE_TEST=full runs many more seeds. */
import { describe, expect, it } from 'vitest';
import type { Clock } from '../../src/base/clock.js';
import type { RequestId } from '../../src/base/ids.js';
import { Prng } from '../../src/base/prng.js';
import type { Engine, GenerationRequest } from '../../src/engine/engine.js';
import type { StepTimeModel } from '../../src/engine/engine-options.js';
import type { TokenEvent } from '../../src/engine/token-event.js';
import { FakePair } from './cluster.js';
import { type FakeEngineOptions, promptOf, request, type Transcript, Transcripts } from './fake-engine.js';
import { idealChoice, idealPromptLogprobs } from './oracle.js';

const maxModelTokenCount = 128;

/** Time passes by as much as it is told. */
class HandClock implements Clock {
  #nowMs = 0;
  nowMs = () => this.#nowMs;
  wallMs = () => this.#nowMs;
  sleep = () => Promise.resolve();
  after = () => ({ cancel: () => {} });
  yield = () => Promise.resolve();

  pass(ms: number): void {
    this.#nowMs += ms;
  }
}

/** Believes something else whenever it is asked: pacing may plan badly, never wrongly. */
function fickleTimes(prng: Prng): StepTimeModel {
  return {
    predictMs: ({ decodeCount, prefillTokenCount }) =>
      (1 + 0.05 * (decodeCount + prefillTokenCount)) * (0.2 + 2 * prng.uniform()),
    observe: () => {},
  };
}

function randomDeadlines(prng: Prng): Pick<GenerationRequest, 'deadlines'> {
  if (prng.integer(0, 3) === 0) return {};
  const ttftMs = prng.pick([0, 5, 50, 500]);
  const firstTokenInMs = ttftMs - prng.pick([0, 0, 10, 1000]);
  return { deadlines: { firstTokenInMs, ttftMs, tpotMs: prng.pick([0, 1, 5, 50]) } };
}

function randomOptions(prng: Prng, depth: 1 | 2): FakeEngineOptions {
  const blockTokenCount = prng.pick([8, 16]);
  return {
    depth,
    maxModelTokenCount,
    blockTokenCount,
    // one full context always fits
    blockCount: Math.ceil((maxModelTokenCount / blockTokenCount) * prng.pick([1, 1.25, 2.5])),
    tokenBudget: prng.pick([8, 17, 64]),
    prefillChunkTokenCount: prng.pick([1, 5, 16, 64]),
    sequenceCountMax: prng.pick([4, 8]),
    logitRowCountMax: prng.pick([8, 32]),
    prefixCaching: prng.pick(['on', 'on', 'off'] as const),
  };
}

function randomRequest(prng: Prng): GenerationRequest {
  const fresh = freshRequest(prng);
  if (prng.integer(0, 5) > 0) return fresh;
  const outputs = Array.from({ length: fresh.sampling.choiceCount }, (_, c) => {
    const { tokens } = idealChoice(fresh, c, maxModelTokenCount);
    return tokens.slice(0, prng.integer(0, tokens.length));
  });
  return { ...fresh, outputs };
}

function freshRequest(prng: Prng): GenerationRequest {
  // few distinct beginnings, so that prefixes are shared
  const prompt = [
    ...promptOf(prng.integer(1, 3), prng.integer(0, 50)),
    ...promptOf(prng.integer(1, 1000), prng.integer(1, 20)),
  ];
  const isPenalised = prng.integer(0, 3) === 0;
  return request(
    prompt,
    {
      temperature: prng.pick([0, 1]),
      seed: prng.integer(0, 1 << 30),
      choiceCount: prng.pick([1, 1, 1, 2, 4]),
      maxTokenCount: prng.integer(1, 40),
      minTokenCount: prng.pick([0, 0, 6]),
      endTokenIds: prng.pick([[], [1, 2, 3]]),
      stopTokenIds: prng.pick([[], [50]]),
      topLogprobCount: prng.pick([null, null, 0, 2]),
      promptLogprobCount: prng.pick([null, null, null, 1]),
      ...(isPenalised ? { presencePenalty: 1 } : {}),
    },
    { priority: prng.pick([0, 0, 0, 1, -1]), ...(prng.integer(0, 5) === 0 ? { cacheSalt: 'x' } : {}) },
  );
}

type Phase = 'local' | 'prefilling' | 'decoding';
interface Live {
  readonly asked: GenerationRequest;
  readonly transcript: Transcript;
  phase: Phase;
  engine: Engine;
  readonly stopped: Set<number>;
}

type Pacing = 'paced' | 'unpaced';

class Fuzz {
  readonly #prng: Prng;
  readonly #pacing: Pacing;
  readonly #clock = new HandClock();
  readonly #pair: FakePair;
  readonly #transcripts = new Transcripts();
  readonly #live = new Map<RequestId, Live>();
  finishedCount = 0;
  handedOverCount = 0;

  constructor(seed: number, depth: 1 | 2, pacing: Pacing) {
    this.#prng = new Prng(seed);
    this.#pacing = pacing;
    const paced = pacing === 'paced' ? { clock: this.#clock, stepTimes: fickleTimes(new Prng(seed)) } : {};
    const prefill = { ...randomOptions(this.#prng, depth), ...paced };
    const decode = {
      ...randomOptions(this.#prng, depth),
      ...paced,
      blockTokenCount: prefill.blockTokenCount ?? 8,
      blockCount: prefill.blockCount ?? 16,
    };
    this.#pair = new FakePair({ prefill, decode, growthTokenCount: this.#prng.integer(0, 20) });
  }

  async run(operationCount: number): Promise<void> {
    for (let i = 0; i < operationCount; i++) {
      await this.#operate(this.#prng.integer(0, 99), 'open');
      for (const engine of this.#pair.engines) engine.checkIntegrity();
    }
    for (let i = 0; this.#live.size > 0; i++) {
      if (i > 20_000)
        throw new Error(
          `no progress: ${JSON.stringify(this.#pair.engines.map((engine) => engine.snapshot()))}`,
        );
      await this.#operate(this.#prng.integer(30, 99), 'draining');
    }
    for (const engine of this.#pair.engines) {
      while (engine.hasWork) await engine.step();
      engine.checkIntegrity();
      expect(engine.snapshot().ownedBlockCount).toBe(0);
    }
  }

  get preemptionCount(): number {
    return this.#pair.engines.reduce((sum, engine) => sum + engine.snapshot().preemptionCount, 0);
  }

  get prefixHitCount(): number {
    return this.#pair.engines.reduce((sum, engine) => sum + engine.snapshot().prefixHitTokenCount, 0);
  }

  async #operate(dice: number, mode: 'open' | 'draining'): Promise<void> {
    if (this.#pacing === 'paced') this.#clock.pass(this.#prng.pick([0, 1, 5, 20]));
    if (dice < 12) this.#add();
    else if (dice < 16) this.#abort();
    else if (dice < 18) this.#stopChoice();
    else if (dice < 40)
      for (const push of this.#pair.pushes.splice(0, this.#prng.integer(1, 6))) this.#pair.land(push);
    else if (dice < 50)
      this.#prng.pick([this.#pair.prefill, this.#pair.decode]).device.pump(this.#prng.integer(1, 12));
    else if (dice < 75) await this.#step(this.#pair.prefill.engine);
    else await this.#step(this.#pair.decode.engine);
    this.#handOver();
    if (mode === 'open') return;
    for (const push of this.#pair.pushes.splice(0)) this.#pair.land(push);
  }

  #add(): void {
    if (this.#live.size > 12) return;
    const asked = {
      ...randomRequest(this.#prng),
      ...(this.#pacing === 'paced' ? randomDeadlines(this.#prng) : {}),
    };
    const isHandOver = this.#prng.integer(0, 1) === 0 && asked.outputs === undefined;
    const engine = isHandOver ? this.#pair.prefill.engine : this.#prng.pick(this.#pair.engines);
    const live: Live = {
      asked,
      transcript: this.#transcripts.open(asked),
      phase: isHandOver ? 'prefilling' : 'local',
      engine,
      stopped: new Set(),
    };
    this.#live.set(asked.id, live);
    if (isHandOver) this.#pair.start(asked);
    else engine.add(asked);
    asked.outputs?.forEach((given, c) => {
      // complete already: stays silent
      if (idealChoice(asked, c, maxModelTokenCount).tokens.length === given.length) live.stopped.add(c);
    });
    this.#finishIfDone(live);
  }

  #abort(): void {
    if (this.#live.size === 0) return;
    this.#forget(this.#prng.pick([...this.#live.values()]));
  }

  #forget({ asked }: Live): void {
    this.#pair.fence(asked.id);
    for (const engine of this.#pair.engines) engine.abort(asked.id);
    this.#transcripts.close(asked.id);
    this.#live.delete(asked.id);
  }

  #stopChoice(): void {
    if (this.#live.size === 0) return;
    const live = this.#prng.pick([...this.#live.values()]);
    const choiceIndex = this.#prng.integer(0, live.asked.sampling.choiceCount - 1);
    if (live.phase === 'prefilling' && live.transcript.tokens[choiceIndex]!.length === 0) return; // nobody has seen a token of it
    if (live.transcript.finishReasons[choiceIndex] !== undefined) return;
    live.stopped.add(choiceIndex);
    for (const engine of live.phase === 'local' ? [live.engine] : this.#pair.engines)
      engine.stopChoice(live.asked.id, choiceIndex);
    this.#finishIfDone(live);
  }

  async #step(engine: Engine): Promise<void> {
    const before = new Set(this.#live.keys());
    const stepping = engine.step();
    if (this.#prng.integer(0, 4) === 0)
      this.#prng.pick([() => this.#abort(), () => this.#stopChoice(), () => this.#add()])();
    // a step that had nothing to wait for has told its events before the abort came
    const events = (await stepping).filter(({ requestId: id }) => this.#live.has(id) || !before.has(id));
    this.#transcripts.push(events);
    engine.checkIntegrity();
    for (const id of new Set(events.map((event: TokenEvent) => event.requestId))) {
      const live = this.#live.get(id);
      if (live !== undefined) this.#finishIfDone(live);
    }
  }

  /** The coordinator's part: fall back when there was no room, resume when everything has landed. */
  #handOver(): void {
    for (const live of [...this.#live.values()]) {
      const { id } = live.asked;
      if (live.phase !== 'prefilling') continue;
      if (this.#pair.reservations.get(id) === null) {
        const outputs = live.transcript.tokens.map((tokens) => [...tokens]);
        // forgotten below, once a peer would notice
        if (outputs.some((tokens) => tokens.length > 0)) continue;
        this.#pair.fence(id);
        this.#pair.prefill.engine.abort(id);
        this.#pair.reservations.delete(id);
        live.transcript.cachedTokenCount = undefined;
        live.transcript.promptLogprobs = undefined;
        live.phase = 'local';
        live.engine = this.#pair.decode.engine;
        live.engine.add(live.asked);
      } else if (this.#pair.hasLanded(id) && live.transcript.tokens.every((tokens) => tokens.length === 1)) {
        live.phase = 'decoding';
        live.engine = this.#pair.decode.engine;
        const outputs = live.transcript.tokens.map((tokens) => [...tokens]);
        live.engine.resume(
          id,
          outputs,
          live.asked.promptIds.length,
          live.asked.deadlines && { ...live.asked.deadlines, sinceFirstTokenMs: 3 },
        );
        this.#pair.fence(id);
        this.#pair.prefill.engine.release(id);
        this.handedOverCount++;
      }
    }
  }

  #finishIfDone(live: Live): void {
    const { asked, transcript, stopped } = live;
    const isDone = transcript.finishReasons.every((reason, c) => reason !== undefined || stopped.has(c));
    if (!isDone) {
      // no room on the decode side, noticed after the first token: nothing to compare, start over elsewhere
      // is the coordinator's part
      if (
        live.phase === 'prefilling' &&
        this.#pair.reservations.get(asked.id) === null &&
        transcript.tokens.some((t) => t.length > 0)
      )
        this.#forget(live);
      return;
    }
    transcript.tokens.forEach((tokens, c) => {
      const whole = idealChoice(asked, c, maxModelTokenCount);
      const givenCount = asked.outputs?.[c]?.length ?? 0;
      const ideal = {
        ...whole,
        tokens: whole.tokens.slice(givenCount),
        logprobs: whole.logprobs.slice(givenCount),
      };
      if (stopped.has(c)) expect(tokens).toEqual(ideal.tokens.slice(0, tokens.length));
      else {
        expect(tokens, `${asked.id} choice ${c}`).toEqual(ideal.tokens);
        expect(transcript.finishReasons[c]).toBe(ideal.finishReason);
        if (asked.sampling.topLogprobCount !== null) expect(transcript.logprobs[c]).toEqual(ideal.logprobs);
      }
    });
    const isScored =
      asked.sampling.promptLogprobCount !== null && !asked.outputs?.some((given) => given.length > 0);
    if (!isScored) expect(transcript.promptLogprobs).toBeUndefined();
    else if (transcript.tokens.some((tokens) => tokens.length > 0)) {
      expect(transcript.promptLogprobs).toEqual(idealPromptLogprobs(asked));
    }
    this.finishedCount++;
    this.#forget(live);
  }
}

const seedCount = process.env.TWOSTROKE_TEST === 'full' ? 400 : 24;

describe('fuzz', () => {
  it.each([
    [1, 'unpaced'],
    [2, 'unpaced'],
    [1, 'paced'],
    [2, 'paced'],
  ] as const)(
    'two engines, hand-overs, aborts: ideal tokens and exact accounting, depth %i, %s',
    async (depth, pacing) => {
      const totals = { finished: 0, handedOver: 0, preempted: 0, prefixHits: 0 };
      for (let seed = 0; seed < seedCount; seed++) {
        const fuzz = new Fuzz(1000 * depth + seed, depth, pacing);
        try {
          await fuzz.run(600);
        } catch (error) {
          throw new Error(
            `seed ${1000 * depth + seed}: ${error instanceof Error ? error.stack : String(error)}`,
          );
        }
        totals.finished += fuzz.finishedCount;
        totals.handedOver += fuzz.handedOverCount;
        totals.preempted += fuzz.preemptionCount;
        totals.prefixHits += fuzz.prefixHitCount;
      }
      expect(totals.finished).toBeGreaterThan(20 * seedCount);
      expect(totals.handedOver).toBeGreaterThan(2 * seedCount);
      expect(totals.preempted).toBeGreaterThan(seedCount);
      expect(totals.prefixHits).toBeGreaterThan(100 * seedCount);
    },
    400_000,
  );
});
