/** Who may go to the worker that it will decode on, and who waits. */
import { describe, expect, it } from 'vitest';
import { workerId } from '../../src/base/ids.js';
import { Claim, DecodeRoom } from '../../src/control/decode-room.js';

const worker = workerId('w');

function room(size: { tokenCount?: number; batchSlotCount?: number }) {
  const room = new DecodeRoom();
  const admitted: string[] = [];
  const claims = new Map<string, Claim>();
  const memory = {
    blockTokenCount: 1,
    blockCount: size.tokenCount ?? 1e9,
    ...(size.batchSlotCount && { batchSlotCount: size.batchSlotCount }),
  };
  return {
    admitted,
    claims,
    enter: (
      name: string,
      tokens: { count: number },
      more: { choiceCount?: number; priority?: number; needsSlots?: boolean } = {},
    ) => {
      const options = { choiceCount: 1, priority: 0, needsSlots: false, ...more };
      const claim = new Claim({ ...options, demandNow: () => ({ tokenCount: tokens.count, variance: 0 }) });
      claims.set(name, claim);
      room.enter(worker, claim, memory, () => admitted.push(name));
    },
    leave: (name: string) => room.leave(worker, claims.get(name)!),
  };
}

describe('memory', () => {
  it('lets in who fits to its end, first come, first served; who is alone always', () => {
    const { enter, leave, admitted } = room({ tokenCount: 100 });
    enter('huge', { count: 500 });
    enter('a', { count: 60 });
    enter('b', { count: 60 });
    enter('c', { count: 10 });
    expect(admitted).toEqual(['huge']);
    leave('huge');
    expect(admitted).toEqual(['huge', 'a']); // c would fit, and does not overtake
    leave('b');
    expect(admitted).toEqual(['huge', 'a', 'c']);
  });

  it('is counted as last looked at, and given back to the last token', () => {
    const { enter, leave, admitted, claims } = room({ tokenCount: 100 });
    const grown = { count: 50 };
    enter('a', grown);
    enter('b', { count: 40 });
    enter('c', { count: 30 });
    grown.count = 90;
    claims.get('a')?.look();
    leave('b');
    expect(admitted).toEqual(['a', 'b']);
    grown.count = 70;
    claims.get('a')?.look(); // it comes to less than expected: that is room too
    expect(admitted).toEqual(['a', 'b', 'c']);
    leave('a');
    claims.get('a')?.look(); // counted no more
    enter('d', { count: 70 });
    enter('e', { count: 1 });
    expect(admitted).toEqual(['a', 'b', 'c', 'd']);
  });
});

describe('batch slots', () => {
  it('a hand-over waits for a slot for each of its choices; who stays on one worker waits there', () => {
    const { enter, leave, admitted } = room({ batchSlotCount: 4 });
    enter('a', { count: 1 }, { choiceCount: 3, needsSlots: true });
    enter('b', { count: 1 }, { choiceCount: 2, needsSlots: true });
    expect(admitted).toEqual(['a']);
    leave('a');
    enter('whole', { count: 1 }, { choiceCount: 4 });
    expect(admitted).toEqual(['a', 'b', 'whole']);
    enter('c', { count: 1 }, { needsSlots: true });
    leave('b');
    expect(admitted).toEqual(['a', 'b', 'whole']);
    leave('whole');
    expect(admitted).toEqual(['a', 'b', 'whole', 'c']);
  });
});

it('the line is by priority, then arrival', () => {
  const { enter, leave, admitted } = room({ batchSlotCount: 1 });
  const slot = { needsSlots: true };
  for (const [name, priority] of [
    ['a', 0],
    ['b', 5],
    ['c', 0],
    ['d', -1],
    ['e', 5],
  ] as const)
    enter(name, { count: 1 }, { ...slot, priority });
  for (const name of ['a', 'd', 'c', 'b', 'e']) leave(name);
  expect(admitted).toEqual(['a', 'd', 'c', 'b', 'e']);
});
