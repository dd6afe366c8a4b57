import { conformance, everyKernel } from "./conformance.harness.js";

// It compiles and plans as the CPU does and computes nothing: every program is taken, every result has its size.
conformance("null", { device: "null", supports: everyKernel });
