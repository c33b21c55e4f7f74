/** Prometheus metrics: our names (twostroke_*), and the main ones again under vLLM's names so that existing
 *  dashboards work. Gauges are read from the gateway when scraped; histograms and counters are fed by
 *  generation.ts. Times on the wire are seconds. */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { RequestRecord } from '../control/request-record.js';
import type { EngineSnapshot } from '../engine/engine-options.js';
import { registerRoutingMetrics } from './routing-metrics.js';
import type { ServerGateway } from './server-gateway.js';
import { registerSloMetrics } from './slo-metrics.js';
import { registerTransferMetrics } from './transfer-metrics.js';

const latencyBuckets = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300,
];

/** [ours without its prefix, vLLM's without its prefix]: written twice when scraped, kept once. */
const vllmNames: readonly (readonly [string, string])[] = [
  ['time_to_first_token_seconds', 'time_to_first_token_seconds'],
  ['inter_token_latency_seconds', 'inter_token_latency_seconds'],
  ['inter_token_latency_seconds', 'time_per_output_token_seconds'],
  ['e2e_request_latency_seconds', 'e2e_request_latency_seconds'],
  ['prompt_tokens_total', 'prompt_tokens_total'],
  ['generation_tokens_total', 'generation_tokens_total'],
  ['request_success_total', 'request_success_total'],
  ['requests_running', 'num_requests_running'],
  ['requests_waiting', 'num_requests_waiting'],
  ['kv_cache_usage_ratio', 'kv_cache_usage_perc'],
  ['kv_cache_usage_ratio', 'gpu_cache_usage_perc'],
  ['preemptions_total', 'num_preemptions_total'],
  ['prefix_cache_queries_total', 'prefix_cache_queries_total'],
  ['prefix_cache_hits_total', 'prefix_cache_hits_total'],
];

interface RequestEnd {
  readonly outcome: 'stop' | 'length' | 'abort' | 'error';
  readonly durationMs: number;
  readonly promptTokenCount: number;
  readonly completionTokenCount: number;
}

export interface ServerMetrics {
  onFirstToken(ttftMs: number): void;
  /** Milliseconds between two tokens of one choice. */
  onTokenGap(gapMs: number): void;
  onRequestEnd(end: RequestEnd): void;
  onResponse(route: string, status: number): void;
  /** The text of GET /metrics. */
  render(): Promise<{ contentType: string; text: string }>;
}

/** One registry per server: nothing global, so that tests may run several. */
export function createServerMetrics(gateway: ServerGateway, modelName: string): ServerMetrics {
  const registry = new Registry();
  registry.setDefaultLabels({ model_name: modelName });
  collectDefaultMetrics({ register: registry, prefix: 'twostroke_' });
  registerLoadMetrics(registry, gateway);
  registerBlockGauge(registry, gateway);
  observeRecords(registry, gateway);
  registerTransferMetrics(registry, gateway);
  registerRoutingMetrics(registry, gateway);
  registerSloMetrics(registry, gateway);
  const histogram = (name: string, help: string) =>
    new Histogram({ name: `twostroke_${name}`, help, buckets: latencyBuckets, registers: [registry] });
  const counter = (name: string, help: string, labelNames: string[] = []) =>
    new Counter({ name: `twostroke_${name}`, help, labelNames, registers: [registry] });

  const ttft = histogram('time_to_first_token_seconds', 'From arrival to the first token.');
  const gap = histogram('inter_token_latency_seconds', 'Between tokens of one choice.');
  const e2e = histogram(
    'e2e_request_latency_seconds',
    'From arrival to the last token, of requests that were not aborted.',
  );
  const prompts = counter('prompt_tokens_total', 'Prompt tokens of ended requests.');
  const generated = counter('generation_tokens_total', 'Generated tokens of ended requests.');
  const success = counter('request_success_total', 'Requests that ended without an error, by reason.', [
    'finished_reason',
  ]);
  const failures = counter('request_failures_total', 'Generations that failed with an error.');
  const responses = counter('http_responses_total', 'HTTP responses by route and status.', [
    'route',
    'status',
  ]);

  return {
    onFirstToken: (ttftMs) => ttft.observe(ttftMs / 1000),
    onTokenGap: (gapMs) => gap.observe(gapMs / 1000),
    onRequestEnd: (end) => {
      prompts.inc(end.promptTokenCount);
      generated.inc(end.completionTokenCount);
      if (end.outcome === 'error') failures.inc();
      else success.inc({ finished_reason: end.outcome });
      if (end.outcome === 'stop' || end.outcome === 'length') e2e.observe(end.durationMs / 1000);
    },
    onResponse: (route, status) => responses.inc({ route, status }),
    render: async () => ({
      contentType: registry.contentType,
      text: `${await registry.metrics()}\n${await vllmText(registry)}`,
    }),
  };
}

async function vllmText(registry: Registry): Promise<string> {
  const texts = vllmNames.map(async ([ours, theirs]) =>
    (await registry.getSingleMetricAsString(`twostroke_${ours}`)).replaceAll(
      `twostroke_${ours}`,
      `vllm:${theirs}`,
    ),
  );
  return `${(await Promise.all(texts)).join('\n\n')}\n`;
}

/** Sums and ratios over the workers, taken when scraped. */
function registerLoadMetrics(registry: Registry, gateway: ServerGateway): void {
  const sum = (pick: (load: EngineSnapshot) => number) =>
    gateway.workers().reduce((total, { snapshot }) => total + (snapshot === null ? 0 : pick(snapshot)), 0);
  const gauge = (name: string, help: string, read: () => number) =>
    new Gauge({
      name: `twostroke_${name}`,
      help,
      registers: [registry],
      collect() {
        this.set(read());
      },
    });
  /** Kept by the workers: falls back when one restarts, as a Prometheus counter may. */
  const counter = (name: string, help: string, read: () => number) =>
    new Counter({
      name: `twostroke_${name}`,
      help,
      registers: [registry],
      collect() {
        this.reset();
        this.inc(read());
      },
    });
  gauge('requests_running', 'Requests in a batch.', () => sum((snapshot) => snapshot.runningCount));
  gauge('requests_waiting', 'Requests waiting for one.', () => sum((snapshot) => snapshot.waitingCount));
  gauge('kv_cache_usage_ratio', 'Share of KV blocks owned by requests, 0 to 1.', () => {
    const blockCount = sum((snapshot) => snapshot.blockCount);
    return blockCount === 0 ? 0 : sum((snapshot) => snapshot.ownedBlockCount) / blockCount;
  });
  counter('preemptions_total', 'Sequences preempted for memory.', () =>
    sum((snapshot) => snapshot.preemptionCount),
  );
  counter('prefix_cache_queries_total', 'Prompt tokens looked up in the prefix cache.', () =>
    sum((snapshot) => snapshot.prefixQueryTokenCount),
  );
  counter('prefix_cache_hits_total', 'Prompt tokens found in the prefix cache.', () =>
    sum((snapshot) => snapshot.prefixHitTokenCount),
  );
}

function registerBlockGauge(registry: Registry, gateway: ServerGateway): void {
  new Gauge({
    name: 'twostroke_kv_blocks',
    help: 'KV blocks of a worker by state.',
    labelNames: ['worker', 'state'],
    registers: [registry],
    collect() {
      this.reset();
      for (const { id, snapshot } of gateway.workers()) {
        if (snapshot === null) continue;
        this.set({ worker: id, state: 'free' }, snapshot.freeBlockCount);
        this.set({ worker: id, state: 'owned' }, snapshot.ownedBlockCount);
        this.set({ worker: id, state: 'cached' }, snapshot.cachedBlockCount);
      }
    },
  });
}

/** What only the control side knows of a request: its path, its hand-over, the workers it lost. */
function observeRecords(registry: Registry, gateway: ServerGateway): void {
  const options = { registers: [registry] };
  const routed = new Counter({
    name: 'twostroke_requests_routed_total',
    help: 'Requests by the path they took last.',
    labelNames: ['path'],
    ...options,
  });
  const transferBytes = new Counter({
    name: 'twostroke_kv_transfer_bytes_total',
    help: 'KV bytes handed over.',
    ...options,
  });
  const losses = new Counter({
    name: 'twostroke_worker_losses_total',
    help: 'Times that a request lost its worker and went on.',
    ...options,
  });
  const exposed = new Histogram({
    name: 'twostroke_kv_transfer_exposed_seconds',
    help: 'From the first token until the sequence could go on at the decode side.',
    buckets: latencyBuckets,
    ...options,
  });
  gateway.onRequestDone((record: RequestRecord) => {
    const path = record.routes.at(-1)?.path;
    if (path !== undefined) routed.inc({ path });
    if (record.resumedMs !== undefined) exposed.observe(record.exposedTransferMs / 1000);
    transferBytes.inc(record.transferBytes);
    losses.inc(record.lossCount);
  });
}
