import { networkInterfaces } from "node:os";
import type { Logger } from "pino";
import type { Config, FilterConfig } from "../config/config.js";
import { type EventCounters, EventSocket, newEventCounters } from "../ctnetlink/event-socket.js";
import { LocalAddresses } from "../ctnetlink/local-addresses.js";
import { RequestSocket } from "../ctnetlink/request-socket.js";
import { parseCidr } from "../flow/address.js";
import { compileFilter, type FilterRules, type FlowPredicate } from "../flow/filter.js";
import type { HelperNames } from "../sync/ports/kernel.js";
import type { TakeDown } from "../sync/take-down.js";

/** If events gather for longer than this, the kernel's buffer may fill up. */
const GATHER_MS_MAX = 25;

/** This node's own kernel: its sockets, and the choice of flows that are replicated. */
export class KernelSide {
  readonly kernel: RequestSocket;
  /** Mode `inject` and `commit.ahead`: a separate socket, whose port ID tells its events apart from those of other requests. */
  readonly injects: RequestSocket | null;
  /** Null where the kernel is polled. */
  readonly events: EventSocket | null;
  readonly #addresses: LocalAddresses | null;
  readonly #log: Logger;
  #filter: FilterConfig;
  #helpers: HelperNames | null;

  /** Opens the sockets. No event is received yet. */
  static async open(config: Config, log: Logger, down: TakeDown): Promise<KernelSide> {
    const addresses = config.filter.local ? await LocalAddresses.open() : null;
    if (addresses !== null) down.push(() => addresses.close());
    return new KernelSide(config, addresses, log, down);
  }

  private constructor(config: Config, addresses: LocalAddresses | null, log: Logger, down: TakeDown) {
    const { mode, expectations, commitAheadSeconds } = config;
    this.#addresses = addresses;
    this.#log = log;
    this.#filter = config.filter;
    this.kernel = new RequestSocket();
    down.push(() => this.kernel.close());
    this.injects = mode === "inject" || commitAheadSeconds !== null ? new RequestSocket() : null;
    down.push(() => this.injects?.close());
    // Mode `inject` has no commit that could write expectations after their masters, and mode `stats` has none at all.
    this.#helpers = expectations === false || mode !== "cache" ? null : expectations;
    this.events = config.netlink.pollMs === null ? openEvents(config, this.#helpers !== null) : null;
    down.push(() => this.events?.close());
  }

  /** Helpers whose expectations are replicated; null: none. */
  get helpers(): HelperNames | null {
    return this.#helpers;
  }

  /** Replicates the expectations of other helpers, or of none. The next kernel resync removes and adds expectations. */
  setHelpers(helpers: HelperNames | null): void {
    this.#helpers = helpers;
    this.events?.hearExpectations(helpers !== null);
  }

  /** All zero where the kernel is polled. */
  get eventCounters(): Readonly<EventCounters> {
    return this.events?.counters ?? newEventCounters();
  }

  /** True for the flows that are replicated. */
  compileFilter(): FlowPredicate {
    return compileFilter(filterRules(this.#filter), this.#addresses ?? undefined);
  }

  /** Sets another filter, which the kernel applies to new events. Returns its predicate. */
  setFilter(filter: FilterConfig): FlowPredicate {
    this.#filter = filter;
    this.events?.setFilter(socketRules(filter));
    this.reportFilter();
    return this.compileFilter();
  }

  /** Logs it when the kernel has no room for all rules. */
  reportFilter(): void {
    const { filterInstructions, filterLeftOut } = this.eventCounters;
    if (filterLeftOut === 0) return;
    this.#log.warn(
      { filterInstructions, filterLeftOut },
      "filter.where kernelspace: the kernel has no room for all of the rules; the rest is applied in userspace",
    );
  }
}

function openEvents(config: Config, expectations: boolean): EventSocket {
  const { netlink } = config;
  return new EventSocket({
    bufferBytes: netlink.bufferBytes,
    bufferBytesMax: netlink.bufferBytesMax,
    reliable: netlink.reliable,
    turnDatagramsMax: netlink.iterationLimit,
    filter: socketRules(config.filter),
    expectations,
    ...(config.mode === "inject"
      ? { gatherMs: Math.min(GATHER_MS_MAX, config.publishIntervalMs * 2) }
      : // Peers keep these events until a commit: nobody waits, and each message costs every node as much as many events.
        { gatherMs: Math.min(GATHER_MS_MAX, config.publishIntervalMs * 5), gatherEventsPerSecond: 50 }),
  });
}

/**
 * Current addresses of this machine, virtual ones included, and the broadcast addresses of its networks, as inet_ntop
 * prints them.
 */
export function machineAddresses(): ReadonlySet<string> {
  const all = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  const broadcast = all.flatMap(({ family, address, netmask }) =>
    family === "IPv4" ? [lastOf(address, netmask)] : [],
  );
  return new Set([...all.map(({ address }) => address), ...broadcast]);
}

/** The last address of an IPv4 network. */
function lastOf(address: string, netmask: string): string {
  const mask = netmask.split(".");
  return address
    .split(".")
    .map((byte, i) => (Number(byte) | ~Number(mask[i])) & 0xff)
    .join(".");
}

/** The rules that the kernel applies before it queues an event. */
function socketRules(filter: FilterConfig): FilterRules {
  return filter.where === "kernelspace" ? filterRules(filter) : {};
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
