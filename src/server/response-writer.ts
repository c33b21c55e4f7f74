/** Text straight to the Node response, as much as its client takes. Used by sse.ts and json-answer.ts.
 *  Invariants: at most one write is pending beyond the socket's buffer; a writer awaits `write`, so that what
 *  a client does not read stays where it came from; who has much to say lets others in between. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Clock } from '../base/clock.js';
import type { OnCut } from './connections.js';

/** Where an answer goes. */
export interface Outlet {
  readonly incoming: IncomingMessage;
  readonly outgoing: ServerResponse;
  /** See Connections. */
  onCut(listen: OnCut): () => void;
}

/** A client that takes nothing for so long, and stays connected, is cut: its answer would be kept for
 *  ever. */
const stalledReaderMs = 600_000;
/** Of text, made and written between two turns of the event loop: about a millisecond. */
const unitsPerTurn = 65_536;

export class ResponseWriter {
  readonly #outlet: Outlet;
  readonly #clock: Clock;
  #unitsThisTurn = 0;

  constructor(outlet: Outlet, clock: Clock) {
    this.#outlet = outlet;
    this.#clock = clock;
  }

  get isOpen(): boolean {
    return this.#outgoing.headersSent;
  }

  /** The socket tells first: a response that waits behind another of its connection does not hear of its
   *  end. */
  get isClosed(): boolean {
    return this.#outlet.incoming.socket.destroyed || this.#outgoing.destroyed || this.#outgoing.writableEnded;
  }

  /** The headers leave with what is written next. */
  open(headers: Readonly<Record<string, string | number>>): void {
    this.#outgoing.writeHead(200, headers);
  }

  /** Resolves when the client may be sent more, or is gone. */
  write(text: string): Promise<void> | void {
    if (this.isClosed) return;
    this.#unitsThisTurn += text.length;
    const isRoomLeft = this.#outgoing.write(text);
    if (isRoomLeft && this.#unitsThisTurn < unitsPerTurn) return;
    this.#unitsThisTurn = 0;
    return isRoomLeft ? this.#clock.yield() : this.#drained();
  }

  /** `text`: the last of it. */
  end(text = ''): void {
    if (!this.isClosed) this.#outgoing.end(text);
  }

  /** Ends the connection of a client that is not reading what it was sent. */
  cutIfStalled(): void {
    if (this.#outgoing.writableNeedDrain) this.#outlet.incoming.socket.destroy();
  }

  /** In a later turn: a socket that takes all at once has drained before this one is over. */
  async #drained(): Promise<void> {
    await new Promise<void>((resolve) => {
      const patience = this.#clock.after(stalledReaderMs, () => this.#outlet.incoming.socket.destroy());
      let forget = () => {};
      const settle = () => {
        patience.cancel();
        this.#outgoing.off('drain', settle);
        forget();
        resolve();
      };
      this.#outgoing.on('drain', settle);
      forget = this.#outlet.onCut(settle);
    });
    await this.#clock.yield();
  }

  get #outgoing(): ServerResponse {
    return this.#outlet.outgoing;
  }
}
