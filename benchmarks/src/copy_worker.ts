import { parentPort } from "node:worker_threads";

/** Copies `bytes` again and again for `seconds`; answers with the bytes read and written a second. */
parentPort?.once("message", ({ bytes, seconds }: { bytes: number; seconds: number }) => {
  const from = new Uint8Array(bytes).fill(1);
  const to = new Uint8Array(bytes).fill(2);
  const started = performance.now();
  let copies = 0;
  let elapsed = 0;
  while (elapsed < seconds) {
    to.set(from);
    copies++;
    elapsed = (performance.now() - started) / 1000;
  }
  parentPort?.postMessage((2 * bytes * copies) / elapsed);
});
