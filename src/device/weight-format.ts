/** How a packed weight is multiplied, with the codes of native/pd.h: a plain dtype, int8 with a scale a
 *  row, or the numbers of a quantised file with the scales of their groups. */
import { type Dtype, dtypeCodes } from './dtype.js';

/** `_min`: a minimum beside each scale; `_16`: scales for 16 columns, not 32. CPU only. */
const groupedCodes = {
  q4: 0x104,
  q4_min: 0x114,
  q4_16: 0x124,
  q4_16_min: 0x134,
  iq4: 0x144,
  fp4: 0x184,
  q5: 0x105,
  q5_min: 0x115,
  q6_16: 0x126,
  q8: 0x108,
  q8_min: 0x118,
} as const;

export type GroupedFormat = keyof typeof groupedCodes;
export type WeightFormat = Dtype | GroupedFormat;

export const weightFormats: readonly WeightFormat[] = [
  ...(Object.keys(dtypeCodes) as Dtype[]),
  ...(Object.keys(groupedCodes) as GroupedFormat[]),
];

function isGroupedFormat(format: WeightFormat): format is GroupedFormat {
  return format in groupedCodes;
}

export function weightFormatCode(format: WeightFormat): number {
  return isGroupedFormat(format) ? groupedCodes[format] : dtypeCodes[format];
}
