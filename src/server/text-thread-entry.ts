/** The thread behind TextThread: its own tokenizer and chat template, one job after another. */
import { parentPort, workerData } from 'node:worker_threads';
import { assert } from '../base/assert.js';
import { toWire } from '../base/errors.js';
import { type LoadAnswer, type LoadedText, loadAnswer, loadText, runJob, type TextJob } from './text-jobs.js';

assert(
  parentPort !== null && typeof workerData === 'string',
  'text-thread-entry.js is started by text-thread.ts',
);
const port = parentPort;

function serve(folder: string): void {
  let text: LoadedText;
  try {
    text = loadText(folder);
    port.postMessage(loadAnswer(text));
  } catch (error) {
    port.postMessage({ kind: 'error', error: toWire(error) } satisfies LoadAnswer);
    return;
  }
  port.on('message', (job: TextJob) => {
    const answer = runJob(text, job);
    port.postMessage(
      answer,
      answer.kind === 'ids' ? answer.ids.map(({ buffer }) => buffer as ArrayBuffer) : [],
    );
  });
}

serve(workerData);
