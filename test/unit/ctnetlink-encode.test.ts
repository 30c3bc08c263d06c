import assert from "node:assert/strict";
import { test } from "node:test";
import { RequestBatch } from "../../src/ctnetlink/encode.js";
import { type Flow, recordFromFlow } from "../../src/flow/flow.js";
import { W_ID } from "../../src/flow/record.js";
import {
  be16,
  be32,
  be64,
  ip4,
  ip6,
  message,
  nest,
  nla,
  payload,
  portTuple,
  text,
  u8,
} from "../support/netlink-attributes.js";

const NEW = 0x100;
const GET = 0x101;
const DELETE = 0x102;
const CREATE = 0x605;
const OPTIONS = { timeoutSeconds: 300, liberal: false };

const TCP: Flow = {
  family: "ipv4",
  protocol: "tcp",
  orig: { src: "10.0.0.1", dst: "10.0.0.2", sport: 1000, dport: 80 },
  reply: { src: "10.0.0.2", dst: "10.0.0.1", sport: 80, dport: 1000 },
  status: ["SEEN_REPLY", "ASSURED", "CONFIRMED"],
  state: "ESTABLISHED",
  tcp: {
    windowScaleOrig: 7,
    windowScaleReply: 9,
    flagsOrig: 0x33,
    flagsOrigMask: 0,
    flagsReply: 0x27,
    flagsReplyMask: 0,
  },
};

const UDP: Flow = {
  family: "ipv4",
  protocol: "udp",
  orig: { src: "10.0.0.1", dst: "10.0.0.2", sport: 1000, dport: 53 },
  reply: { src: "10.0.0.2", dst: "10.0.0.1", sport: 53, dport: 1000 },
};

const UDP_ORIG = portTuple(1, "10.0.0.1", "10.0.0.2", 17, 1000, 53);
const UDP_REPLY = portTuple(2, "10.0.0.2", "10.0.0.1", 17, 53, 1000);
const CONFIRMED = nla(3, be32(8));
const TIMEOUT = nla(7, be32(300));

function created(flow: Flow, options = OPTIONS): string {
  const { words, rare } = recordFromFlow(flow);
  const batch = new RequestBatch();
  assert.equal(batch.create(words, 0, rare, options), true);
  return Buffer.from(batch.bytes(0, 1)).toString("hex");
}

function updated(flow: Flow, options = OPTIONS): string {
  const { words, rare } = recordFromFlow(flow);
  const batch = new RequestBatch();
  assert.equal(batch.update(words, 0, rare, options), true);
  return Buffer.from(batch.bytes(0, 1)).toString("hex");
}

function creation(family: number, ...attributes: Buffer[]): string {
  return message(NEW, CREATE, 1, 0, payload(family, ...attributes)).toString("hex");
}

function range4(type: number, address: string, port: number): Buffer {
  return nest(type, nla(1, ip4(address)), nest(3, nla(1, be16(port))));
}

function tcpInfo(state: number, mask: number, orig: number, reply: number): Buffer {
  const flags = [nla(4, u8(orig), u8(mask)), nla(5, u8(reply), u8(mask))];
  return nest(4, nest(1, nla(1, u8(state)), nla(2, u8(7)), nla(3, u8(9)), ...flags));
}

test("create TCP: settable status bits, timeout, the flags that need no history", () => {
  const flow: Flow = {
    ...TCP,
    mark: 5,
    status: ["EXPECTED", "SEEN_REPLY", "ASSURED", "DYING", "SRC_NAT_DONE", "OFFLOAD"],
  };
  assert.equal(
    created(flow),
    creation(
      2,
      portTuple(1, "10.0.0.1", "10.0.0.2", 6, 1000, 80),
      portTuple(2, "10.0.0.2", "10.0.0.1", 6, 80, 1000),
      nla(3, be32(0xe)),
      TIMEOUT,
      nla(8, be32(5)),
      tcpInfo(3, 0x0f, 0x03, 0x07),
    ),
  );
});

test("liberal sets the flag both ways, also where the state is not known", () => {
  const tuples = [portTuple(1, "10.0.0.1", "10.0.0.2", 6, 1000, 80), portTuple(2, "10.0.0.2", "10.0.0.1", 6, 80, 1000)];
  const liberal = { timeoutSeconds: 300, liberal: true };
  assert.equal(created(TCP, liberal), creation(2, ...tuples, nla(3, be32(0xe)), TIMEOUT, tcpInfo(3, 0x0f, 0x0b, 0x0f)));
  const { state, tcp, ...stateless } = TCP;
  const flags = nest(4, nest(1, nla(4, u8(8), u8(8)), nla(5, u8(8), u8(8))));
  assert.equal(created(stateless, liberal), creation(2, ...tuples, nla(3, be32(0xe)), TIMEOUT, flags));
  assert.equal(created(stateless), creation(2, ...tuples, nla(3, be32(0xe)), TIMEOUT));
});

test("NAT: the reply tuple goes untranslated, both ranges name one address and one port", () => {
  const flow: Flow = { ...UDP, reply: { src: "192.168.0.9", dst: "1.2.3.4", sport: 5353, dport: 40000 } };
  const nat = [range4(13, "192.168.0.9", 5353), range4(6, "1.2.3.4", 40000)];
  assert.equal(created(flow), creation(2, UDP_ORIG, UDP_REPLY, CONFIRMED, TIMEOUT, ...nat));
});

test("NAT of the port alone", () => {
  const flow: Flow = { ...UDP, reply: { src: "10.0.0.2", dst: "10.0.0.1", sport: 53, dport: 40000 } };
  const nat = [range4(13, "10.0.0.2", 53), range4(6, "10.0.0.1", 40000)];
  assert.equal(created(flow), creation(2, UDP_ORIG, UDP_REPLY, CONFIRMED, TIMEOUT, ...nat));
});

test("NAT of IPv6", () => {
  const orig = { src: "fd00::1", dst: "fd00::2", sport: 1, dport: 2 };
  const flow: Flow = { ...UDP, family: "ipv6", orig, reply: { src: "fd00::2", dst: "fd00::3", sport: 2, dport: 9 } };
  const address = (last: number): Buffer => ip6(0xfd00, 0, 0, 0, 0, 0, 0, last);
  const tuple = (type: number, source: number, destination: number, sport: number, dport: number): Buffer =>
    nest(
      type,
      nest(1, nla(3, address(source)), nla(4, address(destination))),
      nest(2, nla(1, u8(17)), nla(2, be16(sport)), nla(3, be16(dport))),
    );
  const range = (type: number, last: number, port: number): Buffer =>
    nest(type, nla(4, address(last)), nest(3, nla(1, be16(port))));
  assert.equal(
    created(flow),
    creation(10, tuple(1, 1, 2, 1, 2), tuple(2, 2, 1, 2, 1), CONFIRMED, TIMEOUT, range(13, 2, 2), range(6, 3, 9)),
  );
});

test("NAT of an ICMP id belongs to the source, unless only the destination is translated", () => {
  const icmp = (type: number, source: string, destination: string, icmpType: number): Buffer =>
    nest(
      type,
      nest(1, nla(1, ip4(source)), nla(2, ip4(destination))),
      nest(2, nla(1, u8(1)), nla(4, be16(5)), nla(5, u8(icmpType)), nla(6, u8(0))),
    );
  const tuples = [icmp(1, "1.1.1.1", "2.2.2.2", 8), icmp(2, "2.2.2.2", "1.1.1.1", 0)];
  const flow: Flow = {
    family: "ipv4",
    protocol: "icmp",
    orig: { src: "1.1.1.1", dst: "2.2.2.2", icmpType: 8, icmpCode: 0, icmpId: 5 },
    reply: { src: "2.2.2.2", dst: "1.1.1.1", icmpType: 0, icmpCode: 0, icmpId: 77 },
  };
  const bySource = [range4(13, "2.2.2.2", 5), range4(6, "1.1.1.1", 77)];
  assert.equal(created(flow), creation(2, ...tuples, CONFIRMED, TIMEOUT, ...bySource));
  const byDestination = [range4(13, "2.2.2.2", 77), range4(6, "1.1.1.1", 77)];
  assert.equal(created({ ...flow, status: ["DST_NAT"] }), creation(2, ...tuples, CONFIRMED, TIMEOUT, ...byDestination));
});

test("NAT of GRE: keys go in the reply tuple, addresses in the ranges", () => {
  const flow: Flow = {
    family: "ipv4",
    protocol: "gre",
    orig: { src: "1.1.1.1", dst: "2.2.2.2", srcKey: 1, dstKey: 2 },
    reply: { src: "2.2.2.2", dst: "3.3.3.3", srcKey: 2, dstKey: 9 },
  };
  const ranges = [nest(13, nla(1, ip4("2.2.2.2"))), nest(6, nla(1, ip4("3.3.3.3")))];
  assert.equal(
    created(flow),
    creation(
      2,
      portTuple(1, "1.1.1.1", "2.2.2.2", 47, 1, 2),
      portTuple(2, "2.2.2.2", "1.1.1.1", 47, 2, 9),
      CONFIRMED,
      TIMEOUT,
      ...ranges,
    ),
  );
});

test("a record without a reply tuple is taken for untranslated", () => {
  const { reply, ...half } = UDP;
  assert.equal(created(half), created(UDP));
});

test("zones", () => {
  const zone = nla(3, be16(9));
  const both = creation(2, UDP_ORIG, nla(18, be16(9)), UDP_REPLY, CONFIRMED, TIMEOUT);
  assert.equal(created({ ...UDP, zone: 9 }), both);
  const orig = portTuple(1, "10.0.0.1", "10.0.0.2", 17, 1000, 53, zone);
  assert.equal(created({ ...UDP, zoneOrig: 9 }), creation(2, orig, UDP_REPLY, CONFIRMED, TIMEOUT));
  const reply = portTuple(2, "10.0.0.2", "10.0.0.1", 17, 53, 1000, zone);
  assert.equal(created({ ...UDP, zoneReply: 9 }), creation(2, UDP_ORIG, reply, CONFIRMED, TIMEOUT));
});

test("SCTP and DCCP protoinfo", () => {
  const sctp: Flow = { ...UDP, protocol: "sctp", state: "ESTABLISHED", sctp: { vtagOrig: 0xdeadbeef, vtagReply: 1 } };
  const tuples = (protocol: number): Buffer[] => [
    portTuple(1, "10.0.0.1", "10.0.0.2", protocol, 1000, 53),
    portTuple(2, "10.0.0.2", "10.0.0.1", protocol, 53, 1000),
  ];
  const sctpInfo = nest(4, nest(3, nla(1, u8(4)), nla(2, be32(0xdeadbeef)), nla(3, be32(1))));
  assert.equal(created(sctp), creation(2, ...tuples(132), CONFIRMED, TIMEOUT, sctpInfo));
  const dccp: Flow = { ...UDP, protocol: "dccp", state: "OPEN", dccp: { role: 1, handshakeSeq: 0x1234_9abc_def0 } };
  const dccpInfo = nest(4, nest(2, nla(1, u8(4)), nla(2, u8(1)), nla(3, be64(0x1234_9abc_def0n))));
  assert.equal(created(dccp), creation(2, ...tuples(33), CONFIRMED, TIMEOUT, dccpInfo));
});

const RARE: Flow = {
  ...UDP,
  helper: "ftp",
  labels: "20000080",
  secctx: "not sent",
  master: { family: "ipv4", protocol: "tcp", src: "1.1.1.1", dst: "2.2.2.2", sport: 3, dport: 21 },
  seqadj: {
    orig: { correctionPos: 1, offsetBefore: 2, offsetAfter: 3 },
    reply: { correctionPos: 4, offsetBefore: 5, offsetAfter: 6 },
  },
  synproxy: { isn: 7, its: 8, tsoff: 9 },
};
const three = (type: number, ...values: number[]): Buffer =>
  nest(type, ...values.map((value, i) => nla(i + 1, be32(value))));
const LATER = [
  three(15, 1, 2, 3),
  three(16, 4, 5, 6),
  three(24, 7, 8, 9),
  nla(22, Buffer.from("20000080".padEnd(32, "0"), "hex")),
];

test("rare attributes of a new flow", () => {
  const help = nest(5, nla(1, text("ftp")));
  const master = portTuple(14, "1.1.1.1", "2.2.2.2", 6, 3, 21);
  assert.equal(created(RARE), creation(2, UDP_ORIG, UDP_REPLY, CONFIRMED, TIMEOUT, help, master, ...LATER));
});

test("a name beyond the kernel's length is cut to it", () => {
  const long = created({ ...UDP, helper: "x".repeat(400) });
  assert.equal(long, creation(2, UDP_ORIG, UDP_REPLY, CONFIRMED, TIMEOUT, nest(5, nla(1, text("x".repeat(15))))));
});

test("update: no reply tuple, no NAT, no helper, no master; EXPECTED goes with the master", () => {
  const flow: Flow = { ...RARE, status: ["SEEN_REPLY"], reply: { src: "9.9.9.9", dst: "8.8.8.8", sport: 1, dport: 2 } };
  const body = payload(2, UDP_ORIG, nla(3, be32(0xb)), TIMEOUT, nla(8, be32(0)), ...LATER);
  assert.equal(updated(flow), message(NEW, 0x5, 1, 0, body).toString("hex"));
});

test("update: no status where none is known, the mark also when it is 0", () => {
  const body = payload(2, UDP_ORIG, nla(18, be16(9)), TIMEOUT, nla(8, be32(0)));
  assert.equal(updated({ ...UDP, zone: 9 }), message(NEW, 0x5, 1, 0, body).toString("hex"));
});

test("update: no timeout where it is fixed, for the kernel then refuses all of the request", () => {
  const body = payload(2, UDP_ORIG, nla(3, be32(0x408)), nla(8, be32(0)));
  assert.equal(updated({ ...UDP, status: ["FIXED_TIMEOUT"] }), message(NEW, 0x5, 1, 0, body).toString("hex"));
});

test("delete, get, dump and flush", () => {
  const { words } = recordFromFlow({ ...UDP, zone: 9 });
  words[W_ID] = 0xfedcba98;
  const batch = new RequestBatch();
  batch.delete(words, 0);
  batch.delete(words, 0, true);
  batch.get(words, 0);
  batch.dump(0);
  batch.flush(0);
  batch.flush(10);
  const zone = nla(18, be16(9));
  const expected = [
    message(DELETE, 1, 7, 42, payload(2, UDP_ORIG, zone)),
    message(DELETE, 1, 8, 42, payload(2, UDP_ORIG, zone, nla(12, be32(0xfedcba98)))),
    message(GET, 1, 9, 42, payload(2, UDP_ORIG, zone)),
    message(GET, 0x301, 10, 42, payload(0)),
    message(DELETE, 1, 11, 42, payload(0)),
    message(DELETE, 5, 12, 42, Buffer.from([10, 1, 0, 0])),
  ];
  assert.equal(Buffer.from(batch.bytes(42, 7)).toString("hex"), Buffer.concat(expected).toString("hex"));
});

test("acknowledgements: the last only, or all; sequence numbers anew each time", () => {
  const { words } = recordFromFlow(UDP);
  const batch = new RequestBatch();
  for (let i = 0; i < 3; i++) batch.delete(words, 0);
  const flags = (all: boolean, first: number): [number, number][] => {
    const bytes = Buffer.from(batch.bytes(0, first, all));
    const size = bytes.length / 3;
    return [0, 1, 2].map((i) => [bytes.readUInt16LE(i * size + 6), bytes.readUInt32LE(i * size + 8)]);
  };
  assert.deepEqual(flags(true, 1), [
    [5, 1],
    [5, 2],
    [5, 3],
  ]);
  assert.deepEqual(flags(false, 0xffffffff), [
    [1, 0xffffffff],
    [1, 0],
    [5, 1],
  ]);
});

test("a full batch says so, and takes the next after a reset", () => {
  const { words, rare } = recordFromFlow(RARE);
  const batch = new RequestBatch(4096);
  let count = 0;
  while (batch.create(words, 0, rare, OPTIONS)) count++;
  assert.ok(count > 5 && batch.count === count && batch.length <= 4096);
  assert.equal(batch.bytes(0, 1).length, batch.length);
  assert.equal(batch.delete(words, 0), false);
  batch.reset();
  assert.equal(batch.count, 0);
  assert.equal(batch.bytes(0, 1).length, 0);
  assert.equal(batch.delete(words, 0), true);
});

test("what a message leaves in the buffer does not get into the next", () => {
  const batch = new RequestBatch();
  const rare = recordFromFlow(RARE);
  for (let i = 0; i < 10; i++) batch.create(rare.words, 0, rare.rare, OPTIONS);
  batch.bytes(0xffffffff, 0xffffffff, true);
  batch.reset();
  const { words } = recordFromFlow(TCP);
  batch.create(words, 0, null, OPTIONS);
  assert.equal(Buffer.from(batch.bytes(0, 1)).toString("hex"), created(TCP));
});
