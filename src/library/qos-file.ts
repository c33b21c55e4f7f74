/** The file of a server's `qos` option, YAML or JSON: classes of requests, and by which header a request is
 *  of which.
 *
 *      scheduler:
 *        qos_classes:
 *          - { name: premium, reserved_fraction: 0.1, priority: 100, weight: 4, slo: "ttft:500,tpot:50" }
 *          - { name: free, priority: 10 }
 *      request_router:
 *        routes:
 *          - { match: { header: "x-customer-tier: premium" }, qos: premium }
 *          - { match: , qos: free }                                              # all others
 */
import { readFileSync } from 'node:fs';
import { parse } from 'yaml';
import { z } from 'zod';
import { InvalidRequestError, messageOf } from '../base/errors.js';
import { classPriorityMax, type ServiceClass } from '../control/service-class.js';
import { parseSloSpec, type SloSpec } from '../router/slo-spec.js';
import type { ClassRule } from '../server/class-rules.js';

const classSchema = z.strictObject({
  name: z.string().min(1).max(64),
  reserved_fraction: z.number().min(0).max(1).default(0),
  priority: z.int().min(-classPriorityMax).max(classPriorityMax).default(0),
  weight: z.number().positive().max(1e6).default(1),
  slo: z.string().optional(),
});
const routeSchema = z.strictObject({
  match: z.strictObject({ header: z.string().regex(/^[\w-]+:\s*\S.*$/, 'expected "name: value"') }).nullish(),
  qos: z.string(),
});
const fileSchema = z.strictObject({
  scheduler: z.strictObject({ qos_classes: z.array(classSchema).min(1).max(64) }),
  request_router: z.strictObject({ routes: z.array(routeSchema).min(1).max(1024) }),
});
type QosFile = z.output<typeof fileSchema>;

/** `slo`: of the server; classes change it. Throws InvalidRequestError naming the file and what is wrong
 *  where. */
export function readClassRules(file: string, slo: SloSpec): readonly ClassRule[] {
  try {
    return rulesOf(fileSchema.parse(parse(readFileSync(file, 'utf8'))), slo);
  } catch (error) {
    throw new InvalidRequestError(
      `qos ${file}: ${error instanceof z.ZodError ? issueText(error) : messageOf(error)}`,
      'qos',
    );
  }
}

function issueText({ issues: [issue] }: z.ZodError): string {
  return issue === undefined ? 'not valid' : `${issue.path.join('.') || 'the file'}: ${issue.message}`;
}

function rulesOf({ scheduler, request_router: { routes } }: QosFile, slo: SloSpec): readonly ClassRule[] {
  const classes = new Map<string, ServiceClass>();
  for (const {
    name,
    reserved_fraction: reservedShare,
    priority,
    weight,
    slo: own,
  } of scheduler.qos_classes) {
    if (classes.has(name)) throw new InvalidRequestError(`two classes are named ${name}`);
    const classSlo = own === undefined ? {} : { slo: parseSloSpec(own, `slo of ${name}:`, slo) };
    classes.set(name, { name, reservedShare, priority, weight, ...classSlo });
  }
  const reserved = [...classes.values()].reduce((sum, { reservedShare }) => sum + reservedShare, 0);
  if (reserved > 1 + 1e-9)
    throw new InvalidRequestError(
      `the classes have reserved ${reserved.toFixed(2)} of the server together: at most 1`,
    );
  return routes.map(({ match, qos }) => {
    const serviceClass = classes.get(qos);
    if (serviceClass === undefined)
      throw new InvalidRequestError(
        `a route names the class ${qos}, which is none of ${[...classes.keys()].join(', ')}`,
      );
    return { header: match == null ? null : headerOf(match.header), serviceClass };
  });
}

/** As Node gives it: the name in lower case. */
function headerOf(text: string): { readonly name: string; readonly value: string } {
  const colon = text.indexOf(':');
  return { name: text.slice(0, colon).toLowerCase(), value: text.slice(colon + 1).trim() };
}
