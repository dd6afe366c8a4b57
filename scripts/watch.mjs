// npm run watch: the TypeScript build and the tests, both on every save.
import { spawn } from "node:child_process";
import { join } from "node:path";
import { main, root, setup } from "./setup.mjs";

await main(async () => {
  await setup();
  const start = (script, ...args) =>
    spawn(process.execPath, [join(root, "node_modules", script), ...args], { cwd: root, stdio: "inherit" });
  const compiler = start("typescript/bin/tsc", "-b", "-w", "--preserveWatchOutput");
  const tests = start("vitest/vitest.mjs", ...process.argv.slice(2));
  tests.on("close", (code) => {
    compiler.kill();
    process.exitCode = code ?? 1;
  });
});
