import type { Logger } from "pino";
import { pause } from "../os/pause.js";
import type { Follower } from "./in/follower.js";

const CATCH_UP_TURN_MS = 50;
/** Turns that a start waits for peers that are not reached: those that are away are not heard at all. */
const REACH_TURNS = 60;
/** Turns that it waits for those that are reached. */
const CATCH_UP_TURNS_MAX = 600;

/** Lets one of the turns pass that a start waits for its peers. */
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
 * Waits until the followers have read what there was of their streams. Before that, the kernel's table cannot be told apart
 * into own flows and injected ones: the last ones injected may not be in the copies. So a peer that is there may take long. `pass` lets
 * a turn pass.
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
    // Turns, and not the time: a machine that stood still has reached nobody meanwhile.
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
