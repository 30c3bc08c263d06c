/** conntrackd's command line as a child process, against a server without a daemon behind it. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { type ControlServer, serveControl } from "../../src/control/server.js";
import { ConntrailError } from "../../src/errors.js";
import { FakeHandlers } from "../support/control-handlers.js";
import { parseXmlLine } from "../support/xml-line.js";

const directory = mkdtempSync(join(tmpdir(), `conntrail-conntrackd-${process.pid}-`));
const socket = join(directory, "control.sock");
const yaml = join(directory, "fw1.yaml");
const conf = join(directory, "conntrackd.conf");
const handlers = new FakeHandlers();
let server: ControlServer;

before(async () => {
  writeFileSync(yaml, `cluster: edge\nnode: fw1\nlisten: 10.77.0.1\ncontrol: ${socket}\n`);
  writeFileSync(
    conf,
    confText("Multicast { IPv4_address 225.0.0.50 Group 3780 IPv4_interface 10.77.0.1 Interface eth2 }"),
  );
  server = await serveControl(socket, handlers);
});

after(async () => {
  await server?.close(100);
  rmSync(directory, { recursive: true, force: true });
});

function confText(link: string): string {
  return `Sync {\n Mode FTFW { }\n ${link}\n}\nGeneral {\n UNIX { Path ${socket} }\n}\n`;
}

interface Result {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const PROGRAM = `const { main } = await import(${JSON.stringify(new URL("../../src/cli/conntrackd/main.js", import.meta.url).href)});
await main(process.argv.slice(1));`;

function run(...args: string[]): Promise<Result> {
  return new Promise((resolve) => {
    execFile(process.execPath, ["--input-type=module", "-e", PROGRAM, "--", ...args], (error, stdout, stderr) =>
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }),
    );
  });
}

/** A line on standard error, without its date and its process. */
function complaint(text: string): string {
  assert.match(text, /^\[\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}\] \(pid=\d+\) /);
  return text.replace(/^.*? \(pid=\d+\) /, "");
}

test("each request reaches its handler and prints nothing", async () => {
  for (const [line, calls] of [
    ["-c", ["commit", "committed"]],
    ["-c exp", ["commit expect", "committed"]],
    ["-c ct", ["commit ct", "committed"]],
    ["-f", ["flush caches"]],
    ["-f int", ["flush internal"]],
    ["-f external", ["flush external"]],
    ["-F", ["flush kernel"]],
    ["-F exp", ["flush kernel expect"]],
    ["-R", ["resync kernel"]],
    ["-R exp", ["resync kernel"]],
    ["-n", ["resync peers begun"]],
    ["-B", ["bulk begun"]],
    ["-t", ["purge"]],
  ] as const) {
    handlers.calls.length = 0;
    assert.deepEqual(await run("-C", yaml, ...line.split(" ")), { code: 0, stdout: "", stderr: "" }, line);
    assert.deepEqual(handlers.calls, calls, line);
  }
});

test("dumps, a line each", async () => {
  const { code, stdout } = await run("-i", "-C", conf);
  assert.equal(code, 0);
  assert.match(stdout, /^(tcp {6}6 ESTABLISHED src=10\.0\.0\.10 .* mark=\d( helper=ftp)? \[active since 4\ds\]\n){3}$/);
  const xml = await run("-e", "-x", "-C", conf);
  const lines = xml.stdout.trimEnd().split("\n");
  assert.deepEqual(
    lines.map((line) => parseXmlLine(line).name),
    ["flow", "flow", "flow"],
  );
  const expected = await run("-i", "exp", "-C", yaml);
  assert.match(expected.stdout, /^(proto=6 .* helper=ftp \[active since 5s\]\n){2}$/);
});

test("dumps follow the mode of the file", async () => {
  const modes = join(directory, "modes.conf");
  const link = "UDP { IPv4_address 10.77.0.1 IPv4_Destination_Address 10.77.0.2 Port 3780 }";
  const dumped = async (mode: string, line: string): Promise<readonly [string, string[]]> => {
    const expect = "Options { ExpectationSync on }";
    writeFileSync(modes, confText(`${link} ${expect}`).replace("Mode FTFW { }", mode));
    handlers.calls.length = 0;
    const { code, stdout, stderr } = await run("-C", modes, ...line.split(" "));
    assert.deepEqual([code, stderr], [0, ""], line);
    return [stdout, [...handlers.calls]];
  };
  const alone = "Mode NOTRACK { DisableInternalCache on DisableExternalCache on }";
  for (const line of ["-i", "-i ct", "-i -x"]) {
    const [stdout, calls] = await dumped(alone, line);
    // As `conntrack -L` prints, also where XML was asked for.
    const form =
      /^(tcp {6}6 100 ESTABLISHED src=.* packets=1 bytes=60 src=.* packets=2 bytes=90 \[ASSURED\] mark=\d( helper=ftp)? use=1\n){3}$/;
    assert.match(stdout, form);
    assert.deepEqual(calls, ["dump kernel replicated"]);
  }
  // Whether the daemon is there is asked in any case.
  for (const line of ["-i exp", "-e", "-e -x", "-e exp"]) assert.deepEqual(await dumped(alone, line), ["", ["stats"]]);
  assert.deepEqual((await dumped("Mode FTFW { DisableExternalCache on }", "-e"))[0], "");
  assert.match((await dumped("Mode FTFW { DisableExternalCache on }", "-i"))[0], /\[active since 4\ds\]/);

  const alarm = "Mode ALARM { RefreshTime 30 CacheTimeout 100 }";
  const expires = / \[expires in (\d+)s\] \[active since \d+s\]$/gm;
  for (const [line, count] of [
    ["-e", 3],
    ["-e exp", 2],
  ] as const) {
    const left = [...(await dumped(alarm, line))[0].matchAll(expires)].map(([, seconds]) => Number(seconds));
    assert.equal(left.length, count, line);
    assert.ok(left.every((seconds) => seconds > 70 && seconds <= 100));
  }
  assert.doesNotMatch((await dumped(alarm, "-i"))[0], /expires/);
  assert.match((await dumped(alarm, "-e -x"))[0], /^<flow>/);
});

test("statistics alone have one cache, and what concerns peers is answered and does nothing", async () => {
  const stats = join(directory, "stats.conf");
  writeFileSync(stats, `Stats { LogFile on }\nGeneral {\n UNIX { Path ${socket} }\n}\n`);
  for (const [line, calls] of [
    ["-f", ["flush internal"]],
    ["-f int", ["flush internal"]],
    ["-f ext", ["stats"]],
    ["-F", ["flush kernel"]],
    ["-R", ["resync kernel"]],
    ["-c", ["stats"]],
    ["-B", ["stats"]],
    ["-n", ["stats"]],
    ["-t", ["stats"]],
    ["-e", ["stats"]],
    ["-i exp", ["stats"]],
  ] as const) {
    handlers.calls.length = 0;
    assert.deepEqual(await run("-C", stats, ...line.split(" ")), { code: 0, stdout: "", stderr: "" }, line);
    assert.deepEqual(handlers.calls, calls, line);
  }
  assert.match((await run("-C", stats, "-s")).stdout, /^cache stats:\n/);
});

test("the link is called as the file calls it", async () => {
  const head = async (file: string, ...part: string[]) => (await run("-C", file, "-s", ...part)).stdout.split("\n")[0];
  assert.equal(await head(conf, "link"), "multicast traffic device=eth2 status=RUNNING role=ACTIVE:");
  assert.equal(await head(yaml, "link"), "UDP traffic device=nats status=RUNNING role=ACTIVE:");
  // Without ExpectationSync conntrackd has nothing to say of expectations.
  assert.equal(await head(conf, "expect"), "");
  assert.equal(await head(yaml, "expect"), "cache internal:");
});

test("what goes wrong ends with 1 and one line", async () => {
  handlers.failure = new ConntrailError("CONTROL", "the daemon is starting; try again in a moment");
  const refused = await run("-C", yaml, "-c");
  handlers.failure = null;
  assert.equal(refused.code, 1);
  assert.equal(complaint(refused.stderr), "[ERROR] the daemon is starting; try again in a moment\n");

  const nobody = join(directory, "nobody.yaml");
  writeFileSync(nobody, `cluster: edge\nnode: fw1\nlisten: 10.77.0.1\ncontrol: ${directory}/none.sock\n`);
  const unreachable = await run("-C", nobody, "-s");
  assert.equal(unreachable.code, 1);
  assert.equal(
    complaint(unreachable.stderr),
    "[ERROR] can't connect: is conntrackd running? appropriate permissions?\n",
  );
  const missing = await run("-s", "-C", join(directory, "none"));
  assert.equal(missing.code, 1);
  assert.equal(complaint(missing.stderr), `[ERROR] can't open config file \`${join(directory, "none")}'\n`);

  const broken = join(directory, "broken.conf");
  writeFileSync(broken, confText("Bogus 1"));
  for (const args of [["-s"], ["-d"], []]) {
    const { code, stdout, stderr } = await run("-C", broken, ...args);
    assert.deepEqual([code, stdout], [1, ""]);
    assert.match(complaint(stderr), new RegExp(`^\\[ERROR\\] ${broken}:3:2: .*Bogus.*\\n$`));
  }
});

test("help, version, and what cannot be understood", async () => {
  const help = await run("-h");
  assert.deepEqual([help.code, help.stderr], [0, ""]);
  assert.match(
    help.stdout,
    /^Connection tracking userspace daemon v1\.4\.7\b.*\nUsage: conntrackd \[commands\] \[options\]\n/,
  );
  const version = await run("-v");
  assert.deepEqual([version.code, version.stderr], [0, ""]);
  assert.match(version.stdout, /^Connection tracking userspace daemon v1\.4\.7, as conntrail \d+\.\d+\.\d+/);
  const unknown = await run("-z");
  assert.deepEqual([unknown.code, unknown.stdout], [0, help.stdout]);
  assert.equal(complaint(unknown.stderr), "[ERROR] Unknown option: -z\n");
  assert.equal((await run("-s", "-d")).code, 1);
});
