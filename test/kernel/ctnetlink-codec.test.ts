/** The codec against the running kernel: what it creates, conntrack(8) shows, and packets take. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { decodeConntrack, decodeError } from "../../src/ctnetlink/decode.js";
import { RequestBatch } from "../../src/ctnetlink/encode.js";
import { type Flow, flowFromRecord, recordFromFlow } from "../../src/flow/flow.js";
import { DecodedFlow } from "../../src/flow/record.js";
import { errnoName } from "../../src/os/errno.js";
import { INSERTED, KINDS, MORE_KINDS, tcp } from "../support/kernel-flows.js";
import { KernelNamespace, kernelAvailable } from "../support/kernel-namespace.js";
import { NetlinkExchange, type NetlinkMessage } from "../support/netlink-exchange.js";

const SKIP = kernelAvailable() ?? false;
const OPTIONS = { timeoutSeconds: 600, liberal: false };

/** The lines of `conntrack -L`, sorted, without what passes: timeout and use. */
async function linesOf(namespace: KernelNamespace): Promise<string[]> {
  const list = (family: string): Promise<string> => namespace.conntrack("-L", "-f", family, "-o", "extended");
  const [ipv4, ipv6] = [await list("ipv4"), await list("ipv6")];
  return [ipv4, ipv6]
    .flatMap((text) => text.trim().split("\n"))
    .filter((line) => line !== "")
    .map((line) => line.replace(/^(\w+ +\d+ \w+ +\d+) \d+ /, "$1 ").replace(/ use=\d+/, ""))
    .sort();
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

test("what conntrack(8) creates goes over to another kernel table, line by line the same", { skip: SKIP }, async () => {
  await using from = await KernelNamespace.create();
  await using to = await KernelNamespace.create();
  for (const line of INSERTED) await from.conntrack("-I", ...line.split(" "));
  await using source = await NetlinkExchange.open(from.name);
  await using target = await NetlinkExchange.open(to.name);
  const flows = await dump(source);
  assert.equal(flows.length, INSERTED.length);
  assert.equal(
    await outcome(target, (batch) => flows.every((flow) => batch.create(flow.words, 0, flow.rare, OPTIONS))),
    OK,
  );
  assert.deepEqual(await linesOf(to), await linesOf(from));
  const shown = (list: DecodedFlow[]): string[] =>
    list
      .map(({ words, rare }) => JSON.stringify({ ...flowFromRecord(words, 0, rare), id: 0, timeoutSeconds: 0 }))
      .sort();
  assert.deepEqual(shown(await dump(target)), shown(flows));
});

test("each kind of flow comes back from the kernel as it was created", { skip: SKIP }, async () => {
  await using namespace = await KernelNamespace.create();
  await namespace.nft(RULES);
  await using exchange = await NetlinkExchange.open(namespace.name);
  for (const [kind, flow] of Object.entries({ ...KINDS, ...MORE_KINDS })) {
    assert.equal(await create(exchange, flow), OK, kind);
    const { id, nat, timeoutSeconds, ...found } = (await get(exchange, flow))!;
    const { timeoutSeconds: _, ...wanted } = flow;
    assert.deepEqual(found, wanted, kind);
    assert.ok(timeoutSeconds! >= 590, kind);
  }
});

test("the outcomes that a commit has to expect", { skip: SKIP }, async () => {
  await using namespace = await KernelNamespace.create();
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
  const fixed: Flow = { ...tcp(5), status: ["SEEN_REPLY", "FIXED_TIMEOUT"] };
  assert.equal(await create(exchange, fixed), OK);
  assert.equal(await update(exchange, { ...fixed, mark: 9 }), OK, "without a timeout, which the kernel would refuse");
});

test("delete and flush take what is meant and no more", { skip: SKIP }, async () => {
  await using namespace = await KernelNamespace.create();
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
  assert.deepEqual(await linesOf(namespace), []);
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
setTimeout(() => process.exit(1), 30_000).unref();
`;

test("packets of a created flow are translated, both ways", { skip: SKIP }, async () => {
  await using client = await KernelNamespace.create();
  await using firewall = await KernelNamespace.create();
  await using server = await KernelNamespace.create();
  for (const [peer, device, net] of [
    [client, "c", 1],
    [server, "s", 2],
  ] as const) {
    await firewall.exec("ip", ["link", "add", device, "type", "veth", "peer", "name", "e", "netns", peer.name]);
    await firewall.exec("ip", ["addr", "add", `10.8.${net}.1/24`, "dev", device]);
    await firewall.exec("ip", ["link", "set", device, "up"]);
    await peer.exec("ip", ["addr", "add", `10.8.${net}.2/24`, "dev", "e"]);
    await peer.exec("ip", ["link", "set", "e", "up"]);
  }
  await client.exec("ip", ["route", "add", "default", "via", "10.8.1.1"]);
  firewall.sysctl("net/ipv4/ip_forward", "1");
  await firewall.nft(RULES);
  await using exchange = await NetlinkExchange.open(firewall.name);
  const flow: Flow = {
    family: "ipv4",
    protocol: "udp",
    orig: { src: "10.8.1.2", dst: "10.8.9.9", sport: 4000, dport: 53 },
    reply: { src: "10.8.2.2", dst: "10.8.2.1", sport: 5300, dport: 40000 },
    status: ["SEEN_REPLY", "ASSURED", "CONFIRMED"],
  };
  assert.equal(await create(exchange, flow), OK);
  const echo = server.spawn(process.execPath, ["-e", ECHO], { stdio: ["ignore", "pipe", "ignore"] });
  await once(echo.stdout!, "data");
  const { stdout } = await client.exec(process.execPath, ["-e", ASK]);
  assert.equal(stdout.trim(), "10.8.2.1:40000 10.8.9.9:53");
  assert.equal((await dump(exchange)).length, 1, "no second flow was made for the packets");
});
