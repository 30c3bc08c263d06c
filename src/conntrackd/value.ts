import { isIPv4, isIPv6 } from "node:net";
import { multicastGroup } from "../config/address.js";

/** The rule for a value of a directive. */
export interface ValueRule {
  /** For messages: `found X, allowed is …`. */
  readonly allowed: string;
  /** True for a text that is meant to be such a value; otherwise the value counts as missing. */
  looks(text: string): boolean;
  /** True for a valid value, among the texts that `looks` accepts. */
  accepts(text: string): boolean;
  /** True for names that people choose, which must not be words of conntrackd's files. */
  readonly free: boolean;
}

/** The largest number that conntrackd's atoi reads. */
const NUMBER_MAX = 2_147_483_647;

/** sun_path of a UNIX socket address, without its NUL. */
const UNIX_PATH_BYTES_MAX = 107;
const PATH_BYTES_MAX = 1024;

function rule(allowed: string, looks: RegExp, accepts: (text: string) => boolean = () => true): ValueRule {
  // No value is as long; patterns would take their time with it.
  return { allowed, looks: (text) => text.length <= 2 * PATH_BYTES_MAX && looks.test(text), accepts, free: false };
}

/** A name: begins with a letter, and is no other word of conntrackd's scanner. */
function name(allowed: string, form: RegExp): ValueRule {
  const reserved = /^(on|yes|off|no|ftfw|nack|alarm|notrack)$/i;
  return {
    allowed,
    looks: (text) => /^[a-z]/i.test(text) && !reserved.test(text),
    accepts: (text) => form.test(text),
    free: true,
  };
}

/** One of these words, spelled exactly. */
export function keyword(...words: readonly string[]): ValueRule {
  return {
    allowed: words.join(" or "),
    looks: (text) => words.includes(text),
    accepts: () => true,
    free: false,
  };
}

/** Either of two. */
export function either(one: ValueRule, other: ValueRule): ValueRule {
  return {
    allowed: `${one.allowed}, or ${other.allowed}`,
    looks: (text) => one.looks(text) || other.looks(text),
    accepts: (text) => (one.looks(text) ? one : other).accepts(text),
    free: one.free || other.free,
  };
}

/** A whole number without a sign. */
export function wholeNumber(min = 0, max = NUMBER_MAX): ValueRule {
  return rule(`a whole number from ${min} to ${max}`, /^\d+$/, (text) => Number(text) >= min && Number(text) <= max);
}

/** `Nice -20`; conntrackd demands the sign. */
export const SIGNED_NUMBER: ValueRule = rule(
  "a whole number with its sign, such as -20",
  /^[-+]?\d+$/,
  (text) => Math.abs(Number(text)) <= NUMBER_MAX,
);

/** `LogFile on`; in any case. */
export const ON_OFF: ValueRule = rule("on, yes, off or no", /^(on|yes|off|no)$/i);

/** conntrackd's modes, in any case, with their older names. */
export const MODE: ValueRule = rule("FTFW, ALARM or NOTRACK", /^(ftfw|nack|alarm|persistent|notrack)$/i);

/** Of `Scheduler { Type }`. */
export const SCHEDULER: ValueRule = rule("RR or FIFO", /^(rr|fifo)$/i);

/** Of a link. */
export const PORT: ValueRule = wholeNumber(1, 65_535);

/** A name, such as that of a protocol, a helper or a facility. */
export const NAME: ValueRule = name(
  "a name of letters, digits, dots, - and _ that begins with a letter",
  /^[a-z][a-z0-9._-]{0,254}$/i,
);

/** Of a link. */
export const INTERFACE: ValueRule = name(
  "the name of a network interface, of at most 15 characters",
  /^[a-z][a-z0-9._-]{0,14}$/i,
);

function path(bytesMax: number): ValueRule {
  const fits = (text: string) => /[^/]$/.test(text) && !text.includes("\0") && Buffer.byteLength(text) <= bytesMax;
  return rule(
    `an absolute path of at most ${bytesMax} bytes, without quotes`,
    /^"?\//,
    (text) => text.startsWith("/") && fits(text),
  );
}

/** Of a file. */
export const PATH: ValueRule = path(PATH_BYTES_MAX);

/** Of the UNIX socket. */
export const SOCKET_PATH: ValueRule = path(UNIX_PATH_BYTES_MAX);

/** What conntrackd's scanner takes for an address; `accepts` decides whether it is one. */
const ADDRESS_LIKE = /^[0-9a-f:.]*[.:][0-9a-f:.]*(\/\S*)?$|^\d+(\/\S*)?$/i;

/** Of this node or another. */
export const IPV4: ValueRule = rule("an IPv4 address", ADDRESS_LIKE, isIPv4);

/** Of this node or another. */
export const IPV6: ValueRule = rule("an IPv6 address without a scope", ADDRESS_LIKE, isIPv6);

/** Of a Multicast block. */
export const IPV4_GROUP: ValueRule = rule(
  "an IPv4 multicast group, such as 225.0.0.50",
  ADDRESS_LIKE,
  (text) => isIPv4(text) && multicastGroup(text) !== undefined,
);

/** Of a Multicast block. */
export const IPV6_GROUP: ValueRule = rule(
  "an IPv6 multicast group, such as ff02::1:50",
  ADDRESS_LIKE,
  (text) => isIPv6(text) && multicastGroup(text) !== undefined,
);

/** An address of a filter in conntrackd's scanner, which warns about invalid ones and ignores them. */
const SCANNED = /^(\d+\.){3}\d+(\/\d+)?$|^[0-9a-f:]*:[0-9a-f:]*(\/\d+)?$/i;

/** Of `Address Ignore {}`. */
export const IPV4_NETWORK: ValueRule = rule(
  "an IPv4 address or network, such as 192.0.2.1 or 192.0.2.0/24",
  ADDRESS_LIKE,
  (text) => SCANNED.test(text),
);

/** Of `Address Ignore {}`. */
export const IPV6_NETWORK: ValueRule = rule(
  "an IPv6 address or network, such as 2001:db8::1 or 2001:db8::/32",
  ADDRESS_LIKE,
  (text) => SCANNED.test(text),
);
