/** A run's result under the names of `vllm bench serve`, so that scripts made for it read ours; what it has
 *  no name for keeps our words. */
import type { RunSummary } from './summary.js';

export const metricNames = ['ttft', 'tpot', 'itl', 'e2el'] as const;
export type MetricName = (typeof metricNames)[number];

interface ResultFacts {
  readonly date: string;
  readonly model: string;
  readonly endpointType: string;
  readonly numPrompts: number;
  /** 'trace': the trace's own times. */
  readonly requestRate: number | 'trace';
  readonly burstiness: number;
  readonly maxConcurrency: number | null;
  readonly coreShare: number;
}

/** Numbers that are not finite become null, as JSON has no other way. */
export function resultJson(
  summary: RunSummary,
  facts: ResultFacts,
  metrics: readonly MetricName[],
): Record<string, unknown> {
  return {
    date: facts.date,
    endpoint_type: facts.endpointType,
    model_id: facts.model,
    num_prompts: facts.numPrompts,
    request_rate: facts.requestRate === Number.POSITIVE_INFINITY ? 'inf' : facts.requestRate,
    burstiness: facts.burstiness,
    max_concurrency: facts.maxConcurrency,
    duration: summary.durationSeconds,
    completed: summary.completedCount,
    failed: summary.failedCount,
    rejected: summary.rejectedCount,
    unfinished: summary.unfinishedCount,
    total_input_tokens: summary.promptTokenCount,
    total_output_tokens: summary.outputTokenCount,
    request_throughput: summary.requestsPerSecond,
    ...(summary.goodRequestsPerSecond === null ? {} : { request_goodput: summary.goodRequestsPerSecond }),
    ...(summary.sloAttainment === null ? {} : { slo_attainment: summary.sloAttainment }),
    output_throughput: summary.outputTokensPerSecond,
    total_token_throughput: summary.totalTokensPerSecond,
    max_concurrent_requests: summary.inFlightCountMax,
    ...Object.assign({}, ...metrics.map((name) => metricFields(name, summary))),
    generator_delay_ms_p50: summary.generatorDelayMsP50,
    generator_delay_ms_p99: summary.generatorDelayMsP99,
    generator_core_share: facts.coreShare,
    void: summary.isVoid,
  };
}

function metricFields(name: MetricName, summary: RunSummary): Record<string, number> {
  const { mean, std, p50, p90, p95, p99 } = summary[`${name}Ms`];
  return {
    [`mean_${name}_ms`]: mean,
    [`median_${name}_ms`]: p50,
    [`std_${name}_ms`]: std,
    [`p50_${name}_ms`]: p50,
    [`p90_${name}_ms`]: p90,
    [`p95_${name}_ms`]: p95,
    [`p99_${name}_ms`]: p99,
  };
}
