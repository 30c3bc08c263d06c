/** Sends NAT events as IPFIX messages to a file, or to a collector over UDP or TCP. */
import { createSocket } from "node:dgram";
import { lookup } from "node:dns/promises";
import { once } from "node:events";
import { type FileHandle, open } from "node:fs/promises";
import { connect } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { ConntrailError, errorText } from "../../errors.js";
import { IpfixEncoder, natEvents } from "../../history/format/ipfix.js";
import type { CommandContext } from "../command/command.js";
import type { ConnectionOutput, OutputRow } from "./connection-output.js";

/** Where IPFIX messages go. */
export type IpfixTarget =
  | { readonly type: "file"; readonly path: string }
  | { readonly type: "udp" | "tcp"; readonly host: string; readonly port: number };

/** Only events within this range are written, so that consecutive ranges give each event once. */
interface Range {
  readonly sinceMs: number | null;
  readonly untilMs: number | null;
}

/** Sends messages to a target. */
interface Carrier {
  send(message: Uint8Array): Promise<void>;
  close(): Promise<void>;
}

/** The port of IPFIX, assigned by IANA. */
const PORT = 4739;
/** A datagram of this size is not fragmented on any path of IPv6 (MTU 1280), nor on almost any path of IPv4. */
const DATAGRAM_BYTES_MAX = 1232;
const STREAM_MESSAGE_BYTES_MAX = 16_384;
/** Over UDP templates are repeated for collectors that were started late (RFC 7011, 8.4). */
const TEMPLATES = { everyMessages: 100, everyMs: 60_000 };
/** A collector's socket buffer holds a few hundred datagrams, so we pause after each burst. */
const BURST_DATAGRAMS = 16;
const BURST_REST_MS = 5;
const CONNECT_TIMEOUT_MS = 5000;

/** Reads `--collector`: [udp:|tcp:]HOST[:PORT]. Throws USAGE. */
export function parseCollector(text: string): IpfixTarget {
  const match = /^(?:(udp|tcp):(?:\/\/)?)?(?:\[([0-9a-f:.]+)\]|([^\s:[\]/]+))(?::(\d{1,5}))?$/i.exec(text);
  const port = Number(match?.[4] ?? PORT);
  const host = match?.[2] ?? match?.[3];
  if (host === undefined || port < 1 || port > 65_535) {
    throw new ConntrailError(
      "USAGE",
      `--collector: "${text}" is not allowed; give [udp:|tcp:]HOST[:PORT], an IPv6 address in brackets`,
    );
  }
  return { type: match?.[1]?.toLowerCase() === "tcp" ? "tcp" : "udp", host, port };
}

/** An output that sends NAT events to a file or collector, and prints in the end how many. */
export async function openIpfix(
  target: IpfixTarget,
  range: Range,
  { terminal, json }: CommandContext,
): Promise<ConnectionOutput & { close(): Promise<void> }> {
  const carrier = await openCarrier(target);
  const udp = target.type === "udp";
  const messageBytesMax = udp ? DATAGRAM_BYTES_MAX : STREAM_MESSAGE_BYTES_MAX;
  const encoder = new IpfixEncoder({ messageBytesMax, templates: udp ? TEMPLATES : null }, Date.now);
  const sent = { events: 0, messages: 0, bytes: 0 };
  const send = async (message: Uint8Array | null): Promise<void> => {
    if (message === null) return;
    await carrier.send(message);
    sent.messages++;
    sent.bytes += message.length;
  };
  const write = async (rows: readonly OutputRow[]): Promise<void> => {
    for (const event of rows.flatMap(eventsOf)) {
      if (event.timeMs < (range.sinceMs ?? 0) || event.timeMs > (range.untilMs ?? Number.POSITIVE_INFINITY)) continue;
      sent.events++;
      await send(encoder.add(event));
    }
  };
  const flush = (): Promise<void> => send(encoder.flush());
  return {
    marksDoubt: false,
    takesEndsOnce: true,
    write,
    flush,
    end: async () => {
      await flush();
      const where = target.type === "file" ? target.path : `${target.host} port ${target.port} (${target.type})`;
      if (json) await terminal.json(sent);
      else await terminal.line(`${sent.events} NAT events in ${sent.messages} messages to ${where}`);
    },
    close: () => carrier.close(),
  };
}

/** Both events of a connection in a finished answer; of a change only the event that it is. */
function eventsOf({ type, connection }: OutputRow): ReturnType<typeof natEvents> {
  if (type === "moved" || type === "updated") return [];
  const events = natEvents(connection);
  return type === undefined ? events : events.filter((event) => event.type === (type === "new" ? "create" : "delete"));
}

async function openCarrier(target: IpfixTarget): Promise<Carrier> {
  try {
    switch (target.type) {
      case "file":
        return fileCarrier(await open(target.path, "w"), target.path);
      case "udp":
        return await udpCarrier(target.host, target.port);
      case "tcp":
        return await tcpCarrier(target.host, target.port);
      default:
        return target satisfies never;
    }
  } catch (cause) {
    throw cause instanceof ConntrailError ? cause : failure(cause);
  }
}

function failure(cause: unknown): ConntrailError {
  return new ConntrailError("CONTROL", `NAT events cannot be written: ${errorText(cause)}`, { cause });
}

function fileCarrier(file: FileHandle, path: string): Carrier {
  return {
    send: async (message) => {
      await file.writeFile(message).catch((cause: unknown) => {
        throw new ConntrailError("CONTROL", `${path} cannot be written: ${errorText(cause)}`, { cause });
      });
    },
    close: () => file.close(),
  };
}

async function udpCarrier(host: string, port: number): Promise<Carrier> {
  const { family, address } = await lookup(host);
  const socket = createSocket(family === 6 ? "udp6" : "udp4");
  let lost: Error | null = null;
  // A connected socket gets an error when nobody listens there.
  socket.on("error", (error) => {
    lost = error;
  });
  socket.connect(port, address);
  await once(socket, "connect");
  let burst = 0;
  return {
    send: async (message) => {
      if (++burst % BURST_DATAGRAMS === 0) await delay(BURST_REST_MS);
      const error = await new Promise<Error | null>((done) => socket.send(message, done));
      if ((error ?? lost) !== null) throw failure(error ?? lost);
    },
    close: async () => {
      socket.close();
    },
  };
}

async function tcpCarrier(host: string, port: number): Promise<Carrier> {
  const socket = connect({ host, port });
  let lost: Error | null = null;
  socket.on("error", (error) => {
    lost = error;
  });
  await once(socket, "connect", { signal: AbortSignal.timeout(CONNECT_TIMEOUT_MS) }).catch((cause: unknown) => {
    socket.destroy();
    throw lost ?? new Error(`no answer from ${host} port ${port}`, { cause });
  });
  // Data from the collector is ignored, but it must not fill the buffer.
  socket.resume();
  return {
    send: async (message) => {
      const error = await new Promise<Error | null | undefined>((done) => socket.write(message, done));
      if ((error ?? lost) !== null) throw failure(error ?? lost);
    },
    close: async () => {
      if (socket.destroyed) return;
      socket.end();
      await once(socket, "close", { signal: AbortSignal.timeout(CONNECT_TIMEOUT_MS) }).catch(() => socket.destroy());
    },
  };
}
