/** Vega-lite specification → SVG → PNG, without a browser. vega and resvg are optional dependencies, loaded
 *  on first use, and described here as far as they are used, so that the project compiles without them. PNG
 *  needs a font of this machine; where there is none, only the SVG is written. Used by report.ts. */
import { TwostrokeError } from '../base/errors.js';
import type { PlotSpec } from './plot-style.js';

interface VegaLite {
  compile(spec: PlotSpec): { readonly spec: object };
}

interface View {
  toSVG(): Promise<string>;
  finalize(): void;
}

interface Vega {
  readonly Error: number;
  readonly View: new (
    runtime: object,
    options: { readonly renderer: 'none'; readonly logLevel: number },
  ) => View;
  parse(spec: object): object;
}

interface Resvg {
  readonly Resvg: new (
    svg: string,
    options: object,
  ) => { render(): { readonly pixels: Uint8Array; asPng(): Uint8Array } };
}

/** null: not installed. */
async function optional<Module>(name: string): Promise<Module | null> {
  try {
    return (await import(name)) as Module;
  } catch {
    return null;
  }
}

/** Throws TwostrokeError 'unavailable' when vega is not installed. */
export async function renderSvg(spec: PlotSpec): Promise<string> {
  const [vega, vegaLite] = [await optional<Vega>('vega'), await optional<VegaLite>('vega-lite')];
  if (vega === null || vegaLite === null) {
    throw new TwostrokeError(
      'unavailable',
      'plots need vega and vega-lite: run npm install without --omit=optional',
    );
  }
  const view = new vega.View(vega.parse(vegaLite.compile(spec).spec), {
    renderer: 'none',
    logLevel: vega.Error,
  });
  try {
    return await view.toSVG();
  } finally {
    view.finalize();
  }
}

/** null: not installed here, or this machine has no font. */
export async function renderPng(svg: string): Promise<Uint8Array | null> {
  const resvg = await optional<Resvg>('@resvg/resvg-js');
  if (resvg === null) return null;
  const options = { font: { loadSystemFonts: true, defaultFontFamily: 'DejaVu Sans' } };
  const letter = '<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20"><text y="16">M</text></svg>';
  if (new resvg.Resvg(letter, options).render().pixels.every((value) => value === 0)) return null;
  return new resvg.Resvg(svg, { ...options, fitTo: { mode: 'zoom', value: 1.5 }, background: 'white' })
    .render()
    .asPng();
}
