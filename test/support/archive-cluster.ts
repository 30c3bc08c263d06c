import { stampMs } from "../../src/flow/clock.js";
import { W_ORIG_L4 } from "../../src/flow/record.js";
import { Archive } from "../../src/history/archive/archive.js";
import type { Connection, HistoryQuery } from "../../src/history/connection.js";
import { HOLD_STAMPS } from "../../src/history/scan/held-ends.js";
import { HistoryCluster, type TrueConnection } from "./history-cluster.js";
import { Random, tcpRecord } from "./records.js";

/** The first so many steps of a cluster's life, the same for the same seed. */
export function archiveCluster(seed: number, steps: number, startMs?: number): HistoryCluster {
  const cluster = new HistoryCluster(["fw1", "fw2", "fw3"], 0, startMs);
  for (let step = 0; step < steps; step++) cluster.step(new Random(seed * 100_003 + step));
  return cluster;
}

/** What an archive of all of it must hold: tuple and end of each, in no order. */
export function truthOf(cluster: HistoryCluster): string[] {
  return keysOfTruth(cluster.truth);
}

function keysOfTruth(truth: readonly TrueConnection[]): string[] {
  return truth
    .flatMap(({ tuple, end }) => (end === null ? [] : [`${tcpRecord(tuple)[W_ORIG_L4]} ${stampMs(end.stamp)}`]))
    .sort();
}

/** Of those, the ones whose end no longer waits when all is read: it is long ago, or its node has the tuple anew. */
export function settledOf(cluster: HistoryCluster): string[] {
  const { truth, stamps } = cluster;
  const settled = truth.filter(({ end, tuple, path }, i) => {
    const isOld = end !== null && end.stamp + HOLD_STAMPS < stamps.at(-1)!;
    const last = path.at(-1)?.node;
    return isOld || truth.some((other, j) => j > i && other.tuple === tuple && other.path[0]?.node === last);
  });
  return keysOfTruth(settled);
}

/** The same of what was found. */
export function keysOf(connections: readonly Connection[]): string[] {
  return connections.map(({ words, endMs }) => `${words[W_ORIG_L4]} ${endMs}`).sort();
}

/** All that is asked for. */
export const EVERYTHING: HistoryQuery = { sinceMs: null, untilMs: null, filter: {}, nodes: null, limit: null };

/** All that an archive answers to a query, and the files that it could not read. */
export async function readArchive(
  directory: string,
  query: HistoryQuery = EVERYTHING,
): Promise<{ connections: Connection[]; damaged: string[] }> {
  const damaged: string[] = [];
  const archive = await Archive.open(directory, { onDamaged: (path) => damaged.push(path) });
  const connections: Connection[] = [];
  for await (const batch of archive.connections(query)) connections.push(...batch);
  archive.close();
  return { connections, damaged };
}
