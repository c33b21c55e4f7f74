/* Reads arrival traces: Azure LLM inference CSV (TIMESTAMP, ContextTokens, GeneratedTokens) and Mooncake JSON lines (input_length,
   output_length, hash_ids: one id per 512-token block of the prompt, equal ids are equal prefixes). Used by ../score-lengths.mjs.
   A request is {facts, tokenCount}; order is that of arrival. */
import fs from 'node:fs';
import readline from 'node:readline';

/** Yields the requests of a trace, line by line; throws an Error that names file, line and what is wrong. */
export async function* readTrace(file) {
  const lines = readline.createInterface({ input: fs.createReadStream(file), crlfDelay: Number.POSITIVE_INFINITY });
  let parse;
  let lineNumber = 0;
  for await (const raw of lines) {
    lineNumber++;
    const line = lineNumber === 1 ? raw.replace(/^\uFEFF/, '') : raw;
    if (line.trim() === '') continue;
    try {
      if (parse === undefined) {
        parse = line.trimStart().startsWith('{') ? parseMooncake : azureParser(line);
        if (parse !== parseMooncake) continue;
      }
      yield parse(line);
    } catch (error) {
      throw new Error(`${file}, line ${lineNumber}: ${error.message}`);
    }
  }
}

function azureParser(header) {
  const columns = header.split(',').map((name) => name.trim());
  const prompt = columns.indexOf('ContextTokens');
  const output = columns.indexOf('GeneratedTokens');
  if (prompt < 0 || output < 0) {
    throw new Error('neither a CSV with ContextTokens and GeneratedTokens nor JSON lines with input_length and output_length');
  }
  return (line) => {
    const cells = line.split(',');
    return {
      facts: { promptTokenCount: wholeNumber('ContextTokens', cells[prompt]) },
      tokenCount: wholeNumber('GeneratedTokens', cells[output]),
    };
  };
}

function parseMooncake(line) {
  const row = JSON.parse(line);
  const promptTokenCount = wholeNumber('input_length', row.input_length);
  const tokenCount = wholeNumber('output_length', row.output_length);
  return { facts: { promptTokenCount, prefixIds: prefixIds(row.hash_ids ?? []) }, tokenCount };
}

/** Blocks 1, 2, 4, 8 … and the last: as many as a long prompt's logarithm. */
export function prefixIds(hashIds) {
  const ids = [];
  for (let index = 0; index < hashIds.length; index = 2 * index + 1) ids.push(hashIds[index]);
  const last = hashIds.at(-1);
  if (last !== undefined && ids.at(-1) !== last) ids.push(last);
  return ids;
}

function wholeNumber(name, text) {
  const value = Number(text);
  if (text === undefined || text === null || text === '' || !Number.isInteger(value) || value < 0) {
    throw new Error(`${name} is ${JSON.stringify(text)}, not a whole number of tokens`);
  }
  return value;
}
