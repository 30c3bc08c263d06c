import assert from "node:assert/strict";
import { chmodSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { EmbeddedBroker } from "../../src/stream/broker/broker.js";
import { type BrokerLogin, connectBroker, readSecret, type TlsFiles } from "../../src/stream/connection.js";
import { makeCertificate, opensslMissing } from "../support/certificate.js";
import { freePort, natsServerMissing, silentLogger, temporaryDirectory, until } from "../support/nats-server.js";

describe("embedded broker with TLS", { skip: natsServerMissing() || opensslMissing() }, () => {
  for (const alternative of ["DNS:fw1", "IP:127.0.0.1"]) {
    it(`serves a certificate for ${alternative}, by address, to clients of the same authority only`, async () => {
      await using directory = await temporaryDirectory();
      const tls = makeCertificate(directory.path, "authority", "fw1", alternative);
      const stranger = makeCertificate(directory.path, "another", "fw9", alternative);
      const broker = new EmbeddedBroker({
        node: "fw1",
        listen: { host: "127.0.0.1", port: await freePort() },
        storeDir: join(directory.path, "store"),
        storeBytesMax: 1024 ** 3,
        tls,
        log: silentLogger(),
      });
      const connect = (options: { tls?: TlsFiles; serverName?: string }) =>
        connectBroker({ servers: [broker.address], node: "fw2", purpose: "test", log: silentLogger(), ...options });
      await broker.start();
      const known = connect({ tls, serverName: "fw1" });
      const unknown = connect({ tls: { ...stranger, ca: tls.ca }, serverName: "fw1" });
      const plain = connect({});
      const wrongAuthority = connect({ tls: stranger, serverName: "fw1" });
      try {
        await known.ready(30_000);
        for (const refused of [unknown, plain, wrongAuthority]) {
          await until("the refusal", () => refused.lastError !== "");
          assert.equal(refused.connected, false);
        }
      } finally {
        await Promise.all([known, unknown, plain, wrongAuthority].map((connection) => connection.close()));
        await broker.stop();
      }
    });
  }
});

describe("embedded broker with a token", { skip: natsServerMissing() }, () => {
  it("lets in who knows the token, and nobody else, and does not take it from a file that others can read", async () => {
    await using directory = await temporaryDirectory();
    const file = join(directory.path, "token");
    writeFileSync(file, "a secret\n", { mode: 0o600 });
    const login = { kind: "token", file } as const;
    const broker = new EmbeddedBroker({
      node: "fw1",
      listen: { host: "127.0.0.1", port: await freePort() },
      storeDir: join(directory.path, "store"),
      storeBytesMax: 1024 ** 3,
      token: readSecret(file),
      login,
      log: silentLogger(),
    });
    const connect = (options: { login?: BrokerLogin }) =>
      connectBroker({ servers: [broker.address], node: "fw2", purpose: "test", log: silentLogger(), ...options });
    await broker.start();
    assert.equal(statSync(join(directory.path, "store", "nats.conf")).mode & 0o077, 0);
    const wrong = join(directory.path, "wrong");
    writeFileSync(wrong, "another", { mode: 0o600 });
    const known = connect({ login });
    const others = [connect({}), connect({ login: { kind: "token", file: wrong } })];
    try {
      await known.ready(30_000);
      for (const refused of others) {
        await until("the refusal", () => refused.lastError !== "");
        assert.equal(refused.connected, false);
      }
      chmodSync(file, 0o644);
      assert.throws(() => readSecret(file), /can be read or written by others: chmod 600/);
    } finally {
      await Promise.all([known, ...others].map((connection) => connection.close()));
      await broker.stop();
    }
  });
});
