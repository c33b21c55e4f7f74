/** The two ways a request takes. Read this file first: everything else in control/ serves these functions.
 *  Called by coordinator.ts. No token passes through here. Whichever worker samples one tells it by a
 *  `tokens` event, which reaches the client beside these functions: WorkerSlot.onEvent →
 *  RemoteWorker.onTokens → Request.accept → the request's stream. So a hand-over's first token, which the
 *  prefill worker samples, is out before its K and V have landed. `generate` and `prefill` register the
 *  request for these events; `resume` registers it with the decode worker, and `release` ends it.
 *  Invariant: when a path returns or throws, no worker it used runs, holds or writes anything of the
 *  request. */
import type { Request } from './request.js';
import type { Reserving } from './reservations.js';
import type { WorkerClient } from './worker-client.js';

/** Everything here. A request that has tokens already is continued by recomputing them. */
export async function runCollocated(request: Request, worker: WorkerClient): Promise<void> {
  try {
    request.onStopChoice = (choiceIndex) => worker.stopChoice(request.id, choiceIndex);
    request.suspicion.placedOn(worker.id);
    await worker.generate(request);
    await worker.orLost(request.settled);
  } finally {
    if (!request.isFinished) await worker.release(request.id);
  }
}

/** Prefill here, decode there. Bytes move while prefill still computes; the first token waits for none of
 *  them. */
export async function runDisaggregated(
  request: Request,
  prefill: WorkerClient,
  decode: WorkerClient,
  place: Reserving,
): Promise<void> {
  try {
    if (place.timing === 'before_prefill' && (await request.orSettled(place.granted())) === null) return;
    await handOver(request, prefill, decode, place);
    await decode.orLost(request.settled);
  } finally {
    await place.end();
    await decode.release(request.id); // only now: whatever was written into its blocks has been written
  }
}

/** Resolves when `decode` goes on with the request, or when the request has settled before. */
async function handOver(
  request: Request,
  prefill: WorkerClient,
  decode: WorkerClient,
  place: Reserving,
): Promise<void> {
  try {
    request.onStopChoice = (choiceIndex) => prefill.stopChoice(request.id, choiceIndex);
    request.suspicion.placedOn(prefill.id);
    const prefilling = prefill.prefill(request, () => place.granted()); // reserved at the first chunk
    const landed = await request.orSettled(place.leased(prefilling));
    if (landed === null) return;
    request.stamp('landedMs');
    request.transferBytes += landed.pushedBytes;
    request.onStopChoice = (choiceIndex) => decode.stopChoice(request.id, choiceIndex);
    request.suspicion.movedTo(decode.id);
    await decode.resume(request, landed);
    request.stamp('resumedMs');
  } finally {
    await prefill.release(request.id);
  }
}
