/** `check`, in this process: all mistakes of both kinds of file. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Writable } from "node:stream";
import { after, test } from "node:test";
import { Command } from "commander";
import { register } from "../../src/cli/check.js";
import { CommandContext } from "../../src/cli/command/command.js";
import { Terminal } from "../../src/cli/process/terminal.js";

const directory = mkdtempSync(join(tmpdir(), `conntrail-check-${process.pid}-`));
after(() => rmSync(directory, { recursive: true, force: true }));
const file = join(directory, "file");

class Sink extends Writable {
  text = "";
  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.text += chunk.toString();
    done();
  }
}

/** Exit code, standard output and the lines of standard error without the file's name. */
async function check(text: string, ...words: string[]) {
  writeFileSync(file, text);
  const [stdout, stderr] = [new Sink(), new Sink()];
  const terminal = new Terminal(stdout as unknown as NodeJS.WriteStream, stderr as unknown as NodeJS.WriteStream);
  const program = new Command().option("-c, --config <file>").option("--json").exitOverride();
  register(program, new CommandContext(program, terminal));
  await program.parseAsync(["check", file, ...words], { from: "user" });
  const lines = stderr.text.split("\n").filter((line) => line !== "");
  return { code: terminal.exitCode, stdout: stdout.text, stderr: lines.map((line) => line.replaceAll(file, "FILE")) };
}

const LINK = "UDP { IPv4_address 10.0.0.1 IPv4_Destination_Address 10.0.0.2 }";

test("a good file of either kind", async () => {
  const yaml = await check("cluster: edge\nnode: fw1\nlisten: 10.77.0.1\npeers: { fw2: 10.77.0.2 }\ntls: false\n");
  assert.deepEqual(yaml, {
    code: 0,
    stdout: `${file}: no mistakes (conntrail.yaml, node fw1, mode cache, 1 peers)\n`,
    stderr: [],
  });
  const conf = await check(`Sync { Mode FTFW { }\n${LINK}\n}\nGeneral { Scheduler { Priority 5 } }\n`);
  assert.equal(conf.code, 0);
  assert.equal(conf.stdout, `${file}: no mistakes (conntrackd.conf, node 10-0-0-1, mode cache, 1 peers)\n`);
  assert.equal(conf.stderr.length, 1);
  assert.match(conf.stderr[0] ?? "", /^FILE:4:11: warning: Scheduler is not supported: /);
  assert.match((await check("Stats { LogFile on }\n")).stdout, /\(conntrackd\.conf, mode stats\)/);
});

test("all mistakes of a YAML file, and files that are not there", async () => {
  const { code, stdout, stderr } = await check("cluster: edge\nnode: fw 1\nlisten: x\nquorum: 2\ntls: false\n");
  assert.deepEqual([code, stdout, stderr.length], [2, "", 3]);
  assert.match(stderr[0] ?? "", /FILE:2: node: found "fw 1", allowed is /);
  assert.match(stderr[1] ?? "", /FILE:3: listen: /);
  assert.match(stderr[2] ?? "", /FILE:4: quorum: unknown key/);
  const keyless = await check(
    "cluster: edge\nnode: fw1\nlisten: 10.77.0.1\ntls:\n  ca: keys/ca.pem\n  cert: keys/node.pem\n  key: /dev/null\n",
  );
  assert.equal(keyless.code, 2);
  assert.deepEqual(
    keyless.stderr.map((line) => line.replace(/^conntrail: /, "")),
    [
      `FILE:5: tls.ca: ${directory}/keys/ca.pem is not there`,
      `FILE:6: tls.cert: ${directory}/keys/node.pem is not there`,
    ],
  );
});

test("all mistakes of a conntrackd.conf: of its grammar, then of its links", async () => {
  const grammar = await check("Sync {\n Bogus 1\n}\nGeneral {\n HashSize x\n}\n");
  assert.equal(grammar.code, 2);
  assert.ok(grammar.stderr.length >= 2, grammar.stderr.join());
  const links = await check("Sync {\nUDP { IPv6_address fe80::1 IPv6_Destination_Address ff02::1 }\nTCP { }\n}\n");
  assert.equal(links.code, 2);
  assert.deepEqual(
    links.stderr.map((line) => line.replace(/^conntrail: /, "").split(": ")[0]),
    ["FILE:3:1", "FILE:2:20", "FILE:2:53"],
  );
  const json = JSON.parse((await check("Sync { }\n", "--json")).stdout) as { ok: boolean; problems: unknown[] };
  assert.equal(json.ok, false);
  assert.equal(json.problems.length, 1);
});
