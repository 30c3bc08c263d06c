/** Works out what the rows of a staged page have and have not, in the form in which DuckDB marks values as present. */
import { hasPorts, IPPROTO_GRE, isIcmp, protocolStates } from "../../flow/protocol.js";
import {
  AF_INET6,
  HAS_MARK,
  HAS_PROTOINFO,
  HAS_REPLY,
  HAS_STATUS,
  RECORD_WORDS,
  W_HAS,
  W_ORIG_DST,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_REPLY_DST,
  W_REPLY_L4,
  W_REPLY_SRC,
} from "../../flow/record.js";
import { familyOf, protocolOf, protocolStateOf } from "../../flow/record-fields.js";
import { VECTOR_ROWS } from "./duckdb.js";
import { COUNTERS, type StagedPage } from "./staged-page.js";

/** The names of the states of all protocols with states. */
export const STATES: readonly string[] = [
  ...new Set(Array.from({ length: 256 }, (_, protocol) => protocolStates(protocol) ?? []).flat()),
];
const NO_STATE = 255;
/** Index in STATES by protocol and state. */
const STATE_CODES = Uint8Array.from({ length: 65_536 }, (_, i) => {
  const name = protocolStates(i >>> 8)?.[i & 0xff];
  return name === undefined ? NO_STATE : STATES.indexOf(name);
});

const bits = (): Uint8Array => new Uint8Array(VECTOR_ROWS / 8);

/** Traits of the rows of a page: one bit for each row as DuckDB has it, and one element for each row that must be worked out. */
export class StagedTraits {
  readonly start = bits();
  readonly end = bits();
  readonly counters = bits();
  readonly ports = bits();
  readonly icmp = bits();
  readonly keys = bits();
  readonly reply = bits();
  readonly replyPorts = bits();
  readonly replyIcmp = bits();
  readonly replyKeys = bits();
  readonly status = bits();
  readonly mark = bits();
  readonly protoinfo = bits();
  readonly hasState = bits();
  readonly protocol = new Uint16Array(VECTOR_ROWS);
  readonly isIpv6 = new Uint8Array(VECTOR_ROWS);
  readonly snat = new Uint8Array(VECTOR_ROWS);
  readonly dnat = new Uint8Array(VECTOR_ROWS);
  /** The last state of the protocol, as an index in STATES. */
  readonly state = new Uint8Array(VECTOR_ROWS);

  /** Works out the traits of a page. */
  load(page: StagedPage): void {
    for (const values of Object.values(this) as (Uint8Array | Uint16Array)[]) values.fill(0);
    const { words } = page;
    for (let row = 0, at = 0; row < page.rows; row++, at += RECORD_WORDS) {
      const byte = row >>> 3;
      const bit = 1 << (row & 7);
      const has = words[at + W_HAS]!;
      const protocol = protocolOf(words, at);
      this.protocol[row] = protocol;
      this.isIpv6[row] = familyOf(words, at) === AF_INET6 ? 1 : 0;
      if (!Number.isNaN(page.startMs[row]!)) this.start[byte]! |= bit;
      if (!Number.isNaN(page.endMs[row]!)) this.end[byte]! |= bit;
      if (!Number.isNaN(page.counters[COUNTERS * row]!)) this.counters[byte]! |= bit;
      if ((has & HAS_STATUS) !== 0) this.status[byte]! |= bit;
      if ((has & HAS_MARK) !== 0) this.mark[byte]! |= bit;
      if ((has & HAS_PROTOINFO) !== 0) {
        this.protoinfo[byte]! |= bit;
        const code = STATE_CODES[(protocol << 8) | protocolStateOf(words, at)]!;
        if (code !== NO_STATE) this.hasState[byte]! |= bit;
        this.state[row] = code === NO_STATE ? 0 : code;
      }
      if (hasPorts(protocol)) this.ports[byte]! |= bit;
      else if (isIcmp(protocol)) this.icmp[byte]! |= bit;
      else if (protocol === IPPROTO_GRE) this.keys[byte]! |= bit;
      if ((has & HAS_REPLY) === 0) continue;
      this.reply[byte]! |= bit;
      this.#setTranslation(row, words, at, protocol);
    }
    for (let byte = 0; byte < this.reply.length; byte++) {
      const reply = this.reply[byte]!;
      this.replyPorts[byte] = this.ports[byte]! & reply;
      this.replyIcmp[byte] = this.icmp[byte]! & reply;
      this.replyKeys[byte] = this.keys[byte]! & reply;
    }
  }

  /** Compares the tuples: the reply goes to the translated source, and comes from the translated destination. */
  #setTranslation(row: number, words: Uint32Array, at: number, protocol: number): void {
    const orig = words[at + W_ORIG_L4]!;
    const reply = words[at + W_REPLY_L4]!;
    let source = !sameAddress(words, at + W_REPLY_DST, at + W_ORIG_SRC);
    let destination = !sameAddress(words, at + W_REPLY_SRC, at + W_ORIG_DST);
    if (isIcmp(protocol)) source ||= orig >>> 16 !== reply >>> 16;
    else if (hasPorts(protocol) || protocol === IPPROTO_GRE) {
      source ||= orig >>> 16 !== (reply & 0xffff);
      destination ||= (orig & 0xffff) !== reply >>> 16;
    }
    this.snat[row] = source ? 1 : 0;
    this.dnat[row] = destination ? 1 : 0;
  }
}

function sameAddress(words: Uint32Array, a: number, b: number): boolean {
  return (
    words[a] === words[b] &&
    words[a + 1] === words[b + 1] &&
    words[a + 2] === words[b + 2] &&
    words[a + 3] === words[b + 3]
  );
}
