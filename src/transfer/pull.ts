/** One pull over tcp or host-relay, on the side that wants the blocks: asks their owner to push them here,
 *  over a connection that lasts as long as they are wanted. Used by tcp.ts.
 *  No worker pulls yet: the KV store will, for prefixes that another worker holds. Invariant: when `ended`
 *  has resolved, nothing of it is written here any more, whatever the owner does: the own receiver refuses
 *  it. */
import { createConnection, type Socket } from 'node:net';
import type { Clock } from '../base/clock.js';
import type { KvLanding, ReceiverAddress } from './connector.js';
import { handshakeCut, SourceHandshake } from './handshake.js';
import { AnswerDecoder, readAfter } from './tcp-lane.js';
import { encodeMessage, type PulledMeta, type PullMeta } from './wire.js';

interface PullOptions {
  readonly address: ReceiverAddress;
  readonly meta: PullMeta;
  readonly landing: KvLanding;
  readonly clock: Clock;
  /** For the whole of it. */
  readonly deadlineMs: number;
}

export class Pull {
  /** Null: all of it is here. */
  readonly ended: Promise<string | null>;
  readonly #socket: Socket;

  constructor({ address, meta, landing, clock, deadlineMs }: PullOptions) {
    const { requestId, epoch, pieces } = meta;
    const admission = landing.admit({
      requestId,
      epoch,
      blocks: pieces.flatMap(({ targetBlocks }) => targetBlocks),
    });
    const socket = createConnection({ host: address.host, port: address.port, noDelay: true });
    this.#socket = socket;
    const answered = new Promise<string | null>((resolve) => {
      const timer = clock.after(deadlineMs, () => resolve(`no blocks within ${deadlineMs} ms`));
      socket.on('error', (error) => resolve(error.message));
      socket.on('close', () => {
        timer.cancel();
        resolve(handshake.isDone ? 'their owner hung up' : handshakeCut);
      });
      const decoder = new AnswerDecoder((kind, answer) =>
        resolve((answer as PulledMeta).message ?? (kind === 'pulled' ? null : 'an answer that is none')),
      );
      const handshake = new SourceHandshake(address.token, (bytes) => socket.write(bytes));
      readAfter(handshake, socket, () => socket.write(encodeMessage('pull', meta)), decoder);
    });
    this.ended = answered.then(async (error) => {
      socket.destroy();
      await admission.end();
      return error;
    });
  }

  cancel(): void {
    this.#socket.destroy();
  }
}
