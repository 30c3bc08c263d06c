import { waitFor } from "../../src/lab/process.js";
import type { SoakNode } from "./soak-node.js";
import type { Traffic } from "./traffic.js";
import type { SessionView } from "./traffic-protocol.js";

/** What became of a real takeover. */
export interface TakeoverResult {
  readonly to: SoakNode;
  /** True when the node that took over had said, right before, that it was in sync with the primary. */
  readonly wasSaidSafe: boolean;
  /** Sessions that were alive and old enough to count. */
  readonly sessions: number;
  /** Those of them that did not go on. */
  readonly lost: readonly SessionView[];
}

const PRIMARY_MS_MAX = 30_000;
/** A hook waits for its daemon, which may have to start first. */
const HOOK_MS_MAX = 60_000;
/** TCP repeats a segment after twice the time each: long enough for one more after the longest interruption. */
const ANSWER_MS_MAX = 90_000;
/** Nobody promised anything: whatever still answers by then goes on, the rest is given up. */
const UNSAFE_ANSWER_MS = 15_000;
/** Younger sessions may be lost. */
const OLD_MS = 2000;
/** A session sends a line each second. */
const ALIVE_MS = 3000;

/**
 * Takes the primary out of service by `act`, and waits for the next one to carry the sessions on. Sessions that do not answer in
 * the end are given up and replaced.
 */
export async function takeOver(
  nodes: readonly SoakNode[],
  primary: SoakNode,
  traffic: Traffic,
  act: () => Promise<void>,
): Promise<TakeoverResult> {
  const others = nodes.filter((node) => node !== primary);
  const sessions = await traffic.sessions();
  const countedMs = Date.now();
  const owed = new Set(
    sessions
      .filter(({ broken, openedMs, answeredMs }) => {
        return broken === null && openedMs <= countedMs - OLD_MS && answeredMs >= countedMs - ALIVE_MS;
      })
      .map(({ id }) => id),
  );
  const safe = new Map<SoakNode, boolean>();
  await Promise.all(others.map(async (node) => safe.set(node, (await node.statusOf(primary))?.inSync === true)));
  await act();
  const to = await waitFor("another primary", PRIMARY_MS_MAX, () => primaryOf(nodes, primary));
  const movedMs = Date.now();
  await waitFor(`${to.name} to take the role that keepalived gave it`, HOOK_MS_MAX, async () => {
    return (await to.status())?.role === "primary";
  });
  const wasSaidSafe = safe.get(to) === true;
  // One that was closed on purpose meanwhile is no longer listed.
  const lost = (found: readonly SessionView[]): SessionView[] =>
    found.filter(({ id, broken, answeredMs }) => owed.has(id) && (broken !== null || answeredMs <= movedMs));
  const settled = async (): Promise<boolean> => lost(await traffic.sessions()).length === 0;
  await waitFor("the sessions", wasSaidSafe ? ANSWER_MS_MAX : UNSAFE_ANSWER_MS, settled, { intervalMs: 250 }).catch(
    () => undefined,
  );
  const found = await traffic.sessions();
  const given = found.filter(({ broken, answeredMs }) => broken !== null || answeredMs <= movedMs);
  await traffic.drop(given.map(({ id }) => id));
  return { to, wasSaidSafe, sessions: owed.size, lost: lost(found) };
}

/** The one node that has the virtual addresses, other than `except`; undefined while there is none, or more. */
export async function primaryOf(nodes: readonly SoakNode[], except?: SoakNode): Promise<SoakNode | undefined> {
  const holds = await Promise.all(nodes.map((node) => node.hasPower && node.firewall.isPrimary()));
  const primaries = nodes.filter((_, index) => holds[index]);
  return primaries.length === 1 && primaries[0] !== except ? primaries[0] : undefined;
}
