/** What is to happen when the work that was enqueued on a stream has run, in order. One waiting thread at most, however many items: one
 *  event is recorded behind all that came meanwhile. Used by both sides of the tcp connector.
 *  Invariant: every item is handed out exactly once, with the error of the work before it, if it failed. */
import { messageOf } from '../base/errors.js';
import type { Device, Stream } from '../device/device.js';

export class ReachedQueue<Item> {
  readonly #device: Device;
  readonly #stream: Stream;
  readonly #onReached: (items: readonly Item[], error: string | null) => void;
  #items: Item[] = [];
  #isRunning = false;
  /** Resolves when the batch that is on its way has been handed out. */
  #round: Promise<void> = Promise.resolve();
  #addedCount = 0;
  #handedCount = 0;

  constructor(device: Device, stream: Stream, onReached: (items: readonly Item[], error: string | null) => void) {
    this.#device = device;
    this.#stream = stream;
    this.#onReached = onReached;
  }

  /** The item's work has just been enqueued. */
  add(item: Item): void {
    this.#items.push(item);
    this.#addedCount++;
    if (this.#isRunning) return;
    this.#isRunning = true;
    this.#round = Promise.resolve().then(() => this.#run()); // what the caller adds in one go is one batch
  }

  /** Resolves when everything added so far has been handed out, whatever is added meanwhile. */
  async passed(): Promise<void> {
    const count = this.#addedCount;
    while (this.#handedCount < count) await this.#round;
  }

  async #run(): Promise<void> {
    const items = this.#items;
    this.#items = [];
    const error = await this.#reach();
    this.#handedCount += items.length;
    this.#onReached(items, error);
    this.#isRunning = this.#items.length > 0;
    if (this.#isRunning) this.#round = this.#run();
  }

  async #reach(): Promise<string | null> {
    const event = this.#device.createEvent();
    try {
      this.#stream.record(event);
      if (!this.#device.isReached(event)) await this.#device.waitEvent(event);
      return null;
    } catch (error) {
      return messageOf(error);
    } finally {
      this.#device.destroyEvent(event);
    }
  }
}
