#!/usr/bin/env node
/* npm run readme:results: writes README's table of results from the JSON under docs/results.
   npm run readme:results -- --check: writes nothing; exits with 1 and names the lines that are not what the
   JSON says. */
import fs from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { rowsOf } from './readme-results/rows.mjs';

const root = path.resolve(import.meta.dirname, '..');
const begin = '<!-- results: written by npm run readme:results -->';
const end = '<!-- end of results -->';

export function readResult(file) {
  const full = path.join(root, 'docs/results', file);
  return fs.existsSync(full) ? JSON.parse(fs.readFileSync(full, 'utf8')) : null;
}

/** The table as Markdown. */
export function tableOf(rows) {
  const lines = rows.map((row) => {
    const commit = `[\`${row.commit}\`](docs/results/${row.source})`;
    return `| ${[row.what, row.on, row.measured, row.against, row.ratio, row.aim, commit, `\`${row.command}\``].join(' | ')} |`;
  });
  return [
    '| what | on | measured | against | ratio | aim | commit, raw | command |',
    '|---|---|---:|---:|---:|---|---|---|',
    ...lines,
  ].join('\n');
}

/** `readme` with `table` between its markers. */
export function withTable(readme, table) {
  const [first, last] = [readme.indexOf(begin), readme.indexOf(end)];
  if (first < 0 || last < first)
    throw new Error(`README.md lacks the markers of the table: "${begin}" and "${end}"`);
  return `${readme.slice(0, first + begin.length)}\n${table}\n${readme.slice(last)}`;
}

/** Lines of the README that are not what the results say. Empty: all is true. */
export function staleLines(readme, table) {
  const truth = new Set(withTable(readme, table).split('\n'));
  const have = readme.split('\n');
  const missing = [...truth].filter((line) => !have.includes(line));
  return [
    ...have.filter((line) => !truth.has(line)).map((line) => `has    ${line}`),
    ...missing.map((line) => `lacks  ${line}`),
  ];
}

function main() {
  const { values } = parseArgs({ options: { check: { type: 'boolean', default: false } } });
  const file = path.join(root, 'README.md');
  const readme = fs.readFileSync(file, 'utf8');
  const table = tableOf(rowsOf(readResult));
  if (!values.check) return fs.writeFileSync(file, withTable(readme, table));
  const stale = staleLines(readme, table);
  if (stale.length === 0) return console.log('README.md shows what docs/results says.');
  console.error(
    `README.md does not show what docs/results says; npm run readme:results writes it.\n${stale.join('\n')}`,
  );
  process.exitCode = 1;
}

if (process.argv[1] === import.meta.filename) main();
