/** What happens in a simulation, one line an event: every message as it arrives and every step as it is
 *  launched. Same seed, same bytes. Used by simulation.ts when somebody wants to read it. */
import type { WorkerId } from '../base/ids.js';
import type { TokenEvent } from '../engine/token-event.js';
import type { StepWork } from '../router/step-work.js';
import type { Message } from './in-process-bus.js';

/** `12.345 w0 <- prefill r3`, `14.5 w0 -> tokens r3:1 r4:1`; answers have a `=` before the kind. */
export function messageLine(
  atMs: number,
  worker: WorkerId,
  { direction, kind, role }: Message,
  body: unknown,
): string {
  const arrow = direction === 'toWorker' ? '<-' : '->';
  return `${atMs} ${worker} ${arrow} ${role === 'answer' ? '=' : ''}${kind}${subjectOf(kind, body)}`;
}

/** `14.5 w0 step decode=8/4096 prefill=512/131328 ms=3.25`: rows and the keys they attend to. */
export function stepLine(atMs: number, worker: WorkerId, work: StepWork, ms: number): string {
  const { decodeCount, decodeKvTokenCount, prefillTokenCount, prefillPairCount } = work;
  return `${atMs} ${worker} step decode=${decodeCount}/${decodeKvTokenCount} prefill=${prefillTokenCount}/${prefillPairCount} ms=${ms}`;
}

interface Subject {
  readonly id?: string;
  readonly handle?: { readonly requestId: string };
  readonly request?: { readonly id: string };
  readonly events?: readonly TokenEvent[];
}

function subjectOf(kind: string, body: unknown): string {
  if (body === null || typeof body !== 'object') return '';
  const { id, handle, request, events } = body as Subject;
  if (kind === 'tokens')
    return (events ?? []).map((event) => ` ${event.requestId}:${describe(event)}`).join('');
  const subject = id ?? handle?.requestId ?? request?.id;
  return subject === undefined ? '' : ` ${subject}`;
}

function describe(event: TokenEvent): string {
  if (event.kind === 'tokens')
    return `${event.tokens.length}${event.finishReason === undefined ? '' : ` ${event.finishReason}`}`;
  return event.kind === 'cached' ? `cached=${event.cachedTokenCount}` : event.kind;
}
