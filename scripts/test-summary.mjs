// Prints `N passed, N failed` over the reports in a folder (vitest.json, *native*.json of GoogleTest).
// Further arguments name failed checks; each counts as one failure.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

const [folder, ...failedChecks] = process.argv.slice(2);
let passed = 0;
let failed = failedChecks.length;
for (const file of existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith(".json")) : []) {
  const report = JSON.parse(readFileSync(join(folder, file), "utf8"));
  if ("numPassedTests" in report) {
    passed += report.numPassedTests;
    // A file that does not load has no tests to fail, but fails all the same.
    const unloaded = report.testResults.filter(
      (suite) =>
        suite.status === "failed" && !suite.assertionResults.some((test) => test.status === "failed"),
    );
    failed += report.numFailedTests + unloaded.length;
  } else {
    const bad = report.failures + report.errors;
    passed += report.tests - bad - report.disabled;
    failed += bad;
  }
}
for (const check of failedChecks) console.log(`failed: ${check}`);
console.log(`${passed} passed, ${failed} failed`);
