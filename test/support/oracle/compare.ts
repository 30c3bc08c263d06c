/** Dumps and flows as lists of lines that compare equal when they say the same. */
import type { Flow } from "../../../src/flow/flow.js";

const SHOWN_MAX = 5;
const DATA_UNACKNOWLEDGED = 0x10;
const LINK_ADDRESS = /(src|dst)=10\.77\.0\./;

/** The lines of a dump without what only says when it was made. */
export function dumpLines(text: string): string[] {
  return linesOf(text).map((line) => line.replace(/ ?\[active since \d+s\]/, ""));
}

/** The lines of `conntrack -L`, or of a dump, without timeout, count of references and a mark of 0, and without the dedicated link. */
export function kernelLines(text: string | readonly string[]): string[] {
  const lines = typeof text === "string" ? linesOf(text) : text;
  return lines
    .filter((line) => !LINK_ADDRESS.test(line))
    .map((line) =>
      line
        .replace(/^(\w+ +\d+) \d+(?= )/, "$1")
        .replace(/ use=\d+$/, "")
        .replace(/ mark=0(?= |$)/, ""),
    );
}

/** The lines of `conntrack -L expect` without timeout. */
export function expectationLines(text: string): string[] {
  return linesOf(text).map((line) => line.replace(/^\d+ /, ""));
}

/** One line a flow, without the keys `omit`; attributes that no kernel reports when they are 0 count as 0. */
export function flowLines(flows: readonly Flow[], omit: readonly string[]): string[] {
  return flows.map((flow) => JSON.stringify(sorted({ mark: 0, ...flow, ...settledTcp(flow) }, omit)));
}

/** Without IP_CT_TCP_FLAG_DATA_UNACKNOWLEDGED, which the kernel changes without an event. */
function settledTcp({ tcp }: Flow): Pick<Flow, "tcp"> {
  if (tcp === undefined) return {};
  const settled = (flags: number): number => flags & ~DATA_UNACKNOWLEDGED;
  return { tcp: { ...tcp, flagsOrig: settled(tcp.flagsOrig), flagsReply: settled(tcp.flagsReply) } };
}

/** How `found` differs from `expected`, each a list that may hold an entry several times, in any order; null when they are equal. */
export function listDifference(what: string, expected: readonly string[], found: readonly string[]): string | null {
  const missing = without(expected, found);
  const more = without(found, expected);
  if (missing.length + more.length === 0) return null;
  const list = (title: string, entries: readonly string[]): string =>
    entries.length === 0 ? "" : `\n  ${entries.length} ${title}:\n    ${entries.slice(0, SHOWN_MAX).join("\n    ")}`;
  return `${what}: ${found.length} entries, expected ${expected.length}${list("missing", missing)}${list("more", more)}`;
}

/** What is in the first list oftener than in the second, in order. */
function without(list: readonly string[], others: readonly string[]): string[] {
  const left = new Map<string, number>();
  for (const entry of others) left.set(entry, (left.get(entry) ?? 0) + 1);
  return list
    .filter((entry) => {
      const count = left.get(entry) ?? 0;
      left.set(entry, count - 1);
      return count <= 0;
    })
    .sort();
}

function linesOf(text: string): string[] {
  return text.split("\n").filter((line) => line !== "");
}

function sorted(value: unknown, omit: readonly string[]): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  const entries = Object.entries(value).filter(([key]) => !omit.includes(key));
  return Object.fromEntries(
    entries.sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, part]) => [key, sorted(part, omit)]),
  );
}
