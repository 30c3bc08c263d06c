/**
 * Translated connections as IPFIX NAT events: messages of RFC 7011, events of RFC 8158.
 *
 *   message      version 10 | length | export time | sequence | observation domain 0     2 2 4 4 4 bytes, big-endian
 *   set          id | length | records                                                    2 2
 *   id 2         templates: id | fields | (element | length) ...
 *   id 256-263   events of the template with this number: 256, plus 1 for IPv6, 2 with ports, 4 with counters
 *
 * A connection gives two events, one at its start and one at its end. The end has counters where the kernel counted. ingressVRFID
 * is the zone of the original direction. ICMP has its id in the fields of source ports, and type and code in those of destination
 * ports. RFC 8158 has no number for a translation from IPv6 to IPv6, so the registry's family-neutral 1 and 2 are used for it.
 */
import assert from "node:assert/strict";
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

/** How long messages get, and when templates are repeated. */
export interface IpfixOptions {
  /** No message is longer than this. From 576 to 65535. */
  readonly messageBytesMax: number;
  /** Templates are repeated after so many messages or milliseconds, as UDP needs it; null: each is sent once. */
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
/** Bits of a template's number above TEMPLATE_FIRST, and how many templates they make. */
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

/** The events of a connection. There are none where nothing is translated, and none for a start or end that was not seen. */
export function natEvents(connection: Connection): NatEvent[] {
  const { words, startMs, endMs, counters } = connection;
  if (!isTranslated(words, 0)) return [];
  const events: NatEvent[] = [];
  if (startMs !== null) events.push({ type: "create", timeMs: startMs, words, counters: null });
  if (endMs !== null) events.push({ type: "delete", timeMs: endMs, words, counters });
  return events;
}

/** Encodes events into messages for one collector. It numbers the records and remembers which templates were sent. */
export class IpfixEncoder {
  readonly #options: IpfixOptions;
  readonly #nowMs: () => number;
  readonly #bytes: Buffer;
  /** Bytes of the message so far; 0: it is empty. */
  #length = 0;
  /** Where the open set begins, and its id; id 0: none is open. */
  #setStart = 0;
  #setId = 0;
  /** Data records in all messages before this one, and in this one. */
  #sequence = 0;
  #records = 0;
  /** The templates that were sent. They are repeated together. */
  readonly #sent = new Set<Template>();
  #messagesSinceTemplates = 0;
  #templatesMs = 0;

  constructor(options: IpfixOptions, nowMs: () => number) {
    this.#options = options;
    this.#nowMs = nowMs;
    this.#bytes = Buffer.alloc(options.messageBytesMax);
  }

  /** Adds an event. Returns the message before it, to be sent now, when the event did not fit into that; else null. */
  add(event: NatEvent): Uint8Array | null {
    const template = templateOf(event);
    let full: Uint8Array | null = null;
    if (this.#length > 0 && this.#length + this.#roomFor(template) > this.#bytes.length) full = this.flush();
    if (this.#length === 0) this.#begin();
    if (!this.#sent.has(template)) {
      this.#sent.add(template);
      this.#writeTemplates([template]);
    }
    if (this.#setId !== template.id) this.#openSet(template.id);
    this.#length = writeEvent(this.#bytes, this.#length, template, event);
    this.#records++;
    return full;
  }

  /** Returns the message that is not full yet; null when it is empty. */
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
    if (due) this.#writeTemplates([...this.#sent].sort((a, b) => a.id - b.id));
  }

  /** How many bytes a record takes: itself, its template unless that was sent, and the heads of new sets. */
  #roomFor(template: Template): number {
    const unsentBytes = this.#sent.has(template) ? 0 : SET_HEADER_BYTES + 4 + 4 * template.fields.length;
    return unsentBytes + (this.#setId === template.id ? 0 : SET_HEADER_BYTES) + template.recordBytes;
  }

  #writeTemplates(templates: readonly Template[]): void {
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

/** A kind of record. */
interface Template {
  readonly id: number;
  readonly isIpv6: boolean;
  readonly hasPorts: boolean;
  readonly fields: readonly Field[];
  readonly recordBytes: number;
}

const TEMPLATES_BY_BITS: readonly Template[] = Array.from({ length: TEMPLATES }, (_, bits) => {
  const fields = fieldsOf(bits);
  return {
    id: TEMPLATE_FIRST + bits,
    isIpv6: (bits & IPV6) !== 0,
    hasPorts: (bits & PORTS) !== 0,
    fields,
    recordBytes: fields.reduce((sum, [, bytes]) => sum + bytes, 0),
  };
});

function fieldsOf(bits: number): Field[] {
  const ends = ADDRESSES.flatMap(([ipv4, ipv6, port]) => [bits & IPV6 ? ipv6 : ipv4, ...(bits & PORTS ? [port] : [])]);
  const head = [OBSERVATION_TIME_MILLISECONDS, INGRESS_VRFID, PROTOCOL_IDENTIFIER, NAT_EVENT];
  return [...head, ...ends, ...(bits & COUNTERS ? COUNTER_FIELDS : [])];
}

function templateOf({ words, counters }: NatEvent): Template {
  const protocol = protocolOf(words, 0);
  const ipv6 = familyOf(words, 0) === AF_INET6 ? IPV6 : 0;
  const ports = hasPorts(protocol) || isIcmp(protocol) ? PORTS : 0;
  const template = TEMPLATES_BY_BITS[ipv6 + ports + (counters === null ? 0 : COUNTERS)];
  assert(template !== undefined);
  return template;
}

function writeTemplate(bytes: Buffer, start: number, { id, fields }: Template): number {
  let at = bytes.writeUInt16BE(id, start);
  at = bytes.writeUInt16BE(fields.length, at);
  for (const [element, length] of fields) {
    at = bytes.writeUInt16BE(element, at);
    at = bytes.writeUInt16BE(length, at);
  }
  return at;
}

/** Writes the fields in the order of `fieldsOf`. Returns where the record ends. */
function writeEvent(bytes: Buffer, start: number, template: Template, event: NatEvent): number {
  const { words, counters } = event;
  const protocol = protocolOf(words, 0);
  let at = bytes.writeBigUInt64BE(BigInt(Math.max(0, Math.floor(event.timeMs))), start);
  at = bytes.writeUInt32BE(zoneOrigOf(words, 0), at);
  at = bytes.writeUInt8(protocol, at);
  at = bytes.writeUInt8(NAT_EVENT_VALUE[event.type][template.isIpv6 ? "ipv6" : "ipv4"], at);
  const [source, destination, newSource, newDestination] = layer4(words, protocol);
  const ends: readonly [address: number, port: number][] = [
    [W_ORIG_SRC, source],
    [W_ORIG_DST, destination],
    // The reply goes to the translated source, and comes from the translated destination.
    [W_REPLY_DST, newSource],
    [W_REPLY_SRC, newDestination],
  ];
  for (const [address, port] of ends) {
    for (const word of words.subarray(address, address + (template.isIpv6 ? 4 : 1))) at = bytes.writeUInt32BE(word, at);
    if (template.hasPorts) at = bytes.writeUInt16BE(port, at);
  }
  if (counters === null) return at;
  const { origPackets, origBytes, replyPackets, replyBytes } = counters;
  for (const count of [origPackets, origBytes, replyPackets, replyBytes])
    at = bytes.writeBigUInt64BE(BigInt(count), at);
  return at;
}

/** Ports, or what is in their place: source and destination before translation, then after. */
function layer4(words: Uint32Array, protocol: number): [number, number, number, number] {
  const { [W_ORIG_L4]: orig = 0, [W_REPLY_L4]: reply = 0 } = words;
  if (isIcmp(protocol)) return [orig >>> 16, orig & 0xffff, reply >>> 16, orig & 0xffff];
  return [orig >>> 16, orig & 0xffff, reply & 0xffff, reply >>> 16];
}
