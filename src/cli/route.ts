/** `twostroke route`: the last routing decisions of a running server and why each was taken; one in full with
 *  --explain. */
import { Command } from 'commander';
import { TwostrokeError } from '../base/errors.js';
import type { RequestRecord } from '../control/request-record.js';
import { askServer, type QueriedServer } from './ask-server.js';
import { wholeNumber } from './option-values.js';
import { table } from './quantities.js';
import { explanationText, planLine, type RoutesAnswer, sloText } from './route-explanation.js';
import { adminKeyOption, apiKeyOption, urlOption } from './workers.js';

export function routeCommand(): Command {
  return new Command('route')
    .description('show the last routing decisions of a running server, newest first')
    .addOption(urlOption())
    .addOption(apiKeyOption())
    .addOption(adminKeyOption())
    .option('--count <count>', 'how many', wholeNumber(1, 1000), 10)
    .option(
      '--explain [id]',
      'one decision in full: inputs, both estimates, choice, what really happened; without an id the last',
    )
    .option('--json', 'one JSON object on the last line', false)
    .action(showRoutes);
}

interface RouteOptions extends QueriedServer {
  readonly count: number;
  readonly explain?: string | true;
  readonly json: boolean;
}

async function showRoutes(options: RouteOptions): Promise<void> {
  const { explain } = options;
  const which =
    typeof explain === 'string'
      ? `id=${encodeURIComponent(explain)}`
      : `count=${explain === true ? 1 : options.count}`;
  const answer = await askServer<RoutesAnswer>(options, `/routes?${which}`);
  if (typeof explain === 'string' && answer.requests.length === 0) {
    throw new TwostrokeError(
      'not_found',
      `no request ${explain} among the last thousand that ended; "twostroke route" lists the newest`,
    );
  }
  const text = explain === undefined ? routesText(answer) : explanationText(answer);
  process.stdout.write(options.json ? `${JSON.stringify(answer)}\n` : text);
}

function routesText({ requests, routing }: RoutesAnswer): string {
  if (requests.length === 0) return 'no request has ended yet\n';
  const head = [
    'REQUEST',
    'PATH',
    'WORKERS',
    'PROMPT',
    'OUTPUT',
    'TTFT MS',
    'TOTAL MS',
    'SLO',
    'KV MOVED',
    'EXPOSED MS',
    'WHY',
  ];
  return `${[...table([head, ...requests.map(row)]), '', planLine(routing)].join('\n')}\n`;
}

function row(record: RequestRecord): string[] {
  const route = record.routes.at(-1);
  const ms = (value: number | undefined) => (value === undefined ? '-' : value.toFixed(1));
  const since = (value: number | undefined) => (value === undefined ? undefined : value - record.arrivalMs);
  return [
    record.id,
    record.outcome === 'finished'
      ? (route?.path ?? '-')
      : `${route?.path ?? '-'} (${record.errorCode ?? record.outcome})`,
    route?.workers.join(' -> ') ?? '-',
    `${record.promptTokenCount} (${record.cachedTokenCount} cached)`,
    String(record.outputTokenCount),
    ms(since(record.firstTokenMs)),
    ms(since(record.doneMs)),
    sloText(record),
    record.transferBytes === 0 ? '-' : `${(record.transferBytes / 2 ** 20).toFixed(2)} MiB`,
    record.transferBytes === 0 ? '-' : ms(record.exposedTransferMs),
    route?.reason ?? '-',
  ];
}
