/** The report of a sweep: summary as JSON, plots as SVG and PNG, one self-contained HTML page. Used by the
 *  sweep and by `bench report`. */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { plotsOfCurves } from './curves.js';
import type { Plot } from './plot-style.js';
import { sweepPlots } from './plots.js';
import { plotsOfProfile } from './profile-curves.js';
import { renderPng, renderSvg } from './render.js';
import { reportPage } from './report-page.js';
import { readSweep } from './sweep-file.js';
import { type SweepSummary, summariseSweep } from './sweep-summary.js';

/** Files of what a load test cannot measure. */
export interface ReportInputs {
  readonly curveFiles: readonly string[];
  readonly profileFiles: readonly string[];
  /** SVG and page always; PNG for what cannot show SVG. */
  readonly pictures: 'svg' | 'svg and png';
}

export interface ReportFiles {
  readonly summary: SweepSummary;
  readonly paths: readonly string[];
  /** Why there are no pictures in PNG, if so. */
  readonly note: string | null;
}

/** Derives everything from sweep.json and requests.jsonl.gz in `folder` and writes next to them. */
export async function writeReport(
  folder: string,
  { curveFiles, profileFiles, pictures }: ReportInputs,
): Promise<ReportFiles> {
  const data = readSweep(folder);
  const summary = summariseSweep(data);
  const plots = [
    ...sweepPlots(summary, data),
    ...profileFiles.flatMap(plotsOfProfile),
    ...curveFiles.flatMap(plotsOfCurves),
  ];
  const drawn: { plot: Plot; svg: string }[] = [];
  const paths: string[] = [];
  const write = (name: string, content: string | Uint8Array) => {
    const file = path.join(folder, name);
    writeFileSync(file, content);
    paths.push(file);
  };
  let hasPng = true;
  for (const plot of plots) {
    const svg = await renderSvg(plot.spec);
    drawn.push({ plot, svg });
    write(`${plot.name}.svg`, svg);
    if (pictures === 'svg') continue;
    const png = await renderPng(svg);
    if (png === null) hasPng = false;
    else write(`${plot.name}.png`, png);
  }
  write('summary.json', `${JSON.stringify(summary)}\n`);
  write('report.html', reportPage(data.header, summary, drawn));
  return {
    summary,
    paths,
    note: hasPng ? null : 'no PNG: @resvg/resvg-js or a system font is missing; the SVGs are complete',
  };
}
