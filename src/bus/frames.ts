/** Frames on a byte stream: `[uint32 byteCount, big-endian][JSON, UTF-8]`. Used by socket-connection.ts.
 *  Invariant: whatever way the bytes are cut up on the road, the same frames come out, and a bad one is an
 *  error, never a guess. */
import { isWireError, TwostrokeError, type WireError } from '../base/errors.js';

const headerBytes = 4;

/** `q` asks, `r` answers, `x` answers with an error, `e` tells. */
export type Frame =
  | { readonly t: 'q'; readonly id: number; readonly k: string; readonly b: unknown }
  | { readonly t: 'r'; readonly id: number; readonly b: unknown }
  | { readonly t: 'x'; readonly id: number; readonly e: WireError }
  | { readonly t: 'e'; readonly k: string; readonly b: unknown };

/** Throws when the frame is longer than `frameBytesMax`. */
export function encodeFrame(frame: Frame, frameBytesMax: number): Buffer {
  const text = JSON.stringify(frame);
  const byteCount = Buffer.byteLength(text);
  if (byteCount > frameBytesMax)
    throw new TwostrokeError('too_large', `a message of ${byteCount} bytes; the limit is ${frameBytesMax}`);
  const bytes = Buffer.allocUnsafe(headerBytes + byteCount);
  bytes.writeUInt32BE(byteCount, 0);
  bytes.write(text, headerBytes);
  return bytes;
}

export class FrameDecoder {
  frameBytesMax: number;
  #chunks: Buffer[] = [];
  #bufferedBytes = 0;

  constructor(frameBytesMax: number) {
    this.frameBytesMax = frameBytesMax;
  }

  /** The frames that `bytes` completes. Throws on a malformed or oversized one; the stream is then
   *  worthless. */
  push(bytes: Buffer): Frame[] {
    this.#chunks.push(bytes);
    this.#bufferedBytes += bytes.length;
    const frames: Frame[] = [];
    for (;;) {
      const byteCount = this.#nextByteCount();
      if (byteCount === null || this.#bufferedBytes < headerBytes + byteCount) return frames;
      frames.push(parseFrame(this.#take(headerBytes + byteCount).subarray(headerBytes)));
    }
  }

  #nextByteCount(): number | null {
    if (this.#bufferedBytes < headerBytes) return null;
    if ((this.#chunks[0]?.length ?? 0) < headerBytes) this.#join();
    const byteCount = this.#chunks[0]?.readUInt32BE(0) ?? 0;
    if (byteCount > this.frameBytesMax)
      throw new Error(`frame of ${byteCount} bytes, the limit is ${this.frameBytesMax}`);
    return byteCount;
  }

  /** Only called when that many bytes are buffered, so a long frame is joined once, not at every chunk. */
  #take(byteCount: number): Buffer {
    if ((this.#chunks[0]?.length ?? 0) < byteCount) this.#join();
    const first = this.#chunks[0] ?? Buffer.alloc(0);
    this.#bufferedBytes -= byteCount;
    if (first.length === byteCount) this.#chunks.shift();
    else this.#chunks[0] = first.subarray(byteCount);
    return first.subarray(0, byteCount);
  }

  #join(): void {
    this.#chunks = [Buffer.concat(this.#chunks)];
  }
}

function parseFrame(bytes: Buffer): Frame {
  const frame: unknown = JSON.parse(bytes.toString('utf8'));
  if (!isFrame(frame)) throw new Error('not a frame');
  return frame;
}

function isFrame(value: unknown): value is Frame {
  if (typeof value !== 'object' || value === null) return false;
  const { t, id, k, e } = value as Record<string, unknown>;
  if (t === 'e') return typeof k === 'string';
  if (!Number.isSafeInteger(id)) return false;
  if (t === 'q') return typeof k === 'string';
  return t === 'r' || (t === 'x' && isWireError(e));
}
