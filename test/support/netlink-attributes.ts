/** Netlink attributes for tests, built and taken apart without the code under test. */

/** One attribute with its padding. */
export function nla(type: number, ...payload: Uint8Array[]): Buffer {
  const body = Buffer.concat(payload);
  const bytes = Buffer.alloc(4 + ((body.length + 3) & ~3));
  bytes.writeUInt16LE(4 + body.length, 0);
  bytes.writeUInt16LE(type, 2);
  body.copy(bytes, 4);
  return bytes;
}

/** One attribute that holds others. */
export function nest(type: number, ...attributes: Uint8Array[]): Buffer {
  return nla(type | 0x8000, ...attributes);
}

export function u8(value: number): Buffer {
  return Buffer.from([value]);
}

export function be16(value: number): Buffer {
  return Buffer.from([value >>> 8, value & 0xff]);
}

export function be32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value >>> 0);
  return bytes;
}

export function be64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(value);
  return bytes;
}

export function text(value: string): Buffer {
  return Buffer.from(`${value}\0`, "latin1");
}

/** The 4 bytes of a dotted IPv4 address. */
export function ip4(address: string): Buffer {
  return Buffer.from(address.split(".").map(Number));
}

/** The 16 bytes of an IPv6 address given as eight groups. */
export function ip6(...groups: number[]): Buffer {
  return Buffer.concat(groups.map(be16));
}

/** A tuple of IPv4 with ports, `CTA_TUPLE_*` by number; `more` attributes stand behind its layers 3 and 4. */
export function portTuple(
  type: number,
  source: string,
  destination: string,
  protocol: number,
  sport: number,
  dport: number,
  ...more: Uint8Array[]
): Buffer {
  return nest(
    type,
    nest(1, nla(1, ip4(source)), nla(2, ip4(destination))),
    nest(2, nla(1, u8(protocol)), nla(2, be16(sport)), nla(3, be16(dport))),
    ...more,
  );
}

/** The payload of a conntrack message: nfgenmsg, then attributes. */
export function payload(family: number, ...attributes: Uint8Array[]): Buffer {
  return Buffer.concat([Buffer.from([family, 0, 0, 0]), ...attributes]);
}

/** A message whole. */
export function message(type: number, flags: number, sequence: number, portId: number, body: Uint8Array): Buffer {
  const header = Buffer.alloc(16);
  header.writeUInt32LE(16 + body.length, 0);
  header.writeUInt16LE(type, 4);
  header.writeUInt16LE(flags, 6);
  header.writeUInt32LE(sequence, 8);
  header.writeUInt32LE(portId, 12);
  return Buffer.concat([header, body]);
}

/** The payloads of a row of attributes by type, flags masked off. Throws for anything malformed. */
export function attributesOf(bytes: Uint8Array): Map<number, Buffer> {
  const buffer = Buffer.from(bytes);
  const found = new Map<number, Buffer>();
  let at = 0;
  while (at < buffer.length) {
    const length = buffer.readUInt16LE(at);
    if (length < 4 || at + length > buffer.length) throw new Error(`attribute of ${length} bytes at ${at}`);
    found.set(buffer.readUInt16LE(at + 2) & 0x3fff, buffer.subarray(at + 4, at + length));
    at += (length + 3) & ~3;
  }
  return found;
}
