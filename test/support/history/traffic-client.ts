/**
 * The client of the history test; run inside the client's namespace as a child with an IPC channel, ends with that. With the argument
 * `outside`, in the server's: then it connects from there to what is led to the inside.
 */
import { execFile } from "node:child_process";
import { createSocket, type Socket as DatagramSocket } from "node:dgram";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import {
  END_HOST,
  ipv4,
  ipv6,
  LAN,
  type Network,
  ROUTED,
  SECOND_CLIENT_HOST,
  VIRTUAL_HOST,
  WAN,
} from "../../../src/lab/topology.js";
import {
  DATAGRAM_BYTES,
  type End,
  LED_PORT,
  TRAFFIC_PORT,
  type TrafficAnswer,
  type TrafficCommand,
  type TrafficFlow,
} from "./traffic-protocol.js";

const TICK_MS = 100;
const LINE_MS = 200;
const CONNECT_TIMEOUT_MS = 4000;
const CLOSE_TIMEOUT_MS = 2000;
/** Few, so that each public port has several hosts behind it in turn. Below the ephemeral ones. */
const POOL_PORT = 21_000;
const POOL_PORTS = 6;
/** Ports of one phase; another phase has others. */
const PHASE_PORTS = 100;
const DATAGRAM_PORT = 22_000;
const RESET_PORT = 23_000;
const PING_ID = 4000;
const PING_BYTES = 60;
const PING_INTERVAL_MS = 200;

const HOSTS = [END_HOST, SECOND_CLIENT_HOST].map((host) => ipv4(LAN, host)) as [string, string];
const INSIDE6 = ipv6(LAN, END_HOST);
const IS_OUTSIDE = process.argv[2] === "outside";
const OUTSIDE_LONG = 8;
/** Ticks from one connection from the outside to the next. */
const OUTSIDE_TICKS = 4;

type Draft = Pick<TrafficFlow, "kind" | "protocol" | "long" | "inside" | "remote" | "led">;

class TrafficClient {
  readonly flows: TrafficFlow[] = [];
  readonly #sockets = new Map<TrafficFlow, Socket>();
  readonly #datagrams = new Map<TrafficFlow, DatagramSocket>();
  readonly #running = new Set<Promise<void>>();
  #timer: NodeJS.Timeout | undefined;
  #tick = 0;
  #phase = 0;

  async handle(command: TrafficCommand): Promise<void> {
    switch (command.type) {
      case "open":
        return IS_OUTSIDE ? this.#open(OUTSIDE_LONG, 0) : this.#open(command.tcp, command.udp);
      case "phase":
        this.#phase++;
        return;
      case "begin":
        this.#timer = setInterval(
          () => (IS_OUTSIDE ? this.#fromOutside(this.#tick++) : this.#short(this.#tick++)),
          TICK_MS,
        );
        return;
      case "pause":
        clearInterval(this.#timer);
        await Promise.all(this.#running);
        return;
      case "close":
        return this.#close(command.keep);
      case "report":
        return;
    }
  }

  #draft(draft: Draft, startMs = Date.now()): TrafficFlow {
    const flow: TrafficFlow = {
      ...draft,
      number: this.flows.length,
      public: null,
      startMs,
      firstMs: null,
      answeredMs: startMs,
      closeMs: null,
      lastMs: null,
      bytesSent: 0,
      bytesReceived: 0,
      packetsSent: 0,
      packetsReceived: 0,
      error: null,
    };
    this.flows.push(flow);
    return flow;
  }

  // Long ones.

  async #open(tcp: number, udp: number): Promise<void> {
    const ways: [Network, 4 | 6][] = [
      [WAN, 4],
      [WAN, 4],
      [WAN, 6],
      [ROUTED, 4],
      [WAN, 4],
      [ROUTED, 6],
    ];
    const opened: Promise<unknown>[] = [];
    for (let i = 0; i < tcp; i++) {
      const [network, family] = ways[i % ways.length]!;
      const port = IS_OUTSIDE ? 0 : 24_000 + (i >> 1) + 1000 * (family - 4);
      opened.push(this.#connect(network, family, HOSTS[i & 1]!, port, true, "fin"));
    }
    for (let i = 0; i < udp; i++) {
      const [network, family] = ways[i % ways.length]!;
      opened.push(this.#bind(network, family, HOSTS[i & 1]!, 26_000 + (i >> 1) + 1000 * (family - 4), true));
    }
    await Promise.all(opened);
    setInterval(() => {
      for (const [flow, socket] of this.#sockets) if (flow.long && flow.closeMs === null) write(flow, socket, 40);
      for (const [flow, socket] of this.#datagrams) if (flow.long && flow.closeMs === null) send(flow, socket);
    }, LINE_MS);
  }

  async #close(keep: number): Promise<void> {
    const sockets = [...this.#sockets].filter(([flow]) => flow.long && flow.closeMs === null);
    const ending = sockets.slice(0, Math.max(0, sockets.length - keep));
    const datagrams = [...this.#datagrams].filter(([flow]) => flow.long && flow.closeMs === null);
    await Promise.all([
      ...ending.map(([flow, socket]) => this.#end(flow, socket)),
      ...datagrams.map(([flow, socket]) => this.#lastDatagram(flow, socket)),
    ]);
  }

  // Short ones.

  #short(tick: number): void {
    const phase = this.#phase * PHASE_PORTS;
    // Both hosts by one port at a time, each the first in turn: who comes second has its port translated.
    if (tick % 3 === 0) {
      const pair = tick / 3;
      const [first, second] = pair % 3 === 0 ? [1, 0] : [0, 1];
      const port = POOL_PORT + phase + (pair % POOL_PORTS);
      this.#run(() => this.#session(WAN, 4, HOSTS[first]!, port, pair));
      this.#run(() => this.#session(WAN, 4, HOSTS[second]!, port, pair + 1));
    }
    const ways: [Network, 4 | 6][] = [
      [WAN, 6],
      [ROUTED, 4],
      [ROUTED, 6],
    ];
    const [network, family] = ways[Math.floor(tick / 5) % 3]!;
    if (tick % 5 === 1) this.#run(() => this.#session(network, family, HOSTS[0], 0, tick));
    if (tick % 5 === 3) this.#run(() => this.#exchange(network, family, HOSTS[0], 0));
    const slow = Math.floor(tick / 10);
    if (tick % 10 === 5) {
      const port = DATAGRAM_PORT + phase + (slow % 8);
      for (const host of HOSTS) this.#run(() => this.#exchange(WAN, 4, host, port));
    }
    if (tick % 10 === 7) this.#run(() => this.#again(RESET_PORT + phase + (slow % 8)));
    if (tick % 10 === 9) {
      const id = PING_ID + slow;
      for (const host of HOSTS) this.#run(() => this.#ping(host, ipv4(WAN, END_HOST), id));
      this.#run(() => this.#ping(INSIDE6, ipv6(slow % 2 === 0 ? WAN : ROUTED, END_HOST), id));
    }
  }

  #fromOutside(tick: number): void {
    if (tick % OUTSIDE_TICKS === 0) this.#run(() => this.#session(WAN, 4, HOSTS[0], 0, tick / OUTSIDE_TICKS));
  }

  #run(what: () => Promise<void>): void {
    const running = what().finally(() => this.#running.delete(running));
    this.#running.add(running);
  }

  async #session(network: Network, family: 4 | 6, host: string, port: number, seed: number): Promise<void> {
    const kind = seed % 4 === 3 ? "reset" : "fin";
    const { flow, socket } = await this.#connect(network, family, host, port, false, kind);
    if (flow.error !== null) return;
    for (let line = 0; line < seed % 3; line++) {
      write(flow, socket, 1 + ((seed * 397) % 1200));
      await delay(40 + ((seed * 31) % 80));
    }
    await this.#end(flow, socket);
  }

  /** The same tuple twice, the second at once: the kernel has it anew before the first has timed out. */
  async #again(port: number): Promise<void> {
    for (const kind of ["reset", "fin"] as const) {
      const { flow, socket } = await this.#connect(WAN, 4, HOSTS[0], port, false, kind);
      if (flow.error !== null) return;
      await delay(30);
      await this.#end(flow, socket);
      await delay(30);
    }
  }

  async #connect(
    network: Network,
    family: 4 | 6,
    host4: string,
    port: number,
    long: boolean,
    kind: "fin" | "reset",
  ): Promise<{ flow: TrafficFlow; socket: Socket }> {
    const [inside, to] = addresses(network, family, host4);
    const remote = { address: to, port: IS_OUTSIDE ? LED_PORT : TRAFFIC_PORT };
    const led = IS_OUTSIDE ? { address: HOSTS[0], port: TRAFFIC_PORT } : null;
    const flow = this.#draft({ kind, protocol: "tcp", long, inside: { address: inside, port }, remote, led });
    const local = { localAddress: inside, ...(port !== 0 && { localPort: port }) };
    const socket = connect({ host: to, port: remote.port, noDelay: true, ...local });
    this.#sockets.set(flow, socket);
    let greeting = "";
    const greeted = new Promise<void>((resolve) => {
      socket.on("connect", () => {
        flow.inside = { address: inside, port: socket.localPort ?? 0 };
      });
      socket.on("data", (chunk: Buffer) => {
        flow.bytesReceived = socket.bytesRead;
        if (flow.public !== null) return;
        greeting += chunk.toString("latin1");
        if (!greeting.includes("\n")) return;
        flow.public = IS_OUTSIDE ? remote : endOf(greeting);
        flow.firstMs = Date.now();
        resolve();
      });
      socket.on("error", (error) => {
        flow.error ??= error.message;
      });
      socket.on("close", () => {
        flow.closeMs ??= Date.now();
        flow.lastMs = Date.now();
        this.#sockets.delete(flow);
        resolve();
      });
    });
    const timer = setTimeout(() => {
      flow.error = "no answer in time";
      socket.destroy();
    }, CONNECT_TIMEOUT_MS);
    await greeted;
    clearTimeout(timer);
    return { flow, socket };
  }

  async #end(flow: TrafficFlow, socket: Socket): Promise<void> {
    if (flow.lastMs !== null) return;
    flow.closeMs = Date.now();
    const closed = once(socket, "close");
    if (flow.kind === "reset") socket.resetAndDestroy();
    else socket.end();
    const timer = setTimeout(() => {
      flow.error = "not closed in time";
      socket.destroy();
    }, CLOSE_TIMEOUT_MS);
    await closed.catch(() => undefined);
    clearTimeout(timer);
  }

  async #exchange(network: Network, family: 4 | 6, host4: string, port: number): Promise<void> {
    const { flow, socket } = await this.#bind(network, family, host4, port, false);
    if (flow.error === null) await this.#lastDatagram(flow, socket);
    else socket.close();
  }

  async #bind(
    network: Network,
    family: 4 | 6,
    host4: string,
    port: number,
    long: boolean,
  ): Promise<{ flow: TrafficFlow; socket: DatagramSocket }> {
    const [inside, remote] = addresses(network, family, host4);
    const socket = createSocket(family === 4 ? "udp4" : "udp6");
    socket.bind(port, inside);
    await once(socket, "listening");
    const end = { address: inside, port: socket.address().port };
    let flow = this.#draft({
      kind: "udp",
      protocol: "udp",
      long,
      inside: end,
      remote: { address: remote, port: TRAFFIC_PORT },
      led: null,
    });
    this.#datagrams.set(flow, socket);
    socket.on("error", (error) => {
      flow.error ??= error.message;
    });
    socket.on("message", (message) => {
      flow.packetsReceived++;
      flow.bytesReceived += message.length;
      flow.public ??= endOf(message.toString("latin1"));
      flow.firstMs ??= Date.now();
      flow = this.#translated(flow, endOf(message.toString("latin1")));
      flow.answeredMs = Date.now();
      socket.emit("answered");
    });
    await exchange(flow, socket);
    return { flow, socket };
  }

  /** A node that has not the state yet may translate the next datagram otherwise: another connection, by all that anybody can see. */
  #translated(flow: TrafficFlow, end: End): TrafficFlow {
    if (flow.public?.address === end.address && flow.public.port === end.port) return flow;
    const { kind, protocol, long, inside, remote, led } = flow;
    const next = this.#draft({ kind, protocol, long, inside, remote, led }, flow.answeredMs);
    flow.closeMs = flow.answeredMs;
    flow.lastMs = Date.now();
    next.public = end;
    next.firstMs = Date.now();
    const socket = this.#datagrams.get(flow);
    this.#datagrams.delete(flow);
    if (socket !== undefined) this.#datagrams.set(next, socket);
    return next;
  }

  async #lastDatagram(flow: TrafficFlow, socket: DatagramSocket): Promise<void> {
    await delay(60);
    flow.closeMs = Date.now();
    await exchange(flow, socket);
    flow.lastMs = Date.now();
    socket.close();
    this.#datagrams.delete(flow);
  }

  /** The public id is not known here: the server tells it by the length, which is each ping's own. */
  async #ping(inside: string, remote: string, id: number): Promise<void> {
    const protocol = inside.includes(":") ? "icmpv6" : "icmp";
    const end = { address: inside, port: id };
    const flow = this.#draft({
      kind: "icmp",
      protocol,
      long: false,
      inside: end,
      remote: { address: remote, port: 0 },
      led: null,
    });
    flow.bytesSent = PING_BYTES + (flow.number % 1200);
    const args = [
      "-n",
      "-c",
      "2",
      "-i",
      "0.2",
      "-W",
      "1",
      "-e",
      String(id),
      "-s",
      String(flow.bytesSent),
      "-I",
      inside,
    ];
    const stdout = await new Promise<string>((resolve) => {
      execFile("ping", [...args, remote], { timeout: 5000 }, (_, out) => resolve(out));
    });
    const counts = /(\d+) packets transmitted, (\d+) received/.exec(stdout);
    flow.packetsSent = Number(counts?.[1] ?? 0);
    flow.packetsReceived = Number(counts?.[2] ?? 0);
    flow.lastMs = Date.now();
    // ping says nothing of when it sent; the second request goes 200 ms after the first, which is the command's start or later.
    flow.closeMs = flow.startMs + PING_INTERVAL_MS;
    flow.firstMs = flow.packetsReceived > 0 ? flow.lastMs - PING_INTERVAL_MS : null;
    if (flow.packetsReceived !== 2) flow.error = `answers: ${flow.packetsReceived}`;
  }
}

function addresses(network: Network, family: 4 | 6, host4: string): [string, string] {
  if (IS_OUTSIDE) return [ipv4(WAN, END_HOST), ipv4(WAN, VIRTUAL_HOST)];
  return family === 4 ? [host4, ipv4(network, END_HOST)] : [INSIDE6, ipv6(network, END_HOST)];
}

function endOf(text: string): End {
  const [address = "", port] = text.trim().split(/\s+/);
  return { address, port: Number(port) };
}

function write(flow: TrafficFlow, socket: Socket, bytes: number): void {
  socket.write("x".repeat(bytes));
  flow.bytesSent += bytes;
}

function send(flow: TrafficFlow, socket: DatagramSocket): void {
  flow.packetsSent++;
  flow.bytesSent += DATAGRAM_BYTES;
  socket.send("x".repeat(DATAGRAM_BYTES), flow.remote.port, flow.remote.address);
}

/** One datagram there and one back. */
async function exchange(flow: TrafficFlow, socket: DatagramSocket): Promise<void> {
  const answered = once(socket, "answered").then(() => true);
  send(flow, socket);
  if (!(await Promise.race([answered, delay(1500).then(() => false)]))) flow.error ??= "no datagram came back";
}

const client = new TrafficClient();
process.on("message", (command: TrafficCommand) => {
  client.handle(command).then(
    () => answer({ flows: command.type === "report" ? client.flows : [] }),
    (error: unknown) => answer({ flows: [], error: String(error) }),
  );
});
process.on("disconnect", () => process.exit(0));

function answer(message: TrafficAnswer): void {
  process.send?.(message);
}
