import { setTimeout as delay } from "node:timers/promises";
import type { Logger } from "pino";
import type { ExternalCache } from "../cache/external.js";
import type { InternalCache } from "../cache/internal.js";
import type { Config } from "../config/config.js";
import { RequestSocket } from "../ctnetlink/request-socket.js";
import { systemClock } from "../flow/clock.js";
import type { DecodedFlow } from "../flow/record.js";
import type { Follower } from "../sync/follower.js";
import { Injector } from "../sync/injector.js";
import type { TakeDown } from "./streams.js";

/** Mode `inject`: the way of the peers' flows into this kernel. */
export interface OpenInjection {
  readonly injector: Injector;
  /** Port id of its requests. */
  readonly portId: number;
}

const TICK_MS = 1000;
/** How long a start waits for peers; one that is away is not heard at all. */
const CATCH_UP_MS = 3000;

/** Opens the injector, on a socket of its own so that its echoes can be told from those of other requests. */
export function openInjection(
  config: Config,
  parts: {
    internal: InternalCache;
    external: () => ExternalCache;
    followers: () => readonly Follower[];
    claim: (flow: DecodedFlow) => void;
    resync: () => void;
    log: Logger;
  },
  down: TakeDown,
): OpenInjection {
  const { internal, external, followers, claim, resync, log } = parts;
  const kernel = new RequestSocket();
  down.push(() => kernel.close());
  const injector = new Injector({
    external,
    kernel,
    node: {
      owns: (words, base) => {
        const slot = internal.table.size === 0 ? -1 : internal.table.find(words, base);
        return slot >= 0 && !internal.isSuperseded(slot);
      },
      claim,
      resync,
      hears: (node) => followers().some((follower) => follower.node === node && follower.state.connected),
    },
    timeoutSeconds: config.commitTimeoutSeconds,
    liberal: !config.commitWindowTracking,
    wallSeconds: () => Math.floor(systemClock.wallMs() / 1000),
    intervalMs: config.publishIntervalMs,
    log,
  });
  const renewing = setInterval(() => injector.tick(), TICK_MS);
  down.push(async () => {
    clearInterval(renewing);
    await injector.stop();
  });
  return { injector, portId: kernel.portId };
}

/**
 * Waits until the followers have read what there was of their streams. Before that, the kernel's table cannot be told apart
 * into own flows and injected ones: the last ones injected may not be in the copies.
 */
export async function followersCaughtUp(
  followers: readonly Follower[],
  stopping: AbortSignal,
  log: Logger,
): Promise<void> {
  const done = new AbortController();
  const either = AbortSignal.any([stopping, done.signal]);
  const late = new Set(followers.map(({ node }) => node));
  const all = Promise.all(
    followers.map(async (follower) => {
      await follower.caughtUp(either);
      if (!done.signal.aborted) late.delete(follower.node);
    }),
  );
  await Promise.race([all, delay(CATCH_UP_MS, undefined, { signal: either, ref: false }).catch(() => undefined)]);
  done.abort();
  await all;
  if (late.size > 0 && !stopping.aborted) log.warn({ peers: [...late] }, "starting without news of these peers");
}
