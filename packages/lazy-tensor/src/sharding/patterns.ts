import { ShardingError } from "@lazuli/sharding";

/** A path pattern: `*` is one name, `**` any number of them. */
export function pathPattern(pattern: string): RegExp {
  const parts = pattern.split(".").map((part) => {
    if (part === "**") return "(?:[^.]+\\.)*[^.]+";
    return part
      .split("*")
      .map((text) => text.replaceAll(/[.+?^${}()|[\]\\]/g, "\\$&"))
      .join("[^.]*");
  });
  return new RegExp(`^${parts.join("\\.")}$`);
}

/** For each pattern the entries whose path it matches. Throws ShardingError for one that matches none. */
export function matchPaths<T>(
  op: string,
  patterns: readonly string[],
  entries: readonly (readonly [string, T])[],
): Map<string, (readonly [string, T])[]> {
  const found = new Map<string, (readonly [string, T])[]>();
  for (const pattern of patterns) {
    const expression = pathPattern(pattern);
    const matches = entries.filter(([path]) => expression.test(path));
    if (matches.length === 0) {
      const known = entries.slice(0, 8).map(([path]) => path);
      throw new ShardingError(
        op,
        `the pattern "${pattern}" matches nothing; there are ${known.join(", ")}${entries.length > known.length ? ", ..." : ""}`,
      );
    }
    found.set(pattern, matches);
  }
  return found;
}
