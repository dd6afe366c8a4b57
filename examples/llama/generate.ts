import { byteTokenizer, HostRandom, noGrad, tensor } from "@lazuli/lazy-tensor";
import type { Llama } from "./model.js";

export interface GenerateOptions {
  /** Tokens to add. */
  readonly tokens: number;
  /** Tokens the model looks back on; every forward pass has this length, so that one program serves them all. */
  readonly window: number;
  /** Below 1 sharpens the choice; 0 always takes the likeliest. */
  readonly temperature?: number;
  /** Chooses among the `topK` likeliest; 0: among all. */
  readonly topK?: number;
  readonly seed?: number;
}

/** Index drawn from softmax(logits / temperature) over the `topK` largest. */
export function sample(logits: Float32Array, temperature: number, topK: number, random: HostRandom): number {
  const order = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a]);
  if (temperature === 0) return order[0];
  const candidates = topK > 0 ? order.slice(0, topK) : order;
  const weights = candidates.map((id) => Math.exp((logits[id] - logits[order[0]]) / temperature));
  let left = random.next() * weights.reduce((sum, weight) => sum + weight, 0);
  for (let i = 0; i < candidates.length; i++) {
    left -= weights[i];
    if (left < 0) return candidates[i];
  }
  return candidates[0];
}

/** Logits of the token after `ids`. What stands behind them in the window is not seen: attention is causal. */
async function nextLogits(model: Llama, ids: readonly number[], window: number): Promise<Float32Array> {
  const padded = new Int32Array(window);
  padded.set(ids);
  using input = tensor(padded, { shape: [1, window] });
  // An input rather than a number, so that every length runs the same program.
  using last = tensor(Int32Array.of(ids.length - 1));
  using logits = noGrad(() => model.forward(input).indexSelect(1, last).to("float32"));
  return (await logits.data()) as Float32Array;
}

/** Text that goes on after `prompt`, of a model over bytes. */
export async function generate(model: Llama, prompt: string, options: GenerateOptions): Promise<string> {
  const { tokens, window, temperature = 1, topK = 0, seed = 0 } = options;
  const random = new HostRandom(seed);
  const prefix = byteTokenizer.encode(prompt);
  const ids = prefix.length > 0 ? [...prefix] : [0x0a];
  for (let i = 0; i < tokens; i++) {
    const logits = await nextLogits(model, ids.slice(-window), window);
    ids.push(sample(logits.subarray(0, byteTokenizer.vocabSize), temperature, topK, random));
  }
  return byteTokenizer.decode(ids);
}
