/** datetime.strftime in the C locale and local time. Used by globals.ts. */

const days = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday'];
const months = [
  ...[
    'January',
    'February',
    'March',
    'April',
    'May',
    'June',
    'July',
    'August',
    'September',
    'October',
    'November',
    'December',
  ],
];
const padded = (value: number, width = 2, fill = '0') => String(value).padStart(width, fill);

export function strftime(format: string, at: Date): string {
  return format.replace(/%(-?)([a-zA-Z%])/g, (whole, dash: string, letter: string) => {
    const field = fields[letter]?.(at) ?? whole;
    return dash === '' ? field : field.replace(/^[0 ]+(?=.)/, '');
  });
}

const dayOfYear = (at: Date) =>
  Math.round(
    (Date.UTC(at.getFullYear(), at.getMonth(), at.getDate()) - Date.UTC(at.getFullYear(), 0)) / 86_400_000,
  );
const hour12 = (at: Date) => at.getHours() % 12 || 12;

const fields: Readonly<Record<string, (at: Date) => string>> = {
  Y: (at) => String(at.getFullYear()),
  y: (at) => padded(at.getFullYear() % 100),
  m: (at) => padded(at.getMonth() + 1),
  d: (at) => padded(at.getDate()),
  e: (at) => padded(at.getDate(), 2, ' '),
  H: (at) => padded(at.getHours()),
  I: (at) => padded(hour12(at)),
  M: (at) => padded(at.getMinutes()),
  S: (at) => padded(at.getSeconds()),
  f: (at) => padded(at.getMilliseconds() * 1000, 6),
  p: (at) => (at.getHours() < 12 ? 'AM' : 'PM'),
  B: (at) => months[at.getMonth()] ?? '',
  b: (at) => (months[at.getMonth()] ?? '').slice(0, 3),
  h: (at) => (months[at.getMonth()] ?? '').slice(0, 3),
  A: (at) => days[at.getDay()] ?? '',
  a: (at) => (days[at.getDay()] ?? '').slice(0, 3),
  j: (at) => padded(dayOfYear(at) + 1, 3),
  w: (at) => String(at.getDay()),
  u: (at) => String(at.getDay() || 7),
  F: (at) => strftime('%Y-%m-%d', at),
  T: (at) => strftime('%H:%M:%S', at),
  R: (at) => strftime('%H:%M', at),
  D: (at) => strftime('%m/%d/%y', at),
  c: (at) => strftime('%a %b %e %H:%M:%S %Y', at),
  x: (at) => strftime('%m/%d/%y', at),
  X: (at) => strftime('%H:%M:%S', at),
  Z: () => '',
  z: () => '',
  n: () => '\n',
  t: () => '\t',
  '%': () => '%',
};
