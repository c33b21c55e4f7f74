/** Who has been given more than its share of late: classes share the server by weight, tenants their class
 *  evenly, as many as have asked of late. Used by routing.ts, which lets those beyond their share wait
 *  sooner, and late-line.ts, which lets them in by turns. Nothing is kept back: who is alone may have
 *  everything.
 *  Invariants: an event takes O(1), amortised; nothing is kept of who has not asked for `memoryMs`. */
import type { Clock } from '../base/clock.js';
import { DecayingRate } from '../router/decaying.js';
import type { RequestInput } from './gateway-api.js';
import type { ServiceClass } from './service-class.js';

type Asker = Pick<RequestInput, 'owner' | 'serviceClass'>;

interface Tenant {
  readonly ofClass: ActiveClass;
  readonly given: DecayingRate;
  askedMs: number;
}

interface ActiveClass {
  readonly weight: number;
  readonly reservedShare: number;
  tenantCount: number;
}

/** Long against a request, short enough that who stops asking is soon counted out. */
const memoryMs = 10_000;
/** By so much its share is exceeded: less is chance. */
const clearExcess = 1.1;

export class FairShares {
  readonly #clock: Clock;
  /** Who has asked longest ago first. */
  readonly #tenants = new Map<string, Tenant>();
  readonly #classes = new Map<string, ActiveClass>();
  #all = new DecayingRate(memoryMs);

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get tenantCount(): number {
    return this.#tenants.size;
  }

  /** It asks for something, whatever becomes of it. */
  ask(asker: Asker): void {
    const nowMs = this.#clock.nowMs();
    const name = tenantNameOf(asker);
    const tenant = this.#tenants.get(name) ?? this.#begin(asker.serviceClass);
    tenant.askedMs = nowMs;
    this.#tenants.delete(name);
    this.#tenants.set(name, tenant);
    for (const [oldest, { askedMs, ofClass }] of this.#tenants) {
      if (askedMs >= nowMs - memoryMs) break;
      this.#tenants.delete(oldest);
      ofClass.tenantCount--;
    }
    for (const [className, { tenantCount }] of this.#classes)
      if (tenantCount === 0) this.#classes.delete(className);
  }

  /** So many tokens are computed for it. */
  give(asker: Asker, tokenCount: number): void {
    const nowMs = this.#clock.nowMs();
    this.#tenants.get(tenantNameOf(asker))?.given.add(tokenCount, nowMs);
    this.#all.add(tokenCount, nowMs);
  }

  isBeyondShare(asker: Asker): boolean {
    const nowMs = this.#clock.nowMs();
    const tenant = this.#tenants.get(tenantNameOf(asker));
    if (tenant === undefined || this.#tenants.size === 1) return false;
    let weights = 0;
    for (const { weight } of this.#classes.values()) weights += weight;
    const { weight, reservedShare, tenantCount } = tenant.ofClass;
    const share = Math.max(weight / weights, reservedShare) / tenantCount;
    return tenant.given.perMs(nowMs) > clearExcess * share * this.#all.perMs(nowMs);
  }

  #begin(serviceClass: ServiceClass | undefined): Tenant {
    const name = serviceClass?.name ?? '';
    const ofClass = this.#classes.get(name) ?? {
      weight: weightOf(serviceClass),
      reservedShare: serviceClass?.reservedShare ?? 0,
      tenantCount: 0,
    };
    this.#classes.set(name, ofClass);
    ofClass.tenantCount++;
    return { ofClass, given: new DecayingRate(memoryMs), askedMs: 0 };
  }
}

/** Whose turn it is: who has been let in comes after all others, the sooner the greater its weight.
 *  Start-time fair queueing: each tenant's next request starts where its last one ends. */
export class FairTurns {
  readonly #endOf = new Map<string, number>();
  #now = 0;

  /** Lower first; of equals who came first. */
  turnOf(asker: Asker): number {
    return Math.max(this.#now, this.#endOf.get(tenantNameOf(asker)) ?? 0);
  }

  /** It stands in line, for so much. */
  join(asker: Asker, cost: number): void {
    this.#endOf.set(tenantNameOf(asker), this.turnOf(asker) + cost / weightOf(asker.serviceClass));
  }

  letIn(turn: number): void {
    this.#now = Math.max(this.#now, turn);
  }

  /** Nobody waits: all are equal again. */
  clear(): void {
    this.#endOf.clear();
    this.#now = 0;
  }
}

function tenantNameOf({ owner, serviceClass }: Asker): string {
  return JSON.stringify([serviceClass?.name ?? null, owner ?? null]);
}

function weightOf(serviceClass: ServiceClass | undefined): number {
  return serviceClass?.weight ?? 1;
}
