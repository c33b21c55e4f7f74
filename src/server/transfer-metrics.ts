/** Metrics of hand-overs: what each pair of workers moved, how fast, and what came to nothing. Registered by
 *  metrics.ts. */
import { Counter, Gauge, type Registry } from 'prom-client';
import type { RequestRecord } from '../control/request-record.js';
import type { ServerGateway } from './server-gateway.js';

type Waits = ReturnType<ServerGateway['workers']>[number]['stepBoundaryWaits'];
type Link = ReturnType<ServerGateway['workers']>[number]['connectors'][number];

/** Kept by the workers and read when scraped; they fall back when a worker restarts, as Prometheus counters
 *  may. */
const linkMetrics: readonly [string, string, (link: Link) => number][] = [
  [
    'pushed_bytes_total',
    'KV bytes pushed over this connector, retries included.',
    (link) => link.pushedBytes,
  ],
  ['landed_bytes_total', 'KV bytes of hand-overs that landed.', (link) => link.landedBytes],
  [
    'landed_seconds_total',
    'From first push to landed, summed over hand-overs; computing included.',
    (link) => link.landedMs / 1000,
  ],
  ['transfers_total', 'Hand-overs begun over this connector.', (link) => link.transferCount],
  ['retries_total', 'Hand-overs that went on over another connector.', (link) => link.retryCount],
  ['failures_total', 'Hand-overs that failed on every way.', (link) => link.failureCount],
];

/** No connector can shorten these: the running step has to end first. */
const waitMetrics: readonly [string, string, (waits: Waits) => number][] = [
  [
    'waits_total',
    'Sequences that were handed over and waited for the next step of their decode worker.',
    ({ count }) => count,
  ],
  [
    'wait_seconds_total',
    'How long they waited, from schedulable to the begin of that step.',
    ({ totalMs }) => totalMs / 1000,
  ],
];

export function registerTransferMetrics(registry: Registry, gateway: ServerGateway): void {
  const labelNames = ['worker', 'peer', 'connector'];
  const links = () =>
    gateway
      .workers()
      .flatMap(({ id, connectors }) =>
        connectors.map((link) => ({ link, labels: { worker: id, peer: link.peer, connector: link.name } })),
      );
  for (const [name, help, read] of linkMetrics) {
    new Counter({
      name: `twostroke_kv_link_${name}`,
      help,
      labelNames,
      registers: [registry],
      collect() {
        this.reset();
        for (const { link, labels } of links()) this.inc(labels, read(link));
      },
    });
  }
  new Gauge({
    name: 'twostroke_kv_link_bytes_per_second',
    help: 'Speed of each connector between two workers, as measured when the way was opened.',
    labelNames,
    registers: [registry],
    collect() {
      this.reset();
      for (const { link, labels } of links()) {
        for (const { name, speed } of link.trials) {
          if (speed !== undefined) this.set({ ...labels, connector: name }, speed.bytesPerSecond);
        }
      }
    },
  });
  new Gauge({
    name: 'twostroke_kv_quarantined_blocks',
    help: 'Blocks reserved for hand-overs that have not landed: nobody else gets them before their writer is done or dead.',
    labelNames: ['worker'],
    registers: [registry],
    collect() {
      this.reset();
      for (const { id, quarantinedBlockCount } of gateway.workers())
        this.set({ worker: id }, quarantinedBlockCount);
    },
  });
  for (const [name, help, read] of waitMetrics) {
    new Counter({
      name: `twostroke_kv_step_boundary_${name}`,
      help,
      labelNames: ['worker'],
      registers: [registry],
      collect() {
        this.reset();
        for (const { id, stepBoundaryWaits } of gateway.workers())
          this.inc({ worker: id }, read(stepBoundaryWaits));
      },
    });
  }
  countFailures(registry, gateway);
}

function countFailures(registry: Registry, gateway: ServerGateway): void {
  const failures = new Counter({
    name: 'twostroke_kv_hand_over_failures_total',
    help: 'Hand-overs that came to nothing, by reason: no_room, lease_expired, overdue, transfer, unwanted.',
    labelNames: ['reason'],
    registers: [registry],
  });
  gateway.onRequestDone(({ handOverFailures }: RequestRecord) => {
    for (const reason of handOverFailures) failures.inc({ reason });
  });
}
