/** What all plots share: size, type, colours that stay apart in print and for colour-blind readers (Okabe and
 *  Ito). Used by plots.ts. */

export interface Plot {
  /** File name without ending. */
  readonly name: string;
  readonly title: string;
  /** One sentence on how to read it. */
  readonly caption: string;
  /** A vega-lite specification with its data inside. */
  readonly spec: PlotSpec;
}

export type PlotSpec = Readonly<Record<string, unknown>>;

const palette = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000'];
const shapes = ['circle', 'square', 'triangle-up', 'diamond', 'cross', 'triangle-down', 'stroke'];

/** A line to compare with rather than a strategy: grey. */
export const everyRequest = 'every request';

/** The same mode has the same colour and point in every plot. */
export function modeColor(modes: readonly string[], title: string | null = 'strategy') {
  return {
    field: 'mode',
    type: 'nominal',
    title,
    sort: modes,
    scale: {
      domain: modes,
      range: modes.map((mode, i) => (mode === everyRequest ? '#999999' : palette[i % palette.length])),
    },
  };
}

export function modeShape(modes: readonly string[]) {
  return {
    field: 'mode',
    type: 'nominal',
    title: 'strategy',
    sort: modes,
    scale: { domain: modes, range: shapes.slice(0, modes.length) },
  };
}

export function withStyle(spec: PlotSpec): PlotSpec {
  return {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    background: 'white',
    padding: 12,
    config: {
      font: 'DejaVu Sans, Arial, sans-serif',
      view: { stroke: '#ccc' },
      axis: {
        labelFontSize: 12,
        titleFontSize: 13,
        titleFontWeight: 'normal',
        gridColor: '#eee',
        labelOverlap: true,
      },
      header: { labelFontSize: 13, titleFontSize: 13, labelFontWeight: 'bold' },
      legend: {
        labelFontSize: 12,
        titleFontSize: 12,
        orient: 'top',
        symbolStrokeWidth: 2,
        symbolSize: 80,
        labelLimit: 400,
      },
      title: { fontSize: 15, anchor: 'start', offset: 10 },
    },
    ...spec,
  };
}

/** Small multiples, one per value of `field`, in the order of their first occurrence, each with its own
 *  axes. */
export function smallMultiples<Field extends string>(
  values: readonly Readonly<Record<Field, string>>[],
  field: Field,
  { width, height, columns }: { readonly width: number; readonly height: number; readonly columns: number },
  spec: PlotSpec,
): PlotSpec {
  return {
    data: { values },
    facet: { field, type: 'nominal', title: null, sort: [...new Set(values.map((value) => value[field]))] },
    columns,
    spec: { width, height, ...spec },
    resolve: { axis: { x: 'independent', y: 'independent' }, scale: { x: 'independent', y: 'independent' } },
  };
}
