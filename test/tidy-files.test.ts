/** How a source file is kept: a header whose "used by" is true, exports that somebody imports, lines,
 *  functions and files of a readable size, and no line golf. Limits are ratchets: what is listed above its
 *  limit may shrink only. */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import ts from 'typescript59';
import { describe, expect, it } from 'vitest';

const columnsMax = 110;
/** Drawings and tables in comments: they cannot be wrapped. */
const drawingColumnsMax = 140;
const fileLinesMax = 400;
const longFiles: Readonly<Record<string, number>> = {
  'engine/scheduler.ts': 392,
  'device/native-ops.ts': 383,
};
const functionLinesMax = 60;
/** Lists of options, routes or the parts of a plot, one after the other. */
const longFunctions: Readonly<Record<string, number>> = {
  'bench/plots.ts latencyPlot': 64,
  'bench/request-plots.ts cdfPlot': 70,
  'bench/request-plots.ts predictionPlot': 61,
  'bench/request-plots.ts routePlot': 88,
  'cli/bench-sweep.ts benchSweepCommand': 73,
  'cli/serve-options.ts serveCommand': 85,
  'cli/simulate.ts simulateCommand': 76,
  'cli/worker-options.ts addWorkerOptions': 95,
  'server/app.ts routes': 80,
  'server/routing-metrics.ts registerRoutingMetrics': 62,
  'worker/worker.ts serve': 65,
};
/** The package's own entries, and types that a declaration file must be able to name. */
const exportedFor = [
  'library/client.ts',
  'profile/fit-step.ts FitError',
  'router/length-levels.ts LevelOptions',
];

const repository = path.resolve(import.meta.dirname, '..');
const filesUnder = (folder: string, pattern: RegExp) =>
  readdirSync(path.join(repository, folder), { recursive: true, encoding: 'utf8' })
    .filter((name) => pattern.test(name))
    .map((name) => ({ file: name, text: readFileSync(path.join(repository, folder, name), 'utf8') }));
const sources = filesUnder('src', /\.ts$/);
const outside = ['test', 'bench', 'scripts', 'examples'].flatMap((folder) =>
  filesUnder(folder, /\.(ts|mjs)$/),
);

const blankLines = (text: string) => text.replace(/[^\n]/g, '');
const withoutComments = (text: string) =>
  text.replace(/\/\*[\s\S]*?\*\//g, blankLines).replace(/(^|\s)\/\/.*$/gm, '$1');

describe('headers', () => {
  const importsOf = new Map(sources.map(({ file, text }) => [file, importedBy(file, text)]));
  const usersOf = (file: string) =>
    sources.filter((other) => importsOf.get(other.file)?.has(file)).map((other) => other.file);

  it('say what the file is', () => {
    const bare = sources.filter(({ text }) => !/^(#!.*\n)?\/\*\*/.test(text)).map(({ file }) => file);
    expect(bare).toEqual([]);
  });

  it('claim only users that import the file', () => {
    const untrue = sources.flatMap(({ file, text }) => {
      const users = usersOf(file);
      return claimedUsers(text)
        .filter((name) => !users.some((user) => isNamed(user, name)))
        .map((name) => `${file}: used by ${name}`);
    });
    expect(untrue).toEqual([]);
  });

  it('are read as meant', () => {
    const text =
      '/** A file. Used by a.ts,\n *  b/c.ts and d/, which scripts/x call. Read by e.ts. See f.ts. */';
    expect(claimedUsers(text)).toEqual(['a.ts', 'b/c.ts', 'd/', 'e.ts']);
    expect(isNamed('control/jobs/a.ts', 'jobs/')).toBe(true);
    expect(isNamed('control/a.ts', 'b/a.ts')).toBe(false);
  });
});

/** Of the sentences "Used by a.ts and folder/": what is named up to the sentence's end. */
function claimedUsers(text: string): readonly string[] {
  const header = (/^(?:#!.*\n)?\/\*\*([\s\S]*?)\*\//.exec(text)?.[1] ?? '').replace(/\s*\n\s*\*?\s*/g, ' ');
  const sentences =
    header.match(
      /\b(?:Used|Read|Made|Called|Run|Registered|Started|Driven)(?: and \w+)? by .*?(?=[.:]( |$)|;|$)/g,
    ) ?? [];
  return sentences.flatMap(
    (sentence) => sentence.match(/(?<![\w@/-])[\w-]+(?:\/[\w-]+)*(?:\.ts\b|\/(?=[\s,;)]|$))/g) ?? [],
  );
}

function isNamed(user: string, name: string): boolean {
  return name.endsWith('/')
    ? `/${path.dirname(user)}/`.includes(`/${name}`)
    : `/${user}`.endsWith(`/${name}`);
}

function importedBy(file: string, text: string): ReadonlySet<string> {
  const named = [...text.matchAll(/(?:from|import\()\s*'(\.[^']+)'/g)].map(([, name = '']) =>
    name.replace(/\.js$/, '.ts'),
  );
  return new Set(named.map((name) => path.join(path.dirname(file), name)));
}

it('every export is imported somewhere', () => {
  const others = [...sources, ...outside].map(({ file, text }) => ({
    file,
    words: new Set(withoutComments(text).match(/\w+/g)),
  }));
  const unused = sources.flatMap(({ file, text }) =>
    [
      ...text.matchAll(
        /^export (?:abstract |async )?(?:interface|class|type|enum|const|function\*?|let) (\w+)/gm,
      ),
    ]
      .map(([, name = '']) => name)
      .filter((name) => !others.some((other) => other.file !== file && other.words.has(name)))
      .map((name) => `${file} ${name}`),
  );
  expect(unused.filter((each) => !exportedFor.some((known) => each.startsWith(known)))).toEqual([]);
});

describe('sizes', () => {
  it('lines fit the page; texts and drawings in comments may be longer', () => {
    const wide = sources.flatMap(({ file, text }) => {
      const plain = text
        .replace(/`(?:[^`\\]|\\.)*`/gs, (literal) => `\`${blankLines(literal)}\``)
        .replace(/'(?:[^'\n\\]|\\.)*'|\/(?:[^/\n\\* ]|\\.)(?:[^/\n\\]|\\.)*\/[a-z]*/g, "''");
      const shown = text.split('\n');
      return plain.split('\n').flatMap((line, index) => {
        const isDrawing = /^\s*\*\s{3,}/.test(line);
        return [...line].length <= (isDrawing ? drawingColumnsMax : columnsMax)
          ? []
          : [`${file}:${index + 1}: ${shown[index]}`];
      });
    });
    expect(wide).toEqual([]);
  });

  it('files are split by idea', () => {
    const long = sources.filter(
      ({ file, text }) => text.split('\n').length - 1 > (longFiles[file] ?? fileLinesMax),
    );
    expect(long.map(({ file }) => file)).toEqual([]);
  });

  it('functions are short', () => {
    const long = sources.flatMap(({ file, text }) =>
      functionsOf(file, text).filter(
        ({ name, lineCount }) => lineCount > (longFunctions[`${file} ${name}`] ?? functionLinesMax),
      ),
    );
    expect(long).toEqual([]);
  });
});

function functionsOf(file: string, text: string): { file: string; name: string; lineCount: number }[] {
  const source = ts.createSourceFile(file, text, ts.ScriptTarget.Latest, true);
  const found: { file: string; name: string; lineCount: number }[] = [];
  const lineOf = (position: number) => source.getLineAndCharacterOfPosition(position).line;
  const visit = (node: ts.Node): void => {
    if (ts.isFunctionLike(node) && 'body' in node && node.body !== undefined) {
      const lineCount = lineOf(node.end) - lineOf(node.getStart()) + 1;
      found.push({ file, name: node.name?.getText() ?? '(nameless)', lineCount });
    }
    ts.forEachChild(node, visit);
  };
  visit(source);
  return found;
}

/** `...{ a, b }` in a literal only joins properties onto a line. A spread that depends on something is
 *  none. */
it('no literal is spread into another only to save lines', () => {
  const spread = sources.flatMap(({ file, text }) =>
    (withoutComments(text).match(/[{,]\s*\.\.\.\{(?! *\}).*/g) ?? []).map(
      (line) => `${file}: ${line.trim()}`,
    ),
  );
  expect(spread).toEqual([]);
});

it('tools reach what is built by one name: package.json says where #built/ is', () => {
  const byPath = outside
    .filter(({ file }) => file.endsWith('.mjs'))
    .flatMap(({ file, text }) =>
      (text.match(/(from |import\()'[^']*\bdist\/.*/g) ?? []).map((line) => `${file}: ${line}`),
    );
  expect(byPath).toEqual([]);
});
