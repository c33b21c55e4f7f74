/** Which service class a request is of: by its headers, as the operator's rules say. Whoever can set the
 *  header chooses the class: it is for the proxy before this server to set, and to take from clients. Used by
 *  app.ts; made by library/qos-file.ts. */
import type { IncomingHttpHeaders } from 'node:http';
import type { ServiceClass } from '../control/service-class.js';

export interface ClassRule {
  /** null: every request. */
  readonly header: { readonly name: string; readonly value: string } | null;
  readonly serviceClass: ServiceClass;
}

/** The first rule that fits decides; undefined: none does. */
export function classOf(rules: readonly ClassRule[], headers: IncomingHttpHeaders): ServiceClass | undefined {
  return rules.find(({ header }) => header === null || headers[header.name] === header.value)?.serviceClass;
}
