/** A daemon is found by the name of its program, and by the command line that it shows. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { daemonRuns } from "../../src/cli/process/hook-process.js";

const directory = mkdtempSync(join(tmpdir(), `conntrail-name-${process.pid}-`));
after(() => rmSync(directory, { recursive: true, force: true }));

const MODULE = new URL("../../src/os/process-name.js", import.meta.url).href;

test("ps, pgrep and hooks see the program and its configuration", async () => {
  for (const [name, words] of [
    ["conntrail", ["daemon", "-c"]],
    ["conntrackd", ["-d", "-C"]],
    ["conntrackd", ["-C"]],
  ] as const) {
    const path = join(directory, "with a blank.conf");
    writeFileSync(path, "");
    const script = `const { nameProcess } = await import(${JSON.stringify(MODULE)});
      nameProcess(${JSON.stringify(name)}, ${JSON.stringify([...words, path])});
      console.log("named");
      setInterval(() => {}, 1000);`;
    const child = spawn(process.execPath, ["--input-type=module", "-e", script, "--", "x".repeat(300)]);
    try {
      await once(child.stdout, "data");
      assert.equal(readFileSync(`/proc/${child.pid}/comm`, "utf8"), `${name}\n`);
      const shown = readFileSync(`/proc/${child.pid}/cmdline`, "utf8").replace(/\0+$/, "");
      assert.equal(shown, [name, ...words, path].join(" "));
      assert.equal(daemonRuns(path, join(directory, "control.sock")), true);
      assert.equal(daemonRuns(join(directory, "other.conf"), join(directory, "control.sock")), false);
    } finally {
      child.kill();
      await once(child, "exit");
    }
  }
});
