/** Optional inputs of a report that a load test cannot measure: transfer time against interference, decode
 *  step against batch, and the like. A file holds a list of curves as JSON; who measured them (`twostroke
 *  profile`, a script) wrote it. Used by report.ts. */
import { readFileSync } from 'node:fs';
import { InvalidRequestError, messageOf } from '../base/errors.js';
import { modeColor, modeShape, type Plot, withStyle } from './plot-style.js';

/** One plot: lines or dots by series. */
export interface Curves {
  /** File name without ending. */
  readonly name: string;
  readonly title: string;
  readonly caption: string;
  readonly xTitle: string;
  readonly yTitle: string;
  readonly xScale?: 'linear' | 'log';
  readonly yScale?: 'linear' | 'log';
  readonly points: readonly { readonly series: string; readonly x: number; readonly y: number }[];
}

export function plotsOfCurves(file: string): readonly Plot[] {
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    throw new InvalidRequestError(`--curves ${file}: ${messageOf(error)}`);
  }
  const list = Array.isArray(json) ? json : [json];
  const bad = list.find((entry) => !isCurves(entry));
  if (bad !== undefined)
    throw new InvalidRequestError(
      `--curves ${file}: expected name, title, caption, xTitle, yTitle, points [{series, x, y}]`,
    );
  return (list as Curves[]).map(curvePlot);
}

function isCurves(value: unknown): value is Curves {
  if (typeof value !== 'object' || value === null) return false;
  const curves = value as Record<string, unknown>;
  const texts = ['name', 'title', 'caption', 'xTitle', 'yTitle'].every(
    (field) => typeof curves[field] === 'string',
  );
  return texts && /^[\w-]+$/.test(String(curves.name)) && Array.isArray(curves.points);
}

export function curvePlot({ name, title, caption, xTitle, yTitle, xScale, yScale, points }: Curves): Plot {
  const series = [...new Set(points.map((point) => point.series))];
  return {
    name,
    title,
    caption,
    spec: withStyle({
      width: 520,
      height: 300,
      data: { values: points.map((point) => ({ x: point.x, y: point.y, mode: point.series })) },
      mark: { type: 'line', point: { filled: true, size: 50 }, strokeWidth: 2 },
      encoding: {
        x: {
          field: 'x',
          type: 'quantitative',
          title: xTitle,
          scale: { type: xScale ?? 'linear', nice: false },
          axis: { format: '~g' },
        },
        y: {
          field: 'y',
          type: 'quantitative',
          title: yTitle,
          scale: { type: yScale ?? 'linear' },
          axis: { format: '~g' },
        },
        color: { ...modeColor(series, null), legend: { columns: 2 } },
        shape: { ...modeShape(series), title: null, legend: { columns: 2 } },
      },
    }),
  };
}
