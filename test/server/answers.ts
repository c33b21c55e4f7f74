/** The parts of answers that tests look at, typed. What a given endpoint does not send is simply undefined at
 *  run time. */

export interface AnswerChoice {
  readonly index: number;
  readonly text: string;
  readonly message: { readonly content: string };
  readonly delta: { readonly role?: string; readonly content?: string };
  readonly finish_reason: string | null;
  readonly stop_reason: string | number | null;
  readonly token_ids: readonly number[];
}

export interface Answer {
  readonly choices: readonly AnswerChoice[];
  readonly usage: { readonly prompt_tokens: number; readonly completion_tokens: number };
  readonly prompt_token_ids: readonly number[];
  readonly error: {
    readonly message: string;
    readonly type: string;
    readonly param: string | null;
    readonly code: string | null;
  };
}

export async function answerOf(response: Response): Promise<Answer> {
  return (await response.json()) as Answer;
}

/** An answer's only choice. */
export async function choiceOf(response: Response): Promise<AnswerChoice> {
  const { choices } = await answerOf(response);
  return firstChoice({ choices });
}

export function firstChoice({ choices }: Pick<Answer, 'choices'>): AnswerChoice {
  const [choice] = choices;
  if (choice === undefined) throw new Error('an answer without choices');
  return choice;
}
