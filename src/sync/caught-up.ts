import type { Logger } from "pino";
import { pause } from "../os/pause.js";
import type { Follower } from "./in/follower.js";

const CATCH_UP_TURN_MS = 50;
/** Turns that a start waits for peers whose brokers cannot be reached. They may be down, and then never answer. */
const REACH_TURNS = 60;
/** Turns that a start waits for peers whose brokers are connected. */
const CATCH_UP_TURNS_MAX = 600;

/** Waits for one turn of a start that waits for its peers. */
export function passTurn(signal: AbortSignal): Promise<void> {
  return pause(CATCH_UP_TURN_MS, signal, { ref: false });
}

/** A peer whose stream is being read. */
interface CatchingUp {
  readonly follower: Pick<Follower, "node" | "caughtUp">;
  /** True while its broker is connected. */
  reached(): boolean;
}

/**
 * Waits until the followers have read everything that their streams held. Until then, this node cannot tell its own
 * flows in the kernel's table from injected ones, because the copies may lack the flows that were injected last. That
 * is why a connected peer may take long. `pass` waits for one turn.
 */
export async function followersCaughtUp(
  peers: readonly CatchingUp[],
  stopping: AbortSignal,
  log: Logger,
  pass: (signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const done = new AbortController();
  const either = AbortSignal.any([stopping, done.signal]);
  const late = new Set(peers);
  const all = Promise.all(
    peers.map(async (peer) => {
      await peer.follower.caughtUp(either);
      if (!done.signal.aborted) late.delete(peer);
    }),
  );
  const overdue = async (): Promise<void> => {
    // Turns are counted instead of time, because a machine that was paused has reached nobody meanwhile.
    for (let turns = 0; turns < CATCH_UP_TURNS_MAX && !either.aborted; turns++) {
      if (turns >= REACH_TURNS && ![...late].some((peer) => peer.reached())) return;
      await pass(either);
    }
  };
  await Promise.race([all, overdue()]);
  done.abort();
  await all;
  if (late.size === 0 || stopping.aborted) return;
  log.warn({ peers: [...late].map(({ follower }) => follower.node) }, "starting without news of these peers");
}
