/** `dump --expect` as a child process, against a daemon that has nothing behind it. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { requestExpectations } from "../../src/control/client.js";
import { type ControlServer, serveControl } from "../../src/control/server.js";
import { FakeHandlers, sampleExpectation } from "../support/control-handlers.js";
import { finish, type ProgramResult, startMain } from "../support/program.js";

const directory = mkdtempSync(join(tmpdir(), "conntrail-expect-"));
const socket = join(directory, "control.sock");
const config = join(directory, "conntrail.yaml");
const handlers = new FakeHandlers();
let server: ControlServer | undefined;

before(async () => {
  writeFileSync(config, `cluster: edge\nnode: fw1\nlisten: 10.77.0.1\ncontrol: ${socket}\n`);
  server = await serveControl(socket, handlers);
});

after(async () => {
  await server?.close(100);
  rmSync(directory, { recursive: true, force: true });
});

function dump(...args: string[]): Promise<ProgramResult> {
  return finish(startMain(["dump", ...args, "-c", config]));
}

const LINE =
  "proto=6 src=198.51.100.7 dst=203.0.113.1 sport=0 dport=50000 mask-src=255.255.255.255 mask-dst=255.255.255.255 " +
  "sport=0 dport=65535 master-src=10.0.0.12 master-dst=198.51.100.7 sport=40000 dport=21 class=0 helper=ftp";

test("dump --expect prints conntrackd's lines, conntrack's for a kernel, XML and JSON", async () => {
  handlers.expected = 1;
  assert.equal((await dump("internal", "--expect")).stdout, `${LINE} [active since 5s]\n`);
  assert.equal((await dump("kernel", "--expect")).stdout, `300 ${LINE}\n`);
  assert.match(
    (await dump("external", "--expect", "--format", "xml")).stdout,
    /^<flow>.*<class>0<\/class><\/meta><\/flow>\n$/,
  );
  const json = await dump("external", "--expect", "--json");
  assert.deepEqual(JSON.parse(json.stdout), [sampleExpectation("external", 0)]);
  handlers.expected = 0;
  assert.equal((await dump("internal", "--expect")).stdout, "");
  assert.equal((await dump("internal", "--expect", "--json")).stdout, "[]\n");
});

test("filters of flows are refused beside it", async () => {
  const { code, stdout, stderr } = await dump("internal", "--expect", "--host", "10.0.0.1");
  assert.deepEqual([code, stdout], [2, ""]);
  assert.equal(stderr, "conntrail: --host chooses flows: leave it out with --expect\n");
});

test("more than a frame holds come in several answers", async () => {
  handlers.expected = 1234;
  handlers.calls.length = 0;
  const views = await requestExpectations(socket, "external");
  assert.equal(views.length, 1234);
  assert.deepEqual(views.at(-1), sampleExpectation("external", 1233));
  assert.equal(handlers.calls.length, 3);
});
