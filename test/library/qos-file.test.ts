/** The file of a server's `qos` option. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { readClassRules } from '../../src/library/qos-file.js';
import { usualSloSpec } from '../../src/router/slo-spec.js';
import { classOf } from '../../src/server/class-rules.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), 'twostroke-qos-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function rulesOf(text: string) {
  const file = path.join(folder, 'qos.yaml');
  writeFileSync(file, text);
  return readClassRules(file, usualSloSpec);
}

const classes = `
scheduler:
  qos_classes:
    - name: premium
      reserved_fraction: 0.10
      priority: 100
      weight: 4
      slo: ttft:500,tpot:50
    - name: standard
      reserved_fraction: 0.30
      priority: 50
    - name: free
      priority: 10
`;
const routes = `
request_router:
  routes:
    - match:
        header: "X-Customer-Tier: premium"
      qos: premium
    - match:
        header: "x-customer-tier: standard"
      qos: standard
    - match:
      qos: free
`;

it('gives a request the class of the first rule that fits', () => {
  const rules = rulesOf(classes + routes);
  expect(classOf(rules, { 'x-customer-tier': 'premium' })).toEqual({
    name: 'premium',
    reservedShare: 0.1,
    priority: 100,
    weight: 4,
    slo: { ttft: { unit: 'ms', value: 500 }, tpot: { unit: 'ms', value: 50 } },
  });
  expect(classOf(rules, { 'x-customer-tier': 'standard' })?.name).toBe('standard');
  expect(classOf(rules, { 'x-customer-tier': 'gold' })).toEqual({
    name: 'free',
    reservedShare: 0,
    priority: 10,
    weight: 1,
  });
  expect(classOf(rules, {})?.name).toBe('free');
  expect(classOf(rules.slice(0, 2), {})).toBeUndefined();
});

it('may be JSON', () => {
  const file = {
    scheduler: { qos_classes: [{ name: 'all' }] },
    request_router: { routes: [{ match: null, qos: 'all' }] },
  };
  expect(classOf(rulesOf(JSON.stringify(file)), {})).toEqual({
    name: 'all',
    reservedShare: 0,
    priority: 0,
    weight: 1,
  });
});

it.each([
  ['scheduler: [', /^qos .*qos\.yaml: /],
  ['', /the file: .*expected object/],
  [classes, /request_router: /],
  [classes.replace('0.10', '0.80') + routes, /have reserved 1.10 of the server together: at most 1/],
  [
    classes.replace('priority: 100', 'priority: high') + routes,
    /scheduler\.qos_classes\.0\.priority: .*number/,
  ],
  [classes.replace('0.10', '-1') + routes, /scheduler\.qos_classes\.0\.reserved_fraction: /],
  [classes.replace('tpot:50', 'tpot:soon') + routes, /slo of premium: ttft:500,tpot:soon: expected/],
  [classes.replace('name: standard', 'name: premium') + routes, /two classes are named premium/],
  [
    classes + routes.replace('qos: standard', 'qos: gold'),
    /names the class gold, which is none of premium, standard, free/,
  ],
  [
    classes + routes.replace('x-customer-tier: standard', 'x-customer-tier'),
    /request_router\.routes\.1\.match\.header: expected "name: value"/,
  ],
  [classes.replace('weight: 4', 'weight: 0') + routes, /qos_classes\.0\.weight: /],
  [classes.replace('priority: 50', 'share: 50') + routes, /share/],
])('refuses %#', (text, message) => expect(() => rulesOf(text)).toThrow(message));

it('names a file that is not there', () => {
  expect(() => readClassRules('/nowhere/qos.yaml', usualSloSpec)).toThrow(
    /^qos \/nowhere\/qos\.yaml: .*no such file/,
  );
});
