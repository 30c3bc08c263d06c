/** The units take away what the daemon and its broker do not need, as systemd counts it. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { projectRoot } from "../../src/lab/process.js";
import { temporaryDirectory } from "../support/nats-server.js";

/** Ten times the exposure that is allowed. */
const THRESHOLD = 20;
/** What conntrackd's package of Debian has, as far as it counts. */
const CONNTRACKD = "[Service]\nType=notify\nExecStart=/usr/sbin/conntrackd\nProtectSystem=full\nProtectHome=true\n";

function missing(): string | false {
  const { status, stdout } = spawnSync("systemd-analyze", ["security", "--help"], { encoding: "utf8" });
  return status === 0 && stdout.includes("--threshold")
    ? false
    : "no systemd-analyze that looks at files (250 or newer)";
}

describe("the units", { skip: missing() }, () => {
  for (const unit of ["conntrail.service", "nats.service", "conntrackd-override.conf"]) {
    it(`${unit} is exposed by 2.0 at the most`, async () => {
      await using root = await temporaryDirectory();
      const directory = join(root.path, "etc/systemd/system");
      const file = join(projectRoot(), "deploy", unit);
      const name = unit === "conntrackd-override.conf" ? "conntrackd.service" : unit;
      mkdirSync(join(directory, `${name}.d`), { recursive: true });
      if (name === unit) copyFileSync(file, join(directory, name));
      else {
        writeFileSync(join(directory, name), CONNTRACKD);
        copyFileSync(file, join(directory, `${name}.d`, "conntrail.conf"));
      }
      const args = [
        "security",
        "--offline=true",
        `--root=${root.path}`,
        `--threshold=${THRESHOLD}`,
        "--no-pager",
        name,
      ];
      const { status, stdout, stderr } = spawnSync("systemd-analyze", args, { encoding: "utf8" });
      assert.equal(status, 0, stdout.split("\n").slice(-3).join("\n") + stderr);
      assert.match(stdout, /Overall exposure level/);
      assert.doesNotMatch(stderr, /Unknown|Failed to parse/);
    });
  }
});
