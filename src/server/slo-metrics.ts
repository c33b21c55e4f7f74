/** Metrics of SLOs: how many requests were judged, how many met which part, how many were predicted to be
 *  late or refused for it. Registered by metrics.ts, fed by the records of ended requests. Attainment over
 *  any window: rate(slo_met_total{slo="all"}) / rate(slo_judged_total). */
import { Counter, type Registry } from 'prom-client';
import type { ServerGateway } from './server-gateway.js';

/** Of requests on a server without classes, or that no rule fits. */
const noClass = 'none';
const parts = ['ttft', 'tpot', 'e2el', 'all'] as const;

export function registerSloMetrics(registry: Registry, gateway: Pick<ServerGateway, 'onRequestDone'>): void {
  const counter = (name: string, help: string, labelNames: string[]) =>
    new Counter({ name: `twostroke_${name}`, help, labelNames, registers: [registry] });
  const judged = counter(
    'slo_judged_total',
    'Requests that had an SLO and ended in a way that shows whether it was met.',
    ['class'],
  );
  const met = counter('slo_met_total', 'Of these those that met this part of their SLO; all: goodput.', [
    'class',
    'slo',
  ]);
  const late = counter(
    'requests_late_total',
    'Requests whose first token was predicted to come too late when they came.',
    ['class'],
  );
  const shed = counter(
    'requests_shed_total',
    'Requests refused with 429 because they would have waited too long.',
    ['class'],
  );
  gateway.onRequestDone(({ sloMet, isLate, errorCode, serviceClass = noClass }) => {
    const label = { class: serviceClass };
    if (isLate) late.inc(label);
    if (errorCode === 'overloaded') shed.inc(label);
    if (sloMet === undefined) return;
    judged.inc(label);
    for (const part of parts) met.inc({ ...label, slo: part }, sloMet[part] ? 1 : 0);
  });
}
