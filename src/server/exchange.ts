/** One HTTP exchange of a generating endpoint: runs its generations, then answers as one JSON object or as a
 *  stream of events. Used by chat.ts and completions.ts, which differ in the ResponseFormat they hand in.
 *  Invariant: however the exchange ends (done, failed, client gone, server stopped), no generation of it
 *  keeps running, and a client that still listens hears why. */
import type { ServerResponse } from 'node:http';
import type { Clock, TimerHandle } from '../base/clock.js';
import { TwostrokeError } from '../base/errors.js';
import type { Logger } from '../base/log.js';
import type { Bundle, Place } from '../control/admission.js';
import { bytesOfTokens, bytesPerScore, type Kept } from '../control/generation-stream.js';
import type { ServiceClass } from '../control/service-class.js';
import type { TokenOutput } from '../engine/token-event.js';
import type { Slo } from '../router/slo.js';
import type { AnswerRoom } from './answer-room.js';
import { toApiError } from './api-error.js';
import type { ChoiceDelta } from './choice-text.js';
import type { Generation, GenerationContext } from './generation.js';
import { sendJson } from './json-answer.js';
import type { Caller } from './keys.js';
import { mergeDeltas } from './merge-deltas.js';
import type { ServerMetrics } from './metrics.js';
import type { Outlet } from './response-writer.js';
import type { ServedModel } from './served-model.js';
import type { ServerGateway } from './server-gateway.js';
import { SseWriter } from './sse.js';
import type { OnParsed } from './validation.js';

export interface ServerContext extends GenerationContext {
  readonly gateway: ServerGateway;
  readonly metrics: ServerMetrics;
  readonly model: ServedModel;
  readonly bodyBytesMax: number;
  /** What all answers may keep. Absent: a share of this process's memory. */
  readonly answerBytesMax?: number;
  /** Requests may say how long their answer is (benchmarks). Absent: they may not. */
  readonly allowForcedLength?: boolean;
  readonly logger: Logger;
}

export interface Exchange extends Outlet {
  readonly caller: Caller;
  /** As its headers say. */
  readonly slo: Partial<Slo>;
  readonly serviceClass?: ServiceClass;
  readonly onParsed: OnParsed;
  readonly answers: AnswerRoom;
}

/** A finished choice of a non-streamed answer. */
export interface WholeChoice {
  readonly text: string;
  readonly tokens: readonly TokenOutput[];
  readonly ending: Required<Pick<ChoiceDelta, 'finishReason'>> & Pick<ChoiceDelta, 'stopReason'>;
}

/** How one endpoint shapes its answers. `promptIndex` is always 0 for chat. */
export interface ResponseFormat {
  /** The payloads that tell one delta; the first of a choice may need an opening payload before it. */
  chunks(promptIndex: number, delta: ChoiceDelta): Iterable<object>;
  usageChunk(): object;
  /** In it may be long lists. */
  whole(choices: readonly (readonly WholeChoice[])[]): object;
}

export interface StreamOptions {
  readonly stream: 'yes' | 'no';
  readonly usage: 'none' | 'last' | 'every';
}

/** Runs `work` in a place for all its prompts: taken before anything is tokenised, and left however it
 *  ends. */
export async function admitted<Result>(
  gateway: ServerGateway,
  bundle: Bundle,
  { serviceClass }: Pick<Exchange, 'serviceClass'>,
  work: (place: Place) => Promise<Result>,
): Promise<Result> {
  const place = gateway.admit(serviceClass === undefined ? bundle : { ...bundle, serviceClass });
  try {
    return await work(place);
  } finally {
    place.leave();
  }
}

/** Runs the generations of an exchange and answers: all of it when they have ended, or as a stream. */
export async function answer(
  context: ServerContext,
  exchange: Exchange,
  generations: readonly Generation[],
  format: ResponseFormat,
  options: StreamOptions,
  place: Place,
): Promise<void> {
  const cancelAll = () => {
    for (const generation of generations) generation.cancel();
  };
  const cut: { error: TwostrokeError | null } = { error: null };
  const onCut = (error: TwostrokeError) => {
    cut.error ??= error;
    cancelAll();
  };
  const sse = new SseWriter(exchange, context.clock);
  const kept = exchange.answers.open(scoredByteCount(generations), (error) => {
    onCut(error);
    sse.cutIfStalled();
  });
  const forget = exchange.onCut(onCut);
  try {
    if (cut.error !== null) throw cut.error;
    for (const generation of generations) generation.kept = kept;
    const deltas = mergeDeltas(generations, {
      atOnce: place.promptsAtOnce,
      turn: () => context.clock.yield(),
      // who reads slowly keeps no place of those that are computed
      onAllBegun: () => place.leave(),
    });
    if (options.stream === 'no') {
      const choices = await collect(generations, deltas, kept);
      setRouteHeader(exchange.outgoing, generations);
      await sendJson(exchange, format.whole(choices), context.clock);
      return;
    }
    await stream(context, sse, exchange, generations, deltas, format, options);
  } catch (error) {
    const reason = cut.error ?? error; // a generation that was cancelled knows no more
    if (!sse.isOpen) throw reason;
    if (!(reason instanceof TwostrokeError))
      context.logger.error({ err: reason }, 'internal error in an answer');
    await sse.send(toApiError(reason).body);
  } finally {
    kept.end();
    forget();
    cancelAll();
  }
  await sse.send('[DONE]');
  sse.close();
}

/** Of the prompts' scores, which are kept from when they are computed; null: no log-probabilities are asked
 *  for. */
function scoredByteCount(generations: readonly Generation[]): number | null {
  const counts = generations.map(({ input: { promptIds, sampling } }) => {
    if (sampling.promptLogprobCount !== null) return promptIds.length * (1 + sampling.promptLogprobCount);
    return sampling.topLogprobCount === null ? null : 0;
  });
  if (counts.every((count) => count === null)) return null;
  return bytesPerScore * counts.reduce<number>((sum, count) => sum + (count ?? 0), 0);
}

type Deltas = ReturnType<typeof mergeDeltas>;

async function collect(
  generations: readonly Generation[],
  deltas: Deltas,
  kept: Kept,
): Promise<WholeChoice[][]> {
  const choices = generations.map(({ input }) =>
    Array.from({ length: input.sampling.choiceCount }, () => ({
      texts: [] as string[],
      tokens: [] as TokenOutput[],
      last: null as ChoiceDelta | null,
    })),
  );
  for await (const [promptIndex, delta] of deltas) {
    const choice = choices[promptIndex]?.[delta.choiceIndex];
    if (choice === undefined) continue;
    choice.texts.push(delta.text);
    for (const token of delta.tokens) choice.tokens.push(token);
    kept.add(bytesOfTokens(delta.tokens));
    choice.last = delta;
  }
  return choices.map((ofPrompt) =>
    ofPrompt.map(({ texts, tokens, last }) => {
      const { finishReason, ...rest } = last ?? {};
      if (finishReason === undefined) throw new TwostrokeError('internal', 'a choice has no end');
      return { text: texts.join(''), tokens, ending: { ...rest, finishReason } };
    }),
  );
}

/** Headers wait for the first delta, so that what fails before it still gets a status of its own; but not
 *  longer than proxies wait. */
async function stream(
  context: ServerContext,
  sse: SseWriter,
  exchange: Exchange,
  generations: readonly Generation[],
  deltas: Deltas,
  format: ResponseFormat,
  options: StreamOptions,
): Promise<void> {
  const patience = keepAlive(sse, context.clock);
  try {
    for (let item = await deltas.next(); item.done !== true; item = await deltas.next()) {
      patience.cancel();
      if (!sse.isOpen) openStream(sse, exchange, generations);
      for (const chunk of format.chunks(item.value[0], item.value[1])) await sse.send(chunk);
    }
    if (options.usage !== 'none') await sse.send(format.usageChunk());
  } finally {
    patience.cancel();
    await deltas.return();
  }
}

const patienceMs = 15_000;

/** Comments, which clients skip, while a request waits long for its first token: a silent connection would be
 *  cut on the way. */
function keepAlive(sse: SseWriter, clock: Clock): TimerHandle {
  let timer = clock.after(patienceMs, tell);
  function tell(): void {
    if (!sse.isOpen) sse.open();
    sse.comment('waiting for the first token');
    timer = clock.after(patienceMs, tell);
  }
  return { cancel: () => timer.cancel() };
}

function openStream(sse: SseWriter, { outgoing }: Exchange, generations: readonly Generation[]): void {
  setRouteHeader(outgoing, generations);
  sse.open();
}

/** Known by the time of the first token; never waited for. */
function setRouteHeader(outgoing: ServerResponse, [generation]: readonly Generation[]): void {
  const route = generation?.route ?? null;
  if (route !== null && !outgoing.headersSent)
    outgoing.setHeader('x-twostroke-route', `${route.path}; ${route.workers.join(' -> ')}`);
}
