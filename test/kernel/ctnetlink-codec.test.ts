/** The codec against the running kernel: what it creates, conntrack(8) shows, and packets take. */
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { decodeConntrack, decodeError, errnoName } from "../../src/ctnetlink/decode.js";
import { RequestBatch } from "../../src/ctnetlink/encode.js";
import { type Flow, flowFromRecord, recordFromFlow } from "../../src/flow/flow.js";
import { DecodedFlow } from "../../src/flow/record.js";
import { NetlinkExchange, type NetlinkMessage } from "../support/netlink-exchange.js";

const SKIP = missing();
const OPTIONS = { timeoutSeconds: 600, liberal: false };

function missing(): string | false {
  if (process.getuid?.() !== 0) return "needs root for network namespaces";
  for (const tool of ["conntrack", "nft", "ip"]) {
    try {
      execFileSync("sh", ["-c", `command -v ${tool}`], { stdio: "ignore" });
    } catch {
      return `needs ${tool}`;
    }
  }
  return false;
}

/** A network namespace that lives as long as its scope. */
class Namespace implements Disposable {
  readonly name: string;

  constructor(suffix: string) {
    this.name = `ctcodec-${process.pid}-${suffix}`;
    execFileSync("ip", ["netns", "add", this.name]);
    this.run("ip", "link", "set", "lo", "up");
  }

  run(...command: string[]): string {
    return execFileSync("ip", ["netns", "exec", this.name, ...command], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
  }

  nft(rules: string): void {
    execFileSync("ip", ["netns", "exec", this.name, "nft", "-f", "-"], { input: rules });
  }

  /** The lines of `conntrack -L`, sorted, without what passes: timeout and use. */
  lines(): string[] {
    return ["ipv4", "ipv6"]
      .flatMap((family) => this.run("conntrack", "-L", "-f", family, "-o", "extended").trim().split("\n"))
      .filter((line) => line !== "")
      .map((line) => line.replace(/^(\w+ +\d+ \w+ +\d+) \d+ /, "$1 ").replace(/ use=\d+/, ""))
      .sort();
  }

  [Symbol.dispose](): void {
    execFileSync("ip", ["netns", "del", this.name]);
  }
}

/** With it the kernel keeps labels, and translates. */
const RULES = `
table inet t {
  chain labels { type filter hook forward priority 0; ct label 5 accept; }
  chain nat { type nat hook postrouting priority 100; }
}`;

async function outcome(exchange: NetlinkExchange, fill: (batch: RequestBatch) => void): Promise<string> {
  const batch = new RequestBatch();
  fill(batch);
  const messages = await exchange.request(batch.bytes(0, 1));
  const last = messages.at(-1)!.bytes;
  return errnoName(decodeError(last, 16, last.length));
}

const OK = errnoName(0);

function create(exchange: NetlinkExchange, flow: Flow, options = OPTIONS): Promise<string> {
  const { words, rare } = recordFromFlow(flow);
  return outcome(exchange, (batch) => batch.create(words, 0, rare, options));
}

function update(exchange: NetlinkExchange, flow: Flow): Promise<string> {
  const { words, rare } = recordFromFlow(flow);
  return outcome(exchange, (batch) => batch.update(words, 0, rare, OPTIONS));
}

function decode(message: NetlinkMessage): DecodedFlow {
  const flow = new DecodedFlow();
  assert.equal(decodeConntrack(message.bytes, 16, message.bytes.length, flow), 0);
  return flow;
}

/** What the kernel has for a flow, undefined when it has none. */
async function get(exchange: NetlinkExchange, flow: Flow): Promise<Flow | undefined> {
  const batch = new RequestBatch();
  batch.get(recordFromFlow(flow).words, 0);
  const found = (await exchange.request(batch.bytes(0, 1))).find((message) => message.type === 0x100);
  if (found === undefined) return undefined;
  const { words, rare } = decode(found);
  return flowFromRecord(words, 0, rare);
}

async function dump(exchange: NetlinkExchange): Promise<DecodedFlow[]> {
  const batch = new RequestBatch();
  batch.dump(0);
  return (await exchange.request(batch.bytes(0, 1))).filter((message) => message.type === 0x100).map(decode);
}

const INSERTED = [
  "-p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 1 --dport 80 -t 600 --state ESTABLISHED -u SEEN_REPLY,ASSURED -m 7",
  "-p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 2 --dport 80 -t 600 --state SYN_SENT",
  "-p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 3 --dport 80 -t 600 --state ESTABLISHED -u SEEN_REPLY --src-nat 1.2.3.4:5555",
  "-p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 4 --dport 80 -t 600 --state ESTABLISHED -u SEEN_REPLY --dst-nat 1.2.3.5:8080",
  "-p tcp -s 10.0.0.1 -d 10.0.0.2 --sport 5 --dport 80 -t 600 --state CLOSE_WAIT -u SEEN_REPLY --src-nat 1.2.3.4 --dst-nat 1.2.3.5:8080",
  "-p tcp -s fd00::1 -d fd00::2 --sport 6 --dport 80 -t 600 --state ESTABLISHED -u SEEN_REPLY",
  "-p tcp -s fd00::1 -d fd00::2 --sport 7 --dport 80 -t 600 --state ESTABLISHED -u SEEN_REPLY --src-nat fd00::9",
  "-p udp -s 10.0.0.1 -d 10.0.0.2 --sport 8 --dport 53 -t 600",
  "-p udp -s 10.0.0.1 -d 10.0.0.2 --sport 9 --dport 53 -t 600 -u SEEN_REPLY --src-nat 10.0.0.1:777",
  "-p udp -s fd00::1 -d fd00::2 --sport 10 --dport 53 -t 600 --dst-nat fd00::8",
  "-p udplite -s 10.0.0.1 -d 10.0.0.2 --sport 11 --dport 53 -t 600 --src-nat 5.5.5.5",
  "-p sctp -s 10.0.0.1 -d 10.0.0.2 --sport 12 --dport 53 -t 600 --state ESTABLISHED --orig-vtag 7 --reply-vtag 8",
  "-p gre -s 10.0.0.1 -d 10.0.0.2 --srckey 0x11 --dstkey 0x22 -t 600 --src-nat 4.4.4.4",
  "-p 89 -s 10.0.0.1 -d 10.0.0.2 -t 600 --src-nat 6.6.6.6",
  "-p icmp -s 10.0.0.1 -d 10.0.0.2 --icmp-type 8 --icmp-code 0 --icmp-id 99 -t 600",
  "-p icmp -s 10.0.0.1 -d 10.0.0.2 --icmp-type 8 --icmp-code 0 --icmp-id 100 -t 600 --src-nat 3.3.3.3",
  "-p icmpv6 -s fd00::1 -d fd00::2 --icmpv6-type 128 --icmpv6-code 0 --icmpv6-id 99 -t 600",
  "-p udp -s 10.0.0.1 -d 10.0.0.2 --sport 13 --dport 53 -t 600 -w 4",
  "-p udp -s 10.0.0.1 -d 10.0.0.2 --sport 14 --dport 53 -t 600 --orig-zone 4",
  "-p udp -s 10.0.0.1 -d 10.0.0.2 --sport 15 --dport 53 -t 600 --reply-zone 4",
];

test("what conntrack(8) creates goes over to another kernel table, line by line the same", { skip: SKIP }, async () => {
  using from = new Namespace("from");
  using to = new Namespace("to");
  for (const line of INSERTED) from.run("conntrack", "-I", ...line.split(" "));
  await using source = await NetlinkExchange.open(from.name);
  await using target = await NetlinkExchange.open(to.name);
  const flows = await dump(source);
  assert.equal(flows.length, INSERTED.length);
  assert.equal(
    await outcome(target, (batch) => flows.every((flow) => batch.create(flow.words, 0, flow.rare, OPTIONS))),
    OK,
  );
  assert.deepEqual(to.lines(), from.lines());
  const shown = (list: DecodedFlow[]): string[] =>
    list
      .map(({ words, rare }) => JSON.stringify({ ...flowFromRecord(words, 0, rare), id: 0, timeoutSeconds: 0 }))
      .sort();
  assert.deepEqual(shown(await dump(target)), shown(flows));
});

const TCP: Flow = {
  family: "ipv4",
  protocol: "tcp",
  orig: { src: "10.0.0.1", dst: "10.0.0.2", sport: 1, dport: 21 },
  reply: { src: "10.0.0.2", dst: "10.0.0.1", sport: 21, dport: 1 },
  status: ["SEEN_REPLY", "ASSURED", "CONFIRMED"],
  state: "ESTABLISHED",
  tcp: { windowScaleOrig: 7, windowScaleReply: 9, flagsOrig: 3, flagsOrigMask: 0, flagsReply: 3, flagsReplyMask: 0 },
  timeoutSeconds: 600,
  mark: 3,
};
const DONE = ["SRC_NAT_DONE", "DST_NAT_DONE"];

function tcp(dport: number, reply?: Flow["reply"]): Flow {
  const plain = { src: "10.0.0.2", dst: "10.0.0.1", sport: dport, dport: 1 };
  return { ...TCP, orig: { ...TCP.orig, dport }, reply: reply ?? plain };
}

function icmp(icmpId: number, reply: { src: string; dst: string; icmpId: number }, ...status: string[]): Flow {
  return {
    family: "ipv4",
    protocol: "icmp",
    orig: { src: "10.0.0.1", dst: "10.0.0.2", icmpType: 8, icmpCode: 0, icmpId },
    reply: { ...reply, icmpType: 0, icmpCode: 0 },
    status: ["CONFIRMED", ...status, ...DONE],
    timeoutSeconds: 600,
    mark: 0,
  };
}

/** Flows that conntrack(8) cannot make, each as it must come back. */
const KINDS: Record<string, Flow> = {
  "helper and labels": {
    ...TCP,
    status: [...TCP.status!, "HELPER"],
    helper: "ftp",
    labels: "20000000000000000000000000000080",
  },
  "a flow of a master": {
    ...tcp(2000),
    status: ["EXPECTED", ...TCP.status!],
    master: { family: "ipv4", protocol: "tcp", src: "10.0.0.1", dst: "10.0.0.2", sport: 1, dport: 21 },
  },
  "sequence adjustment": {
    ...tcp(2001),
    status: [...TCP.status!, "SEQ_ADJUST"],
    seqadj: {
      orig: { correctionPos: 1, offsetBefore: 2, offsetAfter: 4294967293 },
      reply: { correctionPos: 4, offsetBefore: 5, offsetAfter: 6 },
    },
  },
  "SYN proxy": { ...tcp(2002), synproxy: { isn: 1, its: 2, tsoff: 3 } },
  "fixed timeout": { ...tcp(2003), status: [...TCP.status!, "FIXED_TIMEOUT"] },
  "SNAT of the port alone": {
    ...tcp(2004, { src: "10.0.0.2", dst: "10.0.0.1", sport: 2004, dport: 999 }),
    status: [...TCP.status!, "SRC_NAT", ...DONE],
  },
  "DNAT of the port alone": {
    ...tcp(2005, { src: "10.0.0.2", dst: "10.0.0.1", sport: 3128, dport: 1 }),
    status: [...TCP.status!, "DST_NAT", ...DONE],
  },
  "both, addresses and ports, in a zone": {
    ...tcp(2006, { src: "10.0.0.8", dst: "10.0.0.9", sport: 3128, dport: 777 }),
    status: [...TCP.status!, "SRC_NAT", "DST_NAT", ...DONE],
    zone: 9,
  },
  "both of IPv6": {
    ...TCP,
    family: "ipv6",
    orig: { src: "fd00::1", dst: "fd00::2", sport: 1, dport: 2 },
    reply: { src: "fd00::8", dst: "fd00::9", sport: 3128, dport: 777 },
    status: [...TCP.status!, "SRC_NAT", "DST_NAT", ...DONE],
  },
  "ICMP, address and id": icmp(5, { src: "10.0.0.2", dst: "9.9.9.9", icmpId: 77 }, "SRC_NAT"),
  "ICMP, the id alone": icmp(6, { src: "10.0.0.2", dst: "10.0.0.1", icmpId: 78 }, "SRC_NAT"),
  "ICMP, destination and id": icmp(7, { src: "10.0.0.3", dst: "10.0.0.1", icmpId: 79 }, "DST_NAT"),
  "GRE, address and key": {
    family: "ipv4",
    protocol: "gre",
    orig: { src: "10.0.0.1", dst: "10.0.0.2", srcKey: 1, dstKey: 2 },
    reply: { src: "10.0.0.2", dst: "9.9.9.9", srcKey: 2, dstKey: 55 },
    status: ["CONFIRMED", "SRC_NAT", ...DONE],
    timeoutSeconds: 600,
    mark: 0,
  },
  "SCTP with its tags": {
    family: "ipv4",
    protocol: "sctp",
    orig: { src: "10.0.0.1", dst: "10.0.0.2", sport: 1, dport: 2 },
    reply: { src: "10.0.0.2", dst: "9.9.9.9", sport: 2, dport: 1 },
    status: ["SEEN_REPLY", "CONFIRMED", "SRC_NAT", ...DONE],
    state: "ESTABLISHED",
    sctp: { vtagOrig: 1, vtagReply: 0xfffffffe },
    timeoutSeconds: 600,
    mark: 0,
  },
};

test("each kind of flow comes back from the kernel as it was created", { skip: SKIP }, async () => {
  using namespace = new Namespace("kinds");
  namespace.nft(RULES);
  await using exchange = await NetlinkExchange.open(namespace.name);
  for (const [kind, flow] of Object.entries(KINDS)) {
    assert.equal(await create(exchange, flow), OK, kind);
    const { id, nat, timeoutSeconds, ...found } = (await get(exchange, flow))!;
    const { timeoutSeconds: _, ...wanted } = flow;
    assert.deepEqual(found, wanted, kind);
    assert.ok(timeoutSeconds! >= 590, kind);
  }
});

test("the outcomes that a commit has to expect", { skip: SKIP }, async () => {
  using namespace = new Namespace("outcomes");
  await using exchange = await NetlinkExchange.open(namespace.name);
  const translated = KINDS["both, addresses and ports, in a zone"]!;
  assert.equal(await create(exchange, translated), OK);
  assert.equal(await create(exchange, translated), "EEXIST");
  const clash = { ...translated, orig: { ...translated.orig, src: "10.0.0.77" } };
  assert.equal(await create(exchange, clash), "EEXIST", "a reply tuple that is taken is not moved to another port");
  assert.equal(await create(exchange, { ...tcp(1), helper: "none-such" }), "EOPNOTSUPP");
  const { master } = KINDS["a flow of a master"]!;
  assert.equal(await create(exchange, { ...tcp(2), master: master! }), "ENOENT");

  assert.equal(await create(exchange, tcp(3), { timeoutSeconds: 600, liberal: true }), OK);
  assert.equal((await get(exchange, tcp(3)))!.tcp!.flagsOrig, 0x0b);
  assert.equal(await update(exchange, { ...tcp(3), state: "CLOSE_WAIT", mark: 0 }), OK);
  const changed = (await get(exchange, tcp(3)))!;
  assert.deepEqual([changed.state, changed.mark, changed.tcp!.flagsReply], ["CLOSE_WAIT", 0, 0x03]);
  assert.equal(await update(exchange, { ...tcp(3), status: ["CONFIRMED"] }), "EBUSY", "ASSURED cannot be taken back");
  assert.equal(await update(exchange, tcp(4)), "ENOENT");
  assert.equal(await update(exchange, { ...tcp(3), mark: 8, labels: "20" }), "ENOSPC", "no rule uses labels");
  assert.equal((await get(exchange, tcp(3)))!.mark, 8, "all else is done by then");
});

test("delete and flush take what is meant and no more", { skip: SKIP }, async () => {
  using namespace = new Namespace("delete");
  await using exchange = await NetlinkExchange.open(namespace.name);
  const zoned = { ...tcp(1), zone: 9 };
  const half = { ...tcp(2), zoneOrig: 9 };
  const other = { ...tcp(3), zoneReply: 9 };
  const six = KINDS["both of IPv6"]!;
  for (const flow of [tcp(1), zoned, half, other, six]) assert.equal(await create(exchange, flow), OK);
  const remove = (flow: Flow, matchId = false): Promise<string> =>
    outcome(exchange, (batch) => batch.delete(recordFromFlow(flow).words, 0, matchId));
  assert.equal(await remove({ ...tcp(1), zone: 8 }), "ENOENT");
  const found = (await get(exchange, zoned))!;
  assert.equal(await remove({ ...zoned, id: (found.id! ^ 1) >>> 0 }, true), "ENOENT");
  assert.equal(await remove({ ...zoned, id: found.id! }, true), OK);
  assert.equal(await remove(half), OK);
  assert.equal(await remove(other), OK);
  assert.equal(await outcome(exchange, (batch) => batch.flush(10)), OK);
  assert.equal(await get(exchange, six), undefined);
  assert.notEqual(await get(exchange, tcp(1)), undefined);
  assert.equal(await outcome(exchange, (batch) => batch.flush(0)), OK);
  assert.deepEqual(namespace.lines(), []);
});

const ECHO = `
const socket = require("dgram").createSocket("udp4");
socket.on("message", (data, from) => socket.send(from.address + ":" + from.port, from.port, from.address));
socket.bind(5300, "10.8.2.2", () => console.log("up"));
`;
const ASK = `
const socket = require("dgram").createSocket("udp4");
socket.on("message", (data, from) => { console.log(String(data), from.address + ":" + from.port); socket.close(); });
socket.bind(4000, "10.8.1.2", () => socket.send("x", 53, "10.8.9.9"));
setTimeout(() => process.exit(1), 5000).unref();
`;

test("packets of a created flow are translated, both ways", { skip: SKIP }, async () => {
  using client = new Namespace("client");
  using firewall = new Namespace("fw");
  using server = new Namespace("server");
  for (const [peer, device, net] of [
    [client, "c", 1],
    [server, "s", 2],
  ] as const) {
    firewall.run("ip", "link", "add", device, "type", "veth", "peer", "name", "e", "netns", peer.name);
    firewall.run("ip", "addr", "add", `10.8.${net}.1/24`, "dev", device);
    firewall.run("ip", "link", "set", device, "up");
    peer.run("ip", "addr", "add", `10.8.${net}.2/24`, "dev", "e");
    peer.run("ip", "link", "set", "e", "up");
  }
  client.run("ip", "route", "add", "default", "via", "10.8.1.1");
  firewall.run("sysctl", "-qw", "net.ipv4.ip_forward=1");
  firewall.nft(RULES);
  await using exchange = await NetlinkExchange.open(firewall.name);
  const flow: Flow = {
    family: "ipv4",
    protocol: "udp",
    orig: { src: "10.8.1.2", dst: "10.8.9.9", sport: 4000, dport: 53 },
    reply: { src: "10.8.2.2", dst: "10.8.2.1", sport: 5300, dport: 40000 },
    status: ["SEEN_REPLY", "ASSURED", "CONFIRMED"],
  };
  assert.equal(await create(exchange, flow), OK);
  const echo = spawn("ip", ["netns", "exec", server.name, process.execPath, "-e", ECHO], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  try {
    await once(echo.stdout, "data");
    assert.equal(client.run(process.execPath, "-e", ASK).trim(), "10.8.2.1:40000 10.8.9.9:53");
    assert.equal((await dump(exchange)).length, 1, "no second flow was made for the packets");
  } finally {
    echo.kill("SIGKILL");
  }
});
