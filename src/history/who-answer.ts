/** Who was behind a public address and port: what of a connection answers that. */
import { formatAddress } from "../flow/address.js";
import { hasPorts, IPPROTO_GRE, isIcmp } from "../flow/protocol.js";
import { W_ORIG_DST, W_ORIG_L4, W_ORIG_SRC, W_REPLY_DST, W_REPLY_L4, W_REPLY_SRC } from "../flow/record.js";
import { familyOf, protocolOf } from "../flow/record-fields.js";
import type { Connection } from "./connection.js";

/** One end as `who` shows it. */
export interface WhoEnd {
  readonly address: string;
  /** A port, an ICMP id or a GRE key. Left out where the protocol has none. */
  readonly port?: number;
}

/** The two hosts of a connection, seen from the public address between them. */
export interface WhoAnswer {
  /** The host behind the public address; the address itself where nothing is translated. */
  readonly inside: WhoEnd;
  /** The host that it talked with, as the connection's opener or the public side saw it. */
  readonly remote: WhoEnd;
  /**
   * `source`: the host inside opened the connection, and its address became the public one. `destination`: it was opened from
   * outside, and led to the host inside. `none`: nothing is translated, the host has the public address itself.
   */
  readonly translation: "source" | "destination" | "none";
}

/** Reads the answer from a connection that `History.who` found for this address and port. */
export function whoAnswer({ words }: Connection, address: string, port: number): WhoAnswer {
  const protocol = protocolOf(words, 0);
  const family = familyOf(words, 0);
  const orig = words[W_ORIG_L4]!;
  const reply = words[W_REPLY_L4]!;
  // An ICMP id belongs to the source.
  const [source, destination, shown, answering] = isIcmp(protocol)
    ? [orig >>> 16, undefined, reply >>> 16, undefined]
    : [orig >>> 16, orig & 0xffff, reply & 0xffff, reply >>> 16];
  const numbered = hasPorts(protocol) || isIcmp(protocol) || protocol === IPPROTO_GRE;
  const end = (place: number, number: number | undefined): WhoEnd => ({
    address: formatAddress(words, place, family),
    ...(numbered && number !== undefined && { port: number }),
  });
  const opener = end(W_ORIG_SRC, source);
  if (formatAddress(words, W_REPLY_DST, family) === address && shown === port) {
    const same = opener.address === address && source === port;
    return { inside: opener, remote: end(W_ORIG_DST, destination), translation: same ? "none" : "source" };
  }
  return { inside: end(W_REPLY_SRC, answering), remote: opener, translation: "destination" };
}
