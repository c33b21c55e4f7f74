/** Errors as OpenAI clients expect them: `{"error": {message, type, param, code}}` with a matching status.
 *  Used by every handler through the app's one error hook. Internal errors never show their stack. */
import { type ErrorCode, TwostrokeError } from '../base/errors.js';
import { OverloadedError } from '../control/admission.js';
import type { ErrorBody } from './api-types.js';

/** For statuses that only HTTP has (404 route, 405, 413, 415). */
export class HttpError extends TwostrokeError {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;

  constructor(
    status: number,
    code: ErrorCode,
    message: string,
    options: { param?: string; headers?: Record<string, string> } = {},
  ) {
    super(code, message, options.param === undefined ? {} : { param: options.param });
    this.status = status;
    this.headers = options.headers ?? {};
  }
}

export function bodyTooLarge(bytesMax: number): HttpError {
  return new HttpError(413, 'too_large', `The request body is over the limit of ${bytesMax} bytes`, {
    headers: { connection: 'close' },
  });
}

interface ApiError {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: ErrorBody;
}

const statusOf: Record<ErrorCode, number> = {
  invalid_request: 400,
  context_length_exceeded: 400,
  not_found: 404,
  unauthorized: 401,
  forbidden: 403,
  too_large: 413,
  overloaded: 429,
  deadline_exceeded: 504,
  cancelled: 499,
  unavailable: 503,
  model_error: 500,
  numeric_error: 500,
  device_error: 500,
  transfer_error: 500,
  layout_mismatch: 500,
  internal: 500,
};

function typeOf(status: number): string {
  if (status === 429) return 'rate_limit_error';
  if (status === 401) return 'authentication_error';
  return status < 500 ? 'invalid_request_error' : 'server_error';
}

/** Any thrown thing as a response. An unknown error becomes a plain 500: its text may hold internals. */
export function toApiError(error: unknown): ApiError {
  if (!(error instanceof TwostrokeError)) {
    return apiError(500, 'The server had an internal error. It is in the server log.', null, 'internal');
  }
  const status = error instanceof HttpError ? error.status : statusOf[error.code];
  return {
    ...apiError(status, error.message, error.param ?? null, codeOf(error)),
    headers: headersOf(error, status),
  };
}

function headersOf(error: TwostrokeError, status: number): Readonly<Record<string, string>> {
  if (error instanceof HttpError) return error.headers;
  if (error instanceof OverloadedError)
    return { 'retry-after': String(Math.ceil(error.retryAfterMs / 1000)) };
  return status === 503 || status === 429 ? { 'retry-after': '1' } : {};
}

/** The codes OpenAI's clients know, where there is one. */
function codeOf(error: TwostrokeError): string | null {
  if (error.code === 'unauthorized') return 'invalid_api_key';
  if (error.code === 'not_found' && error.param === 'model') return 'model_not_found';
  if (error.code === 'overloaded') return 'rate_limit_exceeded';
  return error.code === 'invalid_request' ? null : error.code;
}

function apiError(status: number, message: string, param: string | null, code: string | null): ApiError {
  return { status, headers: {}, body: { error: { message, type: typeOf(status), param, code } } };
}
