// What vitest offers to the test files that travel to a GPU machine (pack.mjs), where vitest does not: enough of it for
// them. tests.mjs runs a file in several processes at once.
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
it.skipIf =
  (skip) =>
  (name, ...args) => {
    it(name, ...args);
    if (skip) current().tests.at(-1).isSkipped = true;
  };
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

async function ended({ body, timeout }) {
  const controller = new AbortController();
  const late = wait(timeout, "late", { signal: controller.signal }).catch(() => "");
  const how = await Promise.race([Promise.resolve(body()).then(() => "done"), late]);
  controller.abort();
  if (how === "late") throw new Error(`did not end within ${timeout} ms`);
}

/** All tests in the order of the file, each with the suites it is in, the outermost first. */
function listed(suite, outer = []) {
  const path = [...outer, suite];
  const name = (test) => [...path.map((each) => each.name).filter(Boolean), test.name].join(" > ");
  const own = suite.tests.map((test) => ({
    ...test,
    name: name(test),
    path,
    isSkipped: test.isSkipped || suite.isSkipped,
  }));
  return [...own, ...suite.inner.flatMap((inner) => listed(inner, path))];
}

const textOf = (error) => String(error?.message ?? error).slice(0, 600);

// Once the file that imports this has said what there is. Who started this (tests.mjs) asks for tests by their numbers, one
// at a time; what comes after the last of them is done when it lets go.
setTimeout(() => {
  const tests = listed(suites[0]);
  const begun = new Set();
  const answer = (message) => process.send?.(message);
  process.on("message", async (number) => {
    const test = tests[number];
    try {
      for (const suite of test.path) {
        if (begun.has(suite)) continue;
        begun.add(suite);
        for (const body of suite.before) await body();
      }
      await ended(test);
      answer({ number });
    } catch (error) {
      answer({ number, error: textOf(error) });
    }
  });
  process.on("disconnect", async () => {
    const bodies = [...begun].reverse().flatMap((suite) => suite.after);
    for (const body of bodies) {
      try {
        await body();
      } catch (error) {
        console.log(`AFTER ${textOf(error)}`);
        process.exitCode = 1;
      }
    }
    process.exit();
  });
  answer({ names: tests.map(({ name, isSkipped }) => (isSkipped ? null : name)) });
}, 0);
