/** Server-sent events written straight to the Node response: no web stream in between, which costs more than
 *  half of the throughput.
 *  Invariant: at most one write is pending beyond the socket's buffer; a writer awaits `send`, so a slow
 *  reader holds its generation's events back instead of growing this process. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Clock } from '../base/clock.js';
import type { OnCut } from './connections.js';

/** Whether the connection stays open is the client's to say, and Node's to do. */
const sseHeaders = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-cache, no-transform',
  'x-accel-buffering': 'no',
};

/** A client that takes nothing for so long, and stays connected, is cut: its answer would be kept for
 *  ever. */
const stalledReaderMs = 600_000;

/** The part of an exchange that a stream of events needs. */
interface EventExchange {
  readonly incoming: IncomingMessage;
  readonly outgoing: ServerResponse;
  onCut(listen: OnCut): () => void;
}

export class SseWriter {
  readonly #exchange: EventExchange;
  readonly #clock: Clock;

  constructor(exchange: EventExchange, clock: Clock) {
    this.#exchange = exchange;
    this.#clock = clock;
  }

  get isOpen(): boolean {
    return this.#outgoing.headersSent;
  }

  /** The socket tells first: a response that waits behind another of its connection does not hear of its
   *  end. */
  get isClosed(): boolean {
    return (
      this.#exchange.incoming.socket.destroyed || this.#outgoing.destroyed || this.#outgoing.writableEnded
    );
  }

  /** The headers leave with what is sent next. */
  open(): void {
    this.#outgoing.writeHead(200, sseHeaders);
  }

  /** A line that clients skip. */
  comment(text: string): void {
    if (!this.isClosed) this.#outgoing.write(`: ${text}\n\n`);
  }

  /** Resolves when the client may be sent more, or is gone. */
  send(data: object | '[DONE]'): Promise<void> | void {
    if (this.isClosed) return;
    const isRoomLeft = this.#outgoing.write(`data: ${data === '[DONE]' ? data : JSON.stringify(data)}\n\n`);
    if (!isRoomLeft) return this.#drained();
  }

  close(): void {
    if (!this.isClosed) this.#outgoing.end();
  }

  #drained(): Promise<void> {
    return new Promise((resolve) => {
      const patience = this.#clock.after(stalledReaderMs, () => this.#exchange.incoming.socket.destroy());
      let forget = () => {};
      const settle = () => {
        patience.cancel();
        this.#outgoing.off('drain', settle);
        forget();
        resolve();
      };
      this.#outgoing.on('drain', settle);
      forget = this.#exchange.onCut(settle);
    });
  }

  get #outgoing() {
    return this.#exchange.outgoing;
  }
}
