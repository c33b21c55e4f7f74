/** The bus without processes: both ends of a connection in one process, messages on their way for as long as
 *  they were measured to take. Used by simulated-workers.ts. Same meaning as bus/socket-connection.ts.
 *  Invariants: what one side sends arrives in order; every request settles exactly once: by its answer, its
 *  deadline or the connection's end. */
import type { Clock } from '../base/clock.js';
import { fromWire, TwostrokeError, toWire } from '../base/errors.js';
import {
  BusClosedError,
  type BusConnection,
  BusDeadlineError,
  type BusHandlers,
  type BusServer,
} from '../bus/bus.js';
import type { Body } from '../bus/message-types.js';

/** Where a message goes. */
type Direction = 'toWorker' | 'toGateway';

export interface Message {
  readonly direction: Direction;
  /** Of an answer: the kind of what was asked. */
  readonly kind: string;
  readonly role: 'event' | 'request' | 'answer';
}

interface InProcessLink {
  readonly clock: Clock;
  /** Milliseconds a message is on its way, handling on both sides included. */
  readonly delayMs: (message: Message, body: unknown) => number;
  /** Called with every message as it arrives. */
  readonly onDelivery?: (message: Message, body: unknown) => void;
}

type Accept = (connection: () => BusConnection) => BusHandlers;

export class InProcessBus {
  #accept: Accept | null = null;
  readonly #connections = new Set<InProcessConnection>();

  /** In place of bus/unix-socket's listenUnix. */
  readonly listen = async (_options: object, accept: Accept): Promise<BusServer> => {
    this.#accept = accept;
    return {
      address: 'in-process',
      close: async () => {
        for (const connection of this.#connections) connection.close('the bus is shut down');
      },
    };
  };

  /** The worker's end of a new connection, as bus/unix-socket's connectUnix gives it. */
  connect(link: InProcessLink, handlers: BusHandlers): BusConnection {
    if (this.#accept === null) throw new TwostrokeError('unavailable', 'nobody listens');
    const worker = new InProcessConnection(link, 'toWorker', handlers);
    const gateway: InProcessConnection = new InProcessConnection(
      link,
      'toGateway',
      this.#accept(() => gateway),
    );
    worker.other = gateway;
    gateway.other = worker;
    this.#connections.add(gateway);
    void gateway.closed.then(() => this.#connections.delete(gateway));
    return worker;
  }
}

class InProcessConnection implements BusConnection {
  readonly closed: Promise<string>;
  other: InProcessConnection | null = null;
  readonly #link: InProcessLink;
  /** Of what arrives here. */
  readonly #direction: Direction;
  readonly #handlers: BusHandlers;
  readonly #pending = new Set<(error: Error) => void>();
  /** Nothing arrives here before what was sent earlier. */
  #lastArrivalMs = 0;
  #closeReason: string | null = null;
  #resolveClosed: (reason: string) => void = () => {};

  constructor(link: InProcessLink, direction: Direction, handlers: BusHandlers) {
    this.#link = link;
    this.#direction = direction;
    this.#handlers = handlers;
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
  }

  readonly isCongested = false;

  get isClosed(): boolean {
    return this.#closeReason !== null;
  }

  drained(): Promise<void> {
    return Promise.resolve();
  }

  send(kind: string, body: Body): void {
    if (!this.isClosed) this.other?.arrive('event', kind, body, () => this.other?.onEvent(kind, body));
  }

  request(kind: string, body: Body, deadlineMs: number): Promise<unknown> {
    if (this.#closeReason !== null) return Promise.reject(new BusClosedError(this.#closeReason));
    return new Promise((resolve, reject) => {
      const settle = () => {
        timer.cancel();
        return this.#pending.delete(fail);
      };
      const fail = (error: Error) => {
        if (settle()) reject(error);
      };
      const timer = this.#link.clock.after(deadlineMs, () => fail(new BusDeadlineError(kind, deadlineMs)));
      this.#pending.add(fail);
      const answer = (result: Body) =>
        this.arrive('answer', kind, result, () => {
          if (settle()) resolve(result);
        });
      const refuse = (error: unknown) =>
        this.arrive('answer', kind, toWire(error), () => fail(fromWire(toWire(error))));
      this.other?.arrive('request', kind, body, () => this.other?.onRequest(kind, body).then(answer, refuse));
    });
  }

  identified(): void {}

  close(reason: string): void {
    if (this.#closeReason !== null) return;
    this.#closeReason = reason;
    for (const fail of [...this.#pending]) fail(new BusClosedError(reason));
    this.#resolveClosed(reason);
    this.#link.clock.after(0, () => this.other?.close('the other side hung up'));
  }

  onEvent(kind: string, body: Body): void {
    this.#handlers.onEvent(kind, body);
  }

  onRequest(kind: string, body: Body): Promise<Body> {
    return this.#handlers.onRequest(kind, body);
  }

  /** Something is on its way here; `handle` runs when it has arrived, unless the connection ends first. */
  arrive(role: Message['role'], kind: string, body: unknown, handle: () => void): void {
    if (this.isClosed) return;
    const { clock, delayMs, onDelivery } = this.#link;
    const message = { direction: this.#direction, kind, role };
    const nowMs = clock.nowMs();
    this.#lastArrivalMs = Math.max(this.#lastArrivalMs, nowMs + delayMs(message, body));
    clock.after(this.#lastArrivalMs - nowMs, () => {
      if (this.isClosed) return;
      onDelivery?.(message, body);
      handle();
    });
  }
}
