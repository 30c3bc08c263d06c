/** What is written of connections, read by programs and checked against schemas that others wrote, where they are installed. */
import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { csvHead, csvRow } from "../../src/history/format/csv.js";
import { ecsDocument } from "../../src/history/format/ecs.js";
import { IpfixEncoder, natEvents } from "../../src/history/format/ipfix.js";
import { zeekFoot, zeekHead, zeekRow } from "../../src/history/format/zeek.js";
import {
  bareConnection,
  echoConnection,
  greConnection,
  NOON_MS,
  nat66Connection,
  tcpConnection,
} from "../support/connections.js";
import { until } from "../support/nats-server.js";

const directory = mkdtempSync(join(tmpdir(), `conntrail-consumers-${process.pid}-`));
const ALL = [
  tcpConnection({ helper: 'a,"b"\r\nc' }),
  bareConnection(),
  echoConnection(),
  nat66Connection(),
  greConnection(),
];
const WAIT_MS = 30_000;

after(() => rmSync(directory, { recursive: true, force: true }));

/** False when a program is here, else why the test is skipped. */
function missing(program: string, from: string): string | false {
  return spawnSync("which", [program]).status === 0 ? false : `no ${program} (${from})`;
}

function ipfixMessages(messageBytesMax: number): Uint8Array[] {
  const encoder = new IpfixEncoder(
    { messageBytesMax, templates: { everyMessages: 2, everyMs: 60_000 } },
    () => NOON_MS,
  );
  const messages: Uint8Array[] = [];
  for (const event of ALL.flatMap(natEvents)) {
    const full = encoder.add(event);
    if (full !== null) messages.push(full);
  }
  messages.push(encoder.flush()!);
  return messages;
}

test("Python's csv module reads what was written", { skip: missing("python3", "Debian's python3") }, () => {
  const program = "import csv, json, sys; print(json.dumps(list(csv.DictReader(open(sys.argv[1], newline='')))))";
  const path = join(directory, "connections.csv");
  writeFileSync(path, csvHead() + ALL.map(csvRow).join(""));
  const rows = JSON.parse(execFileSync("python3", ["-c", program, path], { encoding: "utf8" })) as Record<
    string,
    string
  >[];
  assert.equal(rows.length, ALL.length);
  // A line end in a value is escaped: read by lines, it would forge one.
  assert.equal(rows[0]!.helper, 'a,"b"\\u000d\\u000ac');
  assert.equal(rows[0]!.may_miss, "false");
  assert.equal(rows[1]!.start, "");
  assert.equal(rows[3]!.nat_dst, "2001:db8:1::2");
});

test("zeek-cut picks columns by their names", { skip: missing("zeek-cut", "of Zeek") }, () => {
  const log = zeekHead(NOON_MS) + ALL.map(zeekRow).join("") + zeekFoot(NOON_MS);
  const columns = ["-u", "ts", "id.orig_h", "id.resp_p", "proto", "nat_orig_h", "ct_nodes"];
  const lines = execFileSync("zeek-cut", columns, { input: log, encoding: "utf8" }).trimEnd().split("\n");
  assert.equal(lines.length, ALL.length);
  assert.match(lines[0]!, /^2026-01-31T12:00:00\+0000\t10\.0\.0\.12\t443\ttcp\t203\.0\.113\.1\tfw1,fw2$/);
  assert.match(lines[1]!, /\t2001:db8::1\t53\tudp\t-\tfw1$/);
});

interface EcsField {
  readonly type: string;
  readonly normalize: readonly string[];
  readonly allowed_values?: readonly { readonly name: string }[];
}

/** Elastic's own list of the schema's fields. */
function ecsSchema(): Readonly<Record<string, EcsField>> | null {
  try {
    return (createRequire(import.meta.url)("@elastic/ecs") as { EcsFlat: Record<string, EcsField> }).EcsFlat;
  } catch {
    return null;
  }
}

const schema = ecsSchema();

test("every field that ECS has is of its type", { skip: schema === null && "no @elastic/ecs (npm)" }, () => {
  for (const connection of ALL) {
    const { conntrail, ...document } = ecsDocument(connection);
    assert.ok(typeof conntrail === "object");
    for (const [name, value] of flattened("", document)) {
      const field = schema![name];
      assert.ok(field !== undefined, `${name} is no field of the schema`);
      assert.equal(Array.isArray(value), field.normalize.includes("array"), name);
      for (const one of Array.isArray(value) ? value : [value]) checkEcs(name, field, one);
    }
  }
});

function* flattened(prefix: string, document: object): Generator<[string, unknown]> {
  for (const [key, value] of Object.entries(document) as [string, unknown][]) {
    const name = prefix === "" ? key : `${prefix}.${key}`;
    if (typeof value === "object" && value !== null && !Array.isArray(value)) yield* flattened(name, value);
    else yield [name, value];
  }
}

function checkEcs(name: string, field: EcsField, value: unknown): void {
  switch (field.type) {
    case "keyword":
      assert.equal(typeof value, "string", name);
      break;
    case "ip":
      assert.match(String(value), /^[0-9a-f.:]+$/, name);
      break;
    case "long":
      assert.ok(Number.isSafeInteger(value), name);
      break;
    case "date":
      assert.ok(!Number.isNaN(Date.parse(String(value))), name);
      break;
    default:
      assert.fail(`${name} is a ${field.type}`);
  }
  const allowed = field.allowed_values?.map((each) => each.name);
  if (allowed !== undefined) assert.ok(allowed.includes(String(value)), `${name}: ${String(value)}`);
}

test("ipfixDump reads a file of messages", { skip: missing("ipfixDump", "Debian's libfixbuf-tools") }, () => {
  const path = join(directory, "nat.ipfix");
  writeFileSync(path, Buffer.concat(ipfixMessages(65_535)));
  const text = execFileSync("ipfixDump", ["--in", path], { encoding: "utf8" });
  assert.equal(text.match(/--- data record \d+ ---/g)?.length, 8);
  assert.match(text, /postNATSourceIPv4Address : 203\.0\.113\.1\n/);
  assert.match(text, /observationTimeMilliseconds : 2026-01-31 12:00:05\.250\n/);
  assert.match(text, /responderOctets : 78901\n/);
  assert.match(text, /postNATDestinationIPv6Address : 2001:0db8:0001::0002\n/);
});

test("nfcapd collects NAT events, nfdump prints them", { skip: missing("nfcapd", "Debian's nfdump") }, async () => {
  const port = await freePort();
  const flows = join(directory, "flows");
  mkdirSync(flows);
  const pid = join(directory, "nfcapd.pid");
  const collector = spawn("nfcapd", ["-b", "127.0.0.1", "-p", String(port), "-w", flows, "-P", pid]);
  try {
    await said(collector, /Startup nfcapd/);
    const socket = createSocket("udp4");
    const heard = said(collector, /New ipfix exporter/);
    for (const message of ipfixMessages(576)) await sent(socket, message, port);
    await heard;
    // What it has read is written when it ends; what is still in its socket then is lost.
    await until("nfcapd to read all datagrams", () => unreadBytes(port) === 0);
    collector.kill("SIGTERM");
    await once(collector, "exit");
    socket.close();
  } finally {
    collector.kill("SIGKILL");
  }
  const raw = execFileSync("nfdump", ["-R", flows, "-o", "raw"], {
    encoding: "utf8",
    env: { ...process.env, TZ: "UTC" },
  });
  const records = raw
    .split("Flow Record:")
    .slice(1)
    .map((text) => fields(text));
  assert.equal(records.length, 8);
  const [create, end] = records;
  assert.deepEqual(
    [create!["src addr"], create!["src port"], create!["src xlt ip"], create!["src xlt port"], create!["dst xlt ip"]],
    ["10.0.0.12", "40000", "203.0.113.1", "61000", "198.51.100.7"],
  );
  assert.match(create!["nat event"]!, /^4/);
  assert.match(create!["Event time"]!, /^1769860800125 /);
  assert.match(end!["nat event"]!, /^5/);
  assert.match(end!["Event time"]!, /^1769860805250 /);
});

function fields(text: string): Record<string, string> {
  return Object.fromEntries(
    [...text.matchAll(/^ *(.+?) += +(.*)$/gm)].map(([, name, value]) => [name!, value!.trim()]),
  );
}

test("tshark's dissector takes every datagram", { skip: missing("tshark", "Debian's tshark") }, () => {
  const path = join(directory, "nat.pcap");
  const messages = ipfixMessages(576);
  writeFileSync(path, pcap(messages, 4739));
  const shown = [
    "cflow.version",
    "cflow.sequence",
    "cflow.nat_event",
    "cflow.srcaddr",
    "cflow.post_natsource_ipv4_address",
  ];
  const args = ["-r", path, "-d", "udp.port==4739,cflow", "-T", "fields", ...shown.flatMap((name) => ["-e", name])];
  const lines = execFileSync("tshark", args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] })
    .trimEnd()
    .split("\n");
  assert.equal(lines.length, messages.length);
  assert.ok(lines.every((line) => line.startsWith("10\t")));
  assert.equal(lines.flatMap((line) => line.split("\t")[2]!.split(",")).join(","), "4,5,4,5,1,2,4,5");
  assert.match(lines[0]!, /\t10\.0\.0\.12.*\t203\.0\.113\.1/);
  const doubts = execFileSync(
    "tshark",
    ["-r", path, "-d", "udp.port==4739,cflow", "-Y", "_ws.malformed || _ws.expert"],
    {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    },
  );
  assert.equal(doubts, "");
});

/** A capture of datagrams over IPv4 without a link layer (LINKTYPE_RAW). */
function pcap(payloads: readonly Uint8Array[], port: number): Buffer {
  const head = Buffer.alloc(24);
  head.writeUInt32LE(0xa1b2c3d4, 0);
  head.writeUInt16LE(2, 4);
  head.writeUInt16LE(4, 6);
  head.writeUInt32LE(65_535, 16);
  head.writeUInt32LE(101, 20);
  const packets = payloads.map((payload) => {
    const packet = Buffer.alloc(16 + 28 + payload.length);
    packet.writeUInt32LE(28 + payload.length, 8);
    packet.writeUInt32LE(28 + payload.length, 12);
    const ip = packet.subarray(16);
    ip.writeUInt16BE(0x4500, 0);
    ip.writeUInt16BE(28 + payload.length, 2);
    ip.writeUInt8(64, 8);
    ip.writeUInt8(17, 9);
    ip.set([127, 0, 0, 1, 127, 0, 0, 1], 12);
    ip.writeUInt16BE(40_000, 20);
    ip.writeUInt16BE(port, 22);
    ip.writeUInt16BE(8 + payload.length, 24);
    ip.set(payload, 28);
    return packet;
  });
  return Buffer.concat([head, ...packets]);
}

async function freePort(): Promise<number> {
  const socket = createSocket("udp4");
  socket.bind(0, "127.0.0.1");
  await once(socket, "listening");
  const { port } = socket.address();
  socket.close();
  return port;
}

/** Bytes that wait in the UDP socket of 127.0.0.1 with this port (proc(5), `rx_queue`). */
function unreadBytes(port: number): number {
  const address = `0100007F:${port.toString(16).toUpperCase().padStart(4, "0")}`;
  const rows = readFileSync("/proc/net/udp", "utf8").split("\n");
  const [, , , , queues] = rows.map((row) => row.trim().split(/ +/)).find(([, local]) => local === address) ?? [];
  const queued = queues?.split(":")[1];
  assert.ok(queued !== undefined, `no UDP socket on port ${port}`);
  return Number.parseInt(queued, 16);
}

function sent(socket: ReturnType<typeof createSocket>, message: Uint8Array, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.send(message, port, "127.0.0.1", (error) => (error ? reject(error) : resolve()));
  });
}

/** Resolves when the program has printed what matches. */
function said(child: ChildProcess, pattern: RegExp): Promise<void> {
  return new Promise((resolve, reject) => {
    let text = "";
    const limit = setTimeout(() => reject(new Error(`it said only: ${text}`)), WAIT_MS);
    const listen = (chunk: Buffer): void => {
      text += chunk.toString();
      if (!pattern.test(text)) return;
      clearTimeout(limit);
      resolve();
    };
    child.stdout!.on("data", listen);
    child.stderr!.on("data", listen);
  });
}
