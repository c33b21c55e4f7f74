/** Splits a server-sent event stream into its data payloads. Hand-written because it runs on every chunk of
 *  every request while a server is being measured on the same machine. Used by http-client.ts. */

export class SseReader {
  #rest = '';

  /** The payloads that `text` completes; comments and other fields are skipped. Lines may end in \n, \r\n; a
   *  payload is one line, as every OpenAI-compatible server sends it. */
  push(text: string): readonly string[] {
    const payloads: string[] = [];
    const all = this.#rest + text;
    let start = 0;
    for (let end = all.indexOf('\n', start); end !== -1; end = all.indexOf('\n', start)) {
      const line = all.slice(start, all[end - 1] === '\r' ? end - 1 : end);
      if (line.startsWith('data:')) payloads.push(line.slice(line[5] === ' ' ? 6 : 5));
      start = end + 1;
    }
    this.#rest = all.slice(start);
    return payloads;
  }
}
