/** One engine in this process behind the `submit` of a gateway, so that server/generation.ts makes text of
 *  its tokens as it does of a worker's. Made by local-model.ts. Invariants: a request that nobody reads any
 *  more is aborted in the engine; after close() the device is given back and every stream has ended. */
import type { Clock } from '../base/clock.js';
import { asTwostrokeError, TwostrokeError } from '../base/errors.js';
import type { RequestId } from '../base/ids.js';
import type { GatewayApi, RequestInput } from '../control/gateway-api.js';
import { EventQueue, type GenerationStream } from '../control/generation-stream.js';
import type { EngineSnapshot } from '../engine/engine-options.js';
import type { TokenEvent } from '../engine/token-event.js';
import { EngineLoop } from '../worker/engine-loop.js';
import type { LoadedEngine } from '../worker/load-engine.js';

interface OpenRequest {
  readonly queue: EventQueue;
  readonly openChoices: Set<number>;
}

export class LocalGateway implements Pick<GatewayApi, 'submit'> {
  readonly #loaded: LoadedEngine;
  readonly #loop: EngineLoop;
  readonly #running: Promise<void>;
  readonly #requests = new Map<RequestId, OpenRequest>();
  #end: TwostrokeError | null = null;
  #closing: Promise<void> | null = null;

  constructor(loaded: LoadedEngine, clock: Clock) {
    this.#loaded = loaded;
    this.#loop = new EngineLoop(loaded.engine, clock, (events) => this.#deliver(events));
    this.#running = this.#loop.run().catch((error) => this.#endAll(asTwostrokeError(error)));
  }

  get snapshot(): EngineSnapshot {
    return this.#loaded.engine.snapshot();
  }

  /** Why it takes no more requests; null: it does. */
  get end(): TwostrokeError | null {
    return this.#end;
  }

  /** Throws InvalidRequestError for what can never fit, and what ended the engine. */
  submit(input: RequestInput): GenerationStream {
    if (this.#end !== null) throw this.#end;
    const { id, sampling } = input;
    this.#loaded.engine.add(input);
    const cancel = () => this.#cancel(id);
    const queue = new EventQueue(cancel);
    this.#requests.set(id, { queue, openChoices: new Set(Array(sampling.choiceCount).keys()) });
    this.#loop.wake();
    return {
      cancel,
      stopChoice: (choiceIndex) => this.#stopChoice(id, choiceIndex),
      route: new Promise(() => undefined), // nothing is routed here
      [Symbol.asyncIterator]: () => queue,
    };
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#endAll(new TwostrokeError('unavailable', 'the model was closed'));
    this.#loop.stop();
    await this.#running;
    await this.#loaded.engine.close();
    await this.#loaded.masks?.close();
    this.#loaded.model.close();
    this.#loaded.device.close();
  }

  #deliver(events: readonly TokenEvent[]): undefined {
    for (const event of events) {
      const request = this.#requests.get(event.requestId);
      if (request === undefined) continue;
      request.queue.push(event);
      if (event.kind === 'failed') request.openChoices.clear();
      if (event.kind === 'tokens' && event.finishReason !== undefined)
        request.openChoices.delete(event.choiceIndex);
      this.#forgetEnded(event.requestId, request);
    }
  }

  #stopChoice(id: RequestId, choiceIndex: number): void {
    const request = this.#requests.get(id);
    if (request === undefined) return;
    this.#loaded.engine.stopChoice(id, choiceIndex);
    request.queue.drop(choiceIndex);
    request.openChoices.delete(choiceIndex);
    this.#forgetEnded(id, request);
  }

  #forgetEnded(id: RequestId, { queue, openChoices }: OpenRequest): void {
    if (openChoices.size > 0) return;
    this.#requests.delete(id);
    queue.end(null);
  }

  #cancel(id: RequestId): void {
    const request = this.#requests.get(id);
    if (request === undefined) return;
    this.#requests.delete(id);
    this.#loaded.engine.abort(id);
    request.queue.clear();
    request.queue.end(null);
  }

  #endAll(error: TwostrokeError): void {
    this.#end ??= error;
    for (const [id, { queue }] of this.#requests) {
      this.#loaded.engine.abort(id);
      queue.clear();
      queue.end(error);
    }
    this.#requests.clear();
  }
}
