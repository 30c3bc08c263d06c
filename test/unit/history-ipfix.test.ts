import assert from "node:assert/strict";
import { test } from "node:test";
import type { Connection } from "../../src/history/connection.js";
import { IpfixEncoder, natEvents } from "../../src/history/format/ipfix.js";
import {
  bareConnection,
  connection,
  echoConnection,
  greConnection,
  NOON_MS,
  nat66Connection,
  tcpConnection,
} from "../support/connections.js";
import { type IpfixMessage, IpfixReader } from "../support/ipfix-messages.js";

const UDP = { messageBytesMax: 1232, templates: { everyMessages: 20, everyMs: 60_000 } };

class Exporter {
  nowMs = NOON_MS;
  readonly messages: Uint8Array[] = [];
  readonly #encoder: IpfixEncoder;

  constructor(options: ConstructorParameters<typeof IpfixEncoder>[0]) {
    this.#encoder = new IpfixEncoder(options, () => this.nowMs);
  }

  add(connections: readonly Connection[]): void {
    for (const event of connections.flatMap(natEvents)) this.#keep(this.#encoder.add(event));
  }

  flush(): IpfixMessage[] {
    this.#keep(this.#encoder.flush());
    const reader = new IpfixReader();
    return this.messages.map((message) => reader.read(message));
  }

  #keep(message: Uint8Array | null): void {
    if (message !== null) this.messages.push(message);
  }
}

function ipv4(text: string): bigint {
  return text.split(".").reduce((sum, part) => sum * 256n + BigInt(part), 0n);
}

test("a connection is a create and a delete", () => {
  const exporter = new Exporter(UDP);
  exporter.add([tcpConnection({ zone: 9 })]);
  const [message, ...more] = exporter.flush();
  assert.deepEqual(more, []);
  assert.deepEqual([message!.exportSeconds, message!.sequence, message!.domain], [NOON_MS / 1000, 0, 0]);
  assert.deepEqual(message!.templates, [258, 262]);
  const common: [number, bigint][] = [
    [234, 9n],
    [4, 6n],
    [8, ipv4("10.0.0.12")],
    [7, 40000n],
    [12, ipv4("198.51.100.7")],
    [11, 443n],
    [225, ipv4("203.0.113.1")],
    [227, 61000n],
    [226, ipv4("198.51.100.7")],
    [228, 443n],
  ];
  const counters: [number, bigint][] = [
    [298, 12n],
    [231, 3456n],
    [299, 10n],
    [232, 78901n],
  ];
  assert.deepEqual(message!.records, [
    new Map([[323, BigInt(NOON_MS + 125)], ...common, [230, 4n]]),
    new Map([[323, BigInt(NOON_MS + 5250)], ...common, [230, 5n], ...counters]),
  ]);
});

test("what is not translated, not begun and not ended is no event", () => {
  assert.deepEqual(natEvents(bareConnection()), []);
  assert.deepEqual(
    natEvents(tcpConnection({}, { startMs: null })).map(({ type }) => type),
    ["delete"],
  );
  assert.deepEqual(
    natEvents(tcpConnection({}, { endMs: null, end: "open" })).map(({ type }) => type),
    ["create"],
  );
});

test("each kind of connection has its template", () => {
  const exporter = new Exporter(UDP);
  exporter.add([echoConnection(), nat66Connection(), greConnection()]);
  const [message] = exporter.flush();
  const [echo, , nat66, , gre, greEnd] = message!.records;
  // Query ids, type and code.
  assert.deepEqual(
    [7, 11, 227, 228].map((field) => echo!.get(field)),
    [77n, 0x800n, 900n, 0x800n],
  );
  assert.equal(nat66!.get(230), 1n);
  assert.equal(nat66!.get(281), 0x20010db8000500000000000000000001n);
  assert.equal(nat66!.get(8), undefined);
  assert.equal(gre!.get(7), undefined);
  assert.deepEqual([gre!.get(298), greEnd!.get(298)], [undefined, 12n]);
  assert.deepEqual(message!.templates, [258, 259, 263, 256, 260]);
});

test("messages keep below their bound, count their records, and state every template before it is used", () => {
  const exporter = new Exporter({ ...UDP, messageBytesMax: 576 });
  const kinds = [tcpConnection({}), echoConnection(), nat66Connection(), greConnection(), v6WithoutPorts()];
  for (let i = 0; i < 400; i++) exporter.add(kinds);
  const messages = exporter.flush();
  let records = 0;
  for (const [i, message] of messages.entries()) {
    assert.ok(exporter.messages[i]!.length <= 576);
    assert.equal(message.sequence, records);
    records += message.records.length;
  }
  assert.equal(records, 400 * 10);
  const repeats = messages.filter(({ templates }) => templates.length === 8);
  assert.ok(repeats.length >= Math.floor((messages.length - 5) / 21), `${repeats.length} of ${messages.length}`);
});

function v6WithoutPorts(): Connection {
  return connection({
    family: "ipv6",
    protocol: "50",
    orig: { src: "2001:db8::1", dst: "2001:db8::2" },
    reply: { src: "2001:db8::2", dst: "2001:db8::9" },
  });
}

test("templates are sent again after a while, and once where none can be lost", () => {
  const quiet = new Exporter(UDP);
  const file = new Exporter({ messageBytesMax: 65_535, templates: null });
  for (let minute = 0; minute < 3; minute++) {
    for (const exporter of [quiet, file]) {
      exporter.nowMs = NOON_MS + minute * 60_000;
      exporter.add([echoConnection()]);
      exporter.flush();
    }
  }
  assert.deepEqual(
    quiet.flush().map(({ templates }) => templates),
    [[258], [258], [258]],
  );
  assert.deepEqual(
    file.flush().map(({ templates }) => templates),
    [[258], [], []],
  );
});
