/** Text as its UTF-8 bytes: token i is byte i. */
export const byteTokenizer = {
  vocabSize: 256,
  encode: (text: string): Uint8Array => new TextEncoder().encode(text),
  /** Bytes that are no UTF-8 become U+FFFD. */
  decode: (ids: ArrayLike<number>): string => new TextDecoder().decode(Uint8Array.from(ids)),
};
