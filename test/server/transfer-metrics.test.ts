/** What a scrape says about hand-overs: each pair of workers, what was measured, what came to nothing. */
import { Registry } from 'prom-client';
import { expect, it } from 'vitest';
import type { RequestRecord } from '../../src/control/request-record.js';
import type { ServerGateway } from '../../src/server/server-gateway.js';
import { registerTransferMetrics } from '../../src/server/transfer-metrics.js';

it('tells bytes, times, retries and failures by pair and connector', async () => {
  const trials = [
    { name: 'peer', speed: { bytesPerSecond: 9e9, latencyMs: 0.1 } },
    { name: 'tcp', error: 'nobody listens' },
  ];
  const counts = {
    pushedBytes: 300,
    transferCount: 3,
    landedBytes: 200,
    landedMs: 1500,
    retryCount: 1,
    failureCount: 2,
  };
  const connectors = [{ peer: 'w1', name: 'peer', trials, ...counts }];
  const workers = [
    { id: 'w0', connectors, quarantinedBlockCount: 0, stepBoundaryWaits: { count: 0, totalMs: 0 } },
    { id: 'w1', connectors: [], quarantinedBlockCount: 7, stepBoundaryWaits: { count: 4, totalMs: 6 } },
  ];
  const listeners: ((record: Pick<RequestRecord, 'handOverFailures'>) => void)[] = [];
  const gateway = {
    workers: () => workers,
    onRequestDone: (listener: (typeof listeners)[number]) => listeners.push(listener),
  };
  const registry = new Registry();
  registerTransferMetrics(registry, gateway as unknown as ServerGateway);
  for (const listen of listeners) {
    listen({ handOverFailures: ['lease_expired', 'transfer'] });
    listen({ handOverFailures: ['lease_expired'] });
  }
  const scrape = async () =>
    (await registry.metrics()).split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  const pair = '{worker="w0",peer="w1",connector="peer"}';
  const expected = [
    `twostroke_kv_link_pushed_bytes_total${pair} 300`,
    `twostroke_kv_link_landed_bytes_total${pair} 200`,
    `twostroke_kv_link_landed_seconds_total${pair} 1.5`,
    `twostroke_kv_link_transfers_total${pair} 3`,
    `twostroke_kv_link_retries_total${pair} 1`,
    `twostroke_kv_link_failures_total${pair} 2`,
    `twostroke_kv_link_bytes_per_second${pair} 9000000000`,
    'twostroke_kv_quarantined_blocks{worker="w0"} 0',
    'twostroke_kv_quarantined_blocks{worker="w1"} 7',
    'twostroke_kv_step_boundary_waits_total{worker="w0"} 0',
    'twostroke_kv_step_boundary_waits_total{worker="w1"} 4',
    'twostroke_kv_step_boundary_wait_seconds_total{worker="w0"} 0',
    'twostroke_kv_step_boundary_wait_seconds_total{worker="w1"} 0.006',
    'twostroke_kv_hand_over_failures_total{reason="lease_expired"} 2',
    'twostroke_kv_hand_over_failures_total{reason="transfer"} 1',
  ];
  expect(await scrape()).toEqual(expected);
  expect(await scrape(), 'a second scrape counts nothing twice').toEqual(expected);
});
