/** What is made from the program: the configuration's reference, man pages and completions. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { before, describe, it } from "node:test";
import { bashCompletion, fishCompletion, zshCompletion } from "../../deploy/packaging/completions.js";
import { allowedBy, configurationPage, fileWith, REQUIRED } from "../../deploy/packaging/config-reference.js";
import { configurationManPage, conntrackdPage, conntrailPage } from "../../deploy/packaging/man-pages.js";
import { type CommandNode, commandTree, leaves } from "../../deploy/packaging/program-tree.js";
import { wholeProgram } from "../../src/cli/main.js";
import { parseConfig } from "../../src/config/config.js";
import { REFERENCE } from "../../src/config/reference.js";
import { keysAllowed } from "../../src/config/schema.js";
import { projectRoot } from "../../src/lab/process.js";
import { temporaryDirectory } from "../support/nats-server.js";

const EDITION = { version: "1.0.0", date: "2026-01-31" };
const entries = REFERENCE.flatMap((group) => group.entries);

describe("the reference of the configuration", () => {
  it("has a line for each key of the schema, and for no other", () => {
    const keys = keysAllowed("").flatMap((top) => {
      const inner = keysAllowed(top);
      return inner.length === 0 ? [top] : inner.map((name) => `${top}.${name}`);
    });
    assert.deepEqual(entries.map(({ key }) => key).sort(), keys.sort());
  });

  it("says the true defaults, and what is allowed in the words of a refusal", () => {
    const without = parseConfig(REQUIRED, "reference");
    for (const entry of entries) {
      assert.ok(allowedBy(entry.key).length > 0, entry.key);
      // The maps of these mean something by being there.
      if (entry.default === null || /^(archive|discover)\./.test(entry.key)) continue;
      assert.deepEqual(parseConfig(fileWith(entry.key, entry.default), "reference"), without, entry.key);
    }
  });

  it("is docs/configuration.md, which is current", () => {
    const page = readFileSync(join(projectRoot(), "docs/configuration.md"), "utf8");
    assert.equal(page, configurationPage(), "npm run docs writes it anew");
  });
});

describe("man pages and completions", () => {
  let tree: CommandNode;
  before(async () => {
    tree = commandTree(await wholeProgram());
  });

  it("know every command and every option", () => {
    const page = conntrailPage(tree, EDITION);
    for (const node of leaves(tree)) {
      assert.ok(page.includes(`.SS ${node.path.join(" ").replaceAll("-", "\\-")}`), node.path.join(" "));
      for (const { long } of node.options) assert.ok(page.includes(long.replaceAll("-", "\\-")), long);
    }
    const yaml = configurationManPage(EDITION);
    for (const { key } of entries) assert.ok(yaml.includes(`.B ${key}\n`), key);
  });

  it("are roff without warnings", { skip: lacks("mandoc") }, () => {
    for (const page of [conntrailPage(tree, EDITION), configurationManPage(EDITION), conntrackdPage(EDITION)]) {
      const lint = spawnSync("mandoc", ["-T", "lint", "-W", "warning"], { input: page, encoding: "utf8" });
      assert.equal(lint.status, 0, lint.stdout + lint.stderr);
    }
  });

  it("complete commands, options, values and files in bash", () => {
    const complete = (...line: string[]): string[] => {
      const words = line.map((word) => JSON.stringify(word)).join(" ");
      const script = `${bashCompletion(tree)}\nCOMP_WORDS=(${words}); COMP_CWORD=${line.length - 1}; _conntrail; printf '%s\\n' "\${COMPREPLY[@]}"`;
      const { stdout, stderr, status } = spawnSync("bash", ["-c", script], { encoding: "utf8", cwd: projectRoot() });
      assert.equal(status, 0, stderr);
      return stdout.trim().split("\n");
    };
    assert.deepEqual(complete("conntrail", "sta"), ["status", "stats"]);
    assert.deepEqual(complete("conntrail", "keys", "re"), ["renew", "revoke"]);
    assert.deepEqual(complete("conntrail", "dump", "ext"), ["external"]);
    assert.deepEqual(complete("conntrail", "dump", "internal", "--pr"), ["--proto"]);
    assert.deepEqual(complete("conntrail", "dump", "--format", "j"), ["json"]);
    assert.deepEqual(complete("conntrail", "-c", "package.j"), ["package.json"]);
    assert.deepEqual(complete("conntrail", "-c", "package.json", "hook", "p"), ["primary"]);
  });

  for (const [shell, completion] of [
    ["bash", bashCompletion],
    ["zsh", zshCompletion],
    ["fish", fishCompletion],
  ] as const) {
    it(`have the syntax of ${shell}`, { skip: lacks(shell) }, async () => {
      await using directory = await temporaryDirectory();
      const file = join(directory.path, "completion");
      writeFileSync(file, completion(tree));
      const { status, stderr } = spawnSync(shell, ["-n", file], { encoding: "utf8" });
      assert.equal(status, 0, stderr);
      assert.equal(stderr, "");
    });
  }

  it("complete commands and options in fish", { skip: lacks("fish") }, () => {
    const script = `${fishCompletion(tree)}\ncomplete -C 'conntrail keys re'`;
    const { stdout } = spawnSync("fish", ["--no-config", "-c", script], { encoding: "utf8" });
    assert.match(stdout, /^renew\t.*\nrevoke\t/);
  });
});

function lacks(program: string): string | false {
  const found = spawnSync("sh", ["-c", `command -v ${program}`], { stdio: "ignore" }).status === 0;
  return found ? false : `no ${program}`;
}
