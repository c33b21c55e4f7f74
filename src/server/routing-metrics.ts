/** Metrics of the router: how far off its predictions were, how the workers have drifted from their profile,
 *  which plan is in use. Registered by metrics.ts; read from the gateway when scraped. */
import { Gauge, type Registry } from 'prom-client';
import { predictionNames } from '../control/prediction-errors.js';
import type { ServerGateway } from './server-gateway.js';

export function registerRoutingMetrics(registry: Registry, gateway: ServerGateway): void {
  const gauge = (name: string, help: string, labelNames: string[], collect: (this: Gauge) => void) =>
    new Gauge({ name: `twostroke_${name}`, help, labelNames, registers: [registry], collect });
  gauge(
    'prediction_error_ratio',
    'Of the last 512 requests: |predicted - real| / real of ttft, transfer, tpot and e2el with the real output length, and of e2el with the expected one.',
    ['of', 'quantile'],
    function collect() {
      this.reset();
      const { errors } = gateway.routing();
      for (const name of predictionNames) {
        if (errors[name].count === 0) continue;
        this.set({ of: name, quantile: '0.5' }, errors[name].median);
        this.set({ of: name, quantile: '0.9' }, errors[name].p90);
      }
    },
  );
  gauge(
    'step_prediction_error_ratio',
    'The same for the last steps of a worker.',
    ['worker', 'quantile'],
    function collect() {
      this.reset();
      for (const { id, stepError } of gateway.routing().workers) {
        if (stepError.count === 0) continue;
        this.set({ worker: id, quantile: '0.5' }, stepError.median);
        this.set({ worker: id, quantile: '0.9' }, stepError.p90);
      }
    },
  );
  gauge(
    'cost_drift_ratio',
    'By what share the steps of a worker are off the profile it started with, the most wrong part of the formula.',
    ['worker'],
    function collect() {
      this.reset();
      for (const { id, drift } of gateway.routing().workers) this.set({ worker: id }, drift);
    },
  );
  gauge(
    'unloaded_ratio',
    'Of the last requests that had the system to themselves: what they took over what the costs say, ttft and tpot.',
    ['worker', 'of'],
    function collect() {
      this.reset();
      for (const { id, unloaded } of gateway.routing().workers) {
        this.set({ worker: id, of: 'ttft' }, unloaded.ttft);
        this.set({ worker: id, of: 'tpot' }, unloaded.tpot);
      }
    },
  );
  gauge(
    'plan',
    '1: the plan in use, which workers may prefill, decode or both.',
    ['plan'],
    function collect() {
      this.reset();
      const { plan } = gateway.routing();
      if (plan !== null) this.set({ plan }, 1);
    },
  );
}
