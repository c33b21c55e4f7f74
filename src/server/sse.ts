/** Server-sent events written straight to the Node response: no web stream in between, which costs more than
 *  half of the throughput. Used by exchange.ts, which awaits `send`: see ResponseWriter. */
import type { Clock } from '../base/clock.js';
import { type Outlet, ResponseWriter } from './response-writer.js';

/** Whether the connection stays open is the client's to say, and Node's to do. */
const sseHeaders = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-cache, no-transform',
  'x-accel-buffering': 'no',
};

export class SseWriter {
  readonly #writer: ResponseWriter;

  constructor(outlet: Outlet, clock: Clock) {
    this.#writer = new ResponseWriter(outlet, clock);
  }

  get isOpen(): boolean {
    return this.#writer.isOpen;
  }

  /** The headers leave with what is sent next. */
  open(): void {
    this.#writer.open(sseHeaders);
  }

  /** A line that clients skip. */
  comment(text: string): void {
    void this.#writer.write(`: ${text}\n\n`);
  }

  /** Resolves when the client may be sent more, or is gone. */
  send(data: object | '[DONE]'): Promise<void> | void {
    return this.#writer.write(`data: ${data === '[DONE]' ? data : JSON.stringify(data)}\n\n`);
  }

  close(): void {
    this.#writer.end();
  }

  cutIfStalled(): void {
    this.#writer.cutIfStalled();
  }
}
