/** Philox4x32-10 (Salmon et al. 2011): four random words of a counter of four words and a key of two. */
export function philox(counter: readonly number[], key: readonly number[]): number[] {
  let [c0, c1, c2, c3] = counter.map((word) => word >>> 0);
  let [k0, k1] = key.map((word) => word >>> 0);
  for (let round = 0; round < 10; round++) {
    const [high0, low0] = multiply(0xd2511f53, c0);
    const [high1, low1] = multiply(0xcd9e8d57, c2);
    [c0, c1, c2, c3] = [(high1 ^ c1 ^ k0) >>> 0, low1, (high0 ^ c3 ^ k1) >>> 0, low0];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

function multiply(a: number, b: number): [number, number] {
  const product = BigInt(a) * BigInt(b);
  return [Number(product >> 32n), Number(product & 0xffffffffn)];
}

/** The four words that elements 4 block .. 4 block + 3 of a draw come from. */
export function drawWords(key: readonly number[], stream: number, block: number): number[] {
  const fold = (word: number): number => {
    const bits = BigInt.asUintN(64, BigInt(word));
    return Number((bits ^ (bits >> 32n)) & 0xffffffffn);
  };
  const split = (value: number): number[] => [value >>> 0, Math.floor(value / 2 ** 32) >>> 0];
  return philox([...split(block), ...split(stream)], key.map(fold));
}
