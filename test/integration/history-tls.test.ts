/** The history commands against a broker that asks for certificates. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { EmbeddedBroker } from "../../src/stream/broker/broker.js";
import { connectBroker, type TlsFiles } from "../../src/stream/connection.js";
import { subject } from "../../src/stream/format/subjects.js";
import { ensureStream } from "../../src/stream/own-stream.js";
import { makeCertificate, opensslMissing } from "../support/certificate.js";
import { HistoryCluster } from "../support/history-cluster.js";
import { freePort, natsServerMissing, silentLogger, temporaryDirectory } from "../support/nats-server.js";
import { finish, type ProgramResult, startMain } from "../support/program.js";
import { Random } from "../support/records.js";

const skip = natsServerMissing() || opensslMissing();

test("history, also with --follow, asks a broker with TLS by the node's certificate, and no other", {
  skip,
}, async () => {
  await using directory = await temporaryDirectory();
  const tls = makeCertificate(directory.path, "authority", "fw1", "DNS:fw1");
  const stranger = makeCertificate(directory.path, "another", "fw9", "DNS:fw1");
  const port = await freePort();
  const listen = { host: "127.0.0.1", port };
  const storeDir = join(directory.path, "store");
  const log = silentLogger();
  const broker = new EmbeddedBroker({ node: "fw1", listen, storeDir, storeBytesMax: 1024 ** 3, tls, log });
  await broker.start();
  const connection = connectBroker({
    servers: [broker.address],
    node: "fw1",
    purpose: "test",
    serverName: "fw1",
    tls,
    log,
  });
  try {
    const cluster = new HistoryCluster(["fw1"]);
    for (let i = 0; i < 20; i++) cluster.batch(cluster.members[0]!, new Random(i));
    const client = await connection.ready(5000);
    await ensureStream(await client.jetstreamManager(), "fw1", { maxAgeMs: 0, bytesMax: 64 * 1024 ** 2 });
    for (const { kind, payload } of cluster.lookup("fw1").messages) {
      await client.jetstream().publish(subject("fw1", kind), payload);
    }
    const configOf = (name: string, files: TlsFiles): string => {
      const path = join(directory.path, `${name}.yaml`);
      const { ca, cert, key } = files;
      writeFileSync(
        path,
        `cluster: edge
node: fw1
listen: 127.0.0.1
peers: { fw2: 127.0.0.2 }
broker: { mode: embedded, port: ${port}, store: ${storeDir} }
tls: { ca: ${ca}, cert: ${cert}, key: ${key} }
`,
        { mode: 0o600 },
      );
      return path;
    };
    const own = configOf("own", tls);
    const history = await run("history", "--format", "ndjson", "-c", own);
    assert.equal(history.code, 0, history.stderr);
    assert.equal(history.stdout.trim().split("\n").length, cluster.truth.length);
    const limited = ["--since", "0", "--limit", "1", "--format", "ndjson"];
    const followed = await run("history", "--follow", ...limited, "-c", own);
    assert.equal(followed.stdout.trim().split("\n").length, 1, followed.stderr);
    for (const files of [stranger, { ...stranger, ca: tls.ca }]) {
      const refused = await run("history", "-c", configOf("stranger", files));
      assert.equal(refused.code, 1);
      assert.match(refused.stderr, /^conntrail: [^\n]+\n$/);
    }
  } finally {
    await connection.close();
    await broker.stop();
  }
});

function run(...args: string[]): Promise<ProgramResult> {
  return finish(startMain(args));
}
