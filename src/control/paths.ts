/** The two ways a request takes. Read this file first: everything else in control/ serves these functions.
 *  Called by coordinator.ts. Tokens come while these functions wait: whichever worker samples one, its
 *  `tokens` event is given to the `emit` of the call that put the request there, and so to the client. A
 *  hand-over's first token comes from the prefill worker, before its K and V have landed.
 *  Invariant: when a path returns or throws, no worker it used runs, holds or writes anything of the
 *  request. */
import type { Request } from './request.js';
import type { Reserving } from './reservations.js';
import type { Emit, WorkerClient } from './worker-client.js';

/** Everything here. A request that has tokens already is continued by recomputing them. */
export async function runCollocated(request: Request, worker: WorkerClient): Promise<void> {
  try {
    request.onStopChoice = (choiceIndex) => worker.stopChoice(request.id, choiceIndex);
    request.suspicion.placedOn(worker.id);
    await worker.generate(request, (event) => request.emit(event));
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
    const emit: Emit = (event) => request.emit(event); // the first token too: it waits for no byte
    const prefilling = prefill.prefill(request, emit, () => place.granted()); // reserved at the first chunk
    const landed = await request.orSettled(place.leased(prefilling));
    if (landed === null) return;
    request.stamp('landedMs');
    request.transferBytes += landed.pushedBytes;
    request.onStopChoice = (choiceIndex) => decode.stopChoice(request.id, choiceIndex);
    request.suspicion.movedTo(decode.id);
    await decode.resume(request, landed, emit);
    request.stamp('resumedMs');
  } finally {
    await prefill.release(request.id);
  }
}
