/** A request's own SLO: the body's `slo`, or the headers x-slo-ttft-ms, x-slo-tpot-ms, x-slo-e2el-ms, which a
 *  proxy can set for clients that know nothing of it. What neither names is the server's. Used by app.ts
 *  (headers, before the body is read) and request-options.ts. */
import type { IncomingHttpHeaders } from 'node:http';
import { z } from 'zod';
import { InvalidRequestError } from '../base/errors.js';
import type { Slo } from '../router/slo.js';
import { sloMsMax } from '../router/slo-spec.js';

const milliseconds = z.number().gt(0).max(sloMsMax);

export const sloField = z
  .object({
    ttft_ms: milliseconds.nullish(),
    tpot_ms: milliseconds.nullish(),
    e2el_ms: milliseconds.nullish(),
  })
  .nullish();

const parts = [
  ['ttftMs', 'ttft_ms', 'x-slo-ttft-ms'],
  ['tpotMs', 'tpot_ms', 'x-slo-tpot-ms'],
  ['e2elMs', 'e2el_ms', 'x-slo-e2el-ms'],
] as const;

const shownLengthMax = 32;

/** Throws InvalidRequestError naming the header. */
export function sloOfHeaders(headers: IncomingHttpHeaders): Partial<Slo> {
  const given = parts.flatMap(([name, , header]) => {
    const text = headers[header];
    return text === undefined ? [] : [[name, millisecondsOf(header, String(text))] as const];
  });
  return Object.fromEntries(given);
}

function millisecondsOf(header: string, text: string): number {
  const value = /^(\d+(\.\d+)?|\.\d+)$/.test(text) ? Number(text) : Number.NaN;
  if (value > 0 && value <= sloMsMax) return value;
  const shown = text.length > shownLengthMax ? `${text.slice(0, shownLengthMax)}…` : text;
  throw new InvalidRequestError(
    `${header}: expected milliseconds above 0 and up to ${sloMsMax}, not "${shown}"`,
    header,
  );
}

/** The body is nearer to whoever asks: it wins. */
export function sloOfBody(body: z.output<typeof sloField>): Partial<Slo> {
  return Object.fromEntries(
    parts.flatMap(([name, field]) => (body?.[field] == null ? [] : [[name, body[field]] as const])),
  );
}
