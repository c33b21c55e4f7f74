/** Who has had more than its share: classes by weight, tenants of a class evenly, as many as ask. */
import { describe, expect, it } from 'vitest';
import { FairShares } from '../../src/control/fair-shares.js';

const classOf = (name: string, weight: number) => ({ name, weight, reservedShare: 0, priority: 0 });

function rig() {
  const clock = { time: 0 };
  const shares = new FairShares({ nowMs: () => clock.time } as ConstructorParameters<typeof FairShares>[0]);
  /** For 10 s each tenant asks for and is given so many tokens ten times a second. */
  const run = (tenants: readonly (readonly [Parameters<FairShares['ask']>[0], number])[]) => {
    for (let i = 0; i < 100; i++, clock.time += 100) {
      for (const [tenant, tokenCount] of tenants) {
        shares.ask(tenant);
        if (tokenCount > 0) shares.give(tenant, tokenCount);
      }
    }
    return tenants.map(([tenant]) => shares.isBeyondShare(tenant));
  };
  return { clock, shares, run };
}

const [a, b, c] = ['a', 'b', 'c'].map((owner) => ({ owner })) as [object, object, object];

describe('a tenant is beyond its share', () => {
  it('when it has had clearly more than an even part of what those who ask have had', () => {
    expect(
      rig().run([
        [a, 900],
        [b, 100],
      ]),
    ).toEqual([true, false]);
    expect(
      rig().run([
        [a, 520],
        [b, 480],
      ]),
    ).toEqual([false, false]);
    expect(
      rig().run([
        [a, 400],
        [b, 400],
        [c, 200],
      ]),
    ).toEqual([true, true, false]);
  });

  it('not while it is alone, whatever it has had', () => {
    expect(rig().run([[a, 900]])).toEqual([false]);
  });

  it('when others ask and get nothing', () => {
    expect(
      rig().run([
        [a, 900],
        [b, 0],
      ]),
    ).toEqual([true, false]);
  });

  it('not any more when nobody else has asked for a while, and nothing is kept of those', () => {
    const { run, clock, shares } = rig();
    expect(
      run([
        [a, 900],
        [b, 100],
      ])[0],
    ).toBe(true);
    clock.time += 5_000;
    run([[a, 900]]);
    expect(shares.isBeyondShare(a)).toBe(false);
    expect(shares.tenantCount).toBe(1);
  });

  it('counted by the weight of its class, and evenly within it', () => {
    const gold = classOf('gold', 3);
    const free = classOf('free', 1);
    const one = { owner: 'g', serviceClass: gold };
    const [x, y] = [
      { owner: 'x', serviceClass: free },
      { owner: 'y', serviceClass: free },
    ];
    expect(
      rig().run([
        [one, 740],
        [x, 130],
        [y, 130],
      ]),
    ).toEqual([false, false, false]);
    expect(
      rig().run([
        [one, 500],
        [x, 400],
        [y, 100],
      ]),
    ).toEqual([false, true, false]);
    expect(
      rig().run([
        [one, 900],
        [x, 50],
        [y, 50],
      ]),
    ).toEqual([true, false, false]);
  });
});
