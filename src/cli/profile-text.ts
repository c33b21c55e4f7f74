/** What `twostroke profile` shows: a page for people, an object for programs. Pure. Used by profile.ts and the full-pipeline example. */
import type { MeasuredProfile } from '../profile/profile.js';
import { type SeparationRule, separationRule } from '../profile/readable.js';
import { table } from './quantities.js';

export interface WrittenProfile extends MeasuredProfile {
  readonly path: string;
}

export function profileJson(profiles: readonly WrittenProfile[]) {
  return {
    profiles: profiles.map(({ path, workers, soloShare, errorOfKind, file }) => {
      const { key, measuredAt, readable, fitError, parameters, samples } = file;
      const rule = separationRule(parameters, readable);
      return {
        path,
        workers,
        key,
        measuredAt,
        readable,
        rule,
        fitError,
        errorOfKind,
        soloShare,
        parameters,
        sampleCount: samples.length,
      };
    }),
  };
}

export function profileText(profiles: readonly WrittenProfile[]): string {
  return profiles.map(oneText).join('\n');
}

function oneText({ path, workers, soloShare, errorOfKind, file }: WrittenProfile): string {
  const { key, readable, parameters, fitError } = file;
  const threads = key.threadCount > 0 ? `, ${key.threadCount} ${key.threadCount === 1 ? 'thread' : 'threads'}` : '';
  const rule = separationRule(parameters, readable);
  const off = (kind: keyof typeof errorOfKind) => `± ${percent(errorOfKind[kind].median)}, p90 ${percent(errorOfKind[kind].p90)}`;
  const rows = [
    ['α', 'prefill', `${short(readable.prefillMsPerToken)} ms/token`, off('prefill')],
    ['β', 'decode step at batch 1', `${short(readable.decodeMsPerStep)} ms`, off('decode')],
    ['', 'batch where it is 1.5 β', `${readable.batchThreshold}`, ''],
    ['γ', 'a prompt token to those who decode', `${short(readable.interferenceMsPerToken)} ms`, off('mixed')],
    [
      '',
      'link, fastest connector',
      `${short(readable.linkGBPerSecond)} GB/s`,
      parameters.links[0]?.connector ?? 'no other worker',
    ],
  ];
  const lines = [
    `${workers.join(' ')}  ${key.deviceName}${threads}`,
    `${key.modelName}, weights ${key.weightFormat}, KV ${key.kvDtype}`,
    '',
    ...table(rows).map((line) => `  ${line}`),
    '',
    `  fit      median ${percent(fitError.median)}, p90 ${percent(fitError.p90)} on steps it had not seen`,
    ...(soloShare === null ? [] : [`  load     all workers were busy; one alone takes ${short(soloShare)} of these times`]),
    `  request  ${short(parameters.request.arrivalMs + parameters.request.tokenMs)} ms beside its steps, ${short(parameters.request.handOverMs)} ms for a hand-over`,
    ...ruleLines(rule),
    `  written  ${path}`,
  ];
  return `${lines.join('\n')}\n`;
}

function ruleLines(rule: SeparationRule | null): string[] {
  if (rule === null) return ['  rule     there is nowhere to hand over to'];
  const { transferMsPerToken, interferencePerTransfer, decodingCountMin } = rule;
  return [
    `  rule     moving a prompt of 512 tokens takes ${short(transferMsPerToken)} ms/token; γ ÷ transfer = ${short(interferencePerTransfer)}`,
    `           separation pays where ${Math.max(1, Math.ceil(decodingCountMin))} or more streams decode beside the prompt`,
  ];
}

const percent = (share: number) => (Number.isFinite(share) ? `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %` : '–');
const short = (value: number) => (value >= 100 ? value.toFixed(0) : value.toPrecision(3));
