/** The thread behind ThreadEncoder: its own tokenizer, one text after another. */
import { parentPort, workerData } from 'node:worker_threads';
import { assert } from '../base/assert.js';
import { messageOf } from '../base/errors.js';
import { loadTokenizer } from '../model/tokenizer.js';
import type { EncodeAnswer, EncodeJob } from './prompt-encoder.js';

assert(parentPort !== null && typeof workerData === 'string', 'encoder-thread.js is started by prompt-encoder.ts');
const port = parentPort;
const tokenizer = loadTokenizer(workerData);

port.on('message', ({ jobId, text, options }: EncodeJob) => {
  try {
    const ids = Int32Array.from(tokenizer.encode(text, options));
    port.postMessage({ jobId, ids } satisfies EncodeAnswer, [ids.buffer]);
  } catch (error) {
    port.postMessage({ jobId, message: messageOf(error) } satisfies EncodeAnswer);
  }
});
