/** Parsers for option values: a bad one is a usage error that names the option and what it takes. Used by the
 *  commands. */
import { InvalidArgumentError } from 'commander';
import { keyPattern } from '../library/option-schemas.js';

export function wholeNumber(min: number, max = Number.MAX_SAFE_INTEGER): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= min && value <= max) return value;
    const range = max === Number.MAX_SAFE_INTEGER ? `from ${min}` : `from ${min} to ${max}`;
    throw new InvalidArgumentError(`Expected a whole number ${range}.`);
  };
}

export function realNumber(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() !== '' && value >= min && value <= max) return value;
    throw new InvalidArgumentError(`Expected a number from ${min} to ${max}.`);
  };
}

const unitBytes: Readonly<Record<string, number>> = {
  '': 1,
  k: 1e3,
  m: 1e6,
  g: 1e9,
  ki: 2 ** 10,
  mi: 2 ** 20,
  gi: 2 ** 30,
  ti: 2 ** 40,
};

/** 1073741824, 512MiB, 2GiB, 1.5G. */
export function byteCount(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?$/i.exec(text.trim());
  const unit = unitBytes[match?.[2]?.toLowerCase() ?? ''];
  if (match === null || unit === undefined)
    throw new InvalidArgumentError('Expected a number of bytes such as 512MiB or 2GiB.');
  return Math.floor(Number(match[1]) * unit);
}

export function blockTokenCount(text: string): number {
  const value = Number(text);
  if ([8, 16, 32, 64, 128, 256].includes(value)) return value;
  throw new InvalidArgumentError('Expected 8, 16, 32, 64, 128 or 256.');
}

/** P:D, as in 2:1. */
export function split(text: string): { prefillCount: number; decodeCount: number } {
  const match = /^([1-9]\d*):([1-9]\d*)$/.exec(text);
  if (match === null) throw new InvalidArgumentError('Expected PREFILL:DECODE counts such as 1:1.');
  return { prefillCount: Number(match[1]), decodeCount: Number(match[2]) };
}

/** Of a server, without a path. */
export function serverUrl(text: string): string {
  if (/^https?:\/\//i.test(text) && URL.canParse(text)) return text;
  throw new InvalidArgumentError('Expected a URL such as http://127.0.0.1:8000.');
}

export function key(text: string): string {
  if (keyPattern.test(text)) return text;
  throw new InvalidArgumentError('Expected a key of letters, digits and signs of ASCII, without spaces.');
}

export function collectKeys(text: string, previous: readonly string[] | undefined): readonly string[] {
  return collect(key(text), previous);
}

/** For options that may be given several times. */
export function collect(value: string, previous: readonly string[] | undefined): readonly string[] {
  return [...(previous ?? []), value];
}
