/** The private fields that make up the state of a node, as open-privates.ts names them. */

import type { CommitReport } from "../../../src/control/protocol.js";
import type { FlowTable } from "../../../src/flow/flow-table.js";
import type { DecodedFlow } from "../../../src/flow/record.js";
import type { Claim } from "../../../src/ownership/claim.js";
import type { Role } from "../../../src/stream/format/mark.js";
import type { StreamMessage } from "../../../src/stream/reader.js";
import type { SpokenRole } from "../../../src/sync/ports/carrying.js";
import type { Occasion } from "../../../src/sync/takeover/takeover-record.js";

/** FlowTable. */
export interface TableState {
  readonly _slabs: Uint32Array[];
  readonly _births: Float64Array[];
  _freeSlots: Uint32Array;
  _freeCount: number;
  _slotsUsed: number;
}

/** DumpGeneration. */
export interface DumpState {
  _endedIds: Set<number> | null;
  _reported: number;
}

/** InternalCache. */
export interface InternalState {
  readonly _pending: { _slots: Uint32Array; _count: number };
  readonly _newerOwners: Map<number, Claim>;
  readonly _dump: DumpState;
  _inStream: number;
  _sweepAt: number;
}

/** A peer in an external cache. */
export interface OriginState {
  readonly node: string;
  heard: number;
  readonly slots: { _pages: (Uint32Array | undefined)[]; _pagesUsed: number; _size: number };
  flows: number;
  departed: number;
}

/** ExternalCache. */
export interface ExternalState {
  readonly _origins: OriginState[];
  readonly _departures: Map<number, { readonly to: OriginState; readonly stamp: number }>;
}

/** Applier. */
export interface ApplierState {
  _epoch: number;
  _number: number;
  _seen: { epoch: number; number: number };
  _goesOn: boolean;
  _exact: boolean;
  _snapshotId: number;
  readonly _local: { sinceStamp: number };
}

/** Journal. */
export interface JournalState {
  epoch: number;
  role: Role;
  _number: number;
  _snapshotSequence: number;
}

/** Carrying. */
export interface CarryingState {
  carries: boolean;
  readonly _groups: Map<string, SpokenRole>;
  _tableRole: Role;
  _role: Role;
}

/** KernelResync. */
export interface ResyncState {
  _running: Promise<boolean> | null;
  readsCommit: boolean;
  resync(): Promise<boolean>;
  _begin(): void;
  _list(flow: DecodedFlow, polled: boolean): void;
  _end(whole: boolean): void;
}

/** Replicator. */
export interface ReplicatorState {
  readonly _resync: ResyncState;
  readonly _commits: {
    _isOpen: boolean;
    _isReading: boolean;
    _reading: Promise<void>;
    readonly _ends: { begin(): void; end(): void; _ends: FlowTable | null };
  };
  _inTurn: boolean;
}

/** Roles. */
export interface RolesState {
  readonly _options: { readonly carrying: CarryingState };
  readonly _takeover: {
    _running: Promise<unknown> | null;
    _isOutdated: boolean;
    _wasRead(report: CommitReport, carriesOther: boolean, occasion: Occasion, beganMs: number): Promise<void>;
  };
  readonly _purge: { schedule(): { afterSeconds: number }; cancel(): void; _purge(): Promise<void> };
}

/** Follower. */
export interface FollowerState {
  _newsFrom: number;
  _connected: boolean;
  readonly _applier: ApplierState;
  _message(message: StreamMessage): void;
}

/** The state behind an object's public face. Fails when the private names are not open. */
export function privatesOf<T>(object: object, name: keyof T & string): T {
  if (!(name in object)) throw new Error(`${name} is not open: import open-privates.js first`);
  return object as unknown as T;
}
