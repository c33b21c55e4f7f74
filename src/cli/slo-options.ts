/** Options of `serve` and `simulate` for SLOs and overload. */
import { type Command, Option } from 'commander';
import type { OpenServerOptions } from '../library/open-server.js';
import { choices, serverDefaults } from '../library/option-schemas.js';
import { parseSloSpec } from '../router/slo-spec.js';

export type SloOptions = Pick<OpenServerOptions, 'slo' | 'pacing' | 'onOverload'>;

export function addSloOptions(command: Command): Command {
  return command
    .addOption(
      new Option(
        '--slo <slo>',
        'for requests that do not say: ttft:MS,tpot:MS,e2el:MS, or multiples of what a request takes alone; steps are paced by the first two',
      )
        .argParser((text) => parseSloSpec(text, '--slo'))
        .default(parseSloSpec(serverDefaults.slo, '--slo'), serverDefaults.slo),
    )
    .addOption(
      new Option(
        '--pacing <pacing>',
        'off: steps take prompts first come, first served, whatever becomes of SLOs',
      )
        .choices(choices.pacing)
        .default(serverDefaults.pacing),
    )
    .addOption(
      new Option(
        '--on-overload <what>',
        'requests whose first token will be late: shed (429), or late (served after all others)',
      )
        .choices(choices.onOverload)
        .default(serverDefaults.onOverload),
    );
}
