/** filter.where kernelspace: the kernel drops what the predicate would drop, and nothing else. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import * as fc from "fast-check";
import { RawNetlinkSocket } from "netlink";
import { NETLINK_NETFILTER } from "../../src/ctnetlink/constants.js";
import { RequestBatch } from "../../src/ctnetlink/encode.js";
import {
  EVENT_DESTROY,
  type EventKind,
  EventSocket,
  type EventSocketOptions,
} from "../../src/ctnetlink/event-socket.js";
import { RequestSocket } from "../../src/ctnetlink/request-socket.js";
import { parseCidr } from "../../src/flow/address.js";
import { compileFilter, type FilterRules, type FlowPredicate } from "../../src/flow/filter.js";
import { type Flow, flowFromRecord, recordFromFlow } from "../../src/flow/flow.js";
import { AF_INET, type DecodedFlow } from "../../src/flow/record.js";
import { type CaseEvent, eventArbitrary, eventFrame, network, rulesArbitrary } from "../support/filter-cases.js";
import { KernelNamespace, kernelAvailable, waitUntil } from "../support/kernel-namespace.js";
import { message, payload } from "../support/netlink-attributes.js";

const skip = kernelAvailable() ?? false;
const cidrs = (...texts: string[]) => texts.map((text) => parseCidr(text) ?? assert.fail(text));
const TYPE_EXPECTATION = 0x0200;
/** A flow that all filters here keep: the last event, so that what came before it is known. */
const LAST: Flow = flow("tcp", "10.9.9.9", "192.0.2.9", 9999, "ESTABLISHED");

function flow(protocol: string, src: string, dst: string, sport: number, state?: string, reply?: Flow["reply"]): Flow {
  const family = src.includes(":") ? "ipv6" : "ipv4";
  const orig = { src, dst, sport, dport: 80 };
  return {
    family,
    protocol,
    orig,
    reply: reply ?? { src: dst, dst: src, sport: 80, dport: sport },
    status: ["SEEN_REPLY", "ASSURED", "CONFIRMED"],
    ...(state === undefined
      ? {}
      : {
          state,
          tcp: {
            windowScaleOrig: 7,
            windowScaleReply: 7,
            flagsOrig: 1,
            flagsOrigMask: 0,
            flagsReply: 1,
            flagsReplyMask: 0,
          },
        }),
  };
}

function predicates({ tcpStates, ...others }: FilterRules): [FlowPredicate, FlowPredicate] {
  return [compileFilter({ ...others, ...(tcpStates === undefined ? {} : { tcpStates }) }), compileFilter(others)];
}

/** What an event socket says, one line an event, and which of it the predicate keeps. */
class Listener {
  readonly lines: string[] = [];
  readonly kept: string[] = [];
  readonly socket: EventSocket;
  #keeps: FlowPredicate;
  /** A flow may end in any state. */
  #keepsEnd: FlowPredicate;

  constructor(namespace: KernelNamespace, rules: FilterRules, options: EventSocketOptions = {}) {
    [this.#keeps, this.#keepsEnd] = predicates(rules);
    this.socket = namespace.run(() => new EventSocket({ gatherMs: 0, ...options }));
    this.socket.listen(this);
  }

  /** Begins anew, with another predicate. */
  judgeBy(rules: FilterRules): void {
    [this.#keeps, this.#keepsEnd] = predicates(rules);
    this.lines.length = 0;
    this.kept.length = 0;
  }

  onEvent(kind: EventKind, { words, rare }: DecodedFlow): void {
    const { orig, reply, state } = flowFromRecord(words, 0, rare);
    const line = JSON.stringify([kind, orig, reply, state]);
    this.lines.push(line);
    if ((kind === EVENT_DESTROY ? this.#keepsEnd : this.#keeps)(words, 0)) this.kept.push(line);
  }

  onMalformed(code: number): void {
    this.lines.push(`malformed ${code}`);
  }

  onOverrun(): void {
    this.lines.push("overrun");
  }

  onDrained(): void {}

  /** Waits until the event that ends a test has come. */
  async last(): Promise<void> {
    const port = `"sport":${LAST.orig.sport}`;
    await waitUntil(() => this.lines.some((line) => line.startsWith("[2") && line.includes(port)), "the last event");
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.socket.close();
  }
}

async function send(requests: RequestSocket, fill: (batch: RequestBatch) => void): Promise<void> {
  const batch = new RequestBatch();
  fill(batch);
  assert.deepEqual((await requests.send(batch)).errors, []);
}

/** Creates each flow, closes those of TCP, removes all; then the same with the last one. */
async function live(requests: RequestSocket, flows: readonly Flow[]): Promise<void> {
  for (const round of [flows, [LAST]]) {
    const options = { timeoutSeconds: 600, liberal: false };
    const records = round.map((one) => recordFromFlow(one).words);
    const closed = round.filter(({ state }) => state !== undefined).map((one) => ({ ...one, state: "TIME_WAIT" }));
    await send(requests, (batch) => records.forEach((words) => void batch.create(words, 0, null, options)));
    await send(requests, (batch) =>
      closed.forEach((one) => void batch.update(recordFromFlow(one).words, 0, null, options)),
    );
    await send(requests, (batch) => records.forEach((words) => void batch.delete(words, 0)));
  }
}

const FLOWS: readonly Flow[] = [
  flow("tcp", "10.0.0.1", "192.0.2.1", 1001, "ESTABLISHED"),
  flow("tcp", "10.0.1.1", "192.0.2.1", 1002, "SYN_SENT"),
  flow("tcp", "172.16.0.1", "192.0.2.1", 1003, "CLOSE_WAIT"),
  flow("udp", "10.0.0.1", "192.0.2.1", 1004),
  flow("udp", "172.16.0.1", "198.51.100.1", 1005),
  flow("udplite", "172.16.0.2", "198.51.100.1", 1006),
  flow("tcp", "2001:db8::1", "2001:db8:1::1", 1007, "ESTABLISHED"),
  flow("udp", "2001:db8:2::1", "2001:db8:3::1", 1008),
  // DNAT: the real end is the reply's source.
  flow("tcp", "172.16.0.3", "203.0.113.1", 1009, "ESTABLISHED", {
    src: "10.0.0.80",
    dst: "172.16.0.3",
    sport: 8080,
    dport: 1009,
  }),
  // SNAT: the original source counts, not what it became.
  flow("udp", "172.16.0.4", "192.0.2.7", 1010, undefined, {
    src: "192.0.2.7",
    dst: "10.0.0.99",
    sport: 80,
    dport: 1010,
  }),
  {
    family: "ipv4",
    protocol: "icmp",
    orig: { src: "10.0.0.3", dst: "192.0.2.1", icmpType: 8, icmpCode: 0, icmpId: 7 },
  },
  { family: "ipv4", protocol: "gre", orig: { src: "172.16.0.9", dst: "192.0.2.1", srcKey: 1, dstKey: 2 } },
];

const FILTERS: Record<string, FilterRules> = {
  "protocols accepted": { protocols: { logic: "accept", values: [6, 47] } },
  "protocols ignored": { protocols: { logic: "ignore", values: [17, 1] } },
  "networks accepted": {
    addresses: { logic: "accept", values: cidrs("10.0.0.0/24", "10.9.0.0/16", "2001:db8:1::/48") },
  },
  "networks ignored": { addresses: { logic: "ignore", values: cidrs("10.0.0.0/23", "2001:db8::/64", "198.51.100.1") } },
  "states accepted": { tcpStates: { logic: "accept", values: [3, 7] } },
  "states ignored": { tcpStates: { logic: "ignore", values: [1, 5] } },
  "all of them": {
    protocols: { logic: "accept", values: [6, 17] },
    addresses: { logic: "ignore", values: cidrs("172.16.0.0/12") },
    tcpStates: { logic: "accept", values: [3, 7] },
  },
};

for (const [name, rules] of Object.entries(FILTERS)) {
  test(`${name}: what the kernel lets through is what the predicate keeps`, { skip }, async () => {
    await using namespace = await KernelNamespace.create();
    await using plain = new Listener(namespace, rules);
    await using filtered = new Listener(namespace, rules, { filter: rules });
    assert.equal(plain.socket.counters.filterInstructions, 0);
    assert.ok(filtered.socket.counters.filterInstructions > 0);
    const requests = namespace.run(() => new RequestSocket());
    try {
      await live(requests, FLOWS);
      await Promise.all([plain.last(), filtered.last()]);
    } finally {
      requests.close();
    }
    assert.deepEqual(filtered.lines, plain.kept);
    assert.deepEqual(filtered.kept, plain.kept);
    assert.ok(plain.kept.length < plain.lines.length, "the filter keeps all");
    assert.equal(filtered.socket.counters.eventsReceived, plain.kept.length);
  });
}

test("a filter is exchanged and taken away while events come", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  const udpOnly: FilterRules = { protocols: { logic: "accept", values: [17] } };
  await using listener = new Listener(namespace, {}, { filter: udpOnly });
  const requests = namespace.run(() => new RequestSocket());
  const options = { timeoutSeconds: 600, liberal: false };
  const create = (one: Flow) =>
    send(requests, (batch) => void batch.create(recordFromFlow(one).words, 0, null, options));
  try {
    await create(FLOWS[0]!);
    await create(FLOWS[3]!);
    await waitUntil(() => listener.lines.length === 1, "the event of UDP");
    const state = listener.socket.setFilter({ protocols: { logic: "ignore", values: [17] } });
    assert.deepEqual(state.leftOut, []);
    await create(FLOWS[4]!);
    await create(FLOWS[2]!);
    await waitUntil(() => listener.lines.length === 2, "the event of TCP");
    assert.ok(listener.lines[1]!.includes("1003"));
    assert.deepEqual(listener.socket.setFilter({}), { instructions: 0, leftOut: [] });
    await create(FLOWS[6]!);
    await create(FLOWS[7]!);
    await waitUntil(() => listener.lines.length === 4, "all events");
    assert.equal(listener.socket.counters.filterInstructions, 0);
  } finally {
    requests.close();
  }
});

test("addresses that do not fit are left to the predicate, and the counters say so", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  const values = Array.from({ length: 3000 }, (_, i) => network(AF_INET, [0x0a000000 + 2 * i, 0, 0, 0], 32));
  const rules: FilterRules = { protocols: { logic: "ignore", values: [6] }, addresses: { logic: "ignore", values } };
  await using listener = new Listener(namespace, {}, { filter: rules });
  assert.equal(listener.socket.counters.filterLeftOut, 1);
  assert.ok(listener.socket.counters.filterInstructions > 0, "the protocols are filtered still");
  assert.deepEqual(listener.socket.setFilter({ addresses: rules.addresses! }), {
    instructions: 0,
    leftOut: ["addresses"],
  });

  // What does fit into 4096 instructions the kernel must take.
  const some = { addresses: { logic: "ignore" as const, values: values.slice(0, 500) } };
  const { instructions, leftOut } = listener.socket.setFilter(some);
  assert.deepEqual(leftOut, []);
  assert.ok(instructions > 2000 && instructions <= 4096, `${instructions} instructions`);
});

test("what the kernel has no memory for is left to the predicate", { skip }, async (t) => {
  await using namespace = await KernelNamespace.create();
  const limited = namespace.run(() => existsSync("/proc/sys/net/core/optmem_max"));
  if (!limited) return t.skip("namespaces have no optmem_max of their own before Linux 6.8");
  namespace.sysctl("net/core/optmem_max", "4096");
  const values = Array.from({ length: 400 }, (_, i) => network(AF_INET, [0x0a000000 + 2 * i, 0, 0, 0], 32));
  const rules: FilterRules = { protocols: { logic: "ignore", values: [6] }, addresses: { logic: "ignore", values } };
  await using listener = new Listener(namespace, {}, { filter: rules });
  const { filterInstructions, filterLeftOut } = listener.socket.counters;
  assert.equal(filterLeftOut, 1);
  assert.ok(filterInstructions > 0 && filterInstructions < 100, `${filterInstructions} instructions`);
});

const END = message(0x0900, 0, 0, 0, payload(AF_INET));

test("random filters and events: the kernel runs the program as the predicate judges", { skip }, async () => {
  await using namespace = await KernelNamespace.create();
  const sender = namespace.run(
    () => new RawNetlinkSocket(NETLINK_NETFILTER, { recvBufferSize: 65_536, sendBufferSize: 1 << 20 }),
  );
  const isFlow = ({ type }: CaseEvent): boolean => type !== TYPE_EXPECTATION;
  const cases = rulesArbitrary(60).chain((rules) =>
    fc.tuple(fc.constant(rules), fc.array(eventArbitrary(rules.addresses?.values).filter(isFlow), { maxLength: 40 })),
  );
  await using plain = new Listener(namespace, {});
  await using filtered = new Listener(namespace, {});
  const both = [plain, filtered];
  try {
    await fc.assert(
      fc.asyncProperty(cases, async ([rules, events]) => {
        filtered.socket.setFilter(rules);
        for (const listener of both) {
          listener.judgeBy(rules);
          // No rule reaches what is no conntrack event, so that marks the end.
          const unknown = listener.socket.counters.unknownType;
          for (const frame of [...events.map(eventFrame), END]) sender.send(frame, { port: listener.socket.portId });
          await waitUntil(() => listener.socket.counters.unknownType > unknown, "the end of a run");
        }
        assert.deepEqual(filtered.lines, plain.kept);
      }),
      { numRuns: 60 },
    );
  } finally {
    sender.close();
  }
});
