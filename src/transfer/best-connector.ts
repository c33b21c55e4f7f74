/** Chooses, for each pair of workers, the connector that is fastest between them: opens what can be opened,
 *  measures each, keeps one. Used by worker/. Invariant: a channel that was not chosen is closed before the
 *  chosen one is handed out. */
import { messageOf, TwostrokeError } from '../base/errors.js';
import type { KvChannel, KvConnector, KvTarget, LinkSpeed, OpenOptions } from './connector.js';

/** What came of one candidate. */
export type LinkTrial =
  | { readonly name: string; readonly speed: LinkSpeed; readonly error?: undefined }
  | { readonly name: string; readonly error: string; readonly speed?: undefined };

const smallBytes = 1024;
const bigBytes = 8 * 2 ** 20;
const trialCount = 3;
/** An earlier candidate costs the processors less: a later one must be this much faster. */
const advantageMin = 1.25;

export class BestConnector implements KvConnector {
  readonly name = 'auto';
  readonly #candidates: readonly KvConnector[];
  readonly #trials = new WeakMap<KvChannel, readonly LinkTrial[]>();

  /** In order of preference. */
  constructor(candidates: readonly KvConnector[]) {
    this.#candidates = candidates;
  }

  /** Throws the error of the most preferred candidate when there is no way at all: `layout_mismatch` before
   *  `transfer_error`. */
  async open(target: KvTarget, { avoid = [], gone }: OpenOptions = {}): Promise<KvChannel> {
    const candidates = this.#candidates.filter(({ name }) => !avoid.includes(name));
    const errors: unknown[] = [];
    const trials: LinkTrial[] = [];
    let best: { channel: KvChannel; bytesPerSecond: number } | null = null;
    for (const candidate of candidates) {
      try {
        const channel = await candidate.open(target);
        const speed = await measureUnless(channel, gone);
        trials.push({ name: candidate.name, speed });
        const isBetter = best === null || speed.bytesPerSecond > advantageMin * best.bytesPerSecond;
        await (isBetter ? best?.channel : channel)?.close();
        if (isBetter) best = { channel, bytesPerSecond: speed.bytesPerSecond };
      } catch (error) {
        errors.push(error);
        trials.push({ name: candidate.name, error: messageOf(error) });
      }
      if (gone?.aborted === true) {
        await best?.channel.close('gone');
        throw new TwostrokeError('transfer_error', `${target.workerId} went away`);
      }
    }
    if (best === null) throw worst(errors, target);
    this.#trials.set(best.channel, trials);
    return best.channel;
  }

  /** How a channel of this connector was chosen. */
  trialsOf(channel: KvChannel): readonly LinkTrial[] {
    return this.#trials.get(channel) ?? [];
  }

  async close(): Promise<void> {
    await Promise.all(this.#candidates.map((candidate) => candidate.close()));
  }
}

/** Best of a few: what the link can do, not what disturbed it. */
async function measure(channel: KvChannel): Promise<LinkSpeed> {
  const best = async (bytes: number) => {
    let leastMs = Number.POSITIVE_INFINITY;
    for (let trial = 0; trial < trialCount; trial++) leastMs = Math.min(leastMs, await channel.probe(bytes));
    return leastMs;
  };
  await channel.probe(bigBytes); // first touch of staging
  const latencyMs = await best(smallBytes);
  return { latencyMs, bytesPerSecond: (1000 * bigBytes) / Math.max(await best(bigBytes), 1e-3) };
}

/** A probe whose other side has died ends when the channel is closed under it. */
async function measureUnless(channel: KvChannel, gone: AbortSignal | undefined): Promise<LinkSpeed> {
  const close = () => void channel.close('gone');
  gone?.addEventListener('abort', close);
  if (gone?.aborted === true) close(); // while the channel was being opened
  try {
    return await measure(channel);
  } catch (error) {
    close();
    throw error;
  } finally {
    gone?.removeEventListener('abort', close);
  }
}

function worst(errors: readonly unknown[], target: KvTarget): unknown {
  const mismatch = errors.find(
    (error) => error instanceof TwostrokeError && error.code === 'layout_mismatch',
  );
  return (
    mismatch ??
    errors[0] ??
    new TwostrokeError('transfer_error', `there is no other way for KV to ${target.workerId}`)
  );
}
