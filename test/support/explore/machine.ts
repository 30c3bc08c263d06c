/**
 * A machine of the explorer: the shipped node (`FirewallNode`) on a simulated kernel, whose whole state can be copied
 * and put back. Nothing here runs by itself: the explorer calls each step of the node, one at a time.
 */
import { pino } from "pino";
import { InternalCache } from "../../../src/cache/internal.js";
import type { RequestBatch } from "../../../src/ctnetlink/encode.js";
import { EVENT_DESTROY, EVENT_NEW, type EventKind } from "../../../src/ctnetlink/event-socket.js";
import type { BatchResult } from "../../../src/ctnetlink/request-socket.js";
import { HybridClock } from "../../../src/flow/clock.js";
import { DecodedFlow, W_ORIG_L4 } from "../../../src/flow/record.js";
import type { Role } from "../../../src/stream/format/mark.js";
import type { MessageKind } from "../../../src/stream/format/subjects.js";
import { FORMATS } from "../../../src/stream/format/versions.js";
import type { ReaderItem } from "../../../src/stream/reader.js";
import type { FirewallNode } from "../../../src/sync/node.js";
import { epochReason, nextEpoch, type OwnPast, readOwnPast } from "../../../src/sync/own-past.js";
import type { SpokenRole } from "../../../src/sync/ports/carrying.js";
import type { PeerPort, PeerStream } from "../../../src/sync/ports/peer-stream.js";
import { BY_COMMAND } from "../../../src/sync/takeover/takeover-record.js";
import { type KernelImage, requestsOf, SimKernel } from "../sim-kernel.js";
import { firstStart, testNode } from "../test-node.js";
import { type Digest, DigestWriter } from "./hash.js";
import { digestInjector, FRESH_INJECTOR, flowsOf, Injections, type InjectorImage, tableOf } from "./injections.js";
import { type ExplorerMessage, messageOf } from "./messages.js";
import {
  type CarryingState,
  type FollowerState,
  type JournalState,
  privatesOf,
  type ReplicatorState,
  type ResyncState,
  type RolesState,
} from "./privates.js";
import {
  digestExternal,
  digestInternal,
  digestRecord,
  EMPTY_TABLE,
  type ExternalImage,
  type InternalImage,
  loadExternal,
  loadInternal,
  SLOTS,
  saveExternal,
  saveInternal,
} from "./tables.js";

/** No time passes for timeouts. */
performance.now = () => 1_000_000;
const log = pino({ level: "silent" });
const NEVER = new AbortController().signal;

/** The time that all machines share, milliseconds since the Unix epoch. It advances with each step. */
export interface Time {
  nowMs: number;
}

/** An event that waits in the socket's buffer. */
export interface KernelEvent {
  readonly kind: EventKind;
  readonly words: Uint32Array;
  readonly portId: number;
}

/** A machine's reading of a peer's stream. It survives the daemon, except for the applier's part. */
export interface LinkImage {
  /** Sequence of the last message read. */
  readonly at: number;
  /** No daemon of this machine has read the messages from here on before. */
  readonly newsFrom: number;
  readonly copy: readonly ExplorerMessage[];
}

interface ApplierImage {
  readonly epoch: number;
  readonly number: number;
  readonly seen: { readonly epoch: number; readonly number: number };
  readonly goesOn: boolean;
  readonly exact: boolean;
  readonly snapshotId: number;
}

/** A running daemon. */
export interface DaemonImage {
  readonly internal: InternalImage;
  readonly external: ExternalImage;
  readonly appliers: readonly ApplierImage[];
  readonly epoch: number;
  readonly number: number;
  readonly snapshotSequence: number;
  readonly role: Role;
  readonly lastStamp: number;
  readonly sinceStamp: number;
  readonly carries: boolean;
  readonly tableRole: Role;
  /** A commit's entries have not been read back yet. */
  readonly commitOpen: boolean;
  /** The flows that have ended since that commit began. */
  readonly commitEnds: readonly Uint32Array[];
  /** Null in mode `cache`. */
  readonly injector: InjectorImage | null;
}

/** A dump that runs: what the kernel listed when it began. */
export interface DumpImage {
  readonly flows: readonly Uint32Array[];
  readonly ofCommit: boolean;
}

/** What is still to be done on a machine. */
export interface Dues {
  /** Events were lost: a dump follows. */
  readonly dump: boolean;
  /** The epoch could not take over the last table. */
  readonly snapshot: boolean;
  /** The node has stepped down. */
  readonly purge: boolean;
}

/** The whole state of a machine. */
export interface MachineImage {
  readonly kernel: KernelImage;
  readonly queue: readonly KernelEvent[];
  readonly stream: readonly ExplorerMessage[];
  readonly links: readonly LinkImage[];
  readonly daemon: DaemonImage | null;
  readonly dump: DumpImage | null;
  readonly dues: Dues;
  /** The trace of keepalived's last hook since the boot. */
  readonly trace: SpokenRole | null;
  readonly digest: Digest;
}

/** What a daemon finds in its own stream. */
interface RestoredPast {
  readonly past: OwnPast;
  readonly internal: InternalImage;
  readonly lastStamp: number;
}

/** Nothing is due. */
export const NO_DUES: Dues = { dump: false, snapshot: false, purge: false };

/** A machine. Its public fields are its present state; `save` copies it and `load` replaces it. */
export class Machine {
  readonly name: string;
  readonly index: number;
  readonly kernel: SimKernel;
  readonly node: FirewallNode;
  readonly peers: readonly string[];
  queue: KernelEvent[] = [];
  stream: ExplorerMessage[] = [];
  links: LinkImage[];
  dump: DumpImage | null = null;
  dues: Dues = NO_DUES;
  trace: SpokenRole | null = null;
  isUp = true;
  /** Called before each batch of requests. */
  onRequests: (() => void) | null = null;
  readonly #clock: { wallMs(): number };
  readonly #hybridClock: HybridClock & { _lastStamp?: number };
  readonly #portId: number;
  readonly #replicator: ReplicatorState;
  readonly #resync: ResyncState;
  readonly #journal: JournalState;
  readonly #roles: RolesState;
  readonly #carrying: CarryingState;
  readonly #followers: readonly FollowerState[];
  readonly #local: { sinceStamp: number };
  /** Null in mode `cache`. */
  readonly #injections: Injections | null;
  readonly #clocked: boolean;
  readonly #out = new DigestWriter();
  /** The state of a daemon whose stream ended with a message, once restored. */
  readonly #pasts = new WeakMap<ExplorerMessage, RestoredPast>();
  #hearsNew = true;
  #current: MachineImage | null = null;

  /** `skewMs`: the error of its wall clock. `clocked`: whether clocks differ anywhere. `injects`: mode `inject`; `ahead`: with a delay. */
  constructor(
    names: readonly string[],
    index: number,
    time: Time,
    options: { skewMs: number; clocked: boolean; injects: boolean; ahead: boolean },
  ) {
    const { skewMs, clocked, injects, ahead } = options;
    this.name = names[index]!;
    this.index = index;
    this.peers = names.filter((name) => name !== this.name);
    this.#portId = 4711 + index;
    this.kernel = new SimKernel((index + 1) * 1_000_000);
    this.kernel.listener = (kind, flow, portId) => this.#hear(kind, flow, portId);
    this.#clock = { wallMs: () => time.nowMs + skewMs };
    this.#clocked = clocked;
    const past = firstStart(this.#clock, new InternalCache(SLOTS));
    this.#hybridClock = past.hybridClock;
    this.node = this.#createNode(past, injects, ahead);
    this.#replicator = privatesOf<ReplicatorState>(this.node.replicator, "_resync");
    this.#resync = this.#replicator._resync;
    // The explorer itself begins and ends dumps and purges.
    this.#resync.resync = () => new Promise(() => undefined);
    this.#journal = privatesOf<JournalState>(this.node.journal, "_number");
    this.#roles = privatesOf<RolesState>(this.node.roles, "_takeover");
    this.#roles._purge.schedule = () => {
      this.dues = { ...this.dues, purge: true };
      return { afterSeconds: 0 };
    };
    this.#roles._purge.cancel = () => {
      this.dues = { ...this.dues, purge: false };
    };
    this.#carrying = this.#roles._options.carrying;
    this.#followers = this.node.followers.map((follower) => privatesOf<FollowerState>(follower, "_newsFrom"));
    this.#local = this.#followers[0]!._applier._local;
    const { injector, replicator } = this.node;
    const carrier = {
      claim: (flow: DecodedFlow) => replicator.claim(flow),
      readEvents: () => replicator.readEvents(),
      resync: () => {
        this.dues = { ...this.dues, dump: true };
      },
    };
    this.#injections = injector === null ? null : new Injections(injector, carrier);
    this.links = this.peers.map(() => ({ at: 0, newsFrom: 1, copy: [] }));
  }

  #createNode(past: OwnPast, injects: boolean, ahead: boolean): FirewallNode {
    const portId = this.#portId;
    const publish = (kind: MessageKind, _number: number, payload: Uint8Array): number => {
      this.stream.push(messageOf(kind, payload, this.stream.length + 1));
      return this.stream.length;
    };
    return testNode(
      {
        kernel: {
          portId: this.#portId,
          send: (batch) => this.#send(batch),
          dump: () => new Promise(() => undefined),
          dumpExpectations: async () => ({ count: 0, malformed: 0, interrupted: false }),
          get: async () => null,
        },
        events: {
          listen: () => undefined,
          mute: () => undefined,
          growBuffer: () => false,
          hearNew: (on) => {
            this.#hearsNew = on;
          },
          readNow: () => {
            while (this.queue.length > 0) this.readEvent();
            return false;
          },
          close: async () => undefined,
        },
        injects: injects
          ? { portId, send: (batch) => this.#send(batch), getAll: (batch, visit) => this.#send(batch, visit) }
          : null,
        past,
        ownStream: {
          sink: { publish, publishAcked: async (...message) => publish(...message), backlog: { bytes: 0 } },
          trouble: null,
          beat: () => undefined,
          listen: () => () => undefined,
          flush: async () => true,
        },
        peers: this.peers.map(peerPort),
        clock: this.#clock,
        signal: NEVER,
      },
      // No timer ever fires: the explorer publishes.
      {
        ...{ node: this.name, externalFlowsMax: SLOTS, overrunResyncMs: null, publishIntervalMs: 0 },
        aheadSeconds: ahead ? 1 : null,
      },
    );
  }

  /** The state of the applier of a peer's stream. */
  applier(peer: number): ApplierImage {
    const { _epoch, _number, _seen, _goesOn, _exact, _snapshotId } = this.#followers[peer]!._applier;
    return { epoch: _epoch, number: _number, seen: _seen, goesOn: _goesOn, exact: _exact, snapshotId: _snapshotId };
  }

  get carries(): boolean {
    return this.#carrying.carries;
  }

  /** True from a commit until its entries have been read back. */
  get commitOpen(): boolean {
    return this.#replicator._commits._isOpen;
  }

  get pendingCount(): number {
    return this.node.internal.pendingCount;
  }

  // ---- Steps of the daemon.

  /** The daemon reads its oldest event. */
  readEvent(): void {
    const event = this.queue.shift()!;
    this.#replicator._inTurn = false;
    this.node.replicator.onEvent(event.kind, flowOf(event.words), event.portId);
  }

  /** The daemon publishes what is pending. */
  publish(): void {
    this.node.replicator.flush();
  }

  /** The daemon reads the next message of a peer. */
  read(peer: number, stream: readonly ExplorerMessage[]): void {
    const { at, newsFrom, copy } = this.links[peer]!;
    const message = stream[at]!;
    const last = copy.at(-1);
    const isKnown =
      last !== undefined &&
      (message.epoch < last.epoch || (message.epoch === last.epoch && message.number <= last.number));
    this.links[peer] = { at: at + 1, newsFrom, copy: isKnown ? copy : [...copy, message] };
    this.#followers[peer]!._message(message);
  }

  /** The reader finds the stream shorter than it was: it begins again at the last complete snapshot. */
  reset(peer: number, stream: readonly ExplorerMessage[]): void {
    const { copy } = this.links[peer]!;
    const from = Math.max(1, snapshotOf(stream));
    this.links[peer] = { at: from - 1, newsFrom: stream.length + 1, copy };
    this.#followers[peer]!._newsFrom = stream.length + 1;
  }

  /** A dump begins: the kernel lists its table at once, and the daemon reads the list later. */
  beginDump(ofCommit = false): void {
    this.dues = { ...this.dues, dump: false };
    this.#resync._running = UNDECIDED;
    this.#resync._begin();
    this.dump = { flows: [...this.kernel.flows.values()].map((words) => words.slice()), ofCommit };
  }

  /** The daemon reads the list. */
  async endDump(): Promise<void> {
    const { flows, ofCommit } = this.dump!;
    for (const words of flows) this.#resync._list(flowOf(words), false);
    this.node.internal.sweep(SLOTS);
    this.#resync._end(true);
    this.#resync._running = null;
    this.dump = null;
    this.#injections?.start();
    if (!ofCommit) return;
    // What was queued is read behind the dump.
    while (this.queue.length > 0 && this.#injections === null) this.readEvent();
    this.#openCommit(false);
    if (this.#injections === null) {
      await this.#roles._takeover._wasRead(EMPTY_REPORT, false, BY_COMMAND, 0);
      return;
    }
    this.#carrying.carries = false;
    const { committed, updated, durationMs } = EMPTY_REPORT;
    this.node.journal.writeMark({ type: "commit", committed, updated, failed: 0, stale: 0, durationMs });
  }

  /** Keepalived calls. For `primary`, the commit is over but for reading back its entries. */
  async hook(role: SpokenRole): Promise<void> {
    this.trace = role;
    this.node.replicator.flush();
    let isRead = false;
    this.#resync.resync = () => {
      isRead = true;
      this.beginDump(true);
      return new Promise(() => undefined);
    };
    this.#roles._takeover._running = null;
    this.#roles._takeover._isOutdated = false;
    const done = this.node.roles.hook(role, () => undefined);
    // In mode `inject` it waits for the dump.
    if (this.#injections === null || role !== "primary") await done;
    // The entries are read back behind the hook.
    for (let turns = 0; role === "primary" && !isRead && turns < 100; turns++) await undefined;
  }

  /** True when peers' flows are to be written into the kernel. */
  get writeDue(): boolean {
    return this.#injections?.isDue === true;
  }

  /** True when flows wait that are too young to be written. */
  get hasYoung(): boolean {
    return this.#injections?.hasYoung === true;
  }

  /** They are old enough. */
  due(): void {
    this.#injections?.due();
  }

  /** The daemon writes peers' flows into its kernel. */
  async write(): Promise<void> {
    await this.#injections?.write();
  }

  /** The purge that is due. */
  async purge(): Promise<void> {
    this.dues = { ...this.dues, purge: false };
    await this.#roles._purge._purge();
  }

  /** The socket's buffer runs over: the events in it are lost. */
  overrun(): void {
    this.queue = [];
    this.dues = { ...this.dues, dump: true };
    this.node.replicator.onOverrun();
  }

  async snapshot(): Promise<void> {
    this.dues = { ...this.dues, snapshot: false };
    await this.node.journal.writeSnapshot(NEVER);
  }

  // ---- The end of a daemon, and its beginning.

  /** The daemon dies. `lost`: messages at the end of its stream that its broker loses as well. */
  crash(lost: number): void {
    this.isUp = false;
    this.queue = [];
    this.dump = null;
    this.dues = NO_DUES;
    this.stream.length -= Math.min(lost, this.stream.length);
  }

  /** The machine boots: its kernel is empty, and keepalived has said nothing yet. */
  reboot(): void {
    this.crash(0);
    this.kernel.load({ id: this.kernel.save().id, flows: [] });
    this.trace = null;
  }

  /** A daemon starts, as `daemon.ts` and `FirewallNode.start` do it. */
  async start(tableRole: Role): Promise<void> {
    const { past, internal, lastStamp } = await this.#past();
    this.isUp = true;
    const groups = new Map(this.trace === null ? [] : [["", this.trace]]);
    this.#loadDaemon({
      internal,
      external: { ...EMPTY_TABLE, origins: [], departures: [] },
      appliers: this.peers.map(() => NOTHING_APPLIED),
      epoch: nextEpoch(this.#clock.wallMs(), past.lastEpoch),
      number: 0,
      snapshotSequence: past.continues?.snapshotSequence ?? 0,
      role: this.trace ?? "unknown",
      lastStamp,
      sinceStamp: 0,
      carries: (groups.size === 0 ? tableRole : this.trace) === "primary",
      tableRole,
      commitOpen: false,
      commitEnds: [],
      injector: this.#injections === null ? null : FRESH_INJECTOR,
    });
    this.#local.sinceStamp = this.#hybridClock.next();
    for (const [peer, { copy }] of this.links.entries()) {
      const from = Math.max(1, copySnapshot(copy));
      for (const message of copy.slice(from - 1)) this.#apply(peer, message);
      (this.#followers[peer]!._applier as unknown as { answer(): void }).answer();
      const at = copy.at(-1)?.sequence ?? 0;
      this.links[peer] = { at, newsFrom: at + 1, copy };
      this.#followers[peer]!._newsFrom = at + 1;
    }
    const previousNumber = past.continues?.number ?? 0;
    const reason = epochReason(past);
    this.node.journal.writeMark({ type: "epoch", reason, previousEpoch: past.lastEpoch, previousNumber });
    if (past.continues === null) this.dues = { ...this.dues, snapshot: true };
    // Before the peers' streams are read, own and injected flows cannot be told apart.
    if (this.#injections === null) this.beginDump();
    else this.dues = { ...this.dues, dump: true };
  }

  #apply(peer: number, message: ExplorerMessage): void {
    const applier = this.#followers[peer]!._applier as unknown as {
      apply(message: ExplorerMessage, localMs: number): boolean;
    };
    applier.apply(message, message.timeMs);
  }

  async #past(): Promise<RestoredPast> {
    const last = this.stream.at(-1);
    const known = last === undefined ? undefined : this.#pasts.get(last);
    if (known !== undefined) return known;
    const lastMark = this.stream.findLast(({ kind }) => kind === "mark")?.payload ?? null;
    const tail = { lastMark, lastSequence: this.stream.length };
    const clock = this.#clock;
    const hybridClock: HybridClock & { _lastStamp?: number } = new HybridClock(clock);
    const parts = { node: this.name, internal: new InternalCache(SLOTS), formats: FORMATS, clock, hybridClock, log };
    const past = await readOwnPast(streamOf(this.stream), tail, parts, NEVER);
    const found = { past, internal: saveInternal(past.internal), lastStamp: hybridClock._lastStamp! };
    if (last !== undefined) this.#pasts.set(last, found);
    return found;
  }

  // ---- The kernel.

  #hear(kind: EventKind, flow: DecodedFlow, portId: number): void {
    if (!this.isUp || (kind === EVENT_NEW && !this.#hearsNew)) return;
    if (this.#injections !== null && portId === this.#portId && kind !== EVENT_DESTROY) return;
    this.queue.push({ kind, words: flow.words, portId });
  }

  async #send(
    batch: RequestBatch,
    visit: (index: number, flow: DecodedFlow) => void = () => undefined,
  ): Promise<BatchResult> {
    const requests = requestsOf(batch.bytes(this.#portId, 1));
    this.onRequests?.();
    const answers = requests.map((request) => this.kernel.request(request, this.#portId));
    for (const [index, { flow }] of answers.entries()) if (flow !== null) visit(index, flow);
    const errors = answers.flatMap(({ errno }, index) => (errno === 0 ? [] : [{ index, errno }]));
    return { sent: requests.length, errors, unknown: 0 };
  }

  // ---- Copies of the state.

  /** A copy of the present state. */
  save(): MachineImage {
    const state = {
      kernel: this.kernel.save(),
      queue: this.queue.slice(),
      stream: this.stream.slice(),
      links: this.links.slice(),
      daemon: this.isUp ? this.#saveDaemon() : null,
      dump: this.dump,
      dues: this.dues,
      trace: this.trace,
    };
    const image = { ...state, digest: this.#digest(state) };
    this.#current = image;
    return image;
  }

  /** Replaces the state. */
  load(image: MachineImage): void {
    if (this.#current === image) return;
    this.#current = image;
    this.kernel.load(image.kernel);
    this.queue = image.queue.slice();
    this.stream = image.stream.slice();
    this.links = image.links.slice();
    this.dump = image.dump;
    this.dues = image.dues;
    this.trace = image.trace;
    this.isUp = image.daemon !== null;
    this.#hearsNew = true;
    this.#resync._running = image.dump === null ? null : UNDECIDED;
    if (image.daemon !== null) this.#loadDaemon(image.daemon);
  }

  /** The state is about to change: the next `load` must not take it for the loaded one. */
  touch(): void {
    this.#current = null;
  }

  #saveDaemon(): DaemonImage {
    const { internal, external } = this.node;
    const { epoch, role, _number, _snapshotSequence } = this.#journal;
    return {
      internal: saveInternal(internal),
      external: saveExternal(external),
      appliers: this.peers.map((_, peer) => this.applier(peer)),
      epoch,
      number: _number,
      snapshotSequence: _snapshotSequence,
      role,
      lastStamp: this.#hybridClock._lastStamp!,
      sinceStamp: this.#local.sinceStamp,
      carries: this.#carrying.carries,
      tableRole: this.#carrying._tableRole,
      commitOpen: this.commitOpen,
      commitEnds: this.#commitEnds(),
      injector: this.#injections?.save() ?? null,
    };
  }

  #loadDaemon(image: DaemonImage): void {
    loadInternal(this.node.internal, image.internal);
    loadExternal(this.node.external, image.external);
    for (const [peer, applier] of image.appliers.entries()) {
      const follower = this.#followers[peer]!;
      follower._newsFrom = this.links[peer]!.newsFrom;
      follower._connected = true;
      const to = follower._applier;
      to._epoch = applier.epoch;
      to._number = applier.number;
      to._seen = applier.seen;
      to._goesOn = applier.goesOn;
      to._exact = applier.exact;
      to._snapshotId = applier.snapshotId;
    }
    const journal = this.#journal;
    journal.epoch = image.epoch;
    journal._number = image.number;
    journal._snapshotSequence = image.snapshotSequence;
    journal.role = image.role;
    this.#hybridClock._lastStamp = image.lastStamp;
    this.#local.sinceStamp = image.sinceStamp;
    const carrying = this.#carrying;
    carrying.carries = image.carries;
    carrying._tableRole = image.tableRole;
    carrying._groups.clear();
    if (this.trace !== null) carrying._groups.set("", this.trace);
    carrying._role = this.trace ?? "unknown";
    if (image.injector !== null) this.#injections?.load(image.injector);
    this.#openCommit(image.commitOpen);
    if (image.commitEnds.length > 0) this.#replicator._commits._ends._ends = tableOf(image.commitEnds);
  }

  /** A commit's entries have yet to be read back, or have been. */
  #openCommit(isOpen: boolean): void {
    const { _commits } = this.#replicator;
    _commits._reading = DONE;
    // Only in mode `cache` does a commit write.
    if (this.#injections === null && (isOpen || _commits._isOpen)) _commits._ends[isOpen ? "begin" : "end"]();
    _commits._isOpen = isOpen;
    // Between two steps, a commit waits for nothing but its dump.
    _commits._isReading = isOpen;
    this.#resync.readsCommit = isOpen;
  }

  #commitEnds(): readonly Uint32Array[] {
    const table = this.#replicator._commits._ends._ends;
    return table === null ? [] : flowsOf(table);
  }

  #digest(image: Omit<MachineImage, "digest">): Digest {
    const out = this.#out;
    const ids = new Map<number, number>();
    const idOf = (id: number): number => {
      const known = ids.get(id);
      if (known !== undefined) return known;
      ids.set(id, ids.size);
      return ids.size - 1;
    };
    for (const { words } of image.kernel.flows) digestRecord(out, words, 0, idOf);
    out.word(-1);
    for (const { kind, words, portId } of image.queue) {
      out.word(kind);
      out.word(portId);
      digestRecord(out, words, 0, idOf);
    }
    out.word(-1);
    const { dump, dues, trace, daemon } = image;
    out.word((dues.dump ? 1 : 0) | (dues.snapshot ? 2 : 0) | (dues.purge ? 4 : 0) | (dump?.ofCommit ? 8 : 0));
    out.word(trace === null ? 0 : trace.charCodeAt(0));
    for (const words of dump?.flows ?? []) digestRecord(out, words, 0, idOf);
    out.word(dump === null ? -1 : -2);
    if (daemon === null) return out.take();
    digestInternal(out, daemon.internal, idOf);
    digestExternal(out, daemon.external);
    for (const { goesOn, exact, snapshotId } of daemon.appliers) {
      out.word((goesOn ? 1 : 0) | (exact ? 2 : 0));
      out.variable(snapshotId);
    }
    for (const words of daemon.commitEnds) out.word(words[W_ORIG_L4]!);
    if (daemon.injector !== null) digestInjector(out, daemon.injector);
    out.word((daemon.carries ? 1 : 0) | (daemon.commitOpen ? 2 : 0));
    out.word(daemon.tableRole.charCodeAt(0));
    out.variable(daemon.epoch);
    out.variable(daemon.sinceStamp);
    if (this.#clocked) out.variable(daemon.lastStamp);
    return out.take();
  }
}

const NOTHING_APPLIED: ApplierImage = {
  epoch: 0,
  number: 0,
  seen: { epoch: 0, number: 0 },
  goesOn: false,
  exact: false,
  snapshotId: 0,
};
const EMPTY_REPORT = { committed: 0, updated: 0, skipped: 0, failed: {}, stale: 0, durationMs: 0 };
const UNDECIDED: Promise<boolean> = new Promise(() => undefined);
const DONE = Promise.resolve();

function flowOf(words: Uint32Array): DecodedFlow {
  const flow = new DecodedFlow();
  flow.words.set(words);
  return flow;
}

/** Sequence of the begin mark of the last complete snapshot; 0 for none. */
export function snapshotOf(stream: readonly ExplorerMessage[]): number {
  return stream.findLast(({ kind }) => kind === "mark")?.snapshotSequence ?? 0;
}

/** The same within a copy, which numbers its messages itself. */
function copySnapshot(copy: readonly ExplorerMessage[]): number {
  let begin = 0;
  let complete = 0;
  for (const [index, { text }] of copy.entries()) {
    if (text === "mark: snapshot-begin") begin = index + 1;
    if (text === "mark: snapshot-end") complete = begin;
  }
  return complete;
}

function peerPort(node: string): PeerPort {
  const stream: PeerStream = { readLast: async () => null, read: () => noItems() };
  return {
    ...{ node, address: "", discovered: false, stream, copy: null },
    reached: () => true,
    unreachable: () => null,
    hear: () => () => undefined,
    ask: () => false,
    close: () => undefined,
  };
}

async function* noItems(): AsyncIterable<readonly ReaderItem[]> {}

function streamOf(messages: readonly ExplorerMessage[]): PeerStream {
  return {
    readLast: async (kind) => messages.findLast((message) => message.kind === kind) ?? null,
    read: async function* (start) {
      yield messages.slice(start - 1);
    },
  };
}
