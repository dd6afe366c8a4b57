import { conformance, everyKernel } from "./conformance.harness.js";

// The kernels that every machine of this architecture can run.
process.env.LAZULI_ISA = "baseline";

conformance("cpu, baseline", { device: "cpu", supports: everyKernel });
