/** The last requests that ended, with the routes they took, for GET /routes. Bounded: the oldest makes room.
 *  Invariant: nobody is shown a request that is not theirs to see, nor whose it was. */
import type { RequestRecord } from '../control/request-record.js';
import type { Caller } from './keys.js';
import type { ServerGateway } from './server-gateway.js';

const recordCountMax = 1000;

export class RecentRequests {
  readonly #records: RequestRecord[] = [];

  constructor(gateway: Pick<ServerGateway, 'onRequestDone'>) {
    gateway.onRequestDone((record) => {
      this.#records.push(record);
      if (this.#records.length > recordCountMax) this.#records.shift();
    });
  }

  /** Newest first, by the client's id or the answer's; empty when it is forgotten, or not known, or still
   *  running. */
  find(caller: Caller, id: string): readonly object[] {
    return this.#shown(caller, (record) => record.id === id || record.id.startsWith(`${id}-`));
  }

  /** Newest first. */
  last(caller: Caller, count: number): readonly object[] {
    return this.#shown(caller, () => true).slice(0, count);
  }

  #shown({ owner, sees }: Caller, isWanted: (record: RequestRecord) => boolean): readonly object[] {
    const shown = this.#records.filter(
      (record) => (sees === 'everything' || record.owner === owner) && isWanted(record),
    );
    return shown.map((record) => ({ ...record, owner: undefined })).reverse();
  }
}
