/** What is to happen when the work that was enqueued on a stream has run, in order. One waiting thread at
 *  most. Items go in small groups with an event each, so that the first are handed out while the last still
 *  run: that makes a pipeline of slots of both sides of a tcp or host-relay channel, which use it. Invariant:
 *  every item is handed out exactly once, with the error of the work before it, if it failed. */
import { messageOf } from '../base/errors.js';
import type { Device, EventHandle, Stream } from '../device/device.js';

/** A wait is worth this much: two of a GPU's slots, some of a CPU's. Sockets, which carry far less in that
 *  time, wait for all there is. */
const groupBytesMin = 9 * 2 ** 20;

interface Group<Item> {
  readonly items: Item[];
  bytes: number;
  /** Recorded behind the last item; null: more may come. */
  event: EventHandle | null;
}

export class ReachedQueue<Item> {
  readonly #device: Device;
  readonly #stream: Stream;
  readonly #onReached: (items: readonly Item[], error: string | null) => void;
  #groups: Group<Item>[] = [];
  #isRunning = false;
  /** Resolves when the group that is on its way has been handed out. */
  #round: Promise<void> = Promise.resolve();
  #addedCount = 0;
  #handedCount = 0;

  constructor(
    device: Device,
    stream: Stream,
    onReached: (items: readonly Item[], error: string | null) => void,
  ) {
    this.#device = device;
    this.#stream = stream;
    this.#onReached = onReached;
  }

  /** The item's work has just been enqueued. */
  add(item: Item, bytes: number): void {
    const last = this.#groups.at(-1);
    const group = last?.event === null ? last : { items: [], bytes: 0, event: null };
    if (group !== last) this.#groups.push(group);
    group.items.push(item);
    this.#addedCount++;
    group.bytes += bytes;
    if (group.bytes >= groupBytesMin) this.#close(group);
    if (this.#isRunning) return;
    this.#isRunning = true;
    // what the caller adds in one go is grouped first
    this.#round = Promise.resolve().then(() => this.#run());
  }

  /** Resolves when everything added so far has been handed out, whatever is added meanwhile. */
  async passed(): Promise<void> {
    const count = this.#addedCount;
    while (this.#handedCount < count) await this.#round;
  }

  #close(group: Group<Item>): void {
    group.event = this.#device.createEvent();
    this.#stream.record(group.event);
  }

  async #run(): Promise<void> {
    const group = this.#groups[0];
    if (group === undefined) return;
    const error = await this.#reach(group);
    this.#groups.shift();
    this.#handedCount += group.items.length;
    this.#onReached(group.items, error);
    this.#isRunning = this.#groups.length > 0;
    if (this.#isRunning) this.#round = this.#run();
  }

  async #reach(group: Group<Item>): Promise<string | null> {
    try {
      if (group.event === null) this.#close(group);
      const { event } = group;
      if (event !== null && !this.#device.isReached(event)) await this.#device.waitEvent(event);
      return null;
    } catch (error) {
      return messageOf(error);
    } finally {
      if (group.event !== null) this.#device.destroyEvent(group.event);
    }
  }
}
