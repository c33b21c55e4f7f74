/** gpt-oss writes messages on channels: analysis is reasoning, final is the answer, commentary
 *  to=functions.NAME a call.
 *
 *    <|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>commentary to=functions.f
 *  <|constrain|>json<|message|>{…}<|call|> */
import { type AnswerPart, firstOf, heldLength, type PartReader } from './answer-parts.js';

const message = '<|message|>';
const ends = ['<|end|>', '<|call|>', '<|return|>', '<|start|>'];

export class HarmonyReader implements PartReader {
  #state: 'header' | 'body' = 'header';
  #held = '';
  #callCount = 0;
  #body: AnswerPart = { kind: 'content', text: '' };

  push(text: string): readonly AnswerPart[] {
    this.#held += text;
    const parts: AnswerPart[] = [];
    while (this.#state === 'header' ? this.#header(parts) : this.#readBody(parts, false));
    return parts;
  }

  end(): readonly AnswerPart[] {
    const parts: AnswerPart[] = [];
    if (this.#state === 'body') this.#readBody(parts, true);
    return parts;
  }

  #header(parts: AnswerPart[]): boolean {
    const at = this.#held.indexOf(message);
    if (at < 0) return false;
    const header = this.#held.slice(0, at);
    this.#held = this.#held.slice(at + message.length);
    this.#state = 'body';
    const name = /to=(?:functions\.)?([^\s<]+)/.exec(header)?.[1];
    if (name !== undefined) {
      const index = this.#callCount++;
      parts.push({ kind: 'call', index, name, text: '' });
      this.#body = { kind: 'call', index, text: '' };
    } else this.#body = { kind: header.includes('analysis') ? 'reasoning' : 'content', text: '' };
    return true;
  }

  #readBody(parts: AnswerPart[], isEnd: boolean): boolean {
    const found = firstOf(this.#held, ends);
    const sure = found?.at ?? this.#held.length - (isEnd ? 0 : heldLength(this.#held, ends));
    if (sure > 0) parts.push({ ...this.#body, text: this.#held.slice(0, sure) });
    this.#held = this.#held.slice(found === null ? sure : found.at + found.word.length);
    if (found !== null) this.#state = 'header';
    return found !== null;
  }
}
