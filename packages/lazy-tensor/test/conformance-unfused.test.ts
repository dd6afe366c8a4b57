import { conformance, everyKernel } from "./conformance.harness.js";

// A kernel a node: what fusion changes, and nothing else, differs from conformance.test.ts.
process.env.LAZULI_FUSE = "0";

conformance("cpu without fusion", { device: "cpu", supports: everyKernel });
