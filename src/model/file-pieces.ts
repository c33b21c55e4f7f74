/** Streams parts of files to a device that has memory of its own: read into pinned buffers by several
 *  threads, copied from there while the next parts are read. Used by weights.ts.
 *
 *    lane 0   read ▓▓▓▓ │ copy ░░ │ read ▓▓▓▓ │ copy ░░ …      a lane owns one buffer and one event: a buffer is read into again
 *    lane 1       read ▓▓▓▓ │ copy ░░ │ read ▓▓▓▓ …            only after what was enqueued from it has run
 *
 *  Files are read, not mapped: a copy from mapped memory is staged by one thread of the driver, page fault by
 *  page fault. */
import { type FileHandle, open } from 'node:fs/promises';
import { ModelError, messageOf } from '../base/errors.js';
import type { Device, EventHandle, HostBuffer, Stream } from '../device/device.js';
import type { Pointer } from '../device/tensor.js';

export interface FilePiece {
  readonly file: string;
  readonly byteOffset: number;
  readonly byteCount: number;
  /** What the bytes are of, for messages. */
  readonly name: string;
  /** Enqueues the use of the bytes; they stay where they are until it has run. */
  enqueue(stream: Stream, bytes: Pointer): void;
}

interface PieceLimits {
  readonly pieceBytes: number;
  readonly laneCount: number;
}

/** 64 MiB pinned. Eight readers: one reads 2 to 6 GB/s from the page cache, the bus takes 50. */
export const defaultPieceLimits: PieceLimits = { pieceBytes: 8 * 2 ** 20, laneCount: 8 };

interface Lane {
  readonly buffer: HostBuffer;
  readonly event: EventHandle;
}

/** Resolves when every piece's work has run. `onDone` hears of bytes that are enqueued. @throws ModelError,
 *  DeviceError */
export async function streamPieces(
  device: Device,
  stream: Stream,
  pieces: readonly FilePiece[],
  { pieceBytes, laneCount }: PieceLimits,
  onDone: (byteCount: number) => void,
): Promise<void> {
  const bufferBytes = Math.max(pieceBytes, ...pieces.map(({ byteCount }) => byteCount));
  const lanes = Array.from({ length: Math.min(laneCount, pieces.length) }, () => ({
    buffer: device.allocateHost(bufferBytes),
    event: device.createEvent(),
  }));
  const queue = pieces[Symbol.iterator]();
  const files = new Map<string, Promise<FileHandle>>();
  try {
    const results = await Promise.allSettled(
      lanes.map((lane) => runLane(lane, queue, { device, stream, files, onDone })),
    );
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
    await stream.wait();
  } finally {
    // a failure is reported above; here nothing may read the buffers any more
    await stream.wait().catch(() => undefined);
    for (const { buffer, event } of lanes) {
      device.releaseHost(buffer);
      device.destroyEvent(event);
    }
    for (const file of files.values()) await file.then((handle) => handle.close()).catch(() => undefined);
  }
}

interface Run {
  readonly device: Device;
  readonly stream: Stream;
  readonly files: Map<string, Promise<FileHandle>>;
  onDone(byteCount: number): void;
}

/** Takes pieces until there are none left; a failure leaves none for the other lanes. */
async function runLane({ buffer, event }: Lane, queue: Iterator<FilePiece>, run: Run): Promise<void> {
  const { device, stream, files, onDone } = run;
  for (let next = queue.next(); next.done !== true; next = queue.next()) {
    const piece = next.value;
    try {
      const file = files.get(piece.file) ?? openFile(piece.file);
      files.set(piece.file, file);
      await device.waitEvent(event);
      await readExactly(await file, piece, buffer.bytes);
      piece.enqueue(stream, buffer.pointer);
      stream.record(event);
    } catch (error) {
      for (let rest = queue.next(); rest.done !== true; ) rest = queue.next();
      throw error;
    }
    onDone(piece.byteCount);
  }
}

async function openFile(file: string): Promise<FileHandle> {
  return open(file).catch((error: unknown) => {
    throw new ModelError(`${file}: cannot be opened: ${messageOf(error)}`, error);
  });
}

async function readExactly(file: FileHandle, piece: FilePiece, target: Uint8Array): Promise<void> {
  const { byteOffset, byteCount, name } = piece;
  for (let done = 0; done < byteCount; ) {
    const { bytesRead } = await file
      .read(target, done, byteCount - done, byteOffset + done)
      .catch((error: unknown) => {
        throw new ModelError(`${piece.file}: reading tensor "${name}" failed: ${messageOf(error)}`, error);
      });
    if (bytesRead === 0)
      throw new ModelError(`${piece.file}: truncated while it was being loaded (tensor "${name}")`);
    done += bytesRead;
  }
}
