/**
 * What conntrackd 1.4.7 prints in each mode, with each choice of caches (captured by conntrackd/capture-modes.sh), against
 * what is printed here for a file of the same mode. Numbers are of that run; their widths are compared.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import type { StatsPart } from "../../src/cli/conntrackd/options.js";
import { formatStatsPart } from "../../src/cli/conntrackd/stats.js";
import { parseConntrackdConf } from "../../src/conntrackd/conf.js";
import { linksOf } from "../../src/conntrackd/link.js";
import { STATS, STATUS } from "../support/control-handlers.js";
import { printfForm } from "../support/printf-form.js";

interface Captured {
  readonly confs: Readonly<Record<string, string>>;
  readonly cases: readonly {
    readonly shape: string;
    readonly args: string;
    readonly code: number;
    readonly stdout: string;
    readonly stderr: string;
  }[];
}

const captured = JSON.parse(readFileSync("test/golden/conntrackd/modes.json", "utf8")) as Captured;

for (const [shape, text] of Object.entries(captured.confs)) {
  test(`-s of ${shape}`, () => {
    const placed = text.replaceAll("OWN", "1").replaceAll("PEER", "2").replaceAll("DIR/", "/run/");
    const { nodes, shape: found, device } = parseConntrackdConf(placed, "c.conf");
    const kind = linksOf(nodes).active?.kind ?? "UDP";
    const link = { protocol: kind === "Multicast" ? "multicast" : kind, device: device ?? "none" } as const;
    const status = { ...STATUS, publisher: { ...STATUS.publisher, unconfirmed: 0 } };
    const cases = captured.cases.filter((each) => each.shape === shape && each.args.startsWith("-s"));
    assert.ok(cases.length > 15);
    for (const { args, stdout } of cases) {
      const part = (args.split(" ")[1] ?? "ct") as StatsPart;
      const here = printfForm(formatStatsPart(part, { stats: STATS, status, link, shape: found }));
      // How many messages wait is a matter of the moment, and so is which of the two TCP connections stands.
      if (part === "rsqueue" && stdout.includes("seq:")) continue;
      assert.equal(here, printfForm(stdout).replaceAll("=connected", "=disconnected"), args);
    }
  });
}

test("no request fails or complains in any mode", () => {
  assert.deepEqual(
    captured.cases.filter(({ code, stderr }) => code !== 0 || stderr !== ""),
    [],
  );
});
