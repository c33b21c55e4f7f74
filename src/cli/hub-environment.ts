/** Hugging Face's environment variables, with the meanings and defaults that Python's tools give them. Used
 *  by model-option.ts and models.ts.
 *
 *  HF_ENDPOINT   HF_TOKEN, else the file HF_TOKEN_PATH that "hf auth login" writes   HF_HUB_OFFLINE,
 *  TRANSFORMERS_OFFLINE
 *  HF_HUB_CACHE, else HF_HOME/hub, else XDG_CACHE_HOME/huggingface/hub              HTTPS_PROXY, HTTP_PROXY,
 *  ALL_PROXY, NO_PROXY */
import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import path from 'node:path';
import { TwostrokeError } from '../base/errors.js';
import { defaultEndpoint, type HubSettings } from '../hub/settings.js';

export function hubSettings(environment: NodeJS.ProcessEnv = process.env): HubSettings {
  const value = (name: string) => environment[name]?.trim() || environment[name.toLowerCase()]?.trim() || '';
  const cache = value('XDG_CACHE_HOME') || path.join(homedir(), '.cache');
  const home = value('HF_HOME') || path.join(cache, 'huggingface');
  const all = value('ALL_PROXY');
  return {
    endpoint: checkedEndpoint(value('HF_ENDPOINT') || defaultEndpoint),
    token: value('HF_TOKEN') || savedToken(value('HF_TOKEN_PATH') || path.join(home, 'token')),
    cacheFolder: expanded(value('HF_HUB_CACHE') || value('HUGGINGFACE_HUB_CACHE') || path.join(home, 'hub')),
    isOffline: [value('HF_HUB_OFFLINE'), value('TRANSFORMERS_OFFLINE')].some((text) =>
      /^(1|on|yes|true)$/i.test(text),
    ),
    proxies: {
      http: value('HTTP_PROXY') || all,
      https: value('HTTPS_PROXY') || all,
      none: value('NO_PROXY'),
    },
  };
}

function checkedEndpoint(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url !== null && /^https?:$/.test(url.protocol)) return text.replace(/\/+$/, '');
  throw new TwostrokeError(
    'invalid_request',
    `HF_ENDPOINT: expected an http or https URL, got ${JSON.stringify(text)}`,
  );
}

function savedToken(file: string): string | null {
  try {
    return readFileSync(expanded(file), 'utf8').trim() || null;
  } catch {
    return null;
  }
}

function expanded(folder: string): string {
  return path.resolve(folder.replace(/^~(?=\/|$)/, homedir()));
}
