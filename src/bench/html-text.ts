/** Words of the report page that several of its sections need. Used by report-page.ts and
 *  verdict-section.ts. */
import type { SweepPoint } from './sweep-summary.js';
import { figure } from './text-table.js';

export function escaped(text: string): string {
  return text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);
}

export const percent = (share: number) => `${figure(100 * share)} %`;

export function pointName({ workload, ratePerSecond, rateFraction }: SweepPoint): string {
  const fraction = rateFraction === null ? '' : ` (${rateFraction} × saturation)`;
  return `${escaped(workload)}, ${figure(ratePerSecond)} requests/s${fraction}`;
}
