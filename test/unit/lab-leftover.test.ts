import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, it } from "node:test";
import { type LabState, processStart, recordLab, removeLeftovers } from "../../src/lab/leftover.js";
import { waitFor } from "../../src/lab/process.js";

describe("leftovers of a laboratory", () => {
  let base: string;
  let states: string;

  beforeEach(() => {
    base = mkdtempSync(join(tmpdir(), `lab-leftover-${process.pid}-`));
    states = join(base, "states");
  });

  afterEach(() => rmSync(base, { recursive: true, force: true }));

  /** A laboratory that has a directory and no namespace yet. */
  function leave(changes: Partial<LabState>): LabState {
    const id = changes.id ?? "1-abcd";
    const state = {
      id,
      ownerPid: process.pid,
      ownerStart: processStart(process.pid) ?? "",
      namespaces: [],
      directory: join(base, `conntrail-lab-${id}`),
      ...changes,
    };
    mkdirSync(state.directory);
    writeFileSync(join(state.directory, "daemon.log"), "");
    recordLab(state, states);
    return state;
  }

  it("are left alone while their owner lives", () => {
    const state = leave({});
    assert.deepEqual(removeLeftovers(states), []);
    assert.equal(existsSync(state.directory), true);
  });

  it("are removed when the owner is gone, or its pid belongs to another process by now", () => {
    const gone = leave({ id: "4194305-0001", ownerPid: 4_194_305 });
    const reused = leave({ id: "2-0002", ownerStart: "1" });
    assert.deepEqual(removeLeftovers(states).sort(), [reused.id, gone.id]);
    assert.equal(existsSync(gone.directory), false);
    assert.equal(existsSync(reused.directory), false);
    assert.deepEqual(readdirSync(states), []);
  });

  it("are not touched when a state file names what no laboratory makes", () => {
    const foreign = leave({ id: "3-0003", ownerStart: "1", directory: join(base, "precious") });
    const stranger = leave({ id: "3-0004", ownerStart: "1", namespaces: ["production"] });
    writeFileSync(join(states, "half.json"), '{"id":');
    assert.deepEqual(removeLeftovers(states), []);
    assert.equal(existsSync(foreign.directory), true);
    assert.equal(existsSync(stranger.directory), true);
  });

  it("are none where no laboratory ever ran", () => {
    assert.deepEqual(removeLeftovers(join(base, "absent")), []);
  });
});

describe("processStart", () => {
  it("tells a living process from one that is not", () => {
    assert.match(processStart(process.pid) ?? "", /^\d+$/);
    assert.equal(processStart(4_194_305), undefined);
  });

  it("takes one that has ended, and that nobody has waited for, as gone", async () => {
    // The shell's child ends when the shell has become a sleep, which never waits for it; a shell might.
    const script = 'until grep -q sleep "/proc/$$/comm"; do :; done & echo $!; exec sleep 60';
    const parent = spawn("sh", ["-c", script], { stdio: ["ignore", "pipe", "inherit"] });
    try {
      const [pid] = (await once(parent.stdout, "data")) as [Buffer];
      await waitFor("a zombie", 5_000, () => / Z /.test(readFileSync(`/proc/${Number(pid)}/stat`, "utf8")));
      assert.equal(processStart(Number(pid)), undefined);
    } finally {
      parent.kill("SIGKILL");
    }
  });
});
