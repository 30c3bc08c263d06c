/** House rules that a machine can check and the lint does not: sizes, names, docstrings, and who may import whom. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { test } from "node:test";

const FILE_LINES_MAX = 500;

/**
 * A file imports from its own folder and from those named here, types included. Folders of one row do not know each
 * other, so a change at one edge of the program stays there. A folder that is not named here has no place in the house.
 */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  "errors.ts": [],
  flow: ["errors.ts"],
  config: ["errors.ts", "flow"],
  ctnetlink: ["errors.ts", "flow", "config"],
  stream: ["errors.ts", "flow", "config"],
  cache: ["errors.ts", "flow", "config"],
  control: ["errors.ts", "flow", "config"],
  conntrackd: ["errors.ts", "flow", "config"],
  sync: ["errors.ts", "flow", "config", "ctnetlink", "stream", "cache", "control"],
  history: ["errors.ts", "flow", "config", "stream"],
  lab: ["errors.ts", "flow", "config", "control"],
  daemon: ["errors.ts", "flow", "config", "ctnetlink", "stream", "cache", "control", "sync", "history"],
  "daemon.ts": ["errors.ts", "flow", "config", "ctnetlink", "stream", "cache", "control", "sync", "history", "daemon"],
  cli: [
    "errors.ts",
    "flow",
    "config",
    "ctnetlink",
    "stream",
    "cache",
    "control",
    "sync",
    "history",
    "lab",
    "conntrackd",
    "daemon.ts",
  ],
};

/** Packages that one folder alone may import. */
const PACKAGE_HOME: Readonly<Record<string, string>> = {
  nats: "stream",
  msgpackr: "stream",
  netlink: "ctnetlink",
  koffi: "ctnetlink",
  commander: "cli",
  "@duckdb": "history",
};

interface Source {
  /** Relative to src, as in "flow/record.ts". */
  path: string;
  text: string;
}

const sources: readonly Source[] = readdirSync("src", { recursive: true, encoding: "utf8" })
  .filter((path) => path.endsWith(".ts"))
  .sort()
  .map((path) => ({ path, text: readFileSync(join("src", path), "utf8") }));

/** The folder below src, or the file itself where it lies in src. */
function place(path: string): string {
  return path.split("/", 1)[0]!;
}

function importsOf(source: Source): string[] {
  const pattern =
    /(?:^\s*(?:import|export)\s[^;]*?from\s*|^\s*import\s*|\bimport\s*\(\s*|\brequire\s*\(\s*)["']([^"'\n]+)["']/gm;
  return [...source.text.matchAll(pattern)].map((match) => match[1]!);
}

function violations(check: (source: Source) => Iterable<string>): string[] {
  return sources.flatMap((source) => [...check(source)].map((what) => `src/${source.path}: ${what}`));
}

/** Fails with the whole list, one line each. */
function none(found: readonly string[]): void {
  if (found.length > 0) assert.fail(`\n${found.join("\n")}`);
}

test("there is something to check", () => {
  assert.ok(sources.length > 0);
});

test(`no file has more than ${FILE_LINES_MAX} lines`, () => {
  none(
    violations(function* ({ text }) {
      const lines = text.split("\n").length - 1;
      if (lines > FILE_LINES_MAX) yield `${lines} lines; split it by its nouns`;
    }),
  );
});

test("a file imports from its own folder or a lower row", () => {
  none(
    violations(function* (source) {
      const from = place(source.path);
      const allowed = MAY_IMPORT[from];
      if (allowed === undefined) return yield `${from} has no row; give it one in this test`;
      for (const name of importsOf(source)) {
        if (!name.startsWith(".")) continue;
        const target = normalize(join(dirname(source.path), name)).replace(/\.js$/, ".ts");
        if (target.startsWith("..")) yield `imports ${name}, outside src`;
        else if (place(target) !== from && !allowed.includes(place(target))) yield `imports ${name}; ${from} may not`;
      }
    }),
  );
});

test("the rows have no cycles", () => {
  const seen = new Set<string>();
  const visit = (name: string, path: readonly string[]): void => {
    assert.ok(!path.includes(name), `cycle: ${[...path, name].join(" -> ")}`);
    if (seen.has(name)) return;
    for (const next of MAY_IMPORT[name] ?? assert.fail(`${name} has no row`)) visit(next, [...path, name]);
    seen.add(name);
  };
  for (const name of Object.keys(MAY_IMPORT)) visit(name, []);
});

test("a package is imported in its home only", () => {
  none(
    violations(function* (source) {
      for (const name of importsOf(source)) {
        const home = PACKAGE_HOME[name.split("/", 1)[0]!];
        if (home !== undefined && home !== place(source.path)) yield `imports ${name}; only src/${home} may`;
      }
    }),
  );
});

test("no default exports and no barrels", () => {
  none(
    violations(function* ({ text }) {
      if (/^export\s+default\b/m.test(text)) yield "has a default export";
      if (/^export\s+(type\s+)?(\*|\{[^}]*\}\s*from\b)/m.test(text)) yield "exports what is another file's";
    }),
  );
});

test("names are in kebab case and say what the file holds", () => {
  none(
    violations(function* ({ path }) {
      for (const part of path.replace(/\.ts$/, "").split("/")) {
        if (!/^[a-z][a-z0-9]*(-[a-z0-9]+)*$/.test(part)) yield "is not in kebab case";
        if (/^(utils?|helpers?|misc|common|index)$|-(impl|manager|utils?|helpers?)$/.test(part)) yield "names nothing";
      }
    }),
  );
});

test("every exported symbol has a docstring", () => {
  none(
    violations(function* ({ text }) {
      const lines = text.split("\n");
      for (const [i, line] of lines.entries()) {
        const name =
          /^export\s+(?:declare\s+|abstract\s+|async\s+)*(?:function\*?|class|interface|type|const)\s+(\w+)/.exec(
            line,
          )?.[1];
        if (name !== undefined && !documented(lines, i)) yield `line ${i + 1}: ${name} has no docstring`;
      }
    }),
  );
});

/**
 * A docstring right above; or a list of constants of which the first has one, or that opens the file below its head
 * comment: the constants of a table in the kernel's headers say by their names what they are. A type that is read off a
 * value (`typeof X`) right below it shares its docstring.
 */
function documented(lines: readonly string[], index: number): boolean {
  let above = index - 1;
  if (/^export type \w+ = .*\btypeof \w+/.test(lines[index]!) && /^(export const |\}|\])/.test(lines[above]!)) {
    while (above >= 0 && !/^export const /.test(lines[above]!)) above--;
    return documented(lines, above);
  }
  if (/^export const [A-Z0-9_]+ = /.test(lines[index]!)) {
    while (above >= 0 && /^(export const [A-Z0-9_]+ = .*|)$/.test(lines[above]!)) above--;
    // The import lines stand between a head comment and the first list.
    while (above >= 0 && /^(import .*|\} from .*| {2}(type )?\w+,|)$/.test(lines[above]!)) above--;
  }
  return /\*\/\s*$/.test(lines[above] ?? "");
}

test("nothing is left open", () => {
  const marker = new RegExp(`\\b(${["TO" + "DO", "FIX" + "ME", "XX" + "X"].join("|")})\\b`);
  none(
    violations(function* ({ text }) {
      const match = marker.exec(text);
      if (match !== null) yield `holds ${match[1]}`;
    }),
  );
});
