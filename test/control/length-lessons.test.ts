/** What a request's end teaches the length predictor: an end of its own is exact, a cut one tells only that
 *  it would have been longer. */
import { expect, it, vi } from 'vitest';
import { TwostrokeError } from '../../src/base/errors.js';
import { requestId } from '../../src/base/ids.js';
import { silentLogger } from '../../src/base/log.js';
import { Request } from '../../src/control/request.js';
import { Routing } from '../../src/control/routing.js';
import { greedy } from '../../src/engine/sampling-params.js';
import type { FinishReason } from '../../src/engine/token-event.js';
import { LengthPredictor } from '../../src/router/length-predictor.js';
import { WorkerCosts } from '../../src/router/worker-costs.js';
import { VirtualClock } from './virtual-clock.js';

const clock = new VirtualClock();
const tokenCount = 8;

function routing(): Routing {
  const costs = new WorkerCosts();
  return new Routing({
    workers: () => [],
    costs,
    strategy: 'collocated',
    onOverload: 'late',
    waitMsMax: Number.POSITIVE_INFINITY,
    onPromptDone: () => {},
    clock,
    logger: silentLogger,
  });
}

/** With so many tokens of each choice; then `end` happens to it. */
function serve(router: Routing, choiceCount: number, end: (request: Request, emit: Emit) => void): void {
  const sampling = { ...greedy, maxTokenCount: 4096, choiceCount };
  const request = new Request({ id: requestId('r'), promptIds: [1, 2, 3], sampling }, clock, 1e6);
  router.admit(request);
  const emit: Emit = (choiceIndex, finishReason) =>
    request.emit({
      kind: 'tokens',
      requestId: request.id,
      choiceIndex,
      tokens: [{ tokenId: 5 }],
      ...(finishReason === undefined ? {} : { finishReason }),
    });
  for (let choice = 0; choice < choiceCount; choice++) for (let i = 1; i < tokenCount; i++) emit(choice);
  end(request, emit);
  router.learn(request, null, request.toRecord());
}

type Emit = (choiceIndex: number, finishReason?: FinishReason) => void;

const ends = {
  stop: (_: Request, emit: Emit) => emit(0, 'stop'),
  stopString: (request: Request, emit: Emit) => {
    emit(0);
    request.stopChoice(0);
  },
  length: (_: Request, emit: Emit) => emit(0, 'length'),
  aborted: (request: Request, emit: Emit) => {
    emit(0);
    request.cancel();
  },
  failed: (request: Request, emit: Emit) => {
    emit(0);
    request.fail(new TwostrokeError('deadline_exceeded', 'too late'));
  },
};

it.each([
  ['stop', false],
  ['stopString', false],
  ['length', true],
  ['aborted', true],
  ['failed', true],
] as const)('%s: censored is %s', (name, isCensored) => {
  const observe = vi.spyOn(LengthPredictor.prototype, 'observeAll');
  try {
    serve(routing(), 1, ends[name]);
    expect(observe.mock.calls.map(([, observations]) => observations)).toEqual([
      [{ tokenCount, isCensored }],
    ]);
  } finally {
    observe.mockRestore();
  }
});

it('each choice by its own end', () => {
  const observe = vi.spyOn(LengthPredictor.prototype, 'observeAll');
  try {
    serve(routing(), 3, (request, emit) => {
      emit(0, 'stop');
      emit(1, 'length');
      request.cancel();
    });
    expect(observe.mock.calls.flatMap(([, observations]) => observations)).toEqual([
      { tokenCount, isCensored: false },
      { tokenCount, isCensored: true },
      { tokenCount: tokenCount - 1, isCensored: true },
    ]);
  } finally {
    observe.mockRestore();
  }
});

it('requests that are cut short leave long answers expected, those that end there do not', () => {
  const expectedAfter = (end: (typeof ends)[keyof typeof ends]) => {
    const router = routing();
    for (let i = 0; i < 200; i++) serve(router, 1, end);
    const probe = new Request(
      { id: requestId('next'), promptIds: [1, 2, 3], sampling: { ...greedy, maxTokenCount: 4096 } },
      clock,
      1e6,
    );
    const { mean } = router.admit(probe).lengths;
    probe.cancel();
    return mean;
  };
  const ended = expectedAfter(ends.stop);
  expect(ended).toBeLessThan(2 * tokenCount);
  for (const cut of [ends.length, ends.aborted, ends.failed])
    expect(expectedAfter(cut)).toBeGreaterThan(4 * ended);
});
