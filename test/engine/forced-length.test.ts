/** A forced output length ends a choice exactly there, as if its end token had been drawn, and nothing else
 *  about the request changes. */
import { describe, expect, it } from 'vitest';
import { fakeEngine, promptOf, request } from './fake-engine.js';

const endTokenIds = [3, 4, 5, 6, 7, 8, 9];

describe.each([1, 2] as const)('forced output length, depth %i', (depth) => {
  it('ends each choice after exactly that many tokens, end tokens or not, with reason stop', async () => {
    const { engine } = fakeEngine({ depth });
    const asked = [1, 2, 17, 40].map((forcedTokenCount, i) =>
      request(promptOf(i, 5 + i), {
        maxTokenCount: 40,
        endTokenIds,
        forcedTokenCount,
        seed: i,
        temperature: 1,
        choiceCount: 2,
      }),
    );
    const results = await engine.generate(asked);
    engine.checkIntegrity();
    results.forEach(({ choices }, i) => {
      for (const { tokens, finishReason } of choices) {
        expect(tokens).toHaveLength(asked[i]!.sampling.forcedTokenCount!);
        expect(finishReason).toBe('stop');
      }
    });
    const drawn = results.flatMap(({ choices }) => choices.flatMap(({ tokens }) => tokens.slice(0, -1)));
    expect(drawn.some(({ tokenId }) => endTokenIds.includes(tokenId))).toBe(true); // else it shows nothing
    await engine.close();
  });

  it('draws the same tokens as without it', async () => {
    const { engine } = fakeEngine({ depth });
    const free = request(promptOf(1, 9), { maxTokenCount: 30, seed: 5, temperature: 1 });
    const forced = request(promptOf(1, 9), {
      maxTokenCount: 30,
      seed: 5,
      temperature: 1,
      forcedTokenCount: 12,
    });
    const [whole, cut] = await engine.generate([free, forced]);
    expect(whole!.choices[0]!.tokens).toHaveLength(30);
    expect(cut!.choices[0]!.tokens).toEqual(whole!.choices[0]!.tokens.slice(0, 12));
    await engine.close();
  });

  it('does not reach past the context', async () => {
    const { engine } = fakeEngine({ depth });
    const [result] = await engine.generate([
      request(promptOf(0, 120), { maxTokenCount: 40, forcedTokenCount: 30 }),
    ]);
    expect(result!.choices[0]).toMatchObject({ finishReason: 'length' });
    expect(result!.choices[0]!.tokens).toHaveLength(8);
    await engine.close();
  });
});
