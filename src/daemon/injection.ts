import type { Logger } from "pino";
import type { ExternalCache } from "../cache/external.js";
import type { InternalCache } from "../cache/internal.js";
import type { Config } from "../config/config.js";
import { RequestSocket } from "../ctnetlink/request-socket.js";
import { systemClock } from "../flow/clock.js";
import { pause } from "../os/pause.js";
import type { Follower } from "../sync/in/follower.js";
import { Injector } from "../sync/inject/injector.js";
import type { TakeDown } from "./streams.js";

/** Mode `inject`: the way of the peers' flows into this kernel. */
export interface OpenInjection {
  readonly injector: Injector;
  /** Port id of its requests. */
  readonly portId: number;
}

const TICK_MS = 1000;
const CATCH_UP_TURN_MS = 50;
/** Turns that a start waits for peers that are not reached: those that are away are not heard at all. */
const REACH_TURNS = 60;
/** Turns that it waits for those that are reached. */
const CATCH_UP_TURNS_MAX = 600;

/** Opens the injector, on a socket of its own so that its echoes can be told from those of other requests. */
export function openInjection(
  config: Config,
  parts: {
    internal: InternalCache;
    external: ExternalCache;
    followers: () => readonly Follower[];
    log: Logger;
  },
  down: TakeDown,
): OpenInjection {
  const { internal, external, followers, log } = parts;
  const kernel = new RequestSocket();
  down.push(() => kernel.close());
  const injector = new Injector({
    internal,
    external,
    kernel,
    hears: (node) => followers().some((follower) => follower.node === node && follower.state.connected),
    timeoutSeconds: config.commitTimeoutSeconds,
    liberal: !config.commitWindowTracking,
    wallSeconds: () => Math.floor(systemClock.wallMs() / 1000),
    intervalMs: config.publishIntervalMs,
    log,
  });
  external.listen(injector);
  const renewing = setInterval(() => injector.tick(), TICK_MS);
  down.push(async () => {
    clearInterval(renewing);
    await injector.stop();
  });
  return { injector, portId: kernel.portId };
}

function turn(signal: AbortSignal): Promise<void> {
  return pause(CATCH_UP_TURN_MS, signal, { ref: false });
}

/** A peer whose stream is being read. */
interface CatchingUp {
  readonly follower: Pick<Follower, "node" | "caughtUp">;
  /** True while its broker is connected. */
  readonly reached: () => boolean;
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
  pass: (signal: AbortSignal) => Promise<void> = turn,
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
      if (turns >= REACH_TURNS && ![...late].some(({ reached }) => reached())) return;
      await pass(either);
    }
  };
  await Promise.race([all, overdue()]);
  done.abort();
  await all;
  if (late.size === 0 || stopping.aborted) return;
  log.warn({ peers: [...late].map(({ follower }) => follower.node) }, "starting without news of these peers");
}
