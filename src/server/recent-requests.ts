/** The last requests that ended, with the routes they took, for GET /routes. Bounded: the oldest makes room. */
import type { RequestRecord } from '../control/request-record.js';
import type { ServerGateway } from './exchange.js';

const recordCountMax = 1000;

export class RecentRequests {
  readonly #records: RequestRecord[] = [];

  constructor(gateway: Pick<ServerGateway, 'onRequestDone'>) {
    gateway.onRequestDone((record) => {
      this.#records.push(record);
      if (this.#records.length > recordCountMax) this.#records.shift();
    });
  }

  /** Newest first, by the client's id or the answer's; empty when it is forgotten, or not known, or still running. */
  find(id: string): readonly RequestRecord[] {
    return this.#records.filter((record) => record.id === id || record.id.startsWith(`${id}-`)).reverse();
  }

  /** Newest first. */
  last(count: number): readonly RequestRecord[] {
    return this.#records.slice(-count).reverse();
  }
}
