/** Answers to requests that have not been read to their end: refused by their headers, or too large. Used by
 *  app.ts and http-server.ts. A connection that is closed while its client still sends is reset, and that
 *  takes the answer with it. So the answer is sent whole, and what the client still sends is read and thrown
 *  away; then the connection goes on, or is closed.
 *  Invariant: a client that reads gets the answer; one that never stops sending is cut. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Clock } from '../base/clock.js';

/** As long as nginx lingers. What is thrown away takes no memory. */
const lingerMs = 30_000;

/** Resolves when the response has ended. */
export async function answerEarly(
  response: Response,
  { incoming, outgoing }: { readonly incoming: IncomingMessage; readonly outgoing: ServerResponse },
  clock: Clock,
): Promise<void> {
  const body = Buffer.from(await response.arrayBuffer());
  const length = body.length === 0 ? {} : { 'content-length': body.length };
  outgoing.writeHead(response.status, { ...Object.fromEntries(response.headers), ...length });
  if (body.length > 0) outgoing.write(body); // its length is known: nobody need wait for the end
  const isWhole = await discardRest(incoming, clock);
  outgoing.end();
  if (!isWhole) incoming.socket.destroySoon();
}

/** Ends the connection with these bytes. */
export function endWith(bytes: string, socket: Socket, clock: Clock): void {
  const timer = clock.after(lingerMs, () => socket.destroy());
  socket.once('close', () => timer.cancel());
  socket.end(bytes);
}

/** Whether it came to its end. */
function discardRest(incoming: IncomingMessage, clock: Clock): Promise<boolean> {
  return new Promise((resolve) => {
    const settle = (isWhole: boolean) => {
      timer.cancel();
      incoming.off('end', onEnd).off('close', onEnd);
      resolve(isWhole);
    };
    const onEnd = () => settle(incoming.complete);
    const timer = clock.after(lingerMs, () => settle(false));
    if (incoming.readableEnded || incoming.destroyed) onEnd();
    else incoming.on('end', onEnd).on('close', onEnd).resume();
  });
}
