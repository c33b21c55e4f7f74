/** Where models come from and where they are kept. Plain values: cli/ reads them from the environment. Used
 *  by this folder. */
import { homedir } from 'node:os';
import path from 'node:path';

export interface HubSettings {
  /** Of the hub or a mirror, without a slash at the end. */
  readonly endpoint: string;
  /** Sent to the endpoint only. */
  readonly token: string | null;
  /** Hugging Face's cache, which Python's tools share. */
  readonly cacheFolder: string;
  /** Nothing is asked of the network. */
  readonly isOffline: boolean;
  readonly proxies: Proxies;
}

/** Empty text: none. */
interface Proxies {
  readonly http: string;
  readonly https: string;
  /** Hosts that are reached directly, comma separated. */
  readonly none: string;
}

export const defaultEndpoint = 'https://huggingface.co';

/** The cache as it is found, and no network. */
export const offlineSettings: HubSettings = {
  endpoint: defaultEndpoint,
  token: null,
  cacheFolder: path.join(homedir(), '.cache', 'huggingface', 'hub'),
  isOffline: true,
  proxies: { http: '', https: '', none: '' },
};
