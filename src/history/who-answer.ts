/** Reads from a connection which host was behind a public address and port. */
import { formatAddress } from "../flow/address.js";
import { hasPorts, IPPROTO_GRE, isIcmp } from "../flow/protocol.js";
import { W_ORIG_DST, W_ORIG_L4, W_ORIG_SRC, W_REPLY_DST, W_REPLY_L4, W_REPLY_SRC } from "../flow/record.js";
import { familyOf, protocolOf } from "../flow/record-fields.js";
import type { Connection, HistoryAnswer, WhoQuestion } from "./connection.js";

/** One end of a connection as `who` shows it. */
export interface WhoEnd {
  readonly address: string;
  /** A port, an ICMP id or a GRE key. Left out where the protocol has none. */
  readonly port?: number;
}

/** The two hosts of a connection, seen from the public address between them. */
export interface WhoAnswer {
  /** The host behind the public address, which is that address itself where nothing is translated. */
  readonly inside: WhoEnd;
  /** The host at the other end, as the opener of the connection or the public side saw it. */
  readonly remote: WhoEnd;
  /**
   * `source`: the host inside opened the connection, and its source address became the public one. `destination`: the connection
   * came from outside, and its destination became the host inside. `none`: the host has the public address itself.
   */
  readonly translation: "source" | "destination" | "none";
}

/** An answer, and the connection from which it comes. */
export type WhoFound = WhoAnswer & { readonly connection: Connection };

/** The first `most` answers to a question that `History.who` was asked. */
export async function collectWho(
  answer: HistoryAnswer,
  { address, port }: WhoQuestion,
  most: number,
): Promise<WhoFound[]> {
  const found: WhoFound[] = [];
  for await (const batch of answer.connections) {
    for (const connection of batch) found.push({ ...whoAnswer(connection, address, port), connection });
    if (found.length >= most) break;
  }
  return found.slice(0, most);
}

/** Reads the answer from a connection that `History.who` has found for this address and port. */
export function whoAnswer({ words }: Connection, address: string, port: number): WhoAnswer {
  const protocol = protocolOf(words, 0);
  const family = familyOf(words, 0);
  const { [W_ORIG_L4]: orig = 0, [W_REPLY_L4]: reply = 0 } = words;
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
