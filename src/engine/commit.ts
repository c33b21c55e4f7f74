/** Records what a finished step produced: tokens to their sequences, events to the caller, blocks back to
 *  their owner. The third word of the engine's loop. A token that arrives for a choice that has ended
 *  meanwhile is dropped here; its blocks were kept until now. */
import { at } from '../base/assert.js';
import type { WireError } from '../base/errors.js';
import { tokenNotFinite, topLogprobsMax } from '../device/device.js';
import type { Scheduler } from './scheduler.js';
import type { RequestState, Sequence } from './sequence.js';
import type { SequenceMemory } from './sequence-memory.js';
import type { SampleTask, StepPlan } from './step-plan.js';
import type { TokenEvent, TokenLogprob, TokenOutput } from './token-event.js';

/** One value (or topLogprobsMax of them) for each sample of the plan; valid until its runner launches
 *  again. */
export interface StepResult {
  readonly tokens: Int32Array;
  readonly logprobs: Float32Array;
  readonly topIds: Int32Array;
  readonly topLogprobs: Float32Array;
}

interface CommitParts {
  readonly scheduler: Scheduler;
  readonly memory: SequenceMemory;
  /** On the engine's clock. */
  readonly nowMs: number;
  /** Called once all choices of a request have ended. */
  readonly onRequestEnd: (request: RequestState) => void;
}

/** Returns the events of the step in the order of its rows. */
export function commitStep(plan: StepPlan, result: StepResult, parts: CommitParts): readonly TokenEvent[] {
  const events: TokenEvent[] = [];
  for (const { sequence } of plan.entries) sequence.inFlightCount--;
  for (const { choice } of plan.samples) choice.inFlightCount--;
  for (let i = 0; i < plan.samples.length; i++) commitSample(at(plan.samples, i), i, result, parts, events);
  for (const { sequence, endToken } of plan.entries) {
    if (sequence.request.outputLimit === 0 && endToken === sequence.promptCount)
      endWithoutTokens(sequence.request, parts, events);
  }
  parts.memory.unpin(plan);
  for (const { sequence } of plan.entries) leaveOrPublish(sequence, parts);
  for (const { choice } of plan.samples) leaveOrPublish(choice, parts);
  return events;
}

function commitSample(
  sample: SampleTask,
  index: number,
  result: StepResult,
  parts: CommitParts,
  events: TokenEvent[],
): void {
  const { choice, task } = sample;
  const { request } = choice;
  if (task.kind === 'score') {
    const scores = request.promptLogprobs;
    // the scoring choice alone may have ended: its siblings want them too
    if (scores === undefined || request.isEnded || request.isSpoiled) return;
    if (at(result.tokens, index) < 0) {
      failRequest(sample, index, result, parts, events);
      return;
    }
    scores[task.position - 1] = readLogprob(result, index, request.sampling.promptLogprobCount ?? 0);
    if (task.position === choice.promptCount - 1) tellPromptLogprobs(request, events);
    return;
  }
  if (choice.state === 'ended' || request.isSpoiled) return;
  if (request.promptLogprobs !== undefined) tellPromptLogprobs(request, events);
  const tokenId = at(result.tokens, index);
  if (tokenId < 0) {
    failRequest(sample, index, result, parts, events);
    return;
  }
  choice.acceptToken(tokenId);
  choice.firstTokenMs ??= parts.nowMs;
  const end = choice.end();
  if (request.mode === 'prefill')
    choice.masks?.close(); // its next token is drawn elsewhere
  else if (end === undefined) choice.masks?.accept(tokenId);
  const { topLogprobCount } = request.sampling;
  const output: TokenOutput =
    topLogprobCount === null
      ? { tokenId }
      : { tokenId, logprob: readLogprob(result, index, topLogprobCount) };
  const event = {
    kind: 'tokens',
    requestId: request.id,
    choiceIndex: choice.choiceIndex,
    tokens: [output],
  } as const;
  if (end === undefined) {
    events.push(event);
    return;
  }
  const { reason: finishReason, stopTokenId } = end;
  events.push(
    stopTokenId === undefined ? { ...event, finishReason } : { ...event, finishReason, stopTokenId },
  );
  if (request.mode !== 'prefill') endChoice(choice, parts); // a held prompt stays until it is released
}

/** The sampler gave no token. Other requests go on, and none of them reads what this one may have computed of
 *  NaN. */
function failRequest(
  { choice, task }: SampleTask,
  index: number,
  result: StepResult,
  parts: CommitParts,
  events: TokenEvent[],
): void {
  const { request } = choice;
  const isNumeric = at(result.tokens, index) === tokenNotFinite;
  const position = task.kind === 'score' ? task.position : choice.knownCount;
  events.push({
    kind: 'failed',
    requestId: request.id,
    error: isNumeric ? notFinite(position) : allForbidden,
  });
  if (isNumeric) parts.memory.spoil(request);
  for (const each of request.choices) {
    // a held prompt stays until it is released
    if (request.mode === 'prefill' || each.state === 'ended') continue;
    endChoice(each, parts);
  }
}

function notFinite(position: number): WireError {
  const message =
    `the model's logits for token ${position} of this request are not numbers (NaN or infinity): its weights, or the precision ` +
    'they are served in, cannot compute this input; other requests are not affected';
  return { code: 'numeric_error', message };
}

const allForbidden: WireError = {
  code: 'invalid_request',
  message:
    'no token may be drawn: the biases and the stop ids that min_tokens holds back forbid the whole vocabulary',
};

/** The request asked for no tokens, only for the log-probabilities of its prompt. */
function endWithoutTokens(request: RequestState, parts: CommitParts, events: TokenEvent[]): void {
  if (request.promptLogprobs !== undefined) tellPromptLogprobs(request, events);
  for (const choice of request.choices) {
    if (choice.state === 'ended') continue;
    events.push({
      kind: 'tokens',
      requestId: request.id,
      choiceIndex: choice.choiceIndex,
      tokens: [],
      finishReason: 'length',
    });
    if (request.mode !== 'prefill') endChoice(choice, parts);
  }
}

function tellPromptLogprobs(request: RequestState, events: TokenEvent[]): void {
  events.push({ kind: 'promptLogprobs', requestId: request.id, logprobs: request.promptLogprobs ?? [] });
  request.promptLogprobs = undefined;
}

function endChoice(choice: Sequence, { scheduler, onRequestEnd }: CommitParts): void {
  scheduler.end(choice);
  if (choice.request.isEnded) onRequestEnd(choice.request);
}

function leaveOrPublish(sequence: Sequence, { scheduler, memory }: CommitParts): void {
  if (sequence.blockIds.length > 0) memory.publish(sequence);
  scheduler.settle(sequence);
}

export function readLogprob(
  result: Pick<StepResult, 'logprobs' | 'topIds' | 'topLogprobs'>,
  index: number,
  topCount: number,
): TokenLogprob {
  const top: [number, number][] = [];
  for (let i = index * topLogprobsMax; i < index * topLogprobsMax + topCount; i++)
    top.push([at(result.topIds, i), finite(at(result.topLogprobs, i))]);
  return { logprob: finite(at(result.logprobs, index)), top };
}

/** An event is plain data, and JSON makes null of -Infinity, which whoever compares it takes for 0: the
 *  surest token there is. */
const lowestFloat = -3.4028234663852886e38;
const finite = (logprob: number) => Math.max(logprob, lowestFloat);
