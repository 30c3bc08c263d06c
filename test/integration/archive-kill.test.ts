import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { loadDuckdb } from "../../src/history/archive/duckdb.js";
import { archiveCluster, keysOf, readArchive, truthOf } from "../support/archive-cluster.js";
import { START_MS } from "../support/history-cluster.js";

const child = fileURLToPath(new URL("../support/archive-child.js", import.meta.url));
const skip = await loadDuckdb().then(
  () => false,
  () => "DuckDB is not installed",
);
const STEPS = 400;
const LIFE_MS_MAX = 150;
const SEEDS = [3, 17];

for (const seed of SEEDS) {
  test(`an archiver killed at any moment archives every connection once (seed ${seed})`, { skip }, async (t) => {
    const directory = mkdtempSync(join(tmpdir(), "conntrail-archive-kill-"));
    t.after(() => rmSync(directory, { recursive: true, force: true }));
    const random = mulberry(seed);
    let kills = 0;
    // The streams grow from life to life; each ends at a random moment after it began.
    for (let steps = 50; steps <= STEPS; steps += 25) {
      if (!(await live(directory, seed, steps, random() * LIFE_MS_MAX))) kills++;
    }
    assert.ok(await live(directory, seed, STEPS, Number.POSITIVE_INFINITY));
    t.diagnostic(`${kills} lives cut short`);
    const { connections, damaged } = await readArchive(directory);
    assert.deepEqual(damaged, []);
    assert.equal(new Set(connections.map(({ uid }) => uid)).size, connections.length, "one uid twice");
    assert.deepEqual(keysOf(connections), truthOf(archiveCluster(seed, STEPS)));
    const names = readdirSync(directory, { recursive: true, encoding: "utf8" });
    assert.deepEqual(
      names.filter((name) => name.endsWith(".tmp")),
      [],
    );
  });
}

/** Lets an archiver live for so long; true when it came to its end. */
function live(directory: string, seed: number, steps: number, lifeMs: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const process_ = spawn(
      process.execPath,
      [child, String(seed), String(steps), String(START_MS), directory, String(lifeMs === Infinity)],
      {
        stdio: ["ignore", "pipe", "inherit"],
      },
    );
    let output = "";
    process_.stdout.on("data", (data: Buffer) => {
      output += data.toString();
      if (lifeMs < Number.POSITIVE_INFINITY && output.includes("begun"))
        setTimeout(() => process_.kill("SIGKILL"), lifeMs);
    });
    process_.once("error", reject);
    process_.once("exit", (code, signal) => {
      if (output.includes("damaged")) reject(new Error(output));
      else if (code !== 0 && signal !== "SIGKILL") reject(new Error(`the archiver ended with ${code}: ${output}`));
      else resolve(output.includes("done"));
    });
  });
}

function mulberry(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
