/** Somebody without any credential floods a node's own broker. The peers still reach it, and its memory is bounded. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect as connectTcp, type Socket } from "node:net";
import { join } from "node:path";
import { describe, it } from "node:test";
import { EmbeddedBroker } from "../../src/stream/broker/broker.js";
import { connectBroker } from "../../src/stream/connection.js";
import { freePort, natsServerMissing, silentLogger, temporaryDirectory, until } from "../support/nats-server.js";

const MIB = 1024 * 1024;

async function setUp() {
  const directory = await temporaryDirectory();
  const port = await freePort();
  const broker = new EmbeddedBroker({
    node: "fw1",
    listen: { host: "127.0.0.1", port },
    storeDir: join(directory.path, "store"),
    storeBytesMax: 1024 ** 3,
    log: silentLogger(),
  });
  await broker.start();
  const attackers: Socket[] = [];
  const attack = async (count: number, act: (socket: Socket) => void): Promise<void> => {
    for (let i = 0; i < count; i++) {
      const socket = connectTcp(port, "127.0.0.1");
      socket.on("error", () => undefined);
      attackers.push(socket);
      await once(socket, "connect");
      act(socket);
    }
  };
  return {
    broker,
    attack,
    residentMib: () => {
      const status = readFileSync(`/proc/${broker.pid}/status`, "utf8");
      return Math.round(Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) / 1024);
    },
    async [Symbol.asyncDispose]() {
      for (const socket of attackers) socket.destroy();
      await broker.stop();
      await directory[Symbol.asyncDispose]();
    },
  };
}

describe("a broker that is flooded", { skip: natsServerMissing() }, () => {
  it("lets a peer in beside 1,100 connections that answer its pings and nothing else", async () => {
    await using edge = await setUp();
    await edge.attack(1100, (socket) =>
      socket.on("data", (data) => {
        if (data.includes("PING")) socket.write("PONG\r\n");
      }),
    );
    const options = { servers: [edge.broker.address], node: "fw2", purpose: "follows fw1", log: silentLogger() };
    const peer = connectBroker(options);
    try {
      await peer.ready(10_000);
      assert.equal(peer.lastError, "");
      assert.ok(edge.residentMib() < 100, `${edge.residentMib()} MiB`);
    } finally {
      await peer.close();
    }
  });

  it("keeps within its memory beside 40 subscribers that do not read", async () => {
    await using edge = await setUp();
    await edge.attack(40, (socket) => {
      socket.write('CONNECT {"verbose":false}\r\nSUB flood 1\r\n');
      socket.pause();
    });
    const options = { servers: [edge.broker.address], node: "fw1", purpose: "own streams", log: silentLogger() };
    const own = connectBroker(options);
    try {
      let peakMib = 0;
      const payload = Buffer.alloc(MIB, "x");
      // Each of them is owed 100 MiB.
      for (let i = 0; i < 100; i++) {
        const client = await own.ready(10_000);
        client.publish("flood", payload);
        // The server stops reading from who sends to slow subscribers, for longer than the client waits for a pong.
        await client.flush().catch(() => undefined);
        peakMib = Math.max(peakMib, edge.residentMib());
      }
      assert.ok(peakMib < 700, `the server took ${peakMib} MiB`);
      assert.equal(edge.broker.restarts, 0);
      await until("the memory to be given back", () => edge.residentMib() < 300, 20_000);
    } finally {
      await own.close();
    }
  });
});
