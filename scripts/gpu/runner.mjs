// What vitest offers to the test files that travel to a GPU machine (pack.mjs), where vitest does not: enough of it for
// them. Tests run one after another; the last line is `N passed, N failed, N skipped`.
import assert from "node:assert/strict";
import { setTimeout as wait } from "node:timers/promises";

const suites = [{ name: "", before: [], after: [], tests: [], isSkipped: false, inner: [] }];
const current = () => suites.at(-1);

export function describe(name, body, isSkipped = false) {
  const suite = {
    name,
    before: [],
    after: [],
    tests: [],
    isSkipped: isSkipped || current().isSkipped,
    inner: [],
  };
  current().inner.push(suite);
  suites.push(suite);
  try {
    body();
  } finally {
    suites.pop();
  }
}
describe.skipIf = (skip) => (name, body) => describe(name, body, Boolean(skip));

/** `%s` by the case's values, in order. */
const titled = (title, values) => values.reduce((text, value) => text.replace("%s", String(value)), title);
const bodyOf = (args) => args.find((arg) => typeof arg === "function");
const timeoutOf = (args) => args.find((arg) => typeof arg === "object" && arg !== null)?.timeout ?? 60_000;

export function it(name, ...args) {
  current().tests.push({ name, body: bodyOf(args), timeout: timeoutOf(args) });
}
it.each =
  (cases) =>
  (title, ...args) => {
    for (const each of cases) {
      const values = Array.isArray(each) ? each : [each];
      it(titled(title, values), { timeout: timeoutOf(args) }, () => bodyOf(args)(...values));
    }
  };
it.skipIf = (skip) => (skip ? () => {} : it);
export const test = it;
export const beforeAll = (body) => current().before.push(body);
export const afterAll = (body) => current().after.push(body);

const matches = (message, expected) =>
  expected === undefined ||
  (expected instanceof RegExp ? expected.test(message) : message.includes(String(expected)));

function matchers(value, note, isNot) {
  const check = (holds, what) => {
    if (holds === isNot)
      assert.fail(`${note ? `${note}: ` : ""}${String(value)} ${isNot ? "is" : "is not"} ${what}`);
  };
  const equal = (expected) => {
    try {
      assert.deepEqual(value, expected);
      return true;
    } catch {
      return false;
    }
  };
  const thrown = () => {
    try {
      value();
    } catch (error) {
      return error;
    }
  };
  return {
    toBe: (expected) => check(Object.is(value, expected), String(expected)),
    toEqual: (expected) => check(equal(expected), JSON.stringify(expected)),
    toHaveLength: (length) => check(value.length === length, `of length ${length}`),
    toBeLessThan: (limit) => check(value < limit, `below ${limit}`),
    toBeGreaterThan: (limit) => check(value > limit, `above ${limit}`),
    toBeLessThanOrEqual: (limit) => check(value <= limit, `at most ${limit}`),
    toBeGreaterThanOrEqual: (limit) => check(value >= limit, `at least ${limit}`),
    toContain: (part) => check(value.includes(part), `with ${part}`),
    toMatch: (pattern) => check(matches(value, pattern), `like ${pattern}`),
    toThrow(expected) {
      const error = thrown();
      check(error !== undefined && matches(String(error?.message), expected), `throwing ${expected ?? ""}`);
    },
  };
}

export function expect(value, note = "") {
  const made = matchers(value, note, false);
  made.not = matchers(value, note, true);
  made.rejects = {
    async toThrow(expected) {
      let error;
      try {
        await value;
      } catch (thrown) {
        error = thrown;
      }
      if (error === undefined) assert.fail(`${note}: nothing was thrown`);
      if (!matches(String(error.message), expected))
        assert.fail(`${note}: "${error.message}" is not like ${expected}`);
    },
  };
  return made;
}

const count = { passed: 0, failed: 0, skipped: 0 };

async function runOne(path, { name, body, timeout }) {
  try {
    const controller = new AbortController();
    const late = wait(timeout, "late", { signal: controller.signal }).catch(() => "");
    const ended = await Promise.race([Promise.resolve(body()).then(() => "done"), late]);
    controller.abort();
    if (ended === "late") throw new Error(`did not end within ${timeout} ms`);
    count.passed++;
  } catch (error) {
    count.failed++;
    console.log(`FAILED ${path} > ${name}\n  ${String(error?.message ?? error).slice(0, 600)}`);
  }
}

async function runSuite(suite, path) {
  const here = suite.name ? `${path}${path ? " > " : ""}${suite.name}` : path;
  if (suite.isSkipped) {
    const all = (part) => part.tests.length + part.inner.reduce((sum, each) => sum + all(each), 0);
    count.skipped += all(suite);
    return;
  }
  for (const body of suite.before) await body();
  for (const test of suite.tests) await runOne(here, test);
  for (const inner of suite.inner) await runSuite(inner, here);
  for (const body of suite.after) await body();
}

// Once the file that imports this has said what there is.
setTimeout(async () => {
  try {
    await runSuite(suites[0], "");
  } catch (error) {
    count.failed++;
    console.log(error);
  }
  console.log(`${count.passed} passed, ${count.failed} failed, ${count.skipped} skipped`);
  process.exitCode = count.failed > 0 ? 1 : 0;
}, 0);
