/** `twostroke bench`: load tests of any OpenAI-compatible server. Each subcommand is a file of its own; the
 *  work is in src/bench. */
import { Command } from 'commander';
import { benchServeCommand, benchStaticCommand } from './bench-serve.js';
import { benchPackCommand, benchReportCommand, benchSweepCommand } from './bench-sweep.js';

export function benchCommand(): Command {
  return new Command('bench')
    .description('load-test any OpenAI-compatible server: serve, static, sweep, report')
    .addCommand(benchServeCommand())
    .addCommand(benchStaticCommand())
    .addCommand(benchSweepCommand())
    .addCommand(benchReportCommand())
    .addCommand(benchPackCommand());
}
