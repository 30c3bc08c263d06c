import assert from "node:assert/strict";
import { statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { makeDirectory } from "../../src/os/make-directory.js";
import { prepareStore } from "../../src/stream/broker/broker-host.js";
import { temporaryDirectory } from "../support/nats-server.js";

test("a directory is made with those above it, and one that is there stays as it is", async () => {
  await using root = await temporaryDirectory();
  const path = join(root.path, "one/two/three");
  makeDirectory(path, 0o700);
  assert.equal(statSync(path).mode & 0o777, 0o700);
  makeDirectory(path, 0o755);
  assert.equal(statSync(path).mode & 0o777, 0o700);
  writeFileSync(join(root.path, "file"), "");
  assert.throws(() => makeDirectory(join(root.path, "file"), 0o700), { code: "EEXIST" });
  assert.throws(() => makeDirectory(join(root.path, "file/below"), 0o700), { code: /EEXIST|ENOTDIR/ });
});

test("a file system that refuses is an error at once, and a store there is refused in one line", async () => {
  assert.throws(() => makeDirectory("/proc/nope/below", 0o700), { code: "ENOENT" });
  const options = { name: "fw1", host: "127.0.0.1", port: 4222, storeDir: "/proc/nope", maxBytes: 1 };
  await assert.rejects(prepareStore(options as unknown as Parameters<typeof prepareStore>[0], [2, 10, 0]), {
    code: "STORE",
    message: /^the store \/proc\/nope cannot be written/,
  });
});
