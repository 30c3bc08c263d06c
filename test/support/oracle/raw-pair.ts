import { type HostSockets, SOCK_RAW, sockaddr } from "./host-sockets.js";
import { serverAddress } from "./network.js";
import type { Way } from "./packet.js";

/** Which IP. */
export type Family = 4 | 6;

/** Bytes before the layer 4 header in what a raw socket receives: of IPv6 the kernel cuts the header off. */
const HEADER_BYTES = { 4: 20, 6: 0 } as const;

/** Raw sockets of one protocol on both hosts; while they are open no kernel answers that it lacks the protocol. */
export class RawPair implements Disposable {
  readonly #client: HostSockets;
  readonly #server: HostSockets;
  readonly #family: Family;
  readonly #way: Way;
  readonly #sockets: readonly [number, number];

  constructor(client: HostSockets, server: HostSockets, family: Family, way: Way, protocol: number) {
    this.#client = client;
    this.#server = server;
    this.#family = family;
    this.#way = way;
    const own = serverAddress(family);
    this.#sockets = [client.bound(way.source, 0, SOCK_RAW, protocol), server.bound(own, 0, SOCK_RAW, protocol)];
  }

  request(bytes: Uint8Array): void {
    this.#client.send(this.#sockets[0], bytes, sockaddr(this.#way.destination));
  }

  /** The request as it came out of the firewall. */
  seenByServer(): Way {
    const { bytes, from } = this.#server.receive(this.#sockets[1]);
    const header = HEADER_BYTES[this.#family];
    const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    const port = (at: number): number => (bytes.length >= header + 4 ? view.readUInt16BE(header + at) : 0);
    const source = this.#family === 4 ? [...from.subarray(4, 8)].join(".") : ipv6Text(from.subarray(8, 24));
    return { source, destination: serverAddress(this.#family), sport: port(0), dport: port(2) };
  }

  answer(seen: Way, bytes: Uint8Array): void {
    this.#server.send(this.#sockets[1], bytes, sockaddr(seen.source));
  }

  [Symbol.dispose](): void {
    this.#client.close(this.#sockets[0]);
    this.#server.close(this.#sockets[1]);
  }
}

function ipv6Text(bytes: Uint8Array): string {
  return Buffer.from(bytes)
    .toString("hex")
    .replace(/(....)(?!$)/g, "$1:");
}
