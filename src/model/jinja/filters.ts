/** Every filter by name. Used by evaluate.ts. */
import type { Filter, FilterContext } from './filter.js';
import { sequenceFilters } from './sequence-filters.js';
import { textFilters } from './text-filters.js';
import { type Arguments, fail, type Value } from './values.js';

export const filters: ReadonlyMap<string, Filter> = new Map([...textFilters, ...sequenceFilters]);

export function applyFilter(name: string, value: Value, given: Arguments, context: FilterContext): Value {
  const filter = filters.get(name) ?? fail(`No filter named '${name}'.`);
  return filter(value, given, context);
}
