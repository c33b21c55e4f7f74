/** From probes and real hand-overs to what a way between workers costs. Used by profile.ts; pure. */
import { percentile } from '../base/percentiles.js';
import type { LinkCost } from '../router/cost-parameters.js';
import type { LinkTrial } from '../transfer/best-connector.js';
import { fitNonNegative } from './least-squares.js';
import type { HandOverSample } from './measure.js';

interface LinkFit {
  /** The one in use first. */
  readonly links: readonly LinkCost[];
  /** Null: no hand-over was measured. */
  readonly handOver: { readonly ms: number; readonly msPerByte: number } | null;
}

/** Largest hand-over by the smallest: below, nothing tells what grows with the prompt from the rest. */
const spreadMin = 2;

/** Probes say what a connector can do; prompts that were handed over, what it leaves exposed: with nothing
 *  else going on their bytes hide behind the computing, all but the last layers'. */
export function fitLinks(trials: readonly LinkTrial[], handOvers: readonly HandOverSample[]): LinkFit {
  const probed = probedLinks(trials);
  const seen = handOvers.filter(({ bytes, exposedMs }) => bytes > 0 && exposedMs > 0);
  const [first] = seen;
  if (first === undefined) return { links: probed, handOver: null };
  const inUse = probed.filter(({ connector }) => connector === first.connector);
  const links = [...inUse, ...probed.filter((link) => !inUse.includes(link))];
  const allBytes = seen.map(({ bytes }) => bytes);
  const isSpread = Math.max(...allBytes) >= spreadMin * Math.min(...allBytes);
  const observations = seen.map(({ bytes, exposedMs }) => ({ features: [1, bytes], value: exposedMs }));
  const [fixedMs = 0, msPerByte = 0] = isSpread
    ? fitNonNegative(observations)
    : [medianOf(seen.map(({ exposedMs }) => exposedMs))];
  return { links, handOver: { ms: Math.max(0, fixedMs - (inUse[0]?.latencyMs ?? 0)), msPerByte } };
}

/** One for each connector that worked: the middle of what its pairs measured. */
function probedLinks(trials: readonly LinkTrial[]): readonly LinkCost[] {
  return [...new Set(trials.map(({ name }) => name))].flatMap((connector) => {
    const speeds = trials.flatMap(({ name, speed }) =>
      name === connector && speed !== undefined ? [speed] : [],
    );
    if (speeds.length === 0) return [];
    const latencyMs = medianOf(speeds.map((speed) => speed.latencyMs));
    return [{ connector, latencyMs, bytesPerSecond: medianOf(speeds.map((speed) => speed.bytesPerSecond)) }];
  });
}

export function medianOf(values: readonly number[]): number {
  return percentile(
    [...values].sort((a, b) => a - b),
    0.5,
  );
}
