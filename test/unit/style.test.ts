/** House rules that a machine can check and the lint does not: sizes, names, docstrings, and who may import whom. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { test } from "node:test";
import { MAY_IMPORT, PACKAGE_HOMES, PURE, PURE_MAY_IMPORT } from "../support/house.js";

/** A file is as long as its one subject; this only says when to look again whether its name is true of all of it. */
const FILE_LINES_MAX = 600;

interface Source {
  /** Relative to src, as in "flow/record.ts". */
  path: string;
  text: string;
}

const sources: readonly Source[] = readdirSync("src", { recursive: true, encoding: "utf8" })
  .filter((path) => path.endsWith(".ts"))
  .sort()
  .map((path) => ({ path, text: readFileSync(join("src", path), "utf8") }));

/** The place of a file in the house: itself, or the nearest folder around it that the plan names; undefined when none does. */
function place(path: string): string | undefined {
  let at: string = path;
  while (!Object.hasOwn(MAY_IMPORT, at)) {
    if (!at.includes("/")) return undefined;
    at = at.slice(0, at.lastIndexOf("/"));
  }
  return at;
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

test("a file imports from its own folder or one below it in the plan", () => {
  none(
    violations(function* (source) {
      const from = place(source.path);
      const allowed = from === undefined ? undefined : MAY_IMPORT[from];
      if (allowed === undefined) return yield "has no place in test/support/house.ts";
      for (const name of importsOf(source)) {
        if (!name.startsWith(".")) continue;
        const target = normalize(join(dirname(source.path), name)).replace(/\.js$/, ".ts");
        const to = target.startsWith("..") ? undefined : place(target);
        if (to === undefined) yield `imports ${name}, which has no place in the house`;
        else if (to !== from && !allowed.includes(to)) yield `imports ${name}; ${from} may not`;
      }
    }),
  );
});

test("the plan has no arrow upwards, so no circle", () => {
  const rows = Object.keys(MAY_IMPORT);
  for (const [row, name] of rows.entries()) {
    for (const other of MAY_IMPORT[name]!) {
      const at = rows.indexOf(other);
      assert.ok(at >= 0 && at < row, `${name} may import ${other}, which is not below it`);
    }
  }
});

test("the plan allows no import that nobody needs", () => {
  const used = new Map(Object.keys(MAY_IMPORT).map((name) => [name, new Set<string>()]));
  for (const source of sources) {
    for (const name of importsOf(source).filter((one) => one.startsWith("."))) {
      const target = normalize(join(dirname(source.path), name)).replace(/\.js$/, ".ts");
      used.get(place(source.path) ?? "")?.add(place(target) ?? "");
    }
  }
  none(
    [...used].flatMap(([name, others]) => {
      const idle = MAY_IMPORT[name]!.filter((other) => !others.has(other));
      return idle.map((other) => `test/support/house.ts: nobody in ${name} imports ${other}`);
    }),
  );
});

test("a package is imported at home only", () => {
  none(
    violations(function* (source) {
      for (const name of importsOf(source)) {
        const homes = PACKAGE_HOMES[name.split("/", 1)[0]!];
        if (homes !== undefined && !homes.some((home) => source.path.startsWith(`${home}/`)))
          yield `imports ${name}; only ${homes.map((home) => `src/${home}`).join(", ")} may`;
      }
    }),
  );
});

test("pure folders have no clock, no timers, and import nothing that has effects", () => {
  none(
    violations(function* (source) {
      if (!PURE.some((folder) => source.path.startsWith(`${folder}/`))) return;
      for (const name of importsOf(source)) {
        if (!name.startsWith(".") && !PURE_MAY_IMPORT.includes(name)) yield `imports ${name}`;
      }
      const effect = /\b(Date\.now|performance\.\w+|set(Timeout|Interval|Immediate))\b/.exec(source.text)?.[0];
      if (effect !== undefined) yield `uses ${effect}`;
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
