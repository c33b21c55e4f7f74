/** What is alive in this process after a garbage collection: every object, by the name of its class, from a
 *  heap snapshot. Used by leaks.test.ts and counted-worker.mjs. */
import v8 from 'node:v8';

/** @returns {Promise<Record<string, number>>} */
export async function liveCounts() {
  const counts = await objectCounts();
  const handles = process._getActiveHandles();
  counts['(handles)'] = handles.length;
  counts['(listeners)'] = [process, ...handles].reduce((sum, each) => sum + listenerCountOf(each), 0);
  return counts;
}

/** Taking a snapshot collects garbage first. */
async function objectCounts() {
  const parts = [];
  for await (const part of v8.getHeapSnapshot()) parts.push(part);
  const { snapshot, nodes, strings } = JSON.parse(Buffer.concat(parts).toString('latin1'));
  const { node_fields: fields, node_types: types } = snapshot.meta;
  const [typeAt, nameAt, bytesAt] = ['type', 'name', 'self_size'].map((field) => fields.indexOf(field));
  const objectType = types[typeAt].indexOf('object');
  const counts = { '(bytes)': 0 };
  for (let i = 0; i < nodes.length; i += fields.length) {
    counts['(bytes)'] += nodes[i + bytesAt];
    if (nodes[i + typeAt] !== objectType) continue;
    const name = strings[nodes[i + nameAt]];
    counts[name] = (counts[name] ?? 0) + 1;
  }
  return counts;
}

function listenerCountOf(emitter) {
  return (emitter.eventNames?.() ?? []).reduce((sum, name) => sum + emitter.listenerCount(name), 0);
}
