import { conformance, everyKernel } from "./conformance.harness.js";

// The kernels of machines without AVX-512. Where there is no AVX2 either this repeats conformance-baseline.test.ts.
process.env.LAZULI_ISA = "avx2";

conformance("cpu with AVX2", { device: "cpu", supports: everyKernel });
