/** The documentation holds together: links lead somewhere, and the commands that it shows are the program's. */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { before, describe, it } from "node:test";
import { parse } from "yaml";
import { type CommandNode, commandTree } from "../../deploy/packaging/program-tree.js";
import { wholeProgram } from "../../src/cli/main.js";
import { projectRoot } from "../../src/lab/process.js";

const ROOT = projectRoot();
const README_LINES_MAX = 300;
const PAGES = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "FORMAT.md", "SECURITY.md"].concat(
  readdirSync(join(ROOT, "docs"), { recursive: true, encoding: "utf8" })
    .filter((path) => path.endsWith(".md"))
    .map((path) => join("docs", path)),
);
const textOf = (page: string): string => readFileSync(join(ROOT, page), "utf8");
const withoutCode = (text: string): string =>
  text.replace(/```[\s\S]*?```|`[^`\n]*`/g, (code) => " ".repeat(code.length));

/** The anchors of a page's headings, as GitHub makes them. */
function anchors(page: string): Set<string> {
  const headings = textOf(page).match(/^#+ .*$/gm) ?? [];
  return new Set(
    headings.map((heading) =>
      heading
        .replace(/^#+ /, "")
        .toLowerCase()
        .replace(/[^\p{L}\p{N} _-]/gu, "")
        .replaceAll(" ", "-"),
    ),
  );
}

describe("the documentation", () => {
  it(`begins with a README of less than ${README_LINES_MAX} lines`, () => {
    assert.ok(textOf("README.md").split("\n").length < README_LINES_MAX);
  });

  it("has links that lead to a file and to a heading in it", () => {
    const broken: string[] = [];
    for (const page of PAGES) {
      for (const [, target = ""] of withoutCode(textOf(page)).matchAll(/\]\(([^)\s]+)\)/g)) {
        if (/^[a-z]+:/.test(target)) continue;
        const [path = "", anchor] = target.split("#");
        const file = path === "" ? page : join(dirname(page), path);
        if (!existsSync(join(ROOT, file))) broken.push(`${page}: ${target} is not there`);
        else if (anchor !== undefined && !anchors(file).has(anchor))
          broken.push(`${page}: ${target} has no such heading`);
      }
    }
    assert.deepEqual(broken, []);
  });

  it("has every page in the README's table", () => {
    const readme = textOf("README.md");
    for (const page of PAGES.filter((path) => /^docs\/[^/]+$/.test(path)))
      assert.ok(readme.includes(`(${page})`), page);
  });

  describe("commands", () => {
    let tree: CommandNode;
    before(async () => {
      tree = commandTree(await wholeProgram());
    });

    it("that are shown are the program's, with its options", () => {
      const wrong: string[] = [];
      for (const page of PAGES) {
        const lines = textOf(page).match(/^ {4,}.*$/gm) ?? [];
        for (const line of lines) {
          // What follows a # is a remark. Output of commands names no options.
          const [command = ""] = line.split(/\s#\s|\s{3,}#/, 1);
          for (const [, words = ""] of command.matchAll(
            /(?:^|[\s"]|bin\/)conntrail ((?:[a-z][a-z-]*|-c \S+)(?: [^|&>"]*)?)/g,
          )) {
            const trouble = troubleWith(
              words.split(/\s+/).filter((word) => word !== ""),
              tree,
            );
            if (trouble !== null) wrong.push(`${page}: ${line.trim()}: ${trouble}`);
          }
        }
      }
      assert.deepEqual(wrong, []);
    });

    it("are all in docs/commands.md", () => {
      const page = textOf("docs/commands.md");
      for (const { path } of tree.commands) assert.match(page, new RegExp(`\`${path[0]}\\b`), path[0]);
    });
  });

  it("has a workflow and templates that are YAML", () => {
    for (const file of [
      ".github/workflows/ci.yaml",
      ".github/ISSUE_TEMPLATE/bug.yaml",
      ".github/ISSUE_TEMPLATE/idea.yaml",
      ".github/ISSUE_TEMPLATE/config.yml",
    ]) {
      assert.equal(typeof parse(textOf(file)), "object", file);
    }
  });
});

/** Why these words are no command of the program; null if they are one. */
function troubleWith(words: readonly string[], tree: CommandNode): string | null {
  let node = tree;
  for (const word of words) {
    const child: CommandNode | undefined = node.commands.find(({ path }) => path.at(-1) === word);
    if (child === undefined) break;
    node = child;
  }
  if (node === tree && words[0] !== "-c") return `there is no command ${words[0]}`;
  const known = [...node.options, ...tree.options].flatMap(({ long, short }) => [long, short]);
  const option = words.find((word) => /^--[a-z]/.test(word) && !known.includes(word.split("=", 1)[0]));
  return option === undefined ? null : `${node.path.join(" ")} has no ${option}`;
}
