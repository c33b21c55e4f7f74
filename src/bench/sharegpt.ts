/** Conversations in ShareGPT's JSON form: the first question is the prompt, the first answer tells how long
 *  answers are. Used by setup.ts. */
import { InvalidRequestError } from '../base/errors.js';

interface QuestionAndAnswer {
  readonly question: string;
  readonly answer: string;
}

interface Turn {
  readonly value?: string;
  readonly content?: string;
}

/** Entries without two turns are left out and counted. */
export function parseShareGpt(
  text: string,
  fileName: string,
): { pairs: readonly QuestionAndAnswer[]; leftOutCount: number } {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw new InvalidRequestError(`${fileName}: not JSON`);
  }
  if (!Array.isArray(json))
    throw new InvalidRequestError(`${fileName}: expected a list of {"conversations": [{"value": …}, …]}`);
  const pairs = json.flatMap((entry: { conversations?: Turn[]; messages?: Turn[] }) => {
    const [first, second] = entry.conversations ?? entry.messages ?? [];
    const question = first?.value ?? first?.content ?? '';
    const answer = second?.value ?? second?.content ?? '';
    return question === '' || answer === '' ? [] : [{ question, answer }];
  });
  if (pairs.length === 0)
    throw new InvalidRequestError(`${fileName}: no conversation with a question and an answer`);
  return { pairs, leftOutCount: json.length - pairs.length };
}
