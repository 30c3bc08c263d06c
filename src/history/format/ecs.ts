/**
 * Connections as documents of the Elastic Common Schema, one line of JSON each. Values for which the schema has no field are under
 * `conntrail`. https://www.elastic.co/guide/en/ecs/current/index.html
 */
import type { Translation } from "../../flow/flow.js";
import { IPPROTO_ICMPV6 } from "../../flow/protocol.js";
import { protocolOf } from "../../flow/record-fields.js";
import type { Connection } from "../connection.js";
import { type ConnectionJson, connectionToJson, type DirectionCounters } from "./connection-json.js";

/** The oldest version of the schema that has all fields that are written. */
const ECS_VERSION = "8.0.0";
const NANOSECONDS = 1_000_000_000;

/** A connection as a line. `@timestamp` is its start, or the earliest time at which it is known to have lived. */
export function ecsRow(connection: Connection): string {
  return `${JSON.stringify(ecsDocument(connection))}\n`;
}

/** A connection as a document of the schema. */
export function ecsDocument(connection: Connection): Record<string, unknown> {
  const json = connectionToJson(connection);
  const { counters, path } = json;
  return {
    "@timestamp": json.start ?? path[0]?.since ?? json.end,
    ecs: { version: ECS_VERSION },
    event: event(json),
    network: network(connection, json),
    source: end(json.orig.src, json.orig.sport, json.nat?.src, counters?.orig),
    destination: end(json.orig.dst, json.orig.dport, json.nat?.dst, counters?.reply),
    observer: { type: "firewall", product: "conntrail", name: path.at(-1)?.node },
    related: { ip: addresses(json), hosts: [...new Set(path.map(({ node }) => node))] },
    conntrail: own(json),
  };
}

function event(json: ConnectionJson): Record<string, unknown> {
  return {
    kind: "event",
    category: ["network"],
    type: json.outcome === "open" ? ["connection"] : ["connection", "end"],
    action: `connection-${json.outcome}`,
    module: "conntrail",
    dataset: "conntrail.connection",
    id: json.uid,
    ...(json.start !== undefined && { start: json.start }),
    ...(json.end !== undefined && { end: json.end }),
    ...(json.durationSeconds !== undefined && { duration: Math.round(json.durationSeconds * NANOSECONDS) }),
  };
}

function network({ words }: Connection, json: ConnectionJson): Record<string, unknown> {
  const number = protocolOf(words, 0);
  const { counters } = json;
  return {
    type: json.family,
    iana_number: String(number),
    ...(json.protocol !== String(number) && { transport: number === IPPROTO_ICMPV6 ? "ipv6-icmp" : json.protocol }),
    community_id: json.communityId,
    ...(counters !== undefined && {
      bytes: counters.orig.bytes + counters.reply.bytes,
      packets: counters.orig.packets + counters.reply.packets,
    }),
  };
}

/** One end of a connection. What it has sent is what the kernel counted in its direction. */
function end(
  ip: string,
  port: number | undefined,
  nat: Translation | undefined,
  counters: DirectionCounters | undefined,
): Record<string, unknown> {
  return {
    address: ip,
    ip,
    ...(port !== undefined && { port }),
    ...(nat !== undefined && { nat: { ip: nat.address, ...(nat.port !== undefined && { port: nat.port }) } }),
    ...(counters !== undefined && { bytes: counters.bytes, packets: counters.packets }),
  };
}

function addresses({ orig, nat }: ConnectionJson): string[] {
  const all = [orig.src, orig.dst, nat?.src?.address, nat?.dst?.address];
  return [...new Set(all.filter((address) => address !== undefined))];
}

function own(json: ConnectionJson): Record<string, unknown> {
  const { outcome, path, mayMiss, timedByKernel, state, status, mark, zone, zoneOrig, zoneReply, labels, helper } =
    json;
  const { icmpType, icmpCode, icmpId } = json.orig;
  const known = { state, status, mark, zone, zoneOrig, zoneReply, labels, helper, icmpType, icmpCode, icmpId };
  return {
    outcome,
    path,
    mayMiss,
    timedByKernel,
    ...Object.fromEntries(Object.entries(known).filter(([, value]) => value !== undefined)),
  };
}
