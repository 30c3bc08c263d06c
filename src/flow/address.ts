/**
 * IPv4 and IPv6 addresses as text and as record words: four big-endian words in network order; IPv4 uses the first,
 * the others are 0. Text is what inet_ntop(3) of glibc prints, so lines compare equal with those of conntrack(8) and
 * conntrackd.
 */
import { isIPv4, isIPv6 } from "node:net";
import { AF_INET, AF_INET6 } from "./record.js";

/** An address outside a record. */
export interface Address {
  family: number;
  /** Always four. */
  words: Uint32Array;
}

/** A network, or a single address with a full prefix. The words are masked: no bit is set beyond the prefix. */
export interface Cidr extends Address {
  /** 0 to 32 for IPv4, 0 to 128 for IPv6. */
  prefix: number;
}

/**
 * Reads an address; undefined when it is none. Zone indices ("%eth0"), leading zeros and short forms ("10.1") are
 * refused.
 */
export function parseAddress(text: string): Address | undefined {
  if (isIPv4(text)) {
    return { family: AF_INET, words: Uint32Array.of(ipv4Word(text), 0, 0, 0) };
  }
  if (!isIPv6(text) || text.includes("%")) return undefined;
  const words = new Uint32Array(4);
  const gap = text.indexOf("::");
  const head = ipv6Groups(gap < 0 ? text : text.slice(0, gap));
  const tail = gap < 0 ? [] : ipv6Groups(text.slice(gap + 2));
  for (const [i, value] of head.entries()) setGroup(words, i, value);
  for (const [i, value] of tail.entries()) setGroup(words, 8 - tail.length + i, value);
  return { family: AF_INET6, words };
}

/**
 * Reads `address` or `address/prefix`; undefined when it is neither. Bits beyond the prefix are cleared, as conntrackd
 * does.
 */
export function parseCidr(text: string): Cidr | undefined {
  const slash = text.indexOf("/");
  const address = parseAddress(slash < 0 ? text : text.slice(0, slash));
  if (address === undefined) return undefined;
  const bits = address.family === AF_INET ? 32 : 128;
  if (slash < 0) return { ...address, prefix: bits };
  const prefixText = text.slice(slash + 1);
  if (!/^\d{1,3}$/.test(prefixText)) return undefined;
  const prefix = Number(prefixText);
  if (prefix > bits) return undefined;
  for (let i = 0; i < 4; i++) address.words[i]! &= maskWord(prefix, i);
  return { ...address, prefix };
}

/** Prints a network as `address/prefix`, a single address without the prefix. The inverse of `parseCidr`. */
export function formatCidr(cidr: Cidr): string {
  const address = formatAddress(cidr.words, 0, cidr.family);
  return cidr.prefix === (cidr.family === AF_INET ? 32 : 128) ? address : `${address}/${cidr.prefix}`;
}

/** The mask of `prefix` in the word with this index: all ones, some, or none. */
export function maskWord(prefix: number, index: number): number {
  const bits = prefix - 32 * index;
  if (bits <= 0) return 0;
  return bits >= 32 ? 0xffffffff : (0xffffffff << (32 - bits)) >>> 0;
}

/** Prints the address at `words[base]`; "" for a family that is neither AF_INET nor AF_INET6. */
export function formatAddress(words: Uint32Array, base: number, family: number): string {
  if (family === AF_INET) return formatIpv4(words[base]!);
  if (family === AF_INET6) return formatIpv6(words, base);
  return "";
}

function formatIpv4(word: number): string {
  return `${word >>> 24}.${(word >>> 16) & 0xff}.${(word >>> 8) & 0xff}.${word & 0xff}`;
}

/** RFC 5952: the longest run of at least two zero groups, the first of equals, becomes "::". */
function formatIpv6(words: Uint32Array, base: number): string {
  let runStart = -1;
  let runLength = 1;
  let start = 0;
  for (let i = 0; i <= 8; i++) {
    if (i < 8 && group(words, base, i) === 0) continue;
    if (i - start > runLength) {
      runStart = start;
      runLength = i - start;
    }
    start = i + 1;
  }
  if (runStart === 0 && (runLength === 6 || (runLength === 5 && group(words, base, 5) === 0xffff))) {
    // IPv4-compatible and IPv4-mapped addresses end in dotted decimal.
    return `::${runLength === 5 ? "ffff:" : ""}${formatIpv4(words[base + 3]!)}`;
  }
  let text = "";
  for (let i = 0; i < 8; i++) {
    if (i === runStart) {
      text += "::";
      i += runLength - 1;
      continue;
    }
    if (text !== "" && !text.endsWith(":")) text += ":";
    text += group(words, base, i).toString(16);
  }
  return text;
}

function group(words: Uint32Array, base: number, index: number): number {
  const word = words[base + (index >>> 1)]!;
  return index & 1 ? word & 0xffff : word >>> 16;
}

function setGroup(words: Uint32Array, index: number, value: number): void {
  words[index >>> 1]! |= index & 1 ? value : value << 16;
}

function ipv4Word(text: string): number {
  const [a = 0, b = 0, c = 0, d = 0] = text.split(".").map(Number);
  return ((a << 24) | (b << 16) | (c << 8) | d) >>> 0;
}

/** The 16-bit groups of one side of "::"; a dotted decimal end gives two. */
function ipv6Groups(text: string): number[] {
  if (text === "") return [];
  const groups: number[] = [];
  for (const part of text.split(":")) {
    if (part.includes(".")) {
      const word = ipv4Word(part);
      groups.push(word >>> 16, word & 0xffff);
    } else {
      groups.push(Number.parseInt(part, 16));
    }
  }
  return groups;
}
