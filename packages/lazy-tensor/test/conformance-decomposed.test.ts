import { conformance, noFusedKernel } from "./conformance.harness.js";

// What a device without the fused kernels runs.
conformance("cpu, decomposed", {
  device: "cpu",
  supports: noFusedKernel,
  takes: (op) => op.decompose !== undefined,
});
