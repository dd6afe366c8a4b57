import { cudaInfo } from "@lazuli/cuda-backend";
import { describe } from "vitest";
import { outOfRange } from "./conformance.faults.js";
import { conformance, everyKernel } from "./conformance.harness.js";

// On a GPU; LAZULI_CUDA_PATH=build/liblazuli_simt.so has an emulated one, which takes half an hour for all of it.
const { gpus, reason } = cudaInfo();

describe.skipIf(gpus.length === 0)(`on ${gpus[0]?.name ?? `no GPU (${reason})`}`, () => {
  conformance("cuda", { device: "cuda", supports: everyKernel });
  outOfRange("cuda");
});
