/** What became of the hand-overs to each worker. Used by hand-over-source.ts; outlives channels, so that
 *  metrics do not fall back. */
import type { WorkerId } from '../base/ids.js';

interface LinkCount {
  readonly landedBytes: number;
  readonly landedMs: number;
  readonly retryCount: number;
  readonly failureCount: number;
}

const none: LinkCount = { landedBytes: 0, landedMs: 0, retryCount: 0, failureCount: 0 };

export class LinkCounts {
  readonly #counts = new Map<WorkerId, LinkCount>();

  of(peer: WorkerId): LinkCount {
    return this.#counts.get(peer) ?? none;
  }

  landed(peer: WorkerId, bytes: number, durationMs: number): void {
    const { landedBytes, landedMs } = this.of(peer);
    this.#change(peer, { landedBytes: landedBytes + bytes, landedMs: landedMs + durationMs });
  }

  retried(peer: WorkerId): void {
    this.#change(peer, { retryCount: this.of(peer).retryCount + 1 });
  }

  failed(peer: WorkerId): void {
    this.#change(peer, { failureCount: this.of(peer).failureCount + 1 });
  }

  #change(peer: WorkerId, change: Partial<LinkCount>): void {
    this.#counts.set(peer, { ...this.of(peer), ...change });
  }
}
