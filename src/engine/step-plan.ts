/** What one step computes, in rows: made by the scheduler, packed and launched by model-runner, settled by
 *  commit. */
import type { BlockId, TokenId } from '../base/ids.js';
import type { PrefillChunk } from './engine-options.js';
import type { Sequence } from './sequence.js';

/** Positions firstToken .. endToken - 1 of a sequence: its query rows of this step. */
interface StepEntry {
  readonly sequence: Sequence;
  readonly firstToken: number;
  readonly endToken: number;
}

/** One row of logits and what is done with it. */
export interface SampleTask {
  /** Whose token it is: the entry's sequence, or a choice that forks from it. */
  readonly choice: Sequence;
  /** Query row of the step whose logits are read. */
  readonly row: number;
  /** Draw the choice's next token, or only score the prompt token at `position`. */
  readonly task:
    | { readonly kind: 'draw'; readonly drawIndex: number }
    | { readonly kind: 'score'; readonly position: number; readonly target: TokenId };
}

export interface StepPlanLimits {
  readonly rowCountMax: number;
  readonly sampleCountMax: number;
}

export class StepPlan {
  readonly number: number;
  readonly entries: StepEntry[] = [];
  /** Ascending by row. */
  readonly samples: SampleTask[] = [];
  /** Copy-on-write, done before the forward pass. */
  readonly copies: { target: BlockId; source: BlockId }[] = [];
  /** References this plan holds until it has run: sources of copies. */
  readonly pinnedBlockIds: BlockId[] = [];
  /** Hand-over prompts in this step, cached spans included. */
  readonly chunks: PrefillChunk[] = [];
  rowCount = 0;
  /** On the engine's clock. */
  launchedMs = 0;
  readonly #limits: StepPlanLimits;
  #rowCountMax: number;

  constructor(number: number, limits: StepPlanLimits) {
    this.number = number;
    this.#limits = limits;
    this.#rowCountMax = limits.rowCountMax;
  }

  /** From here on it takes no more than so many rows. */
  limitPrompts(tokenCount: number): void {
    this.#rowCountMax = Math.min(this.#limits.rowCountMax, this.rowCount + tokenCount);
  }

  get rowRoom(): number {
    return this.#rowCountMax - this.rowCount;
  }

  get sampleRoom(): number {
    return this.#limits.sampleCountMax - this.samples.length;
  }

  /** Returns the step's row of `firstToken`. */
  addEntry(sequence: Sequence, firstToken: number, endToken: number): number {
    const row = this.rowCount;
    this.entries.push({ sequence, firstToken, endToken });
    this.rowCount += endToken - firstToken;
    sequence.planNumber = this.number;
    sequence.inFlightCount++;
    return row;
  }

  addDraw(choice: Sequence, row: number): void {
    this.samples.push({ choice, row, task: { kind: 'draw', drawIndex: choice.drawCount } });
    choice.planNumber = this.number;
    choice.inFlightCount++;
    choice.expectToken();
  }

  /** Which spans this step makes valid for a transfer; what the prefix cache held comes first, once. */
  addHandOver(sequence: Sequence, firstToken: number, endToken: number): void {
    const { request, blockIds, cachedCount, tokenCount } = sequence;
    const chunk = { requestId: request.id, blockIds: [...blockIds] };
    if (firstToken === cachedCount && cachedCount > 0)
      this.chunks.push({ ...chunk, firstToken: 0, endToken: cachedCount, isLast: false });
    this.chunks.push({ ...chunk, firstToken, endToken, isLast: endToken === tokenCount });
  }

  addScore(choice: Sequence, row: number, position: number, target: TokenId): void {
    this.samples.push({ choice, row, task: { kind: 'score', position, target } });
    choice.inFlightCount++;
  }
}
