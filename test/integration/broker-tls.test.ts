import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { describe, it } from "node:test";
import { EmbeddedBroker } from "../../src/stream/broker.js";
import { connectBroker, type TlsFiles } from "../../src/stream/connection.js";
import { freePort, natsServerMissing, silentLogger, temporaryDirectory, until } from "../support/nats-server.js";

function openssl(...args: string[]): void {
  execFileSync("openssl", args, { stdio: "ignore" });
}

function opensslMissing(): string | false {
  try {
    openssl("version");
    return false;
  } catch {
    return "openssl is not installed";
  }
}

/** An authority and a certificate for `name`, signed by it. */
function makeCertificate(directory: string, authority: string, name: string, alternative: string): TlsFiles {
  const file = (ending: string) => join(directory, ending);
  const ca = file(`${authority}.pem`);
  const caKey = file(`${authority}.key`);
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  openssl("req", "-x509", ...curve, "-keyout", caKey, "-out", ca, "-subj", `/CN=${authority}`, "-days", "2");
  const cert = file(`${name}.pem`);
  const key = file(`${name}.key`);
  const signed = ["-CA", ca, "-CAkey", caKey, "-addext", `subjectAltName=${alternative}`, "-days", "2"];
  openssl("req", "-x509", ...curve, "-keyout", key, "-out", cert, "-subj", `/CN=${name}`, ...signed);
  return { ca, cert, key };
}

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
        await known.ready(3000);
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
