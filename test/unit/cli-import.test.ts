/** `import` and the commands that take a conntrackd.conf, in this process. */
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Writable } from "node:stream";
import { after, test } from "node:test";
import { Command } from "commander";
import { CommandContext } from "../../src/cli/command/command.js";
import { loadAnyConfig, readAnyConfig } from "../../src/cli/command/config-file.js";
import { register } from "../../src/cli/import.js";
import { Terminal } from "../../src/cli/process/terminal.js";
import { loadConfig } from "../../src/config/config.js";
import { ConntrailError } from "../../src/errors.js";
import { checkOwnCertificate } from "../../src/keys/certificate.js";

const GOLDEN = "test/golden/conntrackd-conf";
const CONF = `${GOLDEN}/ha-fw-1.conf`;
const directory = mkdtempSync(join(tmpdir(), `conntrail-import-${process.pid}-`));
after(() => rmSync(directory, { recursive: true, force: true }));

class Sink extends Writable {
  text = "";
  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.text += chunk.toString();
    done();
  }
}

interface Result {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `import` with these words; what it throws is thrown. */
async function run(...words: string[]): Promise<Result> {
  const [stdout, stderr] = [new Sink(), new Sink()];
  const terminal = new Terminal(stdout as unknown as NodeJS.WriteStream, stderr as unknown as NodeJS.WriteStream);
  const program = new Command().option("-c, --config <file>").option("--json").exitOverride();
  register(program, new CommandContext(program, terminal));
  await program.parseAsync(words, { from: "user" });
  return { code: terminal.exitCode, stdout: stdout.text, stderr: stderr.text };
}

function contextFor(path: string): CommandContext {
  const program = new Command().option("-c, --config <file>").exitOverride();
  program.parse(["-c", path], { from: "user" });
  return new CommandContext(program, new Terminal(process.stdout, process.stderr));
}

async function refused(code: string, message: RegExp, ...words: string[]): Promise<void> {
  await assert.rejects(
    run(...words),
    (error) => error instanceof ConntrailError && error.code === code && message.test(error.message),
  );
}

test("the configuration goes to standard output, the report to standard error", async () => {
  const { code, stdout, stderr } = await run("import", CONF);
  assert.equal(code, 0);
  assert.equal(stdout, readFileSync(`${GOLDEN}/ha-fw-1.yaml`, "utf8").replace("ha-fw-1.conf", CONF));
  assert.match(stderr, /^line {2}directive {2,}became {2,}note\n/);
  assert.match(stderr, /^4 {5}CommitTimeout 180 {2,}taken over: commit\.timeout$/m);
  assert.match(stderr, /^12 {4}Port 3780 {2,}taken over: broker\.port {2,}open TCP port 3780 /m);
  assert.match(stderr, /^30 directives: 5 replaced, 22 taken over, 3 not needed\n$/m);
});

test("- is standard output", async () => {
  assert.deepEqual(await run("import", CONF, "-o", "-"), await run("import", CONF));
});

test("a file is written, and not over another unless forced", async () => {
  const out = join(directory, "a", "conntrail.yaml");
  const { code, stdout } = await run("import", CONF, "-o", out);
  assert.equal(code, 0);
  const bundle = join(directory, "a", "172-30-16-2.bundle");
  const next = `next: look it over, copy ${bundle} to 172-30-16-2, and import there with --bundle FILE, then`;
  assert.equal(stdout, `wrote ${out}\nwrote ${bundle}\n${next}: conntrail daemon -c ${out}\n`);
  const config = loadConfig(out);
  assert.equal(config.node, "172-30-16-1");
  const owner = { node: config.node, address: config.listen };
  assert.deepEqual(checkOwnCertificate(config.tls!, owner, Date.now()).names, [config.node]);
  await refused("CONTROL", /exists already: replace it with --force/, "import", CONF, "-o", out);
  writeFileSync(out, "");
  assert.equal((await run("import", CONF, "-o", out, "--force")).code, 0);
  assert.deepEqual(loadConfig(out), config);
});

test("as JSON", async () => {
  const { stdout, stderr } = await run("import", CONF, "--json");
  const report = JSON.parse(stdout);
  assert.equal(stderr, "");
  assert.deepEqual(Object.keys(report), ["path", "out", "yaml", "directives", "bundles"]);
  assert.deepEqual(report.directives[1], {
    line: 3,
    column: 9,
    directive: "DisableExternalCache Off",
    verdict: "taken over",
    key: "mode",
    note: "",
  });
});

test("all that is wrong with a file is said, a line each", async () => {
  const path = `${GOLDEN}/lost-braces.conf`;
  const { code, stdout, stderr } = await run("import", path);
  assert.equal(code, 2);
  assert.equal(stdout, "");
  const lines = stderr.trimEnd().split("\n");
  assert.equal(lines.length, 10);
  assert.ok(lines.every((line) => line.startsWith(`conntrail: ${path}:`)));
});

test("what is no conntrackd.conf is refused", async () => {
  const yaml = join(directory, "conntrail.yaml");
  writeFileSync(yaml, "cluster: edge\nnode: fw1\nlisten: 10.77.0.1\n");
  await refused(
    "CONFIG",
    /conntrail\.yaml: found conntrail's own configuration, .* nothing to import$/,
    "import",
    yaml,
  );
  writeFileSync(yaml, "nothing");
  await refused("CONFIG", /conntrail\.yaml:1:1: found no block of conntrackd's, /, "import", yaml);
  await refused("CONFIG", /none\.conf: no such file$/, "import", join(directory, "none.conf"));
});

test("statistics alone have no link, so no keys", async () => {
  const out = join(directory, "stats", "conntrail.yaml");
  await run("import", `${GOLDEN}/example-stats.conf`, "-o", out);
  assert.equal(loadAnyConfig(out).mode, "stats");
  assert.deepEqual(readdirSync(join(directory, "stats")), ["conntrail.yaml"]);
});

test("a configuration file may be either", async () => {
  const yaml = join(directory, "either.yaml");
  await run("import", CONF, "-o", yaml, "--no-keys");
  assert.deepEqual({ ...loadAnyConfig(CONF), path: yaml }, loadAnyConfig(yaml));
  assert.equal(readAnyConfig(CONF).remarks.length, 30);
  assert.deepEqual(readAnyConfig(yaml).remarks, []);
  assert.equal(await contextFor(CONF).controlPath(), "/var/run/conntrackd.ctl");
  assert.equal(await contextFor(yaml).controlPath(), "/var/run/conntrackd.ctl");
  assert.throws(
    () => loadAnyConfig(`${GOLDEN}/lost-braces.conf`),
    /lost-braces\.conf:7:5: found "UDP" inside Mode FTFW/,
  );
});
