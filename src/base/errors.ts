/** The errors a user may meet. Everything thrown on purpose is one of these; anything else is a bug.
 *  cli/ prints `message` alone and exits with `exitCode`; server/ maps `code` to an HTTP status. */

export const errorCodes = [
  'invalid_request', // the caller's input is wrong: field and reason in the message
  'context_length_exceeded', // the same, of a prompt or an answer that is too long
  'not_found',
  'unauthorized',
  'forbidden', // the key is known and may not do that
  'too_large',
  'overloaded', // retry later
  'deadline_exceeded',
  'cancelled',
  'unavailable', // no live worker
  'model_error', // model folder cannot be served: file and tensor in the message
  'numeric_error', // the model computed something that is no number: this request alone has failed
  'device_error', // a native call failed: op and shapes in the message
  'transfer_error',
  'layout_mismatch', // KV of another model, layout or dtype
  'internal',
] as const;
export type ErrorCode = (typeof errorCodes)[number];

/** More than any message here needs. What is quoted in it may be a client's or a template's, and is sent,
 *  logged and kept. */
const textLengthMax = 2000;

/** An error with a stable code. `param` names the offending request field, if there is one. Both are
 *  bounded. */
export class TwostrokeError extends Error {
  readonly code: ErrorCode;
  readonly param: string | undefined;

  constructor(code: ErrorCode, message: string, options: { param?: string; cause?: unknown } = {}) {
    super(shortened(message), options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'TwostrokeError';
    this.code = code;
    this.param = options.param === undefined ? undefined : shortened(options.param);
  }
}

function shortened(text: string): string {
  return text.length <= textLengthMax ? text : `${text.slice(0, textLengthMax)}…`;
}

export class InvalidRequestError extends TwostrokeError {
  constructor(
    message: string,
    param?: string,
    code: 'invalid_request' | 'context_length_exceeded' = 'invalid_request',
  ) {
    super(code, message, param === undefined ? {} : { param });
  }
}

/** Prompt, or prompt and answer, are more than the context or the KV memory holds. */
export class ContextLengthError extends InvalidRequestError {
  constructor(message: string, param: string) {
    super(message, param, 'context_length_exceeded');
  }
}

export class ModelError extends TwostrokeError {
  constructor(message: string, cause?: unknown) {
    super('model_error', message, { cause });
  }
}

export class DeviceError extends TwostrokeError {
  /** pd_* status code, see native/pd.h */
  readonly status: number;

  constructor(message: string, status: number) {
    super('device_error', message);
    this.status = status;
  }
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** For callers who were promised one: anything else that was thrown is a bug, and is its `cause`. */
export function asTwostrokeError(error: unknown): TwostrokeError {
  if (error instanceof TwostrokeError) return error;
  return new TwostrokeError('internal', `internal error: ${messageOf(error)}`, { cause: error });
}

/** Plain data for the bus; `fromWire` makes the error again on the other side. */
export interface WireError {
  readonly code: ErrorCode;
  readonly message: string;
  readonly param?: string;
}

export function isWireError(value: unknown): value is WireError {
  if (typeof value !== 'object' || value === null) return false;
  const { code, message, param } = value as Record<string, unknown>;
  const isKnown = errorCodes.some((known) => known === code);
  return isKnown && typeof message === 'string' && (param === undefined || typeof param === 'string');
}

export function toWire(error: unknown): WireError {
  if (error instanceof TwostrokeError) {
    return {
      code: error.code,
      message: error.message,
      ...(error.param === undefined ? {} : { param: error.param }),
    };
  }
  return { code: 'internal', message: shortened(messageOf(error)) };
}

export function fromWire(wire: WireError): TwostrokeError {
  return new TwostrokeError(wire.code, wire.message, wire.param === undefined ? {} : { param: wire.param });
}
