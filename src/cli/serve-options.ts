/** The options of `twostroke serve`: their texts, their parsing, their defaults. Used by serve.ts. */
import { Command, Option } from 'commander';
import type { OpenServerOptions } from '../library/open-server.js';
import { choices, serverDefaults } from '../library/option-schemas.js';
import { byteCount, collect, collectKeys, split } from './option-values.js';
import { addSloOptions } from './slo-options.js';
import { addWorkerOptions, choice, count } from './worker-options.js';

/** What commander gives, after the parsers below. */
export interface ServeOptions extends Omit<OpenServerOptions, 'folder'> {
  readonly json: boolean;
}

export function serveCommand(): Command {
  const command = new Command('serve').description('serve a model over an OpenAI-compatible HTTP API');
  return addSloOptions(addAnswerOptions(addWorkerOptions(command)))
    .option('--host <host>', 'address to listen on', serverDefaults.host)
    .addOption(
      count('--port <port>', 'port to listen on; 0: any free one', 0, 65535).default(serverDefaults.port),
    )
    .addOption(
      choice('--strategy <strategy>', 'which path requests take', choices.strategy, serverDefaults.strategy),
    )
    .option(
      '--profile <file>',
      'costs of the workers, as "twostroke profile" measured them; default: the file that fits, if any',
    )
    .addOption(
      new Option('--split <P:D>', 'how "any" workers are divided when disaggregated').argParser(split),
    )
    .option(
      '--skip-tokenizer-init',
      'token ids in, token ids out; no tokenizer is loaded',
      serverDefaults.skipTokenizerInit,
    )
    .addOption(
      new Option('--served-model-name <name>', 'name in the API; may be repeated').argParser(collect),
    )
    .addOption(
      new Option('--api-key <key>', 'key that clients must send; may be repeated')
        .env('TWOSTROKE_API_KEY')
        .argParser(collectKeys),
    )
    .addOption(
      new Option(
        '--admin-key <key>',
        'key that sees all requests; metrics and workers then need it; may be repeated',
      )
        .env('TWOSTROKE_ADMIN_KEY')
        .argParser(collectKeys),
    )
    .option(
      '--share-prefix-cache',
      'share cached prompts among API keys: one can then learn what another has sent',
      serverDefaults.sharePrefixCache,
    )
    .option('--cors-origin <origin>', 'allow browsers of this origin ("*": all)')
    .addOption(
      choice(
        '--on-transfer-failure <what>',
        'for requests that do not say: prompts whose KV did not arrive',
        choices.onTransferFailure,
        serverDefaults.onTransferFailure,
      ),
    )
    .addOption(
      count(
        '--max-queue <count>',
        'choices accepted and unfinished; more get 429 (default: twice what the batches hold)',
        1,
      ),
    )
    .addOption(
      new Option('--max-body <bytes>', 'largest request body')
        .argParser(byteCount)
        .default(serverDefaults.maxBody, '8MiB'),
    )
    .addOption(
      count('--drain <seconds>', 'how long open requests may finish on shutdown', 0).default(
        serverDefaults.drain,
      ),
    )
    .option(
      '--allow-forced-length',
      'let requests fix their output length (forced_output_tokens): for benchmarks only',
      serverDefaults.allowForcedLength,
    )
    .option(
      '--strict-fields',
      'refuse requests with unknown fields instead of ignoring those',
      serverDefaults.strictFields,
    )
    .option(
      '--qos <file>',
      'YAML or JSON: classes of requests by header, with priority, SLO and reserved share',
    )
    .option('--json', 'one JSON object on the last line instead of the screen', false);
}

function addAnswerOptions(command: Command): Command {
  return command
    .addOption(
      choice(
        '--tool-call-parser <parser>',
        'how the model writes calls of tools',
        choices.toolCallParser,
        serverDefaults.toolCallParser,
      ),
    )
    .addOption(
      choice(
        '--reasoning-parser <parser>',
        'how the model writes its reasoning',
        choices.reasoningParser,
        serverDefaults.reasoningParser,
      ),
    );
}
