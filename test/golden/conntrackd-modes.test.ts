/**
 * What conntrackd 1.4.7 prints in each mode, with each choice of caches (captured by conntrackd/capture-modes.sh), against
 * what is printed here for a file of the same mode. Numbers are of that run; their widths are compared.
 */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { test } from "node:test";
import { dumpTable } from "../../src/cli/conntrackd/dump.js";
import { parseOptions, type StatsPart } from "../../src/cli/conntrackd/options.js";
import { formatStatsPart } from "../../src/cli/conntrackd/stats.js";
import { Terminal } from "../../src/cli/process/terminal.js";
import { parseConntrackdConf } from "../../src/conntrackd/conf.js";
import { linksOf } from "../../src/conntrackd/link.js";
import { serveControl } from "../../src/control/server.js";
import { FakeHandlers, STATS, STATUS } from "../support/control-handlers.js";
import { printfForm } from "../support/printf-form.js";

interface Captured {
  readonly confs: Readonly<Record<string, string>>;
  readonly cases: readonly {
    readonly shape: string;
    readonly node: "own" | "peer";
    readonly args: string;
    readonly code: number;
    readonly stdout: string;
    readonly stderr: string;
  }[];
}

const captured = JSON.parse(readFileSync("test/golden/conntrackd/modes.json", "utf8")) as Captured;

function confOf(text: string) {
  return parseConntrackdConf(text.replaceAll("OWN", "1").replaceAll("PEER", "2").replaceAll("DIR/", "/run/"), "c.conf");
}

for (const [shape, text] of Object.entries(captured.confs)) {
  test(`-s of ${shape}`, () => {
    const { nodes, shape: found, device } = confOf(text);
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

/** Of the first line: which words it has, in their order, whatever their values; but for those that not every flow has. */
function wordsOf(dumped: string): string {
  const [line = ""] = dumped.split("\n").filter((each) => /ESTABLISHED|mask/.test(each));
  const rare = / ?(\[ASSURED\]|mark=\d+|helper=\w+|class=\d+|PERMANENT|INACTIVE)|<(mark|helper|id|timeout)>.*?<\/\2>/g;
  return line
    .replace(rare, "")
    .replace(/(=)"?[\da-f.:]+"?|(>)[^<]*(?=<)|\d+(?=s\])/g, "$1$2#")
    .replace(/^\w+ +\d+ (\d+ )?/, "");
}

test("-i and -e of each", async () => {
  const directory = mkdtempSync(join(tmpdir(), `conntrail-modes-${process.pid}-`));
  const control = join(directory, "control.sock");
  const server = await serveControl(control, new FakeHandlers());
  try {
    for (const [shape, text] of Object.entries(captured.confs)) {
      const conf = { control, shape: confOf(text).shape, alarm: null };
      const alarm = conf.shape.mode === "alarm" ? { refreshSeconds: 15, cacheSeconds: 180 } : null;
      const cases = captured.cases.filter((each) => each.shape === shape && /^-[ie]/.test(each.args));
      assert.equal(cases.length, 16);
      for (const { node, args, stdout } of cases) {
        // The node itself has no peer's flows, its peer none of its own.
        if ((node === "own") !== args.startsWith("-i")) continue;
        // Its TCP link had brought nothing yet.
        if (shape === "ftfw over TCP" && node === "peer") continue;
        // Without an internal cache, conntrackd finds no master, and sends no expectation.
        if (shape === "notrack without internal" && args.startsWith("-e expect")) continue;
        const { does } = parseOptions(args.split(" "), "1.4.7");
        if (does.kind !== "request" || does.request.kind !== "dump") assert.fail(args);
        const out = new PassThrough();
        const printed: Buffer[] = [];
        out.on("data", (chunk: Buffer) => printed.push(chunk));
        const terminal = new Terminal(out as unknown as NodeJS.WriteStream, out as unknown as NodeJS.WriteStream);
        await dumpTable(does.request, { ...conf, alarm }, terminal);
        const here = Buffer.concat(printed).toString();
        assert.equal(here === "", stdout === "", `${shape}: ${args}`);
        assert.equal(wordsOf(here), wordsOf(stdout), `${shape}: ${args}`);
      }
    }
  } finally {
    await server.close(100);
    rmSync(directory, { recursive: true, force: true });
  }
});

test("no request fails or complains in any mode", () => {
  assert.deepEqual(
    captured.cases.filter(({ code, stderr }) => code !== 0 || stderr !== ""),
    [],
  );
});
