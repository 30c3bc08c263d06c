import assert from "node:assert/strict";
import { test } from "node:test";
import type { Flow } from "../../src/flow/flow.js";
import { W_PROTO } from "../../src/flow/record.js";
import type { Connection } from "../../src/history/connection.js";
import { compileWhoFilter } from "../../src/history/scan/row-filter.js";
import { whoAnswer } from "../../src/history/who-answer.js";
import { connection, echoConnection, greConnection, tcpConnection } from "../support/connections.js";

/** The answer, when the connection is one at all: what is found and what is said of it must agree. */
function who(of: Connection, address: string, port: number): string | null {
  const protocol = of.words[W_PROTO]! & 0xff;
  const filter = compileWhoFilter({ address, port, protocol, sinceMs: 0, untilMs: 0 });
  if (!filter.matches(of.words, 0)) return null;
  const { inside, remote, translation } = whoAnswer(of, address, port);
  return `${inside.address} ${inside.port} ${translation} ${remote.address} ${remote.port}`;
}

/** From inside, by way of the public address, to a server inside. */
const HAIRPIN: Partial<Flow> = {
  orig: { src: "10.0.0.12", dst: "203.0.113.1", sport: 40000, dport: 443 },
  reply: { src: "10.0.0.80", dst: "203.0.113.1", sport: 8443, dport: 61000 },
};
const PUBLISHED: Partial<Flow> = {
  orig: { src: "198.51.100.7", dst: "203.0.113.1", sport: 5000, dport: 443 },
  reply: { src: "10.0.0.80", dst: "198.51.100.7", sport: 8443, dport: 5000 },
};
const ROUTED: Partial<Flow> = {
  orig: { src: "203.0.113.9", dst: "198.51.100.7", sport: 5000, dport: 443 },
  reply: { src: "198.51.100.7", dst: "203.0.113.9", sport: 443, dport: 5000 },
};

test("whose address and port it was", () => {
  const table: [Connection, string, number, string | null][] = [
    [tcpConnection({}), "203.0.113.1", 61000, "10.0.0.12 40000 source 198.51.100.7 443"],
    [tcpConnection({}), "203.0.113.1", 40000, null],
    [tcpConnection({}), "198.51.100.7", 443, null],
    [tcpConnection(PUBLISHED), "203.0.113.1", 443, "10.0.0.80 8443 destination 198.51.100.7 5000"],
    [tcpConnection(HAIRPIN), "203.0.113.1", 443, "10.0.0.80 8443 destination 10.0.0.12 40000"],
    [tcpConnection(HAIRPIN), "203.0.113.1", 61000, "10.0.0.12 40000 source 203.0.113.1 443"],
    [tcpConnection(ROUTED), "203.0.113.9", 5000, "203.0.113.9 5000 none 198.51.100.7 443"],
    [echoConnection(), "203.0.113.1", 900, "10.0.0.12 77 source 198.51.100.7 undefined"],
    [greConnection(), "203.0.113.1", 1, "10.0.0.5 1 source 192.0.2.9 2"],
    [esp(), "203.0.113.1", 0, "10.0.0.5 undefined source 192.0.2.9 undefined"],
  ];
  for (const [of, address, port, expected] of table)
    assert.equal(who(of, address, port), expected, `${address} ${port}`);
});

function esp(): Connection {
  return connection({
    family: "ipv4",
    protocol: "50",
    orig: { src: "10.0.0.5", dst: "192.0.2.9" },
    reply: { src: "192.0.2.9", dst: "203.0.113.1" },
  });
}
