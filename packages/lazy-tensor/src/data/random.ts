/** Scrambles 32 bits; the finaliser of MurmurHash3. */
function scramble(bits: number): number {
  let x = bits;
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
  return x ^ (x >>> 16);
}

/**
 * Numbers in [0, 1) with 53 random bits, for choices made on the host. Each depends only on the seed and its place in
 * the sequence, so that a sequence can be taken up anywhere. SplitMix, Steele et al. 2014.
 */
export class HostRandom {
  private readonly start: number;

  constructor(
    seed: number,
    private place = 0,
  ) {
    this.start = scramble(scramble(seed | 0) ^ Math.floor(seed / 2 ** 32));
  }

  next(): number {
    const bits = (half: number): number =>
      scramble(this.start + Math.imul(2 * this.place + half, 0x9e3779b9)) >>> 0;
    const value = ((bits(0) >>> 5) * 2 ** 26 + (bits(1) >>> 6)) / 2 ** 53;
    this.place++;
    return value;
  }
}
