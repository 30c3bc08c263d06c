/** Somebody who is no broker answers at a peer's address: anybody on the link can be that, before TLS proves anything. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type Socket } from "node:net";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { describe, it } from "node:test";
import { connectBroker } from "../../src/stream/connection.js";
import { silentLogger, until } from "../support/nats-server.js";

const MIB = 1024 * 1024;
const INFO = 'INFO {"server_id":"X","version":"2.9.10","max_payload":1048576,"headers":true}\r\n';
/** Attempts that each attack gets. */
const ATTEMPTS = 3;

/** Does the same to everyone who connects, and knows how much of it they took. */
async function hostileServer(attack: (socket: Socket) => void) {
  const sockets = new Set<Socket>();
  let takenBytes = 0;
  let attempts = 0;
  const server = createServer((socket) => {
    attempts++;
    sockets.add(socket);
    socket.on("error", () => undefined);
    socket.once("close", () => {
      takenBytes += socket.bytesWritten - socket.writableLength;
      sockets.delete(socket);
    });
    attack(socket);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  return {
    address: `127.0.0.1:${port}`,
    attempts: () => attempts,
    open: () => sockets.size,
    taken: () => takenBytes + [...sockets].reduce((sum, one) => sum + one.bytesWritten - one.writableLength, 0),
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}

/** Writes as fast as the other side reads. */
function flood(socket: Socket, chunk: Buffer): void {
  const write = (): void => {
    while (!socket.destroyed && socket.write(chunk));
  };
  socket.on("drain", write);
  write();
}

/** Answers the client's first PING, so that it takes the server for one. */
function greet(socket: Socket, then: () => void): void {
  socket.write(INFO);
  socket.on("data", (data) => {
    if (!String(data).includes("PING")) return;
    socket.removeAllListeners("data").resume();
    socket.write("PONG\r\n", () => then());
  });
}

const FILLER = Buffer.alloc(64 * 1024, "x");

const ATTACKS: readonly { what: string; says: RegExp; attack: (socket: Socket) => void }[] = [
  {
    what: "an INFO line that never ends",
    says: /INFO line does not end/,
    attack: (socket) => {
      socket.write('INFO {"server_id":"');
      flood(socket, FILLER);
    },
  },
  {
    what: "messages behind the INFO line, before anything is encrypted",
    says: /more than its INFO line/,
    attack: (socket) => socket.write(`${INFO}MSG _INBOX.a 1 2\r\nxx\r\n`),
  },
  {
    what: "an error line that never ends",
    says: /a line has more than/,
    attack: (socket) => greet(socket, () => socket.write("-ERR '", () => flood(socket, FILLER))),
  },
  {
    what: "a message of a terabyte",
    says: /without its size|limit is/,
    attack: (socket) => greet(socket, () => socket.write("MSG a 1 1099511627776\r\n", () => flood(socket, FILLER))),
  },
  {
    what: "what is no line of the protocol",
    says: /none of the NATS protocol/,
    attack: (socket) => greet(socket, () => flood(socket, Buffer.from("HELLO\r\n".repeat(9000)))),
  },
];

describe("a broker that is none", () => {
  for (const { what, says, attack } of ATTACKS) {
    it(`sends ${what}: the connection ends, and nothing waits for it`, async () => {
      await using server = await hostileServer(attack);
      const delay = monitorEventLoopDelay({ resolution: 5 });
      delay.enable();
      const connection = connectBroker({
        servers: [server.address],
        node: "fw1",
        purpose: "test",
        serverName: "fw2",
        log: silentLogger(),
      });
      try {
        const heard = new Set<string>();
        await until("the attempts", () => {
          heard.add(connection.lastError);
          return server.attempts() > ATTEMPTS;
        });
        assert.ok(
          [...heard].some((error) => says.test(error)),
          [...heard].join("; "),
        );
        delay.disable();
        assert.ok(delay.max < 500e6, `the event loop stood still for ${Math.round(delay.max / 1e6)} ms`);
        // The kernel's buffers on both sides take some MiB of each attempt.
        assert.ok(server.taken() < ATTEMPTS * 16 * MIB, `${server.taken()} bytes were taken`);
      } finally {
        await connection.close();
      }
      await until("the last socket to be closed", () => server.open() === 0, 5000);
    });
  }

  it("says nothing: no socket is left of the attempts", async () => {
    await using server = await hostileServer(() => undefined);
    const connection = connectBroker({ servers: [server.address], node: "fw1", purpose: "test", log: silentLogger() });
    await until("another attempt", () => server.attempts() > 1);
    await until("the end of the first one", () => server.open() <= 1, 5000);
    await connection.close();
    await until("the end of the last one", () => server.open() === 0, 5000);
  });
});
