/** Asks the demo model one question through the running server, so that the start-up screen shows the whole
 *  way working. */
import { TwostrokeError } from '../base/errors.js';

const question = 'What is the capital of France?';

export interface FirstAnswer {
  readonly question: string;
  readonly answer: string;
  /** Path and workers that gave it. */
  readonly route: string;
}

/** @throws TwostrokeError when the server does not answer as it should. */
export async function askFirstQuestion(
  url: string,
  modelName: string,
  apiKey: string | null,
): Promise<FirstAnswer> {
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      ...(apiKey === null ? {} : { authorization: `Bearer ${apiKey}` }),
    },
    body: JSON.stringify({
      model: modelName,
      messages: [{ role: 'user', content: question }],
      temperature: 0,
      max_tokens: 32,
    }),
  });
  const json = (await response.json()) as {
    choices?: { message: { content: string } }[];
    error?: { message: string };
  };
  const answer = json.choices?.[0]?.message.content;
  if (answer === undefined) {
    throw new TwostrokeError(
      'unavailable',
      `the first question failed: ${json.error?.message ?? `status ${response.status}`}`,
    );
  }
  return { question, answer, route: response.headers.get('x-twostroke-route') ?? 'route unknown' };
}
