import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";

/** Whether the path has wildcards: `*` and `?` within a name, `**` over any folders. */
export const isGlob = (path: string): boolean => /[*?]/.test(path);

/** One path segment as a test of a name. Hidden names need a dot in the pattern, as in a shell. */
function segmentTest(segment: string): (name: string) => boolean {
  const source = segment
    .replace(/[.+^${}()|[\]\\]/g, "\\$&")
    .replaceAll("*", ".*")
    .replaceAll("?", ".");
  const pattern = new RegExp(`^${source}$`, "s");
  return (name) => pattern.test(name) && (segment.startsWith(".") || !name.startsWith("."));
}

async function entries(folder: string): Promise<{ name: string; isFolder: boolean }[]> {
  const found = await readdir(folder || ".").catch(() => []);
  const kinds = found.sort().map(async (name) => ({
    name,
    isFolder: await stat(join(folder, name)).then(
      (info) => info.isDirectory(),
      () => false,
    ),
  }));
  return Promise.all(kinds);
}

/** Paths that match, in order of name. Folders that cannot be read match nothing. */
export async function glob(pattern: string): Promise<string[]> {
  const walk = async (folder: string, segments: readonly string[]): Promise<string[]> => {
    const [segment, ...rest] = segments;
    if (segment === undefined) return [folder];
    if (segment !== "**" && !isGlob(segment)) {
      const path = folder === "" ? segment || "/" : join(folder, segment);
      const exists = await stat(path).then(
        () => true,
        () => false,
      );
      return exists ? walk(path, rest) : [];
    }
    const out: string[] = [];
    if (segment === "**") {
      out.push(...(await walk(folder, rest)));
      for (const { name, isFolder } of await entries(folder)) {
        if (isFolder && !name.startsWith(".")) out.push(...(await walk(join(folder, name), segments)));
      }
      return out;
    }
    const matches = segmentTest(segment);
    for (const { name, isFolder } of await entries(folder)) {
      if (matches(name) && (rest.length === 0 || isFolder))
        out.push(...(await walk(join(folder, name), rest)));
    }
    return out;
  };
  return [...new Set(await walk("", pattern.split("/")))];
}
