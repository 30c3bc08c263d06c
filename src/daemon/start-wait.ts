import type { NodeHandlers } from "../control/server.js";
import { ConntrailError } from "../errors.js";
import { pause } from "../os/pause.js";

/** How long a request waits for a starting node, which may have to read a large store first. */
const START_WAIT_MS_MAX = 60_000;

/**
 * Makes requests wait until the node works. A hook that keepalived calls while both start must not be lost. A script
 * that asks whether a daemon runs (conntrackd's primary-backup.sh) must not start a second one. `begun` is aborted when
 * the node works or has failed to start. A hook that comes while the node ends is left to the next daemon, because this
 * one can no longer publish the result.
 */
export function whenStarted(
  current: () => NodeHandlers | null,
  begun: AbortSignal,
  stopping: AbortSignal,
): NodeHandlers {
  // One for all that wait: who asks again and again while the node starts must not leave a listener each time.
  const begins = new Promise<void>((resolve) => {
    if (begun.aborted) resolve();
    else begun.addEventListener("abort", () => resolve(), { once: true });
  });
  const handlers = async (): Promise<NodeHandlers> => {
    if (current() === null) await withinStart(begins);
    const started = current();
    if (started !== null) return started;
    throw new ConntrailError("AGAIN", "the daemon has not started: look at its log, or try again in a moment");
  };
  return {
    status: async () => (await handlers()).status(),
    stats: async () => (await handlers()).stats(),
    dump: async (table, sink, signal, replicated) => (await handlers()).dump(table, sink, signal, replicated),
    expectations: async (table) => (await handlers()).expectations(table),
    commit: async (progress, only) => (await handlers()).commit(progress, only),
    flush: async (table, only) => (await handlers()).flush(table, only),
    resync: async (source, progress, wait) => (await handlers()).resync(source, progress, wait),
    bulk: async (progress, wait) => (await handlers()).bulk(progress, wait),
    purge: async () => (await handlers()).purge(),
    rehearse: async (progress) => (await handlers()).rehearse(progress),
    hook: async (role, progress, group, started) => {
      const node = await handlers();
      if (!stopping.aborted) return node.hook(role, progress, group, started);
      throw new ConntrailError("AGAIN", "the daemon ends just now: try again when it has started");
    },
  };
}

async function withinStart(begins: Promise<void>): Promise<void> {
  const over = new AbortController();
  await Promise.race([begins, pause(START_WAIT_MS_MAX, over.signal)]);
  over.abort();
}
