/** Answers pulls on the side that has the blocks: pushes them to whoever asks, over a channel like any other.
 *  Given to a KvReceiver, which has checked who asks. No
 *  worker serves pulls yet: the KV store will, for prefixes that another worker wants. Invariant: only blocks
 *  that are held for the request are read; a pull that is not wanted any more is aborted. */
import { messageOf, TwostrokeError } from '../base/errors.js';
import type { BlockId, RequestId } from '../base/ids.js';
import type { Device, Stream } from '../device/device.js';
import type { KvChannel, KvTarget, KvTransfer } from './connector.js';
import type { PullMeta } from './wire.js';

interface PullServerOptions {
  readonly device: Device;
  /** By the connector that is named. */
  readonly channelTo: (target: KvTarget, connector: string) => Promise<KvChannel>;
  /** Whether these blocks are held, whole and unchanged, for that request. */
  readonly mayRead: (requestId: RequestId, blocks: readonly BlockId[]) => boolean;
}

/** One pull that is being served. */
export interface ServedPull {
  /** Resolves with what went wrong; null: everything has landed. */
  readonly ended: Promise<string | null>;
  /** It is not wanted any more. */
  cancel(): void;
}

export class PullServer {
  readonly #options: PullServerOptions;
  readonly #stream: Stream;

  constructor(options: PullServerOptions) {
    this.#options = options;
    this.#stream = options.device.createStream();
  }

  serve(pull: PullMeta): ServedPull {
    const state: { transfer: KvTransfer | null; isCancelled: boolean } = {
      transfer: null,
      isCancelled: false,
    };
    const run = async () => {
      const blocks = pull.pieces.flatMap(({ sourceBlocks }) => sourceBlocks);
      if (!this.#options.mayRead(pull.requestId, blocks))
        throw new TwostrokeError('transfer_error', 'the blocks are not held for it');
      const channel = await this.#options.channelTo(pull.target, pull.connector);
      if (state.isCancelled) return;
      const transfer = channel.begin(pull.requestId, pull.epoch);
      state.transfer = transfer;
      this.#push(transfer, pull);
      const { layoutHash } = pull.target.kv;
      await transfer.finish({
        requestId: pull.requestId,
        epoch: pull.epoch,
        layoutHash,
        tokenCount: 0,
        firstTokens: [],
      });
    };
    const ended = run().then(
      () => null,
      async (error) => {
        await state.transfer?.abort();
        return messageOf(error);
      },
    );
    const cancel = () => {
      state.isCancelled = true;
      void state.transfer?.abort();
    };
    return { ended, cancel };
  }

  close(): void {
    this.#stream.close();
  }

  /** The bytes have been there for long: an event of an empty stream is reached at once. */
  #push(transfer: KvTransfer, { pieces }: PullMeta): void {
    const event = this.#options.device.createEvent();
    this.#stream.record(event);
    try {
      transfer.push(pieces, event);
    } finally {
      this.#options.device.destroyEvent(event);
    }
  }
}
