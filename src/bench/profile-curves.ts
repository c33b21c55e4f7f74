/** Two plots of a profile file (`twostroke profile`): what a load test cannot measure. Used by report.ts. */
import { readFileSync } from 'node:fs';
import { InvalidRequestError, messageOf } from '../base/errors.js';
import { percentile } from '../base/percentiles.js';
import { type Curves, curvePlot } from './curves.js';
import type { Plot } from './plot-style.js';

/** The part of a profile file that is drawn; the whole is router/cost-parameters.ts's ProfileFile. */
interface Profile {
  readonly key: { readonly deviceName: string; readonly modelName: string };
  readonly parameters: {
    readonly links: readonly {
      readonly connector: string;
      readonly latencyMs: number;
      readonly bytesPerSecond: number;
    }[];
    readonly request: { readonly handOverMs: number };
    readonly kvBytesPerToken: number;
  };
  readonly readable: { readonly interferenceMsPerToken: number };
  readonly samples: readonly {
    readonly decodeCount: number;
    readonly decodeKvTokenCount: number;
    readonly prefillTokenCount: number;
    readonly ms: number;
  }[];
}

export function plotsOfProfile(file: string): readonly Plot[] {
  let profile: Profile;
  try {
    profile = JSON.parse(readFileSync(file, 'utf8')) as Profile;
  } catch (error) {
    throw new InvalidRequestError(`--profile ${file}: ${messageOf(error)}`);
  }
  if (!Array.isArray(profile.samples) || profile.readable === undefined)
    throw new InvalidRequestError(
      `--profile ${file}: not a profile file: write one with "twostroke profile"`,
    );
  return [decodeCurves(profile), transferCurves(profile)]
    .filter(({ points }) => points.length > 0)
    .map(curvePlot);
}

const kvEdges = [256, 1024, 4096];
/** A median of fewer is one step's luck. */
const stepCountMin = 3;

function decodeCurves({ key, samples }: Profile): Curves {
  const groups = new Map<string, { series: string; x: number; ms: number[] }>();
  for (const { decodeCount, decodeKvTokenCount, prefillTokenCount, ms } of samples) {
    if (prefillTokenCount > 0 || decodeCount === 0) continue;
    const edge = kvEdges.find((limit) => decodeKvTokenCount / decodeCount <= limit);
    const series = edge === undefined ? `more than ${kvEdges.at(-1)}` : `up to ${edge}`;
    const name = `${series} ${decodeCount}`;
    const group = groups.get(name) ?? { series, x: decodeCount, ms: [] };
    group.ms.push(ms);
    groups.set(name, group);
  }
  const enough = [...groups.values()].filter(({ ms }) => ms.length >= stepCountMin);
  const points = enough.map(({ series, x, ms }) => ({
    series,
    x,
    y: percentile(
      [...ms].sort((a, b) => a - b),
      0.5,
    ),
  }));
  return {
    name: 'decode-step',
    title: 'Decode step against batch',
    caption: `Median of the measured steps of ${key.modelName} on ${key.deviceName}, by KV tokens of a sequence. Flat: the weights' bytes are the limit.`,
    xTitle: 'sequences in the step',
    yTitle: 'ms',
    xScale: 'log',
    points: points.sort(
      (a, b) => a.series.localeCompare(b.series, undefined, { numeric: true }) || a.x - b.x,
    ),
  };
}

const promptTokenCounts = [64, 128, 256, 512, 1024, 2048, 4096];

/** The rule of thumb behind separation: moving a prompt's KV against holding up those who decode where it
 *  would be computed. */
function transferCurves({ key, parameters, readable }: Profile): Curves {
  const { links, request, kvBytesPerToken } = parameters;
  const moved = links.flatMap(({ connector, latencyMs, bytesPerSecond }) =>
    promptTokenCounts.map((x) => ({
      series: `moving its KV (${connector})`,
      x,
      y: request.handOverMs + latencyMs + (1000 * x * kvBytesPerToken) / bytesPerSecond,
    })),
  );
  const heldUp = [1, 8].flatMap((count) =>
    promptTokenCounts.map((x) => ({
      series: `holding up ${count} ${count === 1 ? 'sequence' : 'sequences, together'}`,
      x,
      y: count * x * readable.interferenceMsPerToken,
    })),
  );
  return {
    name: 'transfer-vs-interference',
    title: 'What a prompt costs: transfer against interference',
    caption: `Of ${key.modelName} on ${key.deviceName}, from the fit. Where holding others up costs more than moving the KV, separation can pay.`,
    xTitle: 'prompt (tokens)',
    yTitle: 'ms',
    xScale: 'log',
    yScale: 'log',
    points: [...moved, ...heldUp].filter(({ y }) => y > 0),
  };
}
