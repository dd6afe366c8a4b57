import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { FileFormatError } from "../errors.js";

/** What the system says of a failed call, without Node's own prefix: `no such file or directory`. */
export function systemReason(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return message.replace(/^[A-Z0-9_]+: /, "").replace(/, [a-z]+( '.*')?$/s, "");
}

/** Opens a file to read. Throws FileFormatError that names it. */
export async function openToRead(
  format: string,
  path: string,
): Promise<{ handle: FileHandle; size: number }> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(path, "r");
    const stat = await handle.stat();
    if (stat.isFile()) return { handle, size: stat.size };
  } catch (error) {
    throw new FileFormatError(format, `${path}: cannot be read: ${systemReason(error)}`, "", {
      cause: error,
    });
  }
  await handle.close();
  throw new FileFormatError(format, `${path}: cannot be read: it is no regular file`);
}

/** The largest read that Node hands to the system in one call is below 2 GiB. */
const chunkBytes = 2 ** 30;

/** Fills `target` from `position` on. Throws FileFormatError where the file ends before it. */
export async function readExactly(
  format: string,
  path: string,
  handle: FileHandle,
  target: Uint8Array,
  position: number,
): Promise<void> {
  for (let done = 0; done < target.length; ) {
    const length = Math.min(chunkBytes, target.length - done);
    const { bytesRead } = await handle.read(target, done, length, position + done);
    if (bytesRead === 0) {
      throw new FileFormatError(format, `${path}: truncated: it ends at byte ${position + done}`);
    }
    done += bytesRead;
  }
}

export async function writeAll(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const length = Math.min(chunkBytes, bytes.length - done);
    done += (await handle.write(bytes, done, length)).bytesWritten;
  }
}

/** Makes renames inside a folder survive a power cut. */
export async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

let temporaries = 0;

/**
 * Writes a file under a temporary name beside `path`, on disk before it is renamed: readers see the old file or the
 * whole new one, and a failure leaves the old one.
 */
export async function writeAtomically(
  path: string,
  write: (handle: FileHandle) => Promise<void>,
): Promise<void> {
  const temporary = `${path}.${process.pid}-${++temporaries}.tmp`;
  const handle = await open(temporary, "wx");
  try {
    try {
      await write(handle);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  await syncFolder(dirname(path));
}

/** Writes text or bytes to a file that is never seen half written. */
export const writeFileAtomically = (path: string, content: string | Uint8Array): Promise<void> =>
  writeAtomically(path, (handle) =>
    writeAll(handle, typeof content === "string" ? Buffer.from(content) : content),
  );
