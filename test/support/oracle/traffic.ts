/** Real traffic through firewall A that leaves its table with every protocol, state and translation that packets can make. */

import { type HostSockets, SOCK_DGRAM, SOCK_RAW, sockaddr } from "./host-sockets.js";
import {
  type DestinationKind,
  destinationAddress,
  PORTS,
  type SourceKind,
  serverAddress,
  sourceAddress,
} from "./network.js";
import {
  ACK,
  FIN,
  greOfPptp,
  grePlain,
  icmpMessage,
  PPTP_CALL_REPLY,
  PPTP_CALL_REQUEST,
  PPTP_START_REPLY,
  PPTP_START_REQUEST,
  PROTOCOL_GRE,
  PROTOCOL_ICMP,
  PROTOCOL_ICMPV6,
  PROTOCOL_SCTP,
  PROTOCOL_TCP,
  PROTOCOL_UDPLITE,
  PROTOCOL_UNASSIGNED,
  pptpCallId,
  pptpMessage,
  RST,
  SCTP_COOKIE_ACK,
  SCTP_COOKIE_ECHO,
  SCTP_HEARTBEAT,
  SCTP_HEARTBEAT_ACK,
  SCTP_INIT,
  SCTP_INIT_ACK,
  SCTP_SHUTDOWN,
  SCTP_SHUTDOWN_ACK,
  SCTP_SHUTDOWN_COMPLETE,
  SYN,
  sctpInit,
  sctpPacket,
  tcpSegment,
  turned,
  udpLiteDatagram,
  type Way,
} from "./packet.js";
import { type Family, RawPair } from "./raw-pair.js";

const FAMILIES: readonly Family[] = [4, 6];
const ECHO_REQUEST = { 4: 8, 6: 128 } as const;
const TIMESTAMP_REQUEST = 13;

/** Each source with the destinations that it is combined with. */
const TRANSLATIONS: readonly (readonly [SourceKind, DestinationKind])[] = [
  ["plain", "plain"],
  ["plain", "dnat"],
  ["plain", "dnatPort"],
  ["plain", "dnatAndSnat"],
  ["masquerade", "plain"],
  ["masquerade", "dnatPort"],
  ["snat", "plain"],
  ["snat", "dnat"],
  ["portRange", "plain"],
  ["portRangeToo", "plain"],
];

/** The states of TCP by what is sent: upper case from the client, lower case from the server. */
const TCP_DIALOGUES: Readonly<Record<string, readonly string[]>> = {
  SYN_SENT: ["S"],
  SYN_SENT2: ["S", "s"],
  SYN_RECV: ["S", "sa"],
  ESTABLISHED: ["S", "sa", "A"],
  FIN_WAIT: ["S", "sa", "A", "FA"],
  CLOSE_WAIT: ["S", "sa", "A", "FA", "a"],
  LAST_ACK: ["S", "sa", "A", "FA", "a", "fa"],
  TIME_WAIT: ["S", "sa", "A", "FA", "a", "fa", "A"],
  CLOSE: ["S", "sa", "A", "R"],
};

/** The states of SCTP likewise: a chunk from the client, or with "<" from the server. */
const SCTP_ASSOCIATION = ["init", "<initAck", "cookieEcho", "<cookieAck"];
const SCTP_DIALOGUES: Readonly<Record<string, readonly string[]>> = {
  COOKIE_WAIT: ["init"],
  COOKIE_WAIT_REPLIED: ["init", "<initAck"],
  COOKIE_ECHOED: ["init", "<initAck", "cookieEcho"],
  ESTABLISHED: SCTP_ASSOCIATION,
  SHUTDOWN_SENT: [...SCTP_ASSOCIATION, "shutdown"],
  SHUTDOWN_RECD: [...SCTP_ASSOCIATION, "<shutdown"],
  SHUTDOWN_ACK_SENT: [...SCTP_ASSOCIATION, "shutdown", "<shutdownAck"],
  CLOSED: [...SCTP_ASSOCIATION, "shutdown", "<shutdownAck", "shutdownComplete"],
  HEARTBEAT_SENT: ["heartbeat"],
  HEARTBEAT_ACKED: ["heartbeat", "<heartbeatAck"],
};

const SCTP_CHUNKS: Readonly<Record<string, number>> = {
  init: SCTP_INIT,
  initAck: SCTP_INIT_ACK,
  cookieEcho: SCTP_COOKIE_ECHO,
  cookieAck: SCTP_COOKIE_ACK,
  shutdown: SCTP_SHUTDOWN,
  shutdownAck: SCTP_SHUTDOWN_ACK,
  shutdownComplete: SCTP_SHUTDOWN_COMPLETE,
  heartbeat: SCTP_HEARTBEAT,
  heartbeatAck: SCTP_HEARTBEAT_ACK,
};

/** What client and server say through the firewall. Sockets stay open, and so do connections, until it is disposed of. */
export class Traffic implements Disposable {
  readonly #client: HostSockets;
  readonly #server: HostSockets;
  readonly #listener: number;
  readonly #service: number;
  #nextPort = 30_000;
  #nextProtocol = PROTOCOL_UNASSIGNED;

  constructor(client: HostSockets, server: HostSockets) {
    this.#client = client;
    this.#server = server;
    // Bound to the IPv6 wildcard they take IPv4 as well.
    this.#listener = server.listen("::", PORTS.service);
    this.#service = server.bound("::", PORTS.service, SOCK_DGRAM);
  }

  [Symbol.dispose](): void {
    this.#client[Symbol.dispose]();
    this.#server[Symbol.dispose]();
  }

  /** All of it but FTP's dialogues. */
  all(): void {
    for (const family of FAMILIES) {
      for (const [from, to] of TRANSLATIONS) this.#translated(family, from, to);
      this.#tcpEndings(family);
      this.#tcpStates(family);
      this.#sctpStates(family);
      this.#unreplied(family);
      this.#ruled(family);
      this.#synproxy(family);
    }
    for (const from of ["plain", "masquerade"] as const) {
      this.tftp(from, 2);
      this.#pptp(from);
    }
  }

  /** Every protocol through one kind of translation, each answered. */
  #translated(family: Family, from: SourceKind, to: DestinationKind): void {
    const source = sourceAddress(from, family);
    const destination = destinationAddress(to, family);
    const sport = from === "portRangeToo" ? 25_000 : from === "portRange" ? 25_000 : this.#port();
    const dport = to === "dnatPort" ? PORTS.front : PORTS.service;
    const way: Way = { source, destination, sport, dport };
    this.#tcp(way);
    this.#udp(way, this.#service);
    this.#udpLite(family, way);
    this.#sctp(family, { ...way, sport: way.sport }, SCTP_DIALOGUES.ESTABLISHED!);
    if (to === "dnatPort") return;
    this.#icmp(family, way, ECHO_REQUEST[family]);
    this.#request(family, way, PROTOCOL_GRE, greOfPptp(this.#port() & 0xfff));
    // Without ports or keys only the addresses tell flows apart, and then each protocol once.
    this.#exchange(family, way, this.#nextProtocol++, Buffer.from("any"));
    if (to === "plain" && !from.startsWith("portRange")) this.#exchange(family, way, PROTOCOL_GRE, grePlain());
  }

  #port(): number {
    return this.#nextPort++;
  }

  /** A TCP connection over which both sides have spoken; the client's and the server's end of it. */
  #tcp(way: Way, listener = this.#listener): readonly [number, number] {
    const client = this.#client.connect(way.source, way.sport, way.destination, way.dport);
    const server = this.#server.accept(listener);
    this.#client.send(client, Buffer.from("request"));
    this.#server.receive(server);
    this.#server.send(server, Buffer.from("answer"));
    this.#client.receive(client);
    return [client, server];
  }

  #udp({ source, sport, destination, dport }: Way, service: number): void {
    const socket = this.#client.bound(source, sport, SOCK_DGRAM);
    this.#client.send(socket, Buffer.from("request"), sockaddr(destination, dport));
    const { from } = this.#server.receive(service);
    this.#server.send(service, Buffer.from("answer"), from);
    this.#client.receive(socket);
    // A third datagram makes it a stream, which is assured.
    this.#client.send(socket, Buffer.from("request"), sockaddr(destination, dport));
    this.#server.receive(service);
    this.#client.close(socket);
  }

  #udpLite(family: Family, way: Way): void {
    using raw = new RawPair(this.#client, this.#server, family, way, PROTOCOL_UDPLITE);
    raw.request(udpLiteDatagram(way, "request"));
    const seen = raw.seenByServer();
    raw.answer(seen, udpLiteDatagram(turned(seen), "answer"));
  }

  #exchange(family: Family, way: Way, protocol: number, bytes: Uint8Array): void {
    using raw = new RawPair(this.#client, this.#server, family, way, protocol);
    raw.request(bytes);
    raw.answer(raw.seenByServer(), bytes);
  }

  #request(family: Family, way: Way, protocol: number, bytes: Uint8Array): void {
    using raw = new RawPair(this.#client, this.#server, family, way, protocol);
    raw.request(bytes);
    raw.seenByServer();
  }

  #icmp(family: Family, way: Way, type: number): void {
    const protocol = family === 4 ? PROTOCOL_ICMP : PROTOCOL_ICMPV6;
    const socket = this.#client.bound(way.source, 0, SOCK_RAW, protocol);
    // The server's kernel answers.
    this.#client.send(socket, icmpMessage(type, this.#port() & 0xffff, 1), sockaddr(way.destination));
    this.#client.close(socket);
  }

  /** TCP of the kernel's own sockets, ended in each way. */
  #tcpEndings(family: Family): void {
    const way = (): Way => this.#plain(family, PORTS.service);
    const [half] = this.#tcp(way());
    this.#client.finish(half);
    const [, byServer] = this.#tcp(way());
    this.#server.finish(byServer);
    const [whole, other] = this.#tcp(way());
    this.#client.close(whole);
    this.#server.close(other);
    const [aborted] = this.#tcp(way());
    this.#client.reset(aborted);
  }

  #plain(family: Family, dport: number): Way {
    return { source: sourceAddress("plain", family), destination: serverAddress(family), sport: this.#port(), dport };
  }

  /** Every state of TCP, left in it: hosts do not answer at these ports. */
  #tcpStates(family: Family): void {
    let port: number = PORTS.quietFirst;
    for (const dialogue of Object.values(TCP_DIALOGUES)) {
      const way = this.#plain(family, port++);
      using raw = new RawPair(this.#client, this.#server, family, way, PROTOCOL_TCP);
      const next = { client: 1000, server: 5000 };
      for (const step of dialogue) {
        const byServer = step === step.toLowerCase();
        const [own, others] = byServer ? (["server", "client"] as const) : (["client", "server"] as const);
        const letters = step.toUpperCase();
        const flags = [...letters].reduce((sum, letter) => sum | TCP_FLAGS[letter]!, 0);
        const acknowledgement = (flags & ACK) === 0 ? 0 : next[others];
        const segment = tcpSegment(byServer ? turned(way) : way, flags, next[own], acknowledgement);
        if (byServer) raw.answer(way, segment);
        else raw.request(segment);
        if ((flags & (SYN | FIN)) !== 0) next[own]++;
      }
    }
  }

  #sctpStates(family: Family): void {
    for (const dialogue of Object.values(SCTP_DIALOGUES)) this.#sctp(family, this.#plain(family, 5000), dialogue);
  }

  #sctp(family: Family, way: Way, dialogue: readonly string[]): void {
    using raw = new RawPair(this.#client, this.#server, family, way, PROTOCOL_SCTP);
    // Each side puts into its packets the tag that the other has chosen.
    const [clientTag, serverTag] = [0x11110000 + way.sport, 0x22220000 + way.sport];
    let seen = way;
    for (const step of dialogue) {
      const name = step.replace("<", "");
      const chunk = SCTP_CHUNKS[name]!;
      if (step.startsWith("<")) {
        const body = name === "initAck" ? sctpInit(serverTag) : undefined;
        raw.answer(seen, sctpPacket(turned(seen), clientTag, chunk, body));
        continue;
      }
      const body = name === "init" ? sctpInit(clientTag) : undefined;
      raw.request(sctpPacket(way, name === "init" ? 0 : serverTag, chunk, body));
      seen = raw.seenByServer();
    }
  }

  /** What nobody answers. */
  #unreplied(family: Family): void {
    const way = this.#plain(family, PORTS.service);
    const socket = this.#client.bound(way.source, way.sport, SOCK_DGRAM);
    this.#client.send(socket, Buffer.from("request"), sockaddr(way.destination, way.dport));
    this.#server.receive(this.#service);
    this.#client.close(socket);
    using raw = new RawPair(this.#client, this.#server, family, way, PROTOCOL_UDPLITE);
    raw.request(udpLiteDatagram(way, "request"));
    this.#request(family, way, this.#nextProtocol++, Buffer.from("any"));
    if (family === 4) this.#icmp(4, way, TIMESTAMP_REQUEST);
  }

  /** Zones of both directions and of one, labels, marks: the ruleset goes by the port. */
  #ruled(family: Family): void {
    for (const port of [PORTS.zone, PORTS.zoneOriginal, PORTS.zoneReply, PORTS.label, PORTS.mark]) {
      const service = this.#server.bound("::", port, SOCK_DGRAM);
      this.#udp(this.#plain(family, port), service);
      this.#server.close(service);
    }
  }

  /** A TCP connection for which the firewall answers first: its sequence numbers and timestamps are adjusted. */
  #synproxy(family: Family): void {
    const listener = this.#server.listen("::", PORTS.synproxy);
    this.#tcp(this.#plain(family, PORTS.synproxy), listener);
    this.#server.close(listener);
  }

  /** A call of PPTP: its helper expects a GRE connection whose keys both sides have agreed on, and this comes. */
  #pptp(from: SourceKind): void {
    const listener = this.#server.listen("::", PORTS.pptp);
    const source = sourceAddress(from, 4);
    const way: Way = { source, destination: serverAddress(4), sport: this.#port(), dport: PORTS.pptp };
    const [client, server] = this.#tcp(way, listener);
    const [callId, serverCallId] = [this.#port() & 0xfff, this.#port() & 0xfff];
    this.#client.send(client, pptpMessage(PPTP_START_REQUEST));
    this.#server.receive(server);
    this.#server.send(server, pptpMessage(PPTP_START_REPLY));
    this.#client.receive(client);
    this.#client.send(client, pptpMessage(PPTP_CALL_REQUEST, callId));
    // The firewall may have put another id in its place.
    const seenCallId = pptpCallId(this.#server.receive(server).bytes);
    this.#server.send(server, pptpMessage(PPTP_CALL_REPLY, serverCallId, seenCallId));
    this.#client.receive(client);
    this.#server.close(listener);
    using raw = new RawPair(this.#client, this.#server, 4, way, PROTOCOL_GRE);
    raw.request(greOfPptp(serverCallId));
    raw.answer(raw.seenByServer(), greOfPptp(seenCallId));
  }

  /**
   * A TFTP request, after which the helper expects the file; sent so many times. What a flow's first packet makes expect the
   * kernel tells before the flow: conntrackd, which knows no master then, takes it from the second packet only.
   */
  tftp(from: SourceKind, times: number): void {
    const service = this.#server.bound("::", PORTS.tftp, SOCK_DGRAM);
    const socket = this.#client.bound(sourceAddress(from, 4), this.#port(), SOCK_DGRAM);
    for (let time = 0; time < times; time++) {
      this.#client.send(socket, Buffer.from("\0\x01file\0octet\0"), sockaddr(serverAddress(4), PORTS.tftp));
      this.#server.receive(service);
    }
    this.#server.close(service);
  }
}

const TCP_FLAGS: Readonly<Record<string, number>> = { S: SYN, A: ACK, F: FIN, R: RST };
