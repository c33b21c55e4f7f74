/** How long a GPU waits for its host between decode steps: events on the GPU around every recorded graph that
 *  is launched. Used by bench.ts.
 *
 *  A step as the GPU saw it lasts from one graph's end to the next one's end. The graph alone is the same
 *  graph launched again and again with nothing between: what a step lasts longer than that is the host's
 *  share. Invariant: what is measured is the unchanged engine. */
import type { Device, EventHandle, GraphHandle, Stream } from '../../src/device/device.js';
import { loadLibrary } from '../../src/device/native.js';
import { libraryPath } from './rig.js';

const eventCount = 32;
const replayCount = 32;

export class GraphTimer {
  /** Hand this to the engine. */
  readonly device: Device;
  readonly #real: Device;
  readonly #ends: readonly EventHandle[];
  #stream: Stream | null = null;
  #graph: GraphHandle | null = null;
  #launchCount = 0;

  constructor(device: Device) {
    this.#real = device;
    this.#ends = Array.from({ length: eventCount }, () => device.createEvent());
    this.device = bound(device, { createStream: () => this.#watch(device.createStream()) });
  }

  /** Of the last steps, which must have been launches of one shape. No step may be in flight, and the engine
   *  is good for nothing but to be closed afterwards: its last step is run again and again. */
  async hostShare(): Promise<number> {
    const stream = this.#stream;
    const graph = this.#graph;
    if (stream === null || graph === null || this.#launchCount < eventCount)
      throw new Error('too few graphs were launched');
    await stream.wait();
    const end = (index: number) => this.#ends[(this.#launchCount - index) % eventCount]!;
    const stepMs = this.#elapsed(end(eventCount - 1), end(0)) / (eventCount - 1);
    const [before, after] = [this.#real.createEvent(), this.#real.createEvent()];
    stream.launch(graph);
    stream.record(before);
    for (let i = 0; i < replayCount; i++) stream.launch(graph);
    stream.record(after);
    await stream.wait();
    const graphMs = this.#elapsed(before, after) / replayCount;
    for (const event of [before, after]) this.#real.destroyEvent(event);
    console.log(`    step ${stepMs.toFixed(4)} ms, graph alone ${graphMs.toFixed(4)} ms`);
    return 1 - graphMs / stepMs;
  }

  close(): void {
    for (const event of this.#ends) this.#real.destroyEvent(event);
  }

  #watch(stream: Stream): Stream {
    const launch = (graph: GraphHandle) => {
      stream.launch(graph);
      stream.record(this.#ends[++this.#launchCount % eventCount]!);
      this.#stream = stream;
      this.#graph = graph;
    };
    return bound(stream, { launch });
  }

  #elapsed(start: EventHandle, end: EventHandle): number {
    const out = new Float64Array(1);
    const library = loadLibrary(libraryPath);
    library.check(library.call.pd_event_elapsed(start, end, out), 'elapsed');
    return out[0]!;
  }
}

/** The same object with some methods replaced; private fields stay the original's. */
function bound<T extends object>(original: T, replaced: Partial<T>): T {
  return new Proxy(original, {
    get: (target, key) => {
      const value: unknown = Reflect.get(key in replaced ? replaced : target, key, target);
      return typeof value === 'function' && !(key in replaced) ? value.bind(target) : value;
    },
  });
}
