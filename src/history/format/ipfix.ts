/**
 * Translated connections as IPFIX NAT events: messages of RFC 7011, events of RFC 8158.
 *
 *   message      version 10 | length | export time | sequence | observation domain 0     2 2 4 4 4 bytes, big-endian
 *   set          id | length | records                                                    2 2
 *   id 2         templates: id | fields | (element | length) ...
 *   id 256-263   events of the template with this number: 256, plus 1 for IPv6, 2 with ports, 4 with counters
 *
 * A connection gives two events: one at its start, one at its end. The zone of the original direction is ingressVRFID. An ICMP id
 * stands where source ports do, type and code where destination ports do. The counters are those of the end, where the kernel counted.
 * RFC 8158 has no number for a translation from IPv6 to IPv6; the family-neutral 1 and 2 of the registry stand there.
 */
import { isTranslated } from "../../flow/filter.js";
import { hasPorts, isIcmp } from "../../flow/protocol.js";
import {
  AF_INET6,
  W_ORIG_DST,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_REPLY_DST,
  W_REPLY_L4,
  W_REPLY_SRC,
} from "../../flow/record.js";
import { familyOf, protocolOf, zoneOrigOf } from "../../flow/record-fields.js";
import type { Connection, ConnectionCounters } from "../connection.js";

/** How messages are cut and templates repeated. */
export interface IpfixOptions {
  /** A message is never longer. 576 at the least, 65535 at the most. */
  readonly messageBytesMax: number;
  /** Over UDP, templates are sent again after so many messages, and after so many milliseconds; null: sent once. */
  readonly templates: { readonly everyMessages: number; readonly everyMs: number } | null;
}

/** One event of one connection. */
export interface NatEvent {
  readonly type: "create" | "delete";
  readonly timeMs: number;
  readonly words: Uint32Array;
  readonly counters: ConnectionCounters | null;
}

const VERSION = 10;
const HEADER_BYTES = 16;
const SET_HEADER_BYTES = 4;
const TEMPLATE_SET = 2;
const TEMPLATE_FIRST = 256;
const IPV6 = 1;
const PORTS = 2;
const COUNTERS = 4;
const TEMPLATES = 8;

type Field = readonly [element: number, bytes: number];

const OBSERVATION_TIME_MILLISECONDS: Field = [323, 8];
const INGRESS_VRFID: Field = [234, 4];
const PROTOCOL_IDENTIFIER: Field = [4, 1];
const NAT_EVENT: Field = [230, 1];
/** Source, destination, source after translation, destination after translation. */
const ADDRESSES: readonly (readonly [ipv4: Field, ipv6: Field, port: Field])[] = [
  [
    [8, 4],
    [27, 16],
    [7, 2],
  ],
  [
    [12, 4],
    [28, 16],
    [11, 2],
  ],
  [
    [225, 4],
    [281, 16],
    [227, 2],
  ],
  [
    [226, 4],
    [282, 16],
    [228, 2],
  ],
];
/** initiatorPackets, initiatorOctets, responderPackets, responderOctets. */
const COUNTER_FIELDS: readonly Field[] = [
  [298, 8],
  [231, 8],
  [299, 8],
  [232, 8],
];
/** natEvent by type: NAT44 session create and delete; for IPv6 the family-neutral ones. */
const NAT_EVENT_VALUE = { create: { ipv4: 4, ipv6: 1 }, delete: { ipv4: 5, ipv6: 2 } } as const;

/** The events of a connection: none where nothing is translated, and none for an end that was not seen. */
export function natEvents(connection: Connection): NatEvent[] {
  const { words, startMs, endMs, counters } = connection;
  if (!isTranslated(words, 0)) return [];
  const events: NatEvent[] = [];
  if (startMs !== null) events.push({ type: "create", timeMs: startMs, words, counters: null });
  if (endMs !== null) events.push({ type: "delete", timeMs: endMs, words, counters });
  return events;
}

/** Puts events into messages. One encoder is one stream to one collector: it numbers the records and knows what was sent. */
export class IpfixEncoder {
  readonly #options: IpfixOptions;
  readonly #nowMs: () => number;
  readonly #bytes: Buffer;
  /** 0: the message is empty. */
  #length = 0;
  /** Where the open set begins, and its id; 0: none is open. */
  #setStart = 0;
  #setId = 0;
  /** Data records in messages before this one, and in this one. */
  #sequence = 0;
  #records = 0;
  /** Templates that have an entry were sent; they are sent again together. */
  readonly #sent = new Set<number>();
  #messagesSinceTemplates = 0;
  #templatesMs = 0;

  constructor(options: IpfixOptions, nowMs: () => number) {
    this.#options = options;
    this.#nowMs = nowMs;
    this.#bytes = Buffer.alloc(options.messageBytesMax);
  }

  /** Adds an event. Returns the message before it when that was full, to be sent now. */
  add(event: NatEvent): Uint8Array | null {
    const template = templateOf(event);
    let full: Uint8Array | null = null;
    if (this.#length > 0 && this.#length + this.#roomFor(template) > this.#bytes.length) full = this.flush();
    if (this.#length === 0) this.#begin();
    if (!this.#sent.has(template)) {
      this.#sent.add(template);
      this.#writeTemplates([template]);
    }
    if (this.#setId !== template) this.#openSet(template);
    this.#length = writeEvent(this.#bytes, this.#length, template, event);
    this.#records++;
    return full;
  }

  /** The message that is not full yet; null when it holds nothing. */
  flush(): Uint8Array | null {
    if (this.#length === 0) return null;
    this.#closeSet();
    const bytes = this.#bytes;
    bytes.writeUInt16BE(VERSION, 0);
    bytes.writeUInt16BE(this.#length, 2);
    bytes.writeUInt32BE(Math.floor(this.#nowMs() / 1000) >>> 0, 4);
    bytes.writeUInt32BE(this.#sequence, 8);
    bytes.writeUInt32BE(0, 12);
    const message = Uint8Array.from(bytes.subarray(0, this.#length));
    this.#sequence = (this.#sequence + this.#records) >>> 0;
    this.#records = 0;
    this.#length = 0;
    this.#messagesSinceTemplates++;
    return message;
  }

  #begin(): void {
    this.#length = HEADER_BYTES;
    const again = this.#options.templates;
    if (again === null || this.#sent.size === 0) return;
    const due =
      this.#messagesSinceTemplates >= again.everyMessages || this.#nowMs() - this.#templatesMs >= again.everyMs;
    if (due) this.#writeTemplates([...this.#sent].sort());
  }

  /** What a record takes at the most: its template, should that not be known yet, a set's head, and itself. */
  #roomFor(template: number): number {
    const known = this.#sent.has(template) ? 0 : SET_HEADER_BYTES + templateBytes(template);
    return known + (this.#setId === template ? 0 : SET_HEADER_BYTES) + recordBytes(template);
  }

  #writeTemplates(templates: readonly number[]): void {
    this.#openSet(TEMPLATE_SET);
    for (const template of templates) this.#length = writeTemplate(this.#bytes, this.#length, template);
    this.#closeSet();
    this.#messagesSinceTemplates = 0;
    this.#templatesMs = this.#nowMs();
  }

  #openSet(id: number): void {
    this.#closeSet();
    this.#setStart = this.#length;
    this.#setId = id;
    this.#length += SET_HEADER_BYTES;
  }

  #closeSet(): void {
    if (this.#setId === 0) return;
    this.#bytes.writeUInt16BE(this.#setId, this.#setStart);
    this.#bytes.writeUInt16BE(this.#length - this.#setStart, this.#setStart + 2);
    this.#setId = 0;
  }
}

function templateOf({ words, counters }: NatEvent): number {
  const protocol = protocolOf(words, 0);
  const ipv6 = familyOf(words, 0) === AF_INET6 ? IPV6 : 0;
  const ports = hasPorts(protocol) || isIcmp(protocol) ? PORTS : 0;
  return TEMPLATE_FIRST + ipv6 + ports + (counters === null ? 0 : COUNTERS);
}

function fieldsOf(template: number): Field[] {
  const bits = template - TEMPLATE_FIRST;
  const ends = ADDRESSES.flatMap(([ipv4, ipv6, port]) => [bits & IPV6 ? ipv6 : ipv4, ...(bits & PORTS ? [port] : [])]);
  const head = [OBSERVATION_TIME_MILLISECONDS, INGRESS_VRFID, PROTOCOL_IDENTIFIER, NAT_EVENT];
  return [...head, ...ends, ...(bits & COUNTERS ? COUNTER_FIELDS : [])];
}

const FIELDS: readonly (readonly Field[])[] = Array.from({ length: TEMPLATES }, (_, i) => fieldsOf(TEMPLATE_FIRST + i));
const RECORD_BYTES: readonly number[] = FIELDS.map((fields) => fields.reduce((sum, [, bytes]) => sum + bytes, 0));

function templateBytes(template: number): number {
  return 4 + 4 * FIELDS[template - TEMPLATE_FIRST]!.length;
}

function recordBytes(template: number): number {
  return RECORD_BYTES[template - TEMPLATE_FIRST]!;
}

function writeTemplate(bytes: Buffer, start: number, template: number): number {
  const fields = FIELDS[template - TEMPLATE_FIRST]!;
  let at = bytes.writeUInt16BE(template, start);
  at = bytes.writeUInt16BE(fields.length, at);
  for (const [element, length] of fields) {
    at = bytes.writeUInt16BE(element, at);
    at = bytes.writeUInt16BE(length, at);
  }
  return at;
}

/** In the order of `fieldsOf`. Returns where the record ends. */
function writeEvent(bytes: Buffer, start: number, template: number, event: NatEvent): number {
  const { words, counters } = event;
  const bits = template - TEMPLATE_FIRST;
  const protocol = protocolOf(words, 0);
  let at = bytes.writeBigUInt64BE(BigInt(Math.max(0, Math.floor(event.timeMs))), start);
  at = bytes.writeUInt32BE(zoneOrigOf(words, 0), at);
  at = bytes.writeUInt8(protocol, at);
  at = bytes.writeUInt8(NAT_EVENT_VALUE[event.type][bits & IPV6 ? "ipv6" : "ipv4"], at);
  const [source, destination, newSource, newDestination] = layer4(words, protocol);
  const ends: readonly [address: number, port: number][] = [
    [W_ORIG_SRC, source],
    [W_ORIG_DST, destination],
    // The reply goes to what the source became, and comes from what the destination became.
    [W_REPLY_DST, newSource],
    [W_REPLY_SRC, newDestination],
  ];
  for (const [address, port] of ends) {
    for (let i = 0; i < (bits & IPV6 ? 4 : 1); i++) at = bytes.writeUInt32BE(words[address + i]!, at);
    if (bits & PORTS) at = bytes.writeUInt16BE(port, at);
  }
  if (counters === null) return at;
  const { origPackets, origBytes, replyPackets, replyBytes } = counters;
  for (const count of [origPackets, origBytes, replyPackets, replyBytes])
    at = bytes.writeBigUInt64BE(BigInt(count), at);
  return at;
}

/** Source and destination before translation, and after. */
function layer4(words: Uint32Array, protocol: number): [number, number, number, number] {
  const orig = words[W_ORIG_L4]!;
  const reply = words[W_REPLY_L4]!;
  if (isIcmp(protocol)) return [orig >>> 16, orig & 0xffff, reply >>> 16, orig & 0xffff];
  return [orig >>> 16, orig & 0xffff, reply & 0xffff, reply >>> 16];
}
