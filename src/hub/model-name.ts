/** A model's name on a Hugging Face hub: `org/name[@revision][:file]`. Used by this folder and the commands.
 *  Invariant: what has been parsed may be joined to a folder's path, because no part of it is empty, `.`,
 *  `..`, absolute or longer than a file name may be. */

export interface ModelName {
  /** `org/name`. */
  readonly id: string;
  /** A branch, a tag or a commit. */
  readonly revision: string;
  /** A file of the repository, or a part of its name that no other GGUF file has, such as `Q4_K_M`; null: the
   *  safetensors. */
  readonly file: string | null;
}

const defaultRevision = 'main';

const pattern = /^([^/@:]+\/[^/@:]+)(?:@([^:]+))?(?::(.+))?$/;
const idPattern = /^[A-Za-z0-9][\w.-]{0,95}\/[A-Za-z0-9][\w.-]{0,95}$/;

/** Null when the text is no such name. */
export function parseModelName(text: string): ModelName | null {
  const [, id = '', revision = defaultRevision, file = null] = pattern.exec(text) ?? [];
  if (!idPattern.test(id) || /--|\.\./.test(id)) return null;
  if (!isSafePath(revision) || revision.length > 200 || (file !== null && !isSafePath(file))) return null;
  return { id, revision, file };
}

/** `org/name`, and the revision unless it is the default. */
export function nameText({ id, revision }: ModelName): string {
  return revision === defaultRevision ? id : `${id}@${revision}`;
}

/** Whether a path from elsewhere, joined to a folder, stays within it, on every system that may read the
 *  folder later. */
export function isSafePath(text: string): boolean {
  return text.length <= 1000 && text.split('/').every(isSafePart);
}

function isSafePart(part: string): boolean {
  if (part === '' || part === '.' || part === '..' || part.length > 240) return false;
  return /^[\x20-\x7e]+$/.test(part) && !/[\\:]/.test(part);
}

export function isCommit(text: string): boolean {
  return /^[0-9a-f]{40}$/.test(text);
}
