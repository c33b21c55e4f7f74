/** GET of one JSON document from a running server, for the commands that look at it. */
import { messageOf, TwostrokeError } from '../base/errors.js';

export interface QueriedServer {
  readonly url: string;
  readonly apiKey?: string;
  /** Sent instead of the other, if given. */
  readonly adminKey?: string;
}

/** @throws TwostrokeError when nothing answers there, or not as twostroke does. */
export async function askServer<Answer>(
  { url, apiKey, adminKey }: QueriedServer,
  path: string,
): Promise<Answer> {
  const response = await get(new URL(path, url).href, adminKey ?? apiKey);
  const text = await response.text();
  const json = parse(text);
  if (response.ok && json !== null) return json as Answer;
  const said =
    (json as { error?: { message?: string } } | null)?.error?.message ?? `status ${response.status}`;
  throw new TwostrokeError('unavailable', `${url} did not answer ${path}: ${said}`);
}

async function get(href: string, apiKey: string | undefined): Promise<Response> {
  try {
    return await fetch(href, { headers: apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` } });
  } catch (error) {
    const cause =
      error instanceof Error && error.cause instanceof Error ? error.cause.message : messageOf(error);
    throw new TwostrokeError(
      'unavailable',
      `no server at ${new URL(href).origin} (${cause}): start one with "twostroke serve", or name it with --url`,
    );
  }
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
