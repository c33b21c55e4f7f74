/**
 * Sentences of a Markdown page, for prose.test.ts: what a reader reads as prose. Code blocks, tables,
 * headings, comments and rules are left out; inline code is one word; a list item and a paragraph each begin
 * a sentence.
 */
export interface Sentence {
  readonly text: string;
  readonly wordCount: number;
  readonly figureCount: number;
}

export function sentencesOf(markdown: string): Sentence[] {
  return paragraphsOf(markdown).flatMap(split).map(measure);
}

function paragraphsOf(markdown: string): string[] {
  const paragraphs: string[] = [];
  let inCode = false;
  let current = '';
  const end = () => {
    if (current) paragraphs.push(current);
    current = '';
  };
  for (const line of markdown.replace(/<!--[\s\S]*?-->/g, '').split('\n')) {
    const isFence = /^\s*```/.test(line);
    if (isFence) inCode = !inCode;
    const isProse =
      !(inCode || isFence || /^(#|\||\s*$|---|> *$| {4}\S)/.test(line)) ||
      (!inCode && current && /^ {4}\S/.test(line));
    if (!isProse || /^\s*([*-]|\d+\.) /.test(line)) end();
    if (isProse) current += ` ${line.replace(/^\s*([*-]|\d+\.|>) /, '').trim()}`;
  }
  end();
  return paragraphs;
}

function split(paragraph: string): string[] {
  const plain = paragraph
    .replace(/`[^`]*`/g, 'CODE')
    .replace(/\]\([^)]*\)/g, ']')
    .replace(/[[\]*]/g, '');
  return plain.split(/(?<=[.!?][)"”]?)\s+(?=["“(]?[A-Z\d])/).filter((text) => /\w/.test(text));
}

function measure(text: string): Sentence {
  const words = text.split(/\s+/).filter((word) => !/^[–—−+=|]?$/.test(word));
  // A figure stands alone or with its unit; "bf16" and "Qwen3-8B" are names. A range and a product are one
  // figure.
  const figures =
    text.match(/(?<![\p{L}\d_.,-])\d[\d,.]*(?:(?: to |–| × | … |\^)\d[\d,.]*)*(?![\d_-]*\p{L})/gu) ?? [];
  return { text: text.trim(), wordCount: words.length, figureCount: figures.length };
}
