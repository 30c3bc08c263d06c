/** The questions of the history as conditions of SQL on the columns of the archive. */
import { formatCidr, parseCidr } from "../../flow/address.js";
import type { FlowQuery } from "../../flow/filter.js";
import { hasPorts, isIcmp, protocolNumber } from "../../flow/protocol.js";
import type { HistoryQuery, WhoQuestion } from "../connection.js";
import { quoted } from "./duckdb.js";

/** A question as conditions, which accept all that belongs to its answer, and little else. */
export interface Conditions {
  /** All of them must hold. */
  readonly tests: readonly string[];
  /**
   * One of them must hold, and no two do at once; none: all rows are wanted. Each compares one column, whose order or Bloom filter
   * leads to a few groups of rows. One condition with OR over several columns would read them all.
   */
  readonly parts: readonly Part[];
  /** True where they accept nothing else. */
  readonly exact: boolean;
  /** True where few rows are expected, those of one address. */
  readonly selective: boolean;
}

/** One of several conditions. */
export interface Part {
  readonly test: string;
  /** It holds only where translation has put this address into a reply tuple; null: anywhere. */
  readonly translated: string | null;
}

/** The conditions of a range and filter. */
export function connectionConditions({ sinceMs, untilMs, filter, nodes }: HistoryQuery): Conditions {
  const { tests, exact, ...rest } = filterConditions(filter);
  return { ...rest, tests: [...timeTests(sinceMs, untilMs), ...tests], exact: exact && nodes === null };
}

/** The conditions of `who`. */
export function whoConditions({ address, port, protocol, sinceMs, untilMs }: WhoQuestion): Conditions {
  const tests = timeTests(sinceMs, untilMs);
  if (protocol !== null) tests.push(`protocol_number = ${protocol}`);
  const outside = quoted(address);
  const ports = protocol === null || hasPorts(protocol);
  const shown = ports ? `reply_dport = ${port}` : isIcmp(protocol) ? `reply_icmp_id = ${port}` : "true";
  const answers = `reply_dst = ${outside} AND ${shown}`;
  const part = (test: string): Part => ({ test, translated: null });
  if (!ports) return { tests, parts: [part(answers)], exact: false, selective: true };
  const asked = `orig_dst = ${outside} AND orig_dport = ${port}`;
  const apart = `(reply_dst IS DISTINCT FROM ${outside} OR reply_dport IS DISTINCT FROM ${port})`;
  return { tests, parts: [part(answers), part(`${asked} AND ${apart}`)], exact: false, selective: true };
}

function timeTests(sinceMs: number | null, untilMs: number | null): string[] {
  const tests: string[] = [];
  if (sinceMs !== null) tests.push(`end_time >= make_timestamptz(${Math.floor(sinceMs * 1000)})`);
  // A range ends with its last millisecond.
  if (untilMs !== null) {
    const end = `make_timestamptz(${Math.floor((untilMs + 1) * 1000)})`;
    tests.push(`(start_time IS NULL OR start_time < ${end})`);
  }
  return tests;
}

function filterConditions({ host, src, dst, port, proto, nat, mark }: FlowQuery): Conditions {
  const tests: string[] = [];
  let exact = mark === undefined;
  /** Null: no address, or a whole network, which the columns' text cannot be compared with. */
  const one = (text: string | undefined): string | null => {
    if (text === undefined) return null;
    const cidr = parseCidr(text);
    const address = cidr === undefined ? "/" : formatCidr(cidr);
    if (!address.includes("/")) return address;
    exact = false;
    return null;
  };
  const [source, destination, any] = [one(src), one(dst), one(host)];
  if (source !== null) tests.push(`orig_src = ${quoted(source)}`);
  if (destination !== null) tests.push(`orig_dst = ${quoted(destination)}`);
  if (port !== undefined) tests.push(`${Number(port)} IN (orig_sport, orig_dport, reply_sport, reply_dport)`);
  const protocol = proto === undefined ? undefined : protocolNumber(proto);
  if (protocol !== undefined) tests.push(`protocol_number = ${protocol}`);
  if (nat !== undefined) tests.push(nat ? "(snat OR dnat)" : "NOT (snat OR dnat)");
  const selective = [source, destination, any].some((address) => address !== null);
  return { tests, parts: any === null ? [] : hostParts(any), exact, selective };
}

/** The reply's addresses are those of the original, except where they are translated. `address`: without quotes. */
function hostParts(address: string): Part[] {
  const host = quoted(address);
  const others = `orig_src <> ${host} AND orig_dst <> ${host}`;
  return [
    { test: `orig_src = ${host}`, translated: null },
    { test: `orig_dst = ${host} AND orig_src <> ${host}`, translated: null },
    { test: `dnat AND reply_src = ${host} AND ${others}`, translated: address },
    { test: `snat AND reply_dst = ${host} AND reply_src <> ${host} AND ${others}`, translated: address },
  ];
}
