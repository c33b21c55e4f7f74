/** Classes of requests, as an operator states them (`serve --qos`): who is served first, within what, and
 *  what of the server is kept for whom. Which class a request is of is the server's to say
 *  (server/class-rules.ts); admission.ts keeps the reservations, request.ts the order. */
import type { SloSpec } from '../router/slo-spec.js';

export interface ServiceClass {
  readonly name: string;
  /** Of what admission lets in: so much is taken in whatever others hold. What a class leaves unused is
   *  everybody's. */
  readonly reservedShare: number;
  /** Higher first: as in the files of operators, and unlike `priority` of a request. */
  readonly priority: number;
  /** Of what all classes that ask have together, when that is not enough. Absent: 1. */
  readonly weight?: number;
  /** Absent: the server's. */
  readonly slo?: SloSpec;
}

export const classPriorityMax = 1_000_000;
/** Requests are ordered by class, and within one by their own priority, in one number that is exact. */
const ownPriorityMax = 2 ** 30;

/** Lower first. */
export function servingOrder(ownPriority: number, serviceClass: ServiceClass | undefined): number {
  if (serviceClass === undefined) return ownPriority;
  const own = Math.max(-ownPriorityMax, Math.min(ownPriorityMax, ownPriority));
  return own - serviceClass.priority * (2 * ownPriorityMax + 1);
}
