/** Numbers for people: 5.8 M, 96 MiB, 12,345. Used by the screens and tables. */

export function shortCount(value: number): string {
  const units = [
    [1e9, 'B'],
    [1e6, 'M'],
    [1e3, 'k'],
  ] as const;
  const [scale, unit] = units.find(([scale]) => value >= scale) ?? [1, ''];
  return `${trimmed(value / scale)}${unit === '' ? '' : ` ${unit}`}`;
}

export function shortBytes(value: number): string {
  const units = [
    [2 ** 30, 'GiB'],
    [2 ** 20, 'MiB'],
    [2 ** 10, 'KiB'],
  ] as const;
  const [scale, unit] = units.find(([scale]) => value >= scale) ?? [1, 'B'];
  return `${trimmed(value / scale)} ${unit}`;
}

export function grouped(value: number): string {
  return Math.round(value).toLocaleString('en-US');
}

/** Columns padded to their widest cell, two spaces apart. */
export function table(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => (row[column] ?? '').length)),
  );
  return rows.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  );
}

/** Three digits at most: 5.77, 57.7, 577. */
function trimmed(value: number): string {
  return String(Number(value.toPrecision(value >= 100 ? 3 : 2)));
}
