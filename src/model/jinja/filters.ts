/** Every filter by name. Used by render.ts. */
import { sequenceFilters } from './sequence-filters.js';
import { textFilters } from './text-filters.js';
import { type Arguments, fail, type Value } from './values.js';

/** How map and select reach the filters and tests they are given by name. */
export interface FilterContext {
  filter(name: string, value: Value, given: Arguments): Value;
  test(name: string, value: Value, given: Arguments): boolean;
}

export type Filter = (value: Value, given: Arguments, context: FilterContext) => Value;

export const filters: ReadonlyMap<string, Filter> = new Map([...textFilters, ...sequenceFilters]);

export function applyFilter(name: string, value: Value, given: Arguments, context: FilterContext): Value {
  const filter = filters.get(name) ?? fail(`No filter named '${name}'.`);
  return filter(value, given, context);
}
