/** Words that may not name a variable, and names that printed code has uses of its own for. */
const reserved = new Set(
  (
    "arguments await break case catch class const continue debugger default delete do else enum eval export extends " +
    "false finally for function if implements import in instanceof interface let new null package private protected " +
    "public return static super switch this throw true try typeof undefined var void while with yield " +
    "at fx noGrad op self Tensor Infinity NaN"
  ).split(" "),
);

/** Gives out names that are identifiers, each once: `add`, `add_1`, `add_2`. */
export class Names {
  private readonly counts = new Map<string, number>();

  /** A name like `wanted`, dots and what no identifier may hold replaced by `_`. */
  unique(wanted: string): string {
    const known = this.counts.get(wanted);
    if (known === undefined && simple.test(wanted) && !reserved.has(wanted)) {
      this.counts.set(wanted, 0);
      return wanted;
    }
    const base = identifier(wanted);
    for (let count = this.counts.get(base) ?? (reserved.has(base) ? 0 : -1); ; ) {
      const name = ++count === 0 ? base : `${base}_${count}`;
      this.counts.set(base, count);
      if (count > 0 && this.counts.has(name)) continue;
      if (count > 0) this.counts.set(name, 0);
      return name;
    }
  }

  /** Gives a name out that is known to be free; false where it is taken. */
  take(name: string): boolean {
    if (this.counts.has(name) || !simple.test(name) || reserved.has(name)) return false;
    this.counts.set(name, 0);
    return true;
  }
}

const simple = /^[A-Za-z_$][\w$]*$/;

const identifier = (wanted: string): string => {
  if (simple.test(wanted)) return wanted;
  const name = wanted.replace(/[^\w$]+/g, "_").replace(/^(?=\d)/, "_");
  return name === "" ? "_" : name;
};
