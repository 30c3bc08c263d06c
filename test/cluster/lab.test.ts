/** A laboratory leaves nothing behind, also when its process is told to end. */
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { labObstacle } from "../../src/lab/lab.js";

const LAB = fileURLToPath(new URL("../../src/lab/lab.js", import.meta.url));
const SCRIPT = `
import { Lab } from ${JSON.stringify(LAB)};
const lab = await Lab.create({ firewalls: 2 });
process.stdout.write(JSON.stringify({ id: lab.id, directory: lab.directory }));
setInterval(() => undefined, 1000);
`;

function namespaces(id: string): string[] {
  const list = execFileSync("ip", ["netns", "list"], { encoding: "utf8" });
  return list.split("\n").filter((line) => line.startsWith(`ctl${id}-`));
}

for (const [signal, code] of [
  ["SIGTERM", 143],
  ["SIGINT", 130],
] as const) {
  test(`${signal} takes a laboratory down`, { skip: labObstacle() ?? false, timeout: 400_000 }, async (t) => {
    const child = spawn(process.execPath, ["--input-type=module", "-e", SCRIPT], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    t.after(() => child.kill("SIGKILL"));
    const [line] = (await once(child.stdout, "data")) as [Buffer];
    const { id, directory } = JSON.parse(line.toString()) as { id: string; directory: string };
    assert.ok(namespaces(id).length > 2);
    child.kill(signal);
    assert.deepEqual(await once(child, "exit"), [code, null]);
    assert.deepEqual([namespaces(id), existsSync(directory)], [[], false]);
  });
}
