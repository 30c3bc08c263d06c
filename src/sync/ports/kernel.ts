import type { RequestBatch } from "../../ctnetlink/encode.js";
import type { EventSink } from "../../ctnetlink/event-socket.js";
import type { BatchResult, DumpResult } from "../../ctnetlink/request-socket.js";
import type { Expectation } from "../../flow/expectation.js";
import type { DecodedFlow } from "../../flow/record.js";

/** Helpers whose expectations are replicated: all, or these. */
export type HelperNames = true | readonly string[];

/** A helper on another port has that in its name (`sip-5061`): the beginning counts, as in conntrackd. */
export function isChosen(helpers: HelperNames, helper: string | undefined): boolean {
  if (helpers === true) return true;
  const name = helper?.toLowerCase();
  return name !== undefined && helpers.some((chosen) => name.startsWith(chosen.toLowerCase()));
}

/** The kernel's table as it is listed and looked up: src/ctnetlink/request-socket.ts, or the simulator's. */
export interface KernelTable {
  dump(options: { signal?: AbortSignal }, visit: (flow: DecodedFlow) => void): Promise<DumpResult>;
  dumpExpectations(options: { signal?: AbortSignal }, visit: (expectation: Expectation) => void): Promise<DumpResult>;
  /** Looks a flow up by its original tuple. */
  get(words: Uint32Array, base: number): Promise<DecodedFlow | null>;
}

/** The kernel's events: src/ctnetlink/event-socket.ts, or the simulator's. */
export interface KernelEvents {
  /** Subscribes. Every event from now on comes to the sink, in a later turn of the event loop. */
  listen(sink: EventSink): void;
  /** Of what the requests of this port do, only the ends are told. */
  mute(portId: number): void;
  /** Doubles the buffer within its limit; false when it is there already. */
  growBuffer(): boolean;
  /** While it is called with false, no events come of flows that begin. */
  hearNew(on: boolean): void;
  /** Reads events that are queued, a turn of them, without waiting for their time; true when there may be more. */
  readNow(): boolean;
  close(): Promise<void>;
}

/** Mode `inject`: what writes the peers' flows into this kernel, as the replicator tells it of that kernel. */
export interface Injection {
  /** The kernel has ended a flow that none of this daemon's requests removed. */
  expired(words: Uint32Array, base: number): void;
  /** An event told of a flow that was unknown, and not how far it is: the kernel is to be asked. */
  doubt(words: Uint32Array): void;
  /** A dump of the kernel begins. */
  beginDump(): void;
  /** A dump lists a flow: true when it is a peer's, and none of this node's own. */
  present(flow: DecodedFlow): boolean;
  /** The dump is over, or was given up. */
  endDump(complete: boolean): void;
}

/** Mode `inject`: this node, which carries flows of its own, as what writes the peers' flows into its kernel calls it. */
export interface Carrier {
  /** Makes a flow of this kernel this node's own, and publishes that. */
  claim(flow: DecodedFlow): void;
  /** Takes in the kernel's events up to now. */
  readEvents(): void;
  /** Compares the kernel's table with what is known of it: nobody knows what became of some requests. */
  resync(): void;
}

/** The kernel as a commit needs it: src/ctnetlink/request-socket.ts, or the simulator's. */
export interface KernelRequests {
  send(batch: RequestBatch): Promise<BatchResult>;
}

/** The kernel as the injector needs it: a request socket of its own, by whose port id its echoes are known. */
export interface InjectorKernel extends KernelRequests {
  getAll(batch: RequestBatch, visit: (index: number, flow: DecodedFlow) => void): Promise<BatchResult>;
}

/**
 * A live UDP stream or an idle TCP connection refreshes its timeout without an event, so what the cache thinks is left
 * may long be over: nothing is written into the kernel with less than this, the value conntrackd uses for that case.
 */
export const TIMEOUT_FLOOR_SECONDS = 60;
