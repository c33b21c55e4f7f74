/** A run's figures as lines for a terminal, in the order of vLLM's table. Used by html-text.ts. */
import type { MetricName } from './result-json.js';
import type { Distribution, RunSummary } from './summary.js';

const titles: Readonly<Record<MetricName, string>> = {
  ttft: 'Time to first token',
  tpot: 'Time per output token (without the first)',
  itl: 'Inter-token latency',
  e2el: 'End-to-end latency',
};
const labelColumns = 44;

export function summaryText(summary: RunSummary, metrics: readonly MetricName[], coreShare: number): string {
  const good = summary.goodRequestsPerSecond;
  const lines = [
    row('Requests measured', String(summary.requestCount)),
    row('Completed', String(summary.completedCount)),
    row(
      'Rejected / failed / unfinished',
      `${summary.rejectedCount} / ${summary.failedCount} / ${summary.unfinishedCount}`,
    ),
    row('Duration (s)', figure(summary.durationSeconds)),
    row('Input / output tokens', `${summary.promptTokenCount} / ${summary.outputTokenCount}`),
    row('Request throughput (req/s)', figure(summary.requestsPerSecond)),
    ...(good === null
      ? []
      : [
          row('Request goodput (req/s)', `${figure(good)} (${figure((summary.sloAttainment ?? 0) * 100)} %)`),
        ]),
    row('Output token throughput (tok/s)', figure(summary.outputTokensPerSecond)),
    row('Total token throughput (tok/s)', figure(summary.totalTokensPerSecond)),
    ...metrics.flatMap((name) => metricLines(titles[name], summary[`${name}Ms`])),
    '',
    row(
      'Generator delay p99 (ms)',
      `${figure(summary.generatorDelayMsP99)}${summary.isVoid ? '  VOID: over 5 ms' : ''}`,
    ),
    row('Generator share of a core', `${figure(coreShare * 100)} %`),
  ];
  return `${lines.join('\n')}\n`;
}

function metricLines(title: string, { mean, p50, p90, p95, p99 }: Distribution): string[] {
  const figures = [mean, p50, p90, p95, p99].map((value) => figure(value).padStart(10)).join('');
  return [
    '',
    `${`${title} (ms)`.padEnd(labelColumns)}${['mean', 'p50', 'p90', 'p95', 'p99'].map((name) => name.padStart(10)).join('')}`,
    `${''.padEnd(labelColumns)}${figures}`,
  ];
}

function row(label: string, value: string): string {
  return `${label.padEnd(labelColumns)}${value.padStart(10)}`;
}

/** Three significant digits or more; '-' where there is nothing to say. */
export function figure(value: number): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? '-' : '∞';
  return value >= 100 ? value.toFixed(1) : value.toPrecision(3);
}
