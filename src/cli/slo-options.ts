/** What `serve` and `simulate` are told of SLOs and overload. */
import { type Command, Option } from 'commander';
import type { OverloadPolicy } from '../control/gateway-api.js';
import { parseSloTargets, type SloTargets, usualSloTargets } from '../router/slo-targets.js';

export interface SloOptions {
  readonly slo: SloTargets;
  readonly pacing: 'on' | 'off';
  readonly onOverload: OverloadPolicy;
}

export function addSloOptions(command: Command): Command {
  return command
    .addOption(
      new Option(
        '--slo <targets>',
        'for requests that do not say: ttft:MS,tpot:MS,e2el:MS, or multiples of what a request takes alone; steps are paced by the first two',
      )
        .argParser((text) => parseSloTargets(text, '--slo'))
        .default(usualSloTargets, 'ttft:5x,tpot:2x'),
    )
    .addOption(
      new Option('--pacing <pacing>', 'off: steps take prompts first come, first served, whatever becomes of SLOs')
        .choices(['on', 'off'])
        .default('on'),
    )
    .addOption(
      new Option('--on-overload <what>', 'requests whose first token will be late: shed (429), or late (served after all others)')
        .choices(['shed', 'late'])
        .default('late'),
    );
}
