/** What `twostroke profile` shows: a page for people, an object for programs. Pure. Used by profile.ts and
 *  the full-pipeline example. */
import type { MeasuredProfile } from '../profile/profile.js';
import { type SeparationRule, separationRule } from '../profile/readable.js';
import type { ProfileFile } from '../router/cost-parameters.js';
import { table } from './quantities.js';

interface WrittenProfile extends MeasuredProfile {
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
  const workerCount = profiles.reduce((sum, { workers }) => sum + workers.length, 0);
  const whyNoLink =
    workerCount === 1 ? 'there is no second worker' : 'no way between the workers could be opened';
  return profiles.map((profile) => oneText(profile, whyNoLink)).join('\n');
}

function oneText({ path, workers, soloShare, errorOfKind, file }: WrittenProfile, whyNoLink: string): string {
  const { key, readable, parameters, fitError } = file;
  const threads =
    key.threadCount > 0 ? `, ${key.threadCount} ${key.threadCount === 1 ? 'thread' : 'threads'}` : '';
  const rule = separationRule(parameters, readable);
  const off = (kind: keyof typeof errorOfKind) =>
    `± ${percent(errorOfKind[kind].median)}, p90 ${percent(errorOfKind[kind].p90)}`;
  const rows = [
    ['α', 'prefill', `${short(readable.prefillMsPerToken)} ms/token`, off('prefill')],
    ['β', 'decode step at batch 1', `${short(readable.decodeMsPerStep)} ms`, off('decode')],
    ['', 'batch where it is 1.5 β', `${readable.batchThreshold}`, ''],
    ['γ', 'a prompt token to those who decode', `${short(readable.interferenceMsPerToken)} ms`, off('mixed')],
    ['', 'link, fastest connector', ...linkCells(file, whyNoLink)],
  ];
  const handOver =
    readable.linkGBPerSecond === null ? '' : `, ${short(parameters.request.handOverMs)} ms for a hand-over`;
  const lines = [
    `${workers.join(' ')}  ${key.deviceName}${threads}`,
    `${key.modelName}, weights ${key.weightFormat}, KV ${key.kvDtype}`,
    '',
    ...table(rows).map((line) => `  ${line}`),
    '',
    `  fit      median ${percent(fitError.median)}, p90 ${percent(fitError.p90)} on steps it had not seen`,
    ...(soloShare === null
      ? []
      : [`  load     all workers were busy; one alone takes ${short(soloShare)} of these times`]),
    `  request  ${short(parameters.request.arrivalMs + parameters.request.tokenMs)} ms beside its steps${handOver}`,
    ...ruleLines(rule, readable.linkGBPerSecond === null ? whyNoLink : 'a prompt holds nobody up measurably'),
    `  written  ${path}`,
  ];
  return `${lines.join('\n')}\n`;
}

function linkCells({ readable, parameters: { links } }: ProfileFile, whyNone: string): string[] {
  const { linkGBPerSecond } = readable;
  if (linkGBPerSecond === null) return ['not measured', whyNone];
  const fastest = links.reduce((best, link) => (link.bytesPerSecond > best.bytesPerSecond ? link : best));
  return [`${short(linkGBPerSecond)} GB/s`, fastest.connector];
}

function ruleLines(rule: SeparationRule | null, whyNone: string): string[] {
  if (rule === null) return [`  rule     none: ${whyNone}`];
  const { transferMsPerToken, interferencePerTransfer, decodingCountMin } = rule;
  return [
    `  rule     moving a prompt of 512 tokens takes ${short(transferMsPerToken)} ms/token; γ ÷ transfer = ${short(interferencePerTransfer)}`,
    `           separation pays where ${Math.max(1, Math.ceil(decodingCountMin))} or more streams decode beside the prompt`,
  ];
}

const percent = (share: number) =>
  Number.isFinite(share) ? `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %` : '–';
const short = (value: number) => (value >= 100 ? value.toFixed(0) : value.toPrecision(3));
