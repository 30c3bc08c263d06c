/** The end of a daemon on request: whoever asked hears of it when the process has gone, and holds nobody up. */
import assert from "node:assert/strict";
import { fork } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath } from "node:url";
import { requestStop } from "../../src/control/client.js";
import { serveControl } from "../../src/control/server.js";
import { FakeHandlers } from "../support/control-handlers.js";
import { waitUntil } from "../support/kernel-namespace.js";

const directory = mkdtempSync(join(tmpdir(), `conntrail-stop-${process.pid}-`));
const path = join(directory, "control.sock");
const SELF = fileURLToPath(import.meta.url);

// Run as a child, this file is a daemon that ends when it is told to by both: the socket, then its parent.
if (process.argv[2] === "daemon") {
  const handlers = new FakeHandlers();
  const server = await serveControl(process.argv[3]!, handlers);
  process.send?.("up");
  await waitUntil(() => handlers.calls.includes("stop"), "the request");
  const startedMs = performance.now();
  await server.close(60_000);
  process.send?.(`closed in ${performance.now() - startedMs < 5000 ? "time" : "vain"}`);
  await once(process, "message");
  process.exit(0);
}

after(() => rmSync(directory, { recursive: true, force: true }));

test("stop is answered by the end of the process", async () => {
  const env = { ...process.env };
  delete env.NODE_TEST_CONTEXT;
  const daemon = fork(SELF, ["daemon", path], { env });
  assert.deepEqual(await once(daemon, "message"), ["up", undefined]);
  let answered = false;
  const asked = requestStop(path).then(() => {
    answered = true;
  });
  assert.deepEqual(await once(daemon, "message"), ["closed in time", undefined]);
  assert.equal(answered, false, "answered while the process lives");
  daemon.send("end");
  await asked;
  await assert.rejects(requestStop(path), { code: "CONTROL" });
});

test("a stop that cannot be begun is an error", async () => {
  const handlers = new FakeHandlers();
  handlers.failure = new Error("not now");
  const server = await serveControl(path, handlers);
  await assert.rejects(requestStop(path), { code: "CONTROL", message: "not now" });
  await server.close(100);
});
