/* Reads arrival traces: Azure LLM inference CSV (TIMESTAMP, ContextTokens, GeneratedTokens) and Mooncake JSON
 *  lines (input_length,
   output_length, hash_ids: one id per 512-token block of the prompt, equal ids are equal prefixes). Used by
   ../score-lengths.mjs.
   A request is {facts, tokenCount}; order is that of arrival. */
import fs from 'node:fs';
import readline from 'node:readline';

/** Yields the requests of a trace, line by line; `samplePrefixes` is the router's choice among a prompt's
 *  block ids. Throws an Error that names file, line and what is wrong. */
export async function* readTrace(file, samplePrefixes) {
  const lines = readline.createInterface({
    input: fs.createReadStream(file),
    crlfDelay: Number.POSITIVE_INFINITY,
  });
  let parse;
  let lineNumber = 0;
  for await (const raw of lines) {
    lineNumber++;
    const line = lineNumber === 1 ? raw.replace(/^\uFEFF/, '') : raw;
    if (line.trim() === '') continue;
    try {
      if (parse === undefined) {
        const isJson = line.trimStart().startsWith('{');
        parse = isJson ? mooncakeParser(samplePrefixes) : azureParser(line);
        if (!isJson) continue;
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
    throw new Error(
      'neither a CSV with ContextTokens and GeneratedTokens nor JSON lines with input_length and output_length',
    );
  }
  return (line) => {
    const cells = line.split(',');
    return {
      facts: { promptTokenCount: wholeNumber('ContextTokens', cells[prompt]) },
      tokenCount: wholeNumber('GeneratedTokens', cells[output]),
    };
  };
}

const mooncakeParser = (samplePrefixes) => (line) => {
  const row = JSON.parse(line);
  const promptTokenCount = wholeNumber('input_length', row.input_length);
  const tokenCount = wholeNumber('output_length', row.output_length);
  return { facts: { promptTokenCount, prefixIds: samplePrefixes(row.hash_ids ?? []) }, tokenCount };
};

function wholeNumber(name, text) {
  const value = Number(text);
  if (text === undefined || text === null || text === '' || !Number.isInteger(value) || value < 0) {
    throw new Error(`${name} is ${JSON.stringify(text)}, not a whole number of tokens`);
  }
  return value;
}
