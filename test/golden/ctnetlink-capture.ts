/**
 * Captures conntrack frames of the running kernel for ctnetlink.test.ts; run by hand, as root, with the file to write:
 *
 *     node dist/test/golden/ctnetlink-capture.js test/golden/ctnetlink-frames.json
 *
 * The frames are the kernel's. What they should decode to is written by the decoder: read the difference before it is
 * committed. The lines are those of conntrack(8), which has a decoder of its own.
 */
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { release } from "node:os";
import { decodeConntrack } from "../../src/ctnetlink/decode.js";
import { RequestBatch } from "../../src/ctnetlink/encode.js";
import { type Flow, flowFromRecord, recordFromFlow } from "../../src/flow/flow.js";
import { DecodedFlow, HAS_COUNTERS, HAS_TIMES, W_HAS } from "../../src/flow/record.js";
import { NetlinkExchange, type NetlinkMessage } from "../support/netlink-exchange.js";

/** One captured message; `hex` from its nlmsghdr on. */
export interface GoldenFrame {
  name: string;
  hex: string;
  /** The line of `conntrack -L -o id`, for frames of a dump. */
  line?: string;
  flow: Flow;
  counters?: number[];
  timesMicros?: number[];
}

const FIREWALL = `ctcap-fw-${process.pid}`;
const CLIENT = `ctcap-cl-${process.pid}`;
const SERVER = `ctcap-sv-${process.pid}`;
const SYSCTLS = ["conntrack_events", "conntrack_acct", "conntrack_timestamp"].map(
  (name) => `net.netfilter.nf_${name}=1`,
);

const RULES = `
table inet t {
  ct helper h { type "ftp" protocol tcp; }
  chain pre { type nat hook prerouting priority -100; ip daddr 10.9.1.1 tcp dport 8080 dnat ip to 10.9.2.2:80; }
  chain post { type nat hook postrouting priority 100; oifname "s" ip saddr 10.9.1.0/24 masquerade; }
  chain raw { type filter hook prerouting priority -300; udp dport 5353 ct zone set 3; }
  chain forwarded { type filter hook forward priority 0; tcp dport 80 ct mark set 0x2a; tcp dport 80 ct label set 5; tcp dport 21 ct helper set "h"; }
}`;

const INSERTED = [
  "-p sctp -s 10.0.0.1 -d 10.0.0.2 --sport 5 --dport 6 -t 600 --state ESTABLISHED --orig-vtag 7 --reply-vtag 8",
  "-p udplite -s 10.0.0.1 -d 10.0.0.2 --sport 5 --dport 6 -t 600 -w 4",
  "-p gre -s 10.0.0.1 -d 10.0.0.2 --srckey 0x11 --dstkey 0x22 -t 600 --src-nat 4.4.4.4",
  "-p 89 -s 10.0.0.1 -d 10.0.0.2 -t 600",
  "-p udp -s 10.0.0.1 -d 10.0.0.2 --sport 5 --dport 9 -t 600 --orig-zone 4",
  "-p udp -s 10.0.0.1 -d 10.0.0.2 --sport 5 --dport 10 -t 600 --reply-zone 4",
  "-p icmp -s 10.0.0.1 -d 10.0.0.2 --icmp-type 8 --icmp-code 0 --icmp-id 99 -t 600 --src-nat 3.3.3.3",
  "-p tcp -s fd00::1 -d fd00::2 --sport 5 --dport 6 -t 600 --state ESTABLISHED -u SEEN_REPLY,ASSURED --src-nat fd00::9 -m 7",
];

const TCP = `
const [address, port, listen] = process.argv.slice(1);
const net = require("net");
if (listen) net.createServer((s) => s.on("data", (d) => s.end(d))).listen(Number(port), "::", () => console.log("up"));
else net.connect(Number(port), address, function () { this.end("hello"); }).resume();
`;

function run(namespace: string, ...command: string[]): string {
  return execFileSync("ip", ["netns", "exec", namespace, ...command], {
    encoding: "utf8",
    stdio: ["pipe", "pipe", "ignore"],
  });
}

function ip(line: string): void {
  execFileSync("ip", line.split(" "));
}

function build(): void {
  for (const namespace of [FIREWALL, CLIENT, SERVER]) {
    ip(`netns add ${namespace}`);
    ip(`-n ${namespace} link set lo up`);
  }
  for (const [peer, device, net] of [
    [CLIENT, "c", 1],
    [SERVER, "s", 2],
  ] as const) {
    ip(`-n ${FIREWALL} link add ${device} type veth peer name e netns ${peer}`);
    ip(`-n ${FIREWALL} addr add 10.9.${net}.1/24 dev ${device}`);
    ip(`-n ${FIREWALL} addr add fd09:${net}::1/64 dev ${device} nodad`);
    ip(`-n ${peer} addr add 10.9.${net}.2/24 dev e`);
    ip(`-n ${peer} addr add fd09:${net}::2/64 dev e nodad`);
    ip(`-n ${FIREWALL} link set ${device} up`);
    ip(`-n ${peer} link set e up`);
    ip(`-n ${peer} route add default via 10.9.${net}.1`);
    ip(`-n ${peer} route add default via fd09:${net}::1`);
  }
  run(FIREWALL, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", ...SYSCTLS);
  execFileSync("ip", ["netns", "exec", FIREWALL, "nft", "-f", "-"], { input: RULES });
}

function frame(name: string, message: NetlinkMessage, line?: string): GoldenFrame {
  const decoded = new DecodedFlow();
  const failure = decodeConntrack(message.bytes, 16, message.bytes.length, decoded);
  if (failure !== 0) throw new Error(`${name}: failure ${failure}`);
  const has = decoded.words[W_HAS]!;
  return {
    name,
    hex: Buffer.from(message.bytes).toString("hex"),
    ...(line === undefined ? {} : { line }),
    flow: flowFromRecord(decoded.words, 0, decoded.rare),
    ...(has & HAS_COUNTERS ? { counters: [...decoded.counters] } : {}),
    ...(has & HAS_TIMES ? { timesMicros: [...decoded.timesMicros] } : {}),
  };
}

/** Flows that conntrack(8) cannot make: sequence adjustment, SYN proxy, and one with a master. */
async function createRare(exchange: NetlinkExchange): Promise<void> {
  const base: Flow = {
    family: "ipv4",
    protocol: "tcp",
    orig: { src: "10.0.0.5", dst: "10.0.0.6", sport: 1, dport: 21 },
    reply: { src: "10.0.0.6", dst: "10.0.0.5", sport: 21, dport: 1 },
    status: ["SEEN_REPLY", "ASSURED", "CONFIRMED"],
    state: "ESTABLISHED",
    seqadj: {
      orig: { correctionPos: 1, offsetBefore: 0, offsetAfter: 4294967293 },
      reply: { correctionPos: 4, offsetBefore: 5, offsetAfter: 6 },
    },
    synproxy: { isn: 1, its: 2, tsoff: 3 },
    helper: "ftp",
  };
  const { src, dst, sport, dport } = base.orig;
  const related: Flow = {
    ...base,
    orig: { ...base.orig, dport: 20 },
    reply: { src: "10.0.0.6", dst: "10.0.0.5", sport: 20, dport: 1 },
    master: { family: "ipv4", protocol: "tcp", src, dst, sport: sport!, dport: dport! },
  };
  const batch = new RequestBatch();
  for (const flow of [base, related]) {
    const { words, rare } = recordFromFlow(flow);
    batch.create(words, 0, rare, { timeoutSeconds: 600, liberal: true });
  }
  await exchange.request(batch.bytes(0, 1));
}

async function capture(): Promise<GoldenFrame[]> {
  await using exchange = await NetlinkExchange.open(FIREWALL, [1, 2, 3]);
  for (const port of ["80", "21"]) {
    run(
      SERVER,
      "sh",
      "-c",
      `timeout 20 node -e '${TCP}' :: ${port} listen > /dev/null 2>&1 & until ss -ltn | grep -q ":${port} "; do sleep 0.1; done`,
    );
  }
  run(CLIENT, "node", "-e", TCP, "10.9.1.1", "8080");
  run(CLIENT, "node", "-e", TCP, "fd09:2::2", "80");
  run(CLIENT, "node", "-e", TCP, "10.9.2.2", "21");
  run(CLIENT, "ping", "-qc1", "10.9.2.2");
  run(CLIENT, "ping", "-qc1", "fd09:2::2");
  run(CLIENT, "node", "-e", "const s=require('dgram').createSocket('udp4');s.send('x',5353,'10.9.2.2',()=>s.close())");
  for (const line of INSERTED) run(FIREWALL, "conntrack", "-I", ...line.split(" "));
  await createRare(exchange);

  const lines = ["ipv4", "ipv6"].flatMap((family) =>
    run(FIREWALL, "conntrack", "-L", "-f", family, "-o", "id").trim().split("\n"),
  );
  const batch = new RequestBatch();
  batch.dump(0);
  const dump = (await exchange.request(batch.bytes(0, 1))).filter((message) => message.type === 0x100);
  const live = exchange.events.length;
  batch.reset();
  batch.flush(0);
  await exchange.request(batch.bytes(0, 2));
  await exchange.until((events) => events.filter((event) => event.type === 0x102).length >= dump.length);
  const names = new Map([
    [0x100, "update"],
    [0x102, "destroy"],
  ]);
  return [
    ...exchange.events
      .filter((_, i) => i < live + dump.length)
      .map((event) => frame(event.flags & 0x600 ? "new" : names.get(event.type)!, event)),
    ...dump.map((message) => {
      const found = frame("dump", message);
      const line = lines.find((text) => text.includes(`id=${found.flow.id} `) || text.endsWith(`id=${found.flow.id}`));
      return frame("dump", message, line);
    }),
  ];
}

try {
  build();
  const frames = await capture();
  writeFileSync(process.argv[2]!, `${JSON.stringify({ kernel: release(), frames }, null, 1)}\n`);
} finally {
  for (const namespace of [FIREWALL, CLIENT, SERVER]) execFileSync("ip", ["netns", "del", namespace]);
}
