/** Numbers within bounds as grammar: decimals without exponent, compared digit by digit. Used by
 *  json-schema.ts; pure. */
import { chars, choice, type GrammarNode, never, optional, repeat, sequence, text } from './grammar.js';
import { digit, digit1 } from './json-text.js';

export interface Bound {
  readonly value: number;
  readonly isExclusive: boolean;
}

/** null: unbounded on that side. */
interface NumberBounds {
  readonly low: Bound | null;
  readonly high: Bound | null;
}

/** Digits after the point that are written at most, beyond those of the bounds. Together with the bounds'
 *  own no more than the 15 that a double tells apart, or a number beside an exclusive bound would be read
 *  as the bound. */
const fractionMax = 6;
const boundDigitsMax = 9;
const integerDigitsMax = 16;

export function integerInBounds({ low, high }: NumberBounds): GrammarNode {
  const least =
    low === null ? null : BigInt(low.isExclusive ? Math.floor(low.value) + 1 : Math.ceil(low.value));
  const most =
    high === null ? null : BigInt(high.isExclusive ? Math.ceil(high.value) - 1 : Math.floor(high.value));
  if (least !== null && most !== null && least > most) return never;
  const parts: GrammarNode[] = [];
  if (most === null || most >= 0n) parts.push(wholeBetween(least === null || least < 0n ? 0n : least, most));
  if (least === null || least < 0n) {
    const from = most === null || most >= 0n ? 1n : -most;
    parts.push(sequence(text('-'), wholeBetween(from, least === null ? null : -least)));
  }
  return choice(...parts);
}

/** Whole numbers from `least` (not below 0) to `most`, without leading zeros. */
function wholeBetween(least: bigint, most: bigint | null): GrammarNode {
  const from = String(least);
  if (most === null) {
    const longer =
      from.length < integerDigitsMax
        ? [sequence(digit1, repeat(digit, from.length, integerDigitsMax - 1))]
        : [];
    return choice(digitsBetween(from, '9'.repeat(from.length)), ...longer);
  }
  if (most < least) return never;
  const to = String(most);
  if (from.length === to.length) return digitsBetween(from, to);
  const parts = [digitsBetween(from, '9'.repeat(from.length))];
  for (let length = from.length + 1; length < to.length; length++)
    parts.push(sequence(digit1, repeat(digit, length - 1, length - 1)));
  parts.push(digitsBetween(`1${'0'.repeat(to.length - 1)}`, to));
  return choice(...parts);
}

const digitRange = (first: number, last: number): GrammarNode => chars([0x30 + first, 0x30 + last]);

/** Digits between two lists of one length, both included. */
function digitsBetween(from: string, to: string): GrammarNode {
  if (from === to) return text(from);
  const [a, b] = [Number(from[0]), Number(to[0])];
  const rest = from.length - 1;
  if (rest === 0) return digitRange(a, b);
  if (a === b) return sequence(text(String(a)), digitsBetween(from.slice(1), to.slice(1)));
  const isLow = /^0*$/.test(from.slice(1));
  const isHigh = /^9*$/.test(to.slice(1));
  const parts: GrammarNode[] = [];
  if (!isLow) parts.push(sequence(text(String(a)), digitsBetween(from.slice(1), '9'.repeat(rest))));
  const [first, last] = [isLow ? a : a + 1, isHigh ? b : b - 1];
  if (first <= last) parts.push(sequence(digitRange(first, last), repeat(digit, rest, rest)));
  if (!isHigh) parts.push(sequence(text(String(b)), digitsBetween('0'.repeat(rest), to.slice(1))));
  return choice(...parts);
}

export function numberInBounds({ low, high }: NumberBounds): GrammarNode {
  const parts: GrammarNode[] = [];
  const isBelow = high !== null && (high.value < 0 || (high.value === 0 && high.isExclusive));
  const isAbove = low !== null && low.value >= 0;
  const zero: Bound = { value: 0, isExclusive: false };
  if (!isBelow)
    parts.push(
      decimalsBetween(
        low !== null && low.value > 0 ? low : low !== null && low.value === 0 ? low : zero,
        high,
      ),
    );
  if (!isAbove) {
    const from = high !== null && high.value <= 0 ? negated(high) : { value: 0, isExclusive: true };
    parts.push(sequence(text('-'), decimalsBetween(from, low === null ? null : negated(low))));
  }
  return choice(...parts);
}

function negated({ value, isExclusive }: Bound): Bound {
  return { value: -value || 0, isExclusive };
}

interface Decimal {
  readonly whole: bigint;
  /** Without trailing zeros. */
  readonly fraction: string;
}

/** What JSON writes as 1e-7 has many digits here. */
function decimalOf(value: number): Decimal {
  const [digits = '0', exponentText = '0'] = String(value).split('e');
  const [whole = '0', fraction = ''] = digits.split('.');
  const exponent = Number(exponentText);
  if (exponent === 0) return { whole: BigInt(whole), fraction };
  const all = whole + fraction;
  const point = whole.length + exponent;
  if (point <= 0) return { whole: 0n, fraction: '0'.repeat(-point) + all };
  const padded = all.padEnd(point, '0');
  return { whole: BigInt(padded.slice(0, point)), fraction: padded.slice(point) };
}

/** A bound of many digits is moved inwards to one of few. */
function inward({ value, isExclusive }: Bound, side: 'low' | 'high'): Bound {
  const near = Number(value.toPrecision(boundDigitsMax));
  if (near === value) return { value, isExclusive };
  const step = 10 ** (Math.floor(Math.log10(value)) + 1 - boundDigitsMax);
  const isInside = side === 'low' ? near > value : near < value;
  const moved = isInside
    ? near
    : Number((side === 'low' ? near + step : near - step).toPrecision(boundDigitsMax));
  return { value: moved, isExclusive: false };
}

/** From the lowest, which is not below 0. */
function decimalsBetween(lowest: Bound, highest: Bound | null): GrammarNode {
  const low = inward(lowest, 'low');
  const high = highest === null ? null : inward(highest, 'high');
  const from = decimalOf(low.value);
  const to = high === null ? null : decimalOf(high.value);
  if (to !== null && (to.whole < from.whole || (high !== null && high.value < low.value))) return never;
  const anyFraction = optional(sequence(text('.'), repeat(digit, 1, fractionMax)));
  if (to !== null && to.whole === from.whole) {
    const both = fractionBetween(from.fraction, low.isExclusive, to.fraction, high?.isExclusive === true);
    return sequence(text(String(from.whole)), both);
  }
  const parts = [sequence(text(String(from.whole)), fractionAbove(from.fraction, low.isExclusive))];
  const between = wholeBetween(from.whole + 1n, to === null ? null : to.whole - 1n);
  parts.push(sequence(between, anyFraction));
  if (to !== null)
    parts.push(sequence(text(String(to.whole)), fractionBelow(to.fraction, high?.isExclusive === true)));
  return choice(...parts);
}

const zeros = optional(sequence(text('.'), repeat(text('0'), 1, fractionMax)));

/** `.123…` or nothing, not below `.bound`. */
function fractionAbove(bound: string, isExclusive: boolean): GrammarNode {
  if (bound === '') {
    return isExclusive
      ? sequence(text('.'), notZero())
      : optional(sequence(text('.'), repeat(digit, 1, fractionMax)));
  }
  return sequence(text('.'), digitsAbove(bound, isExclusive));
}

function notZero(): GrammarNode {
  return sequence(repeat(text('0'), 0, fractionMax), digit1, repeat(digit, 0, fractionMax));
}

function digitsAbove(bound: string, isExclusive: boolean): GrammarNode {
  const more = repeat(digit, 0, fractionMax);
  if (bound === '') return isExclusive ? notZero() : more;
  const first = Number(bound[0]);
  const parts: GrammarNode[] = [];
  if (first < 9) parts.push(sequence(digitRange(first + 1, 9), more));
  parts.push(sequence(text(String(first)), digitsAbove(bound.slice(1), isExclusive)));
  return choice(...parts);
}

function fractionBelow(bound: string, isExclusive: boolean): GrammarNode {
  if (bound === '') return isExclusive ? never : zeros;
  return optional(sequence(text('.'), digitsBelow(bound, isExclusive, false)));
}

/** At least one digit, unless some have been read. */
function digitsBelow(bound: string, isExclusive: boolean, hasRead: boolean): GrammarNode {
  const more = repeat(digit, 0, fractionMax);
  if (bound === '') return isExclusive ? never : repeat(text('0'), 0, fractionMax);
  const first = Number(bound[0]);
  const parts: GrammarNode[] = [];
  if (hasRead) parts.push(text('')); // shorter: zeros are missing
  if (first > 0) parts.push(sequence(digitRange(0, first - 1), more));
  parts.push(sequence(text(String(first)), digitsBelow(bound.slice(1), isExclusive, true)));
  return choice(...parts);
}

function fractionBetween(
  low: string,
  isLowExclusive: boolean,
  high: string,
  isHighExclusive: boolean,
): GrammarNode {
  const length = Math.max(low.length, high.length);
  const [from, to] = [low.padEnd(length, '0'), high.padEnd(length, '0')];
  if (from > to || (from === to && (isLowExclusive || isHighExclusive))) return never;
  if (from === to)
    return /^0*$/.test(from) ? zeros : sequence(text(`.${from}`), repeat(text('0'), 0, fractionMax));
  const parts: GrammarNode[] = [];
  if (/^0*$/.test(from) && !isLowExclusive) parts.push(text(''));
  parts.push(sequence(text('.'), digitsWithin(from, isLowExclusive, to, isHighExclusive, false)));
  return choice(...parts);
}

/** Both bounds of one length, the first below the second. */
function digitsWithin(
  from: string,
  isLowExclusive: boolean,
  to: string,
  isHighExclusive: boolean,
  hasRead: boolean,
): GrammarNode {
  const [a, b] = [Number(from[0]), Number(to[0])];
  if (a === b) {
    const rest = digitsWithin(from.slice(1), isLowExclusive, to.slice(1), isHighExclusive, true);
    const here = hasRead && /^0*$/.test(from) && !isLowExclusive ? [text('')] : [];
    return choice(...here, sequence(text(String(a)), rest));
  }
  const more = repeat(digit, 0, fractionMax);
  const parts: GrammarNode[] = [];
  if (hasRead && /^0*$/.test(from) && !isLowExclusive) parts.push(text(''));
  parts.push(sequence(text(String(a)), digitsAbove(from.slice(1).replace(/0+$/, ''), isLowExclusive)));
  if (a + 1 <= b - 1) parts.push(sequence(digitRange(a + 1, b - 1), more));
  parts.push(sequence(text(String(b)), digitsBelow(to.slice(1).replace(/0+$/, ''), isHighExclusive, true)));
  return choice(...parts);
}

const multipleDigitsMax = 9;

/** Whole numbers that `divisor` divides, by their remainders digit by digit: a rule for each remainder and
 *  number of digits left. */
export function multiplesOf(
  divisor: number,
  prefix: string,
): { root: GrammarNode; rules: Record<string, GrammarNode> } {
  const rules: Record<string, GrammarNode> = {};
  const name = (rest: number, left: number) => ({ kind: 'rule', name: `${prefix}${rest}-${left}` }) as const;
  for (let left = 0; left < multipleDigitsMax; left++) {
    for (let rest = 0; rest < divisor; rest++) {
      const next = Array.from({ length: 10 }, (_, d) =>
        sequence(text(String(d)), name((rest * 10 + d) % divisor, left - 1)),
      );
      rules[name(rest, left).name] = choice(...(rest === 0 ? [text('')] : []), ...(left > 0 ? next : []));
    }
  }
  const first = Array.from({ length: 9 }, (_, i) =>
    sequence(text(String(i + 1)), name((i + 1) % divisor, multipleDigitsMax - 1)),
  );
  return { root: choice(text('0'), sequence(optional(text('-')), choice(...first))), rules };
}
