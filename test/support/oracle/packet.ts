/**
 * Packets made by hand, from the layer 4 header on, with the checksums that conntrack verifies: what the kernel's own
 * sockets would not send, or not leave in that state.
 */
import { addressBytes } from "./host-sockets.js";

export const PROTOCOL_ICMP = 1;
export const PROTOCOL_TCP = 6;
export const PROTOCOL_GRE = 47;
export const PROTOCOL_ICMPV6 = 58;
export const PROTOCOL_SCTP = 132;
export const PROTOCOL_UDPLITE = 136;
/** From here to 252 nobody has a protocol, and conntrack no tracker but the generic one. */
export const PROTOCOL_UNASSIGNED = 150;

export const FIN = 0x01;
export const SYN = 0x02;
export const RST = 0x04;
export const ACK = 0x10;

/** Chunk types of SCTP (RFC 9260). */
export const SCTP_INIT = 1;
export const SCTP_INIT_ACK = 2;
export const SCTP_HEARTBEAT = 4;
export const SCTP_HEARTBEAT_ACK = 5;
export const SCTP_SHUTDOWN = 7;
export const SCTP_SHUTDOWN_ACK = 8;
export const SCTP_COOKIE_ECHO = 10;
export const SCTP_COOKIE_ACK = 11;
export const SCTP_SHUTDOWN_COMPLETE = 14;

/** Messages of PPTP's control connection. */
export const PPTP_START_REQUEST = 1;
export const PPTP_START_REPLY = 2;
export const PPTP_CALL_REQUEST = 7;
export const PPTP_CALL_REPLY = 8;

const PPTP_BYTES: Readonly<Record<number, number>> = {
  [PPTP_START_REQUEST]: 156,
  [PPTP_START_REPLY]: 156,
  [PPTP_CALL_REQUEST]: 168,
  [PPTP_CALL_REPLY]: 32,
};
/** Result code: the session is there, the call is connected. */
const PPTP_DONE = 1;

const WINDOW = 29_200;

/** Who sends to whom. */
export interface Way {
  readonly source: string;
  readonly destination: string;
  readonly sport: number;
  readonly dport: number;
}

/** The way back. */
export function turned({ source, destination, sport, dport }: Way): Way {
  return { source: destination, destination: source, sport: dport, dport: sport };
}

/** A TCP segment without payload; a SYN offers window scale 7 and selective acknowledgements. */
export function tcpSegment(way: Way, flags: number, sequence: number, acknowledgement: number): Uint8Array {
  const options = (flags & SYN) === 0 ? [] : [2, 4, 0x05, 0xb4, 4, 2, 1, 3, 3, 7, 1, 1];
  const bytes = Buffer.alloc(20 + options.length);
  bytes.writeUInt16BE(way.sport, 0);
  bytes.writeUInt16BE(way.dport, 2);
  bytes.writeUInt32BE(sequence, 4);
  bytes.writeUInt32BE(acknowledgement, 8);
  bytes[12] = (bytes.length / 4) << 4;
  bytes[13] = flags;
  bytes.writeUInt16BE(WINDOW, 14);
  bytes.set(options, 20);
  bytes.writeUInt16BE(checksum(pseudoHeader(way, PROTOCOL_TCP, bytes.length), bytes), 16);
  return bytes;
}

/** A UDPLite datagram whose checksum covers the first 12 bytes of it. */
export function udpLiteDatagram(way: Way, payload: string): Uint8Array {
  const bytes = Buffer.alloc(8 + payload.length);
  bytes.writeUInt16BE(way.sport, 0);
  bytes.writeUInt16BE(way.dport, 2);
  bytes.writeUInt16BE(12, 4);
  bytes.write(payload, 8, "latin1");
  const header = pseudoHeader(way, PROTOCOL_UDPLITE, bytes.length);
  bytes.writeUInt16BE(checksum(header, bytes.subarray(0, 12)), 6);
  return bytes;
}

/** An ICMP or ICMPv6 message with an id; the kernel itself fills in the checksum of the latter. */
export function icmpMessage(type: number, id: number, sequence: number): Uint8Array {
  const bytes = Buffer.alloc(20);
  bytes[0] = type;
  bytes.writeUInt16BE(id, 4);
  bytes.writeUInt16BE(sequence, 6);
  bytes.writeUInt16BE(checksum(bytes), 2);
  return bytes;
}

/** An SCTP packet of one chunk; `body` is what follows the chunk's header. */
export function sctpPacket(way: Way, vtag: number, chunk: number, body: Uint8Array = new Uint8Array(0)): Uint8Array {
  const bytes = Buffer.alloc(16 + ((body.length + 3) & ~3));
  bytes.writeUInt16BE(way.sport, 0);
  bytes.writeUInt16BE(way.dport, 2);
  bytes.writeUInt32BE(vtag, 4);
  bytes[12] = chunk;
  bytes.writeUInt16BE(4 + body.length, 14);
  bytes.set(body, 16);
  bytes.writeUInt32LE(crc32c(bytes), 8);
  return bytes;
}

/** The body of INIT and INIT ACK. */
export function sctpInit(vtag: number): Uint8Array {
  const bytes = Buffer.alloc(16);
  bytes.writeUInt32BE(vtag, 0);
  bytes.writeUInt32BE(65_536, 4);
  bytes.writeUInt16BE(1, 8);
  bytes.writeUInt16BE(1, 10);
  bytes.writeUInt32BE(1, 12);
  return bytes;
}

/** GRE of version 1, as PPTP uses it: the call id is the key. */
export function greOfPptp(callId: number): Uint8Array {
  const bytes = Buffer.alloc(12);
  bytes.writeUInt16BE(0x3001, 0);
  bytes.writeUInt16BE(0x880b, 2);
  bytes.writeUInt16BE(callId, 6);
  return bytes;
}

/** GRE of version 0 without a key. */
export function grePlain(): Uint8Array {
  return Buffer.from([0, 0, 0x08, 0x00, 0, 0, 0, 0]);
}

/** A message of PPTP's control connection (RFC 2637), as far as conntrack's helper reads it. */
export function pptpMessage(type: number, callId = 0, peersCallId = 0): Uint8Array {
  const bytes = Buffer.alloc(PPTP_BYTES[type]!);
  bytes.writeUInt16BE(bytes.length, 0);
  bytes.writeUInt16BE(1, 2);
  bytes.writeUInt32BE(0x1a2b3c4d, 4);
  bytes.writeUInt16BE(type, 8);
  if (type === PPTP_START_REPLY) bytes[14] = PPTP_DONE;
  if (type === PPTP_CALL_REQUEST || type === PPTP_CALL_REPLY) bytes.writeUInt16BE(callId, 12);
  if (type === PPTP_CALL_REPLY) {
    bytes.writeUInt16BE(peersCallId, 14);
    bytes[16] = PPTP_DONE;
  }
  return bytes;
}

/** The call id of a PPTP_CALL_REQUEST. */
export function pptpCallId(message: Uint8Array): number {
  return (message[12]! << 8) | message[13]!;
}

function pseudoHeader({ source, destination }: Way, protocol: number, length: number): Uint8Array {
  const tail = Buffer.alloc(8);
  tail.writeUInt32BE(length, 0);
  tail.writeUInt32BE(protocol, 4);
  return Buffer.concat([addressBytes(source), addressBytes(destination), tail]);
}

/** RFC 1071, over parts of even length. */
function checksum(...parts: readonly Uint8Array[]): number {
  let sum = 0;
  for (const part of parts) {
    for (let at = 0; at < part.length; at += 2) sum += (part[at]! << 8) | (part[at + 1] ?? 0);
  }
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

/** Castagnoli's CRC of RFC 9260, appendix A. */
function crc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ ((crc & 1) === 0 ? 0 : 0x82f63b78);
  }
  return ~crc >>> 0;
}
