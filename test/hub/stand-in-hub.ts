/** A Hugging Face hub for tests: the listing and the files of repositories in memory, with the faults that a
 *  test asks for, and a second server that large files are redirected to, as the real one does. Everything
 *  that was asked is recorded. */
import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface Asked {
  readonly server: 'hub' | 'cdn';
  readonly path: string;
  readonly range: string | null;
  readonly authorization: string | null;
}

/** What goes wrong with one answer. */
export interface Fault {
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  /** The connection is cut after so many bytes of the body. */
  readonly cutAfter?: number;
  /** So many bytes come, then nothing: until the client has gone. */
  readonly stallAfter?: number;
  /** Another body than the file's. */
  readonly body?: Buffer;
  /** All of the file, whatever range was asked for. */
  readonly ignoresRanges?: boolean;
}

export interface StandInFile {
  readonly bytes: Buffer;
  /** Large files have a sha256 and lie on the second server. */
  readonly isLarge: boolean;
  /** Instead of the true one, in the listing. */
  readonly announcedByteCount?: number;
  readonly announcedHash?: string;
}

export class StandInHub {
  readonly asked: Asked[] = [];
  readonly repositories = new Map<string, Map<string, StandInFile>>();
  commit = 'c0'.repeat(20);
  licence: string | null = 'apache-2.0';
  /** Null: no fault. */
  fault: (asked: Asked) => Fault | null = () => null;
  /** Whether every request but the redirected ones needs this key. */
  token: string | null = null;
  /** Resolves pending stalls' waiters: how many answers have stalled. */
  stalledCount = 0;
  readonly #hub: Server;
  readonly #cdn: Server;

  private constructor() {
    this.#hub = createServer((request, response) => this.#answerHub(request, response));
    this.#cdn = createServer((request, response) => this.#answerFile('cdn', request, response));
  }

  static async start(): Promise<StandInHub> {
    const hub = new StandInHub();
    for (const server of [hub.#hub, hub.#cdn]) {
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    }
    return hub;
  }

  get url(): string {
    return urlOf(this.#hub);
  }

  get cdnUrl(): string {
    return urlOf(this.#cdn);
  }

  add(id: string, files: Readonly<Record<string, string | Buffer | StandInFile>>): void {
    const entries = Object.entries(files).map(([name, file]): [string, StandInFile] => {
      if (typeof file === 'string') return [name, { bytes: Buffer.from(file), isLarge: false }];
      return [
        name,
        Buffer.isBuffer(file) ? { bytes: file, isLarge: /\.(safetensors|gguf)$/.test(name) } : file,
      ];
    });
    this.repositories.set(id, new Map(entries));
  }

  async close(): Promise<void> {
    for (const server of [this.#hub, this.#cdn]) {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    }
  }

  #answerHub(request: IncomingMessage, response: ServerResponse) {
    const [, id = '', revision = ''] =
      /^\/api\/models\/([^/]+\/[^/]+)\/revision\/([^/?]+)/.exec(request.url ?? '') ?? [];
    if (id === '') return this.#answerFile('hub', request, response);
    const asked = this.#record('hub', request);
    const repository = this.repositories.get(id);
    const fault = this.fault(asked) ?? this.#refusal(asked, repository, revision);
    if (fault !== null) return this.#send(response, fault.body ?? Buffer.alloc(0), fault);
    const siblings = [...(repository ?? [])].map(([name, file]) => listed(name, file));
    const cardData = this.licence === null ? undefined : { license: this.licence };
    this.#send(response, Buffer.from(JSON.stringify({ id, sha: this.commit, siblings, cardData })), {});
  }

  #refusal(asked: Asked, repository: unknown, revision: string): Fault | null {
    if (this.token !== null && asked.authorization !== `Bearer ${this.token}`) return { status: 401 };
    if (repository === undefined) return { status: 404, headers: { 'x-error-code': 'RepoNotFound' } };
    const isKnown = ['main', this.commit].includes(decodeURIComponent(revision));
    return isKnown ? null : { status: 404, headers: { 'x-error-code': 'RevisionNotFound' } };
  }

  #answerFile(server: Asked['server'], request: IncomingMessage, response: ServerResponse) {
    const asked = this.#record(server, request);
    const fault = this.fault(asked);
    const [, id = '', name = ''] = /^\/([^/]+\/[^/]+)\/resolve\/[0-9a-f]{40}\/(.+)$/.exec(asked.path) ?? [];
    const file = this.repositories.get(id)?.get(decodeURIComponent(name));
    if (fault?.status !== undefined) return this.#send(response, Buffer.alloc(0), fault);
    if (file === undefined) return this.#send(response, Buffer.alloc(0), { status: 404 });
    if (server === 'hub' && file.isLarge) {
      return this.#send(response, Buffer.alloc(0), {
        status: 302,
        headers: { location: this.cdnUrl + asked.path },
      });
    }
    const start =
      fault?.ignoresRanges === true ? 0 : Number(/^bytes=(\d+)-$/.exec(asked.range ?? '')?.[1] ?? 0);
    const bytes = fault?.body ?? file.bytes;
    const range =
      start === 0 ? {} : { 'content-range': `bytes ${start}-${bytes.length - 1}/${bytes.length}` };
    this.#send(response, bytes.subarray(start), {
      status: start === 0 ? 200 : 206,
      ...fault,
      headers: range,
    });
  }

  #send(response: ServerResponse, body: Buffer, fault: Fault): void {
    const { status = 200, headers = {}, cutAfter, stallAfter } = fault;
    response.writeHead(status, { ...headers, 'content-length': String(body.length) });
    if (cutAfter !== undefined) response.write(body.subarray(0, cutAfter), () => response.destroy());
    else if (stallAfter !== undefined)
      response.write(body.subarray(0, stallAfter), () => void this.stalledCount++);
    else response.end(body);
  }

  #record(server: 'hub' | 'cdn', { url = '', headers }: IncomingMessage): Asked {
    const asked = {
      server,
      path: url,
      range: headers.range ?? null,
      authorization: headers.authorization ?? null,
    };
    this.asked.push(asked);
    return asked;
  }
}

function listed(name: string, { bytes, isLarge, announcedByteCount, announcedHash }: StandInFile): object {
  const size = announcedByteCount ?? bytes.length;
  const blobId = createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');
  const sha256 = announcedHash ?? createHash('sha256').update(bytes).digest('hex');
  return isLarge
    ? { rfilename: name, size, blobId, lfs: { sha256, size, pointerSize: 134 } }
    : { rfilename: name, size, blobId: announcedHash ?? blobId };
}

function urlOf(server: Server): string {
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}
