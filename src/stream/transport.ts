import { createConnection, type Socket } from "node:net";
import type { ConnectionOptions, NatsConnection } from "nats";
import { NatsConnectionImpl, type ServerInfo, setTransportFactory } from "nats/lib/src/nats-base-client.js";
import { NodeTransport, nodeResolveHost } from "nats/lib/src/node_transport.js";
import { ProtocolGuard } from "./protocol-guard.js";
import { dialledHost, isScopedHost } from "./scoped-host.js";

/** Options of a client whose broker may be anybody. */
export interface GuardedOptions extends ConnectionOptions {
  /** Called with the reason when a connection is closed because of what its broker sent. Must not throw. */
  onRefused: (reason: string) => void;
}

/** Longest INFO line. nats-server's has some 500 bytes, and 50 more for each server of a cluster. */
export const INFO_BYTES_MAX = 32 * 1024;
/** Packets that it may come in. The client puts all of them together again for each one more. */
const INFO_PACKETS_MAX = 64;

/** What a server says behind its INFO line when it takes no more connections. */
const REFUSAL = /^-ERR '([\w ]{1,100})'\r\n/;

/**
 * Connects as `connect` of nats does, but over a transport that bounds what a broker may send, and that leaves no
 * socket behind when an attempt to connect times out. @throws NatsError
 */
export function connectGuarded(options: GuardedOptions): Promise<NatsConnection> {
  setTransportFactory({ factory: () => new GuardedTransport(), dnsResolveFn: resolveHost });
  return NatsConnectionImpl.connect(options);
}

async function resolveHost(hostname: string): Promise<string[]> {
  return isScopedHost(hostname) ? [hostname] : nodeResolveHost(hostname);
}

/**
 * The transport of the nats package. Its own one gathers an INFO line without a limit, before TLS has proved anything,
 * and puts it together anew for each packet. When an attempt times out, it goes on with that.
 */
class GuardedTransport extends NodeTransport {
  readonly #guard = new ProtocolGuard();
  #gaveUp = false;

  override async dial({ hostname, port }: { hostname: string; port: number }): Promise<Socket> {
    const socket = createConnection({ host: dialledHost(hostname), port, noDelay: true });
    // `close` finds it here while it is still connecting.
    this.socket = socket;
    await new Promise<void>((resolve, reject) => {
      let failure: Error | undefined;
      socket.once("connect", resolve);
      socket.on("error", (error) => {
        failure = error;
      });
      socket.once("close", () => reject(failure ?? new Error("the connection was closed")));
    });
    socket.removeAllListeners();
    return socket;
  }

  override async peekInfo(): Promise<ServerInfo> {
    // The attempt may have timed out while the socket was being connected.
    if (this.#gaveUp) throw new Error("no answer in time");
    const { socket } = this;
    let bytes = 0;
    let packets = 0;
    socket.on("data", (packet: Uint8Array) => {
      bytes += packet.length;
      packets++;
      if (bytes <= INFO_BYTES_MAX && packets <= INFO_PACKETS_MAX) return;
      socket.destroy(new Error(`the broker's INFO line does not end within ${INFO_BYTES_MAX} bytes`));
    });
    const info = await super.peekInfo();
    // A server speaks again only when it is spoken to, or to refuse. What stands behind the line would be taken for part of the
    // encrypted connection.
    const said = Buffer.concat(this.yields);
    const rest = said.toString("latin1", said.indexOf("\r\n") + 2);
    if (rest === "") return info;
    throw new Error(REFUSAL.exec(rest)?.[1]?.toLowerCase() ?? "the broker sent more than its INFO line");
  }

  /** Between the socket and the client's parser, which knows no limits and stops without a word at a mistake. */
  override async *iterate(): AsyncGenerator<Uint8Array> {
    for await (const packet of super.iterate()) {
      const refused = this.#guard.refuses(packet);
      if (refused !== null) {
        (this.options as Partial<GuardedOptions>).onRefused?.(refused);
        this.socket.destroy(new Error(refused));
        return;
      }
      yield packet;
    }
  }

  override close(error?: Error): Promise<void> {
    this.#gaveUp = true;
    if (!this.connected) this.socket?.destroy();
    return super.close(error);
  }
}
