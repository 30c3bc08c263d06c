import { ConntrailError } from "../errors.js";
import type { Firewall } from "./firewall.js";
import { runOrThrow } from "./process.js";

/**
 * A flow reduced to what conntrack(8) and `conntrail dump --json` both print and a takeover depends on. Parsed from
 * their output as a user would, without conntrail's own code, so that the two can be compared.
 */
export interface FlowView {
  readonly protocol: string;
  /** Empty for protocols without states. */
  readonly state: string;
  readonly orig: TupleView;
  readonly reply: TupleView;
  readonly seenReply: boolean;
  readonly assured: boolean;
  readonly mark: number;
}

/** Addresses and layer 4: "sport,dport", "type,code,id", or empty. */
export interface TupleView {
  readonly src: string;
  readonly dst: string;
  readonly l4: string;
}

/** One line per flow, the same for the same flow wherever it was read. */
export function flowText(flow: FlowView): string {
  const flags = `${flow.seenReply ? "" : " UNREPLIED"}${flow.assured ? " ASSURED" : ""}`;
  return `${flow.protocol} ${flow.state || "-"} ${tupleText(flow.orig)} <> ${tupleText(flow.reply)}${flags} mark=${flow.mark}`;
}

/** True when an address or port of the original direction is translated on its way. */
export function isNated(flow: FlowView): boolean {
  return flow.reply.dst !== flow.orig.src || flow.reply.src !== flow.orig.dst;
}

/** True when the original source port is another one beyond the firewall. */
export function isPortTranslated(flow: FlowView): boolean {
  return flow.orig.l4.includes(",") && flow.reply.l4 !== flow.orig.l4.split(",").reverse().join(",");
}

function tupleText(tuple: TupleView): string {
  return `${tuple.src}>${tuple.dst}(${tuple.l4})`;
}

/** Reads a line of `conntrack -L`; undefined for one of another form. */
export function parseConntrackLine(line: string): FlowView | undefined {
  const words = line.trim().split(/\s+/);
  const protocol = words[0];
  if (protocol === undefined || words.length < 8) return undefined;
  const tuples = [new Map<string, string>(), new Map<string, string>()] as const;
  let mark = 0;
  for (const word of words) {
    const [key, value] = word.split("=");
    if (key === undefined || value === undefined) continue;
    if (key === "mark") mark = Number(value);
    // The second src= begins the reply direction.
    const tuple = tuples[0].has(key) ? tuples[1] : tuples[0];
    if (/^(src|dst|sport|dport|type|code|id)$/.test(key)) tuple.set(key, value);
  }
  const state = words[3];
  const [orig, reply] = tuples.map(tupleFromKeys);
  if (!orig?.src || !reply?.src || state === undefined) return undefined;
  return {
    protocol,
    state: /^[A-Z_0-9]+$/.test(state) ? state : "",
    orig,
    reply,
    seenReply: !words.includes("[UNREPLIED]"),
    assured: words.includes("[ASSURED]"),
    mark,
  };
}

function tupleFromKeys(keys: ReadonlyMap<string, string>): TupleView {
  const names = keys.has("sport") ? ["sport", "dport"] : keys.has("type") ? ["type", "code", "id"] : [];
  return { src: keys.get("src") ?? "", dst: keys.get("dst") ?? "", l4: names.map((name) => keys.get(name)).join(",") };
}

/** Reads what `conntrail dump --json` prints: a flow per line, or one array. */
export function parseDump(text: string): FlowView[] {
  const trimmed = text.trim();
  if (trimmed === "") return [];
  const values: unknown[] = trimmed.startsWith("[")
    ? (JSON.parse(trimmed) as unknown[])
    : trimmed.split("\n").map((line) => JSON.parse(line) as unknown);
  return values.map(flowFromJson);
}

function flowFromJson(value: unknown): FlowView {
  const flow = value as Record<string, unknown>;
  const status = (flow.status as string[] | undefined) ?? [];
  return {
    protocol: String(flow.protocol),
    state: typeof flow.state === "string" ? flow.state : "",
    orig: tupleFromJson(flow.orig),
    reply: tupleFromJson(flow.reply),
    seenReply: status.includes("SEEN_REPLY"),
    assured: status.includes("ASSURED"),
    mark: Number(flow.mark ?? 0),
  };
}

function tupleFromJson(value: unknown): TupleView {
  const tuple = (value ?? {}) as Record<string, unknown>;
  const names = "sport" in tuple ? ["sport", "dport"] : "icmpType" in tuple ? ["icmpType", "icmpCode", "icmpId"] : [];
  return { src: String(tuple.src), dst: String(tuple.dst), l4: names.map((name) => tuple[name]).join(",") };
}

/** The kernel's table of a firewall as conntrack(8) lists it, both families. */
export async function kernelFlows(firewall: Firewall): Promise<FlowView[]> {
  const flows: FlowView[] = [];
  for (const family of ["ipv4", "ipv6"]) {
    const text = await runOrThrow("ip", firewall.namespace.execArguments("conntrack", ["-L", "-f", family]));
    for (const line of text.split("\n")) {
      const flow = parseConntrackLine(line);
      if (flow) flows.push(flow);
    }
  }
  return flows;
}

/** A cache of a firewall's daemon. */
export async function cachedFlows(firewall: Firewall, table: "internal" | "external"): Promise<FlowView[]> {
  const result = await firewall.conntrail("dump", table, "--json");
  if (result.code !== 0) {
    throw new ConntrailError("CONTROL", `${firewall.name}: dump ${table}: ${result.stderr.trim().split("\n")[0]}`);
  }
  return parseDump(result.stdout);
}

/** The established TCP flows to one of `ports`: what the laboratory's sessions are to a firewall. */
export function establishedTo(flows: readonly FlowView[], ports: readonly number[]): FlowView[] {
  return flows.filter(
    (flow) =>
      flow.protocol === "tcp" && flow.state === "ESTABLISHED" && ports.includes(Number(flow.orig.l4.split(",")[1])),
  );
}
