/** What a filter is. Used by filters.ts and the files of filters that it gathers. */
import type { Arguments, Value } from './values.js';

/** How map and select reach the filters and tests they are given by name. */
export interface FilterContext {
  filter(name: string, value: Value, given: Arguments): Value;
  test(name: string, value: Value, given: Arguments): boolean;
}

export type Filter = (value: Value, given: Arguments, context: FilterContext) => Value;
