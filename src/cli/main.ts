#!/usr/bin/env node
/** Entry of the `twostroke` command: finds the subcommand, runs it, and turns what it throws into one line
 *  and an exit code. */
import { Command } from 'commander';
import { packageVersion } from '../library/package-folder.js';
import { benchCommand } from './bench.js';
import { describeFailure, exitCodeOf, exitCodes } from './fail.js';
import { generateCommand } from './generate.js';
import { modelsCommand } from './models.js';
import { standardOutput } from './output.js';
import { profileCommand } from './profile.js';
import { routeCommand } from './route.js';
import { serveCommand } from './serve.js';
import { simulateCommand } from './simulate.js';
import { workersCommand } from './workers.js';

const program = new Command('twostroke')
  .description('LLM inference with prefill and decode on separate workers')
  .version(packageVersion())
  .showHelpAfterError('(twostroke --help, or twostroke <command> --help, shows what there is)')
  .addCommand(serveCommand())
  .addCommand(generateCommand())
  .addCommand(profileCommand())
  .addCommand(benchCommand())
  .addCommand(modelsCommand())
  .addCommand(workersCommand())
  .addCommand(routeCommand())
  .addCommand(simulateCommand());
for (const command of [
  program,
  ...program.commands,
  ...program.commands.flatMap(({ commands }) => commands),
]) {
  command
    .exitOverride()
    .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'twostroke: ')) });
}

try {
  await program.parseAsync(process.argv).catch((error) => {
    if (exitCodeOf(error) !== exitCodes.done) throw error; // help and version are thrown too
  });
  await standardOutput.flushed();
  process.exit(process.exitCode ?? exitCodes.done);
} catch (error) {
  const isDebug = process.argv.join(' ').match(/--log-level[= ]debug/) !== null;
  const text = describeFailure(error, isDebug ? 'stack' : 'short');
  if (text !== '') process.stderr.write(`${text}\n`);
  process.exit(exitCodeOf(error));
}
