import { openDevice } from "@lazuli/cuda-backend";
import { expectGolden, loadGoldens } from "./conformance.goldens.js";
import { everyKernel, noFusedKernel, runSample } from "./conformance.harness.js";
import { samples } from "./ops.samples.js";
export async function main(dev: any, mode: string, op: string, name: string, log: (s: string) => void) {
  const device = openDevice(dev); const goldens = loadGoldens();
  for (const [o, list] of Object.entries(samples)) for (const s of list as any[]) {
    if ((op && o !== op) || (name && !name.split("|").includes(s.name))) continue;
    if (process.env.NAMES) log(`${o}/${s.name}\n`);
    for (const g of s.grad ? [false, true] : [false]) {
      const { outputs, names } = await runSample(device, o as any, s, mode === "decomposed" ? noFusedKernel : everyKernel, g);
      if (dev !== "null") try { expectGolden(goldens, g ? "grad" : "fwd", o as any, s, outputs, names); } catch (e: any) { log(e.message + "\n"); }
    }
  }
}
