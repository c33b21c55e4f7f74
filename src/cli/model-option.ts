/** What `--model` means on this machine: resolveModelFolder with Hugging Face's environment variables. Used
 *  by serve.ts and generate.ts. */
import path from 'node:path';
import { resolveModelFolder } from '../model/model-folder.js';

export function findModel(nameOrPath: string): string {
  const { HF_HUB_CACHE, HF_HOME } = process.env;
  const hubCacheFolder = HF_HUB_CACHE ?? (HF_HOME === undefined ? undefined : path.join(HF_HOME, 'hub'));
  return resolveModelFolder(nameOrPath, hubCacheFolder === undefined ? {} : { hubCacheFolder });
}
