/**
 * The ports to a kernel. The parts of a node see the kernel only through these interfaces, so a simulator can replace
 * it.
 */
import type { RequestBatch } from "../../ctnetlink/encode.js";
import type { EventSink } from "../../ctnetlink/event-socket.js";
import type { BatchResult, DumpResult } from "../../ctnetlink/request-socket.js";
import type { Expectation } from "../../flow/expectation.js";
import type { DecodedFlow } from "../../flow/record.js";

/** Helpers whose expectations are replicated: all, or these. */
export type HelperNames = true | readonly string[];

/** A helper on another port has the port in its name (`sip-5061`), so a prefix matches, as in conntrackd. */
export function isChosen(helpers: HelperNames, helper: string | undefined): boolean {
  if (helpers === true) return true;
  const name = helper?.toLowerCase();
  return name !== undefined && helpers.some((chosen) => name.startsWith(chosen.toLowerCase()));
}

/** Looks flows up in the kernel's table. */
export interface KernelLookup {
  /** Looks a flow up by one of its tuples, given as the original tuple of a record. */
  get(words: Uint32Array, base: number): Promise<DecodedFlow | null>;
}

/** Lists the kernel's table and looks flows up in it: src/ctnetlink/request-socket.ts, or the simulator's. */
export interface KernelTable extends KernelLookup {
  dump(options: { signal?: AbortSignal }, visit: (flow: DecodedFlow) => void): Promise<DumpResult>;
  dumpExpectations(options: { signal?: AbortSignal }, visit: (expectation: Expectation) => void): Promise<DumpResult>;
}

/** The kernel's events: src/ctnetlink/event-socket.ts, or the simulator's. */
export interface KernelEvents {
  /** Subscribes. Every later event reaches the sink, in a later turn of the event loop. */
  listen(sink: EventSink): void;
  /** Drops the events that requests from this port cause, except the ends of flows. */
  mute(portId: number): void;
  /** Doubles the buffer up to its limit; false when it has reached that already. */
  growBuffer(): boolean;
  /** `false` mutes the events of new flows until it is called with `true`. */
  hearNew(on: boolean): void;
  /**
   * Reads one turn's worth of queued events at once, without waiting for the usual time; true when there may be more.
   */
  readNow(): boolean;
  close(): Promise<void>;
}

/** Mode `inject`: the replicator's view of the part that writes the peers' flows into this kernel. */
export interface Injection {
  /** The kernel has ended a flow that no request of this daemon removed. */
  expired(words: Uint32Array, base: number): void;
  /** The kernel has reported a flow, which is this node's own now. */
  reported(words: Uint32Array): void;
  /** An event reported a flow that was unknown, without its full state: the kernel must be asked. */
  doubt(words: Uint32Array): void;
  /**
   * The birth of a peer's flow that has ended and is about to be removed from this kernel: the connection continues if
   * packets pass it here. 0 if the record at base 0 belongs to another connection of that tuple, -1 if there is none.
   */
  endedBirth(words: Uint32Array): number;
  /** A dump of the kernel begins. */
  beginDump(): void;
  /** A dump lists a flow. True when the flow is a peer's and not this node's own. */
  present(flow: DecodedFlow): boolean;
  /** The dump is complete, or was given up. */
  endDump(complete: boolean): void;
}

/** What a takeover found in the kernel and what it wrote there. */
export interface WrittenAhead {
  /** Flows that had been written beforehand. */
  readonly ahead: number;
  readonly created: number;
  /** Entries that were there and got the newer state, or were replaced. */
  readonly changed: number;
  readonly failed: number;
}

/** `commit.ahead`: the part that writes the peers' flows into this kernel once they have lived for a while. */
export interface AheadWriter {
  /**
   * Writes all of them, the youngest first, and resolves when that is done. Flows that come later are written at once,
   * until `hold`.
   */
  writeAll(): Promise<WrittenAhead>;
  /** This node has stepped down: flows wait again until they are old enough. */
  hold(): void;
}

/**
 * Mode `inject`: this node as the owner of its own flows, as the part that writes the peers' flows into its kernel sees
 * it.
 */
export interface Carrier {
  /** Makes a flow of this kernel this node's own, and publishes the claim. */
  claim(flow: DecodedFlow): void;
  /** Applies the kernel's events up to now. */
  readEvents(): void;
  /** Compares the kernel's table with the caches, because the outcome of some requests is unknown. */
  resync(): void;
}

/** The requests that a commit sends: src/ctnetlink/request-socket.ts, or the simulator's. */
export interface KernelRequests {
  send(batch: RequestBatch): Promise<BatchResult>;
}

/** What a commit asks of the kernel. */
export type CommitKernel = KernelRequests & KernelLookup;

/** The requests of the injector: a request socket of its own, whose port ID identifies the events that they cause. */
export interface InjectorKernel extends KernelRequests {
  getAll(batch: RequestBatch, visit: (index: number, flow: DecodedFlow) => void): Promise<BatchResult>;
}

/**
 * Lowest timeout that is written into the kernel, the value conntrackd uses in this case. A live UDP stream or an idle
 * TCP connection refreshes its timeout without an event, so the time that the cache computes may be over although the
 * flow is alive.
 */
export const TIMEOUT_FLOOR_SECONDS = 60;
