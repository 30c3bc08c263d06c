import type { Logger } from "pino";
import type { ExternalCache } from "../cache/external.js";
import type { InternalCache } from "../cache/internal.js";
import type { Config, FilterConfig } from "../config/config.js";
import { type EventCounters, EventSocket, newEventCounters } from "../ctnetlink/event-socket.js";
import { LocalAddresses } from "../ctnetlink/local-addresses.js";
import type { RequestSocket } from "../ctnetlink/request-socket.js";
import { parseCidr } from "../flow/address.js";
import type { Clock } from "../flow/clock.js";
import { compileFilter, type FilterRules } from "../flow/filter.js";
import type { Journal } from "../sync/out/journal.js";
import { Replicator } from "../sync/out/replicator.js";
import type { Injection } from "../sync/ports/kernel.js";
import type { TakeDown } from "./streams.js";

/** A kernel that is read less often than this has its buffer full of events too soon. */
const GATHER_MS_MAX = 20;

/** This node's own kernel, listened to or polled. */
export interface KernelSide {
  readonly replicator: Replicator;
  /** All at zero where the kernel is polled. */
  readonly events: { readonly counters: Readonly<EventCounters> };
  /** Another filter from now on; flows that it does not keep leave with the next kernel resync. */
  setFilter(filter: FilterConfig): void;
}

/**
 * Subscribes to the kernel's events. From here on nothing is missed; `replicator.resyncKernel` brings what was there before. With
 * `netlink.poll`, dumps at that interval instead.
 */
export async function openKernelSide(
  config: Config,
  parts: {
    internal: InternalCache;
    external: ExternalCache;
    journal: Journal;
    kernel: RequestSocket;
    /** Mode `inject`, and the port id of its requests: the events that those cause say nothing new. */
    injection: { readonly injector: Injection; readonly portId: number } | null;
    carries: () => boolean;
    standsBack: () => boolean;
    clock: Clock;
    log: Logger;
  },
  stopping: AbortSignal,
  down: TakeDown,
): Promise<KernelSide> {
  const { kernel, injection } = parts;
  // Mode `inject` has no commit that could bring them in after their masters.
  const replicated = config.expectations === false || config.mode === "inject" ? null : config.expectations;
  const addresses = config.filter.local ? await LocalAddresses.open() : null;
  if (addresses !== null) down.push(() => addresses.close());
  const ownPort = injection?.portId ?? kernel.portId;
  const replicator = new Replicator({
    ...parts,
    kernel: {
      dump: (visit, signal) => kernel.dump({ signal }, visit),
      growBuffer: () => events?.growBuffer() ?? false,
      hearNew: (on) => events?.hearNew(on),
      readEvents: () => events?.readNow() ?? false,
      ...(replicated === null
        ? {}
        : { dumpExpectations: (visit, signal) => kernel.dumpExpectations({ signal }, visit) }),
      get: (words, base) => kernel.get(words, base),
    },
    ...(replicated === null ? {} : { helpers: replicated }),
    ownPorts: new Set([ownPort]),
    ignoresOwn: injection !== null,
    injection: injection?.injector ?? null,
    filter: compileFilter(filterRules(config.filter), addresses ?? undefined),
    overrunResyncMs: config.netlink.overrunResyncMs,
    publishIntervalMs: config.publishIntervalMs,
    signal: stopping,
  });
  const { pollMs } = config.netlink;
  // What a peer is to have in its kernel at once is read more often than what waits there for a commit.
  const gatherMs = Math.min(GATHER_MS_MAX, config.publishIntervalMs * (injection === null ? 4 : 2));
  const events = pollMs === null ? openEvents(config, replicator, replicated !== null, gatherMs) : null;
  // What it injects it need not be told of, ever.
  if (injection !== null) events?.mute(ownPort);
  const polls = pollMs === null ? null : startPolling(replicator, pollMs);
  if (events !== null) reportFilter(events.counters, parts.log);
  down.push(async () => {
    await events?.close();
    await polls?.stop();
    replicator.stop();
  });
  return {
    replicator,
    events: events ?? { counters: newEventCounters() },
    setFilter: (filter) => {
      replicator.setFilter(compileFilter(filterRules(filter), addresses ?? undefined));
      if (events === null) return;
      events.setFilter(socketRules(filter));
      reportFilter(events.counters, parts.log);
    },
  };
}

function openEvents(config: Config, replicator: Replicator, expectations: boolean, gatherMs: number): EventSocket {
  const { netlink } = config;
  return new EventSocket(replicator, {
    bufferBytes: netlink.bufferBytes,
    bufferBytesMax: netlink.bufferBytesMax,
    reliable: netlink.reliable,
    turnDatagramsMax: netlink.iterationLimit,
    filter: socketRules(config.filter),
    expectations,
    gatherMs,
  });
}

/** Dumps again and again, `intervalMs` after the end of the last one. */
function startPolling(replicator: Replicator, intervalMs: number): { stop(): Promise<void> } {
  let running: Promise<unknown> = Promise.resolve();
  let stopped = false;
  const poll = (): void => {
    running = replicator.pollKernel().then(() => {
      if (!stopped) timer = setTimeout(poll, intervalMs);
    });
  };
  let timer = setTimeout(poll, intervalMs);
  const stop = async (): Promise<void> => {
    stopped = true;
    clearTimeout(timer);
    await running;
  };
  return { stop };
}

/** The rules that the kernel is to apply before it queues an event. */
function socketRules(filter: FilterConfig): FilterRules {
  return filter.where === "kernelspace" ? filterRules(filter) : {};
}

function reportFilter({ filterInstructions, filterLeftOut }: Readonly<EventCounters>, log: Logger): void {
  if (filterLeftOut === 0) return;
  log.warn(
    { filterInstructions, filterLeftOut },
    "filter.where kernelspace: the kernel has no room for all of the rules; the rest is applied in userspace",
  );
}

function filterRules(filter: FilterConfig): FilterRules {
  const rules: FilterRules = {};
  if (filter.protocols !== null) rules.protocols = filter.protocols;
  if (filter.states !== null) rules.tcpStates = filter.states;
  if (filter.addresses !== null) {
    const { logic, values } = filter.addresses;
    rules.addresses = { logic, values: values.flatMap((text) => parseCidr(text) ?? []) };
  }
  return rules;
}
