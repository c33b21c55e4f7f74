/** How the two ends of a KV connection prove to each other that they know the receiver's token, which never
 *  goes over the wire. Used by tcp-inbox.ts on the receiving end, by tcp-lane.ts and pull.ts on the
 *  connecting one.
 *
 *    receiver → source   nonce r                                  32 bytes each, nothing else is read or kept before
 *    source → receiver   nonce s, HMAC-SHA256(token, "source" r s)
 *    receiver → source   HMAC-SHA256(token, "receiver" s r)       then messages, see wire.ts
 *
 *  Invariant: who does not know the token costs 64 bytes and learns nothing. */
import { createHmac, timingSafeEqual } from 'node:crypto';
import { TwostrokeError } from '../base/errors.js';
import { freshNonce } from '../base/prng.js';

const partBytes = 32;

abstract class Handshake {
  readonly #received = Buffer.alloc(2 * partBytes);
  #receivedBytes = 0;

  get isDone(): boolean {
    return this.#receivedBytes === this.#received.length;
  }

  /** What of `bytes` comes after the handshake. Throws `transfer_error` when the other end does not know the
   *  token. */
  push(bytes: Buffer): Buffer {
    const before = this.#receivedBytes;
    const taken = bytes.copy(this.#received, before);
    this.#receivedBytes += taken;
    const nonce = this.#received.subarray(0, partBytes);
    if (before < partBytes && this.#receivedBytes >= partBytes) this.onNonce(nonce);
    if (taken > 0 && this.isDone) this.onProof(nonce, this.#received.subarray(partBytes));
    return bytes.subarray(taken);
  }

  protected abstract onNonce(nonce: Buffer): void;
  protected abstract onProof(nonce: Buffer, proof: Buffer): void;
}

/** The receiving end. Says its nonce at once. */
export class ReceiverHandshake extends Handshake {
  readonly #nonce = freshNonce();
  readonly #token: string;
  readonly #write: (bytes: Buffer) => void;

  constructor(token: string, write: (bytes: Buffer) => void) {
    super();
    this.#token = token;
    this.#write = write;
    write(this.#nonce);
  }

  protected onNonce(): void {}

  protected onProof(nonce: Buffer, proof: Buffer): void {
    expectProof(proof, prove(this.#token, 'source', [this.#nonce, nonce]));
    this.#write(prove(this.#token, 'receiver', [nonce, this.#nonce]));
  }
}

/** The connecting end. */
export class SourceHandshake extends Handshake {
  readonly #nonce = freshNonce();
  readonly #token: string;
  readonly #write: (bytes: Buffer) => void;

  constructor(token: string, write: (bytes: Buffer) => void) {
    super();
    this.#token = token;
    this.#write = write;
  }

  protected onNonce(nonce: Buffer): void {
    this.#write(Buffer.concat([this.#nonce, prove(this.#token, 'source', [nonce, this.#nonce])]));
  }

  protected onProof(nonce: Buffer, proof: Buffer): void {
    expectProof(proof, prove(this.#token, 'receiver', [this.#nonce, nonce]));
  }
}

function prove(token: string, end: 'source' | 'receiver', nonces: readonly Buffer[]): Buffer {
  const hmac = createHmac('sha256', token).update(end);
  for (const nonce of nonces) hmac.update(nonce);
  return hmac.digest();
}

function expectProof(given: Buffer, expected: Buffer): void {
  if (!timingSafeEqual(given, expected)) throw new TwostrokeError('transfer_error', wrongToken);
}

const wrongToken = 'the token is wrong';

/** What a source takes it for when it is hung up on before the receiver has proven itself. */
export const handshakeCut = `the receiver hung up on the handshake: ${wrongToken}, or it is closing`;
