import { RequestBatch } from "../../src/ctnetlink/encode.js";
import {
  EVENT_DESTROY,
  EVENT_NEW,
  EVENT_UPDATE,
  type EventKind,
  type EventSink,
} from "../../src/ctnetlink/event-socket.js";
import type { BatchResult, DumpResult } from "../../src/ctnetlink/request-socket.js";
import { type DecodedFlow, W_MARK, W_PROTOINFO, W_STATUS, W_TIMEOUT } from "../../src/flow/record.js";
import type { InjectorKernel, KernelEvents, KernelTable } from "../../src/sync/ports/kernel.js";
import { type Answer, type Request, requestsOf, type SimKernel } from "./sim-kernel.js";

/** The ways between a daemon and its kernel and broker. Each keeps its own order. */
export type Way = "events" | "requests" | "dump" | "publish";

/** How long each step takes, and how much is handled at once. */
export interface Wire {
  /** Runs a step, now or later. */
  pass(way: Way, step: () => void): void;
  /** How many of `count` are handled at once; at least 1. */
  portion(count: number): number;
  /** Something happens to a flow between the daemon and its kernel: `text` says what. */
  note?(words: Uint32Array, text: string): void;
}

/** Runs everything at once, as if the kernel did nothing else meanwhile. */
export const AT_ONCE: Wire = { pass: (_way, step) => step(), portion: (count) => count };

const EVENT_NAMES: Readonly<Record<EventKind, string>> = {
  [EVENT_NEW]: "new",
  [EVENT_UPDATE]: "update",
  [EVENT_DESTROY]: "destroy",
};

interface KernelEvent {
  readonly kind: EventKind;
  readonly flow: DecodedFlow;
  readonly portId: number;
}

/**
 * A daemon's sockets to a SimKernel. Events wait until they are read. A batch is carried out in portions and answered
 * later. Each part of a dump is filled when the part before it is read.
 */
export class SimSockets implements KernelTable, KernelEvents, InjectorKernel {
  readonly portId: number;
  /** How the next dump ends. */
  nextDump: "whole" | "interrupted" | "failed" = "whole";
  /** How many of the next events do not fit the buffer. */
  overflows = 0;
  readonly #kernel: SimKernel;
  readonly #wire: Wire;
  /** Null before `listen`. */
  #sink: EventSink | null = null;
  /** The port of the requests whose events are dropped, except the ends of flows. */
  #mutedPort = 0;
  #events: KernelEvent[] = [];
  #isDue = false;
  #hasOverrun = false;
  #hearsNew = true;
  #closed = false;

  constructor(kernel: SimKernel, options: { portId: number; wire: Wire }) {
    this.#kernel = kernel;
    this.portId = options.portId;
    this.#wire = options.wire;
  }

  listen(sink: EventSink): void {
    this.#sink = sink;
    this.#kernel.listener = (kind, flow, portId) => this.#queue({ kind, flow, portId });
  }

  mute(portId: number): void {
    this.#mutedPort = portId;
  }

  /** The daemon is gone. The kernel still carries out what it has sent. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#kernel.listener = null;
  }

  growBuffer(): boolean {
    return false;
  }

  hearNew(on: boolean): void {
    this.#hearsNew = on;
  }

  readNow(): boolean {
    this.#read();
    return this.#events.length > 0;
  }

  dump(_options: object, visit: (flow: DecodedFlow) => void): Promise<DumpResult> {
    const listing = this.#kernel.list();
    listing.next(0);
    const result = { count: 0, malformed: 0, interrupted: this.nextDump === "interrupted" };
    const fails = this.nextDump === "failed";
    this.nextDump = "whole";
    const fill = (): IteratorResult<DecodedFlow[], void> =>
      listing.next(this.#wire.portion(this.#kernel.flows.size + 1));
    return new Promise((resolve, reject) => {
      const read = (part: IteratorResult<DecodedFlow[], void>): void => {
        if (this.#closed) return;
        if (part.done === true) {
          resolve(result);
          return;
        }
        for (const flow of part.value) {
          this.#note(flow, "dump lists");
          visit(flow);
        }
        result.count += part.value.length;
        const next = fill();
        if (fails && next.done !== true) reject(new Error("the kernel falls silent"));
        else this.#wire.pass("dump", () => read(next));
      };
      const first = fill();
      this.#wire.pass("dump", () => read(first));
    });
  }

  /** The simulated kernel has no helpers. */
  async dumpExpectations(): Promise<DumpResult> {
    return { count: 0, malformed: 0, interrupted: false };
  }

  async get(words: Uint32Array, base: number): Promise<DecodedFlow | null> {
    const batch = new RequestBatch(0);
    batch.get(words, base);
    let found: DecodedFlow | null = null;
    await this.#send(batch, (_index, flow) => {
      found = flow;
    });
    return found;
  }

  async send(batch: RequestBatch): Promise<BatchResult> {
    return this.#send(batch, () => undefined);
  }

  async getAll(batch: RequestBatch, visit: (index: number, flow: DecodedFlow) => void): Promise<BatchResult> {
    return this.#send(batch, visit);
  }

  #send(batch: RequestBatch, visit: (index: number, flow: DecodedFlow) => void): Promise<BatchResult> {
    const requests = requestsOf(batch.bytes(this.portId, 1));
    const answers: Answer[] = [];
    return new Promise((resolve) => {
      if (this.#closed) return;
      const work = (): void => {
        const end = answers.length + this.#wire.portion(requests.length - answers.length);
        while (answers.length < end) answers.push(this.#request(requests[answers.length]!));
        this.#wire.pass("requests", answers.length < requests.length ? work : done);
      };
      const done = (): void => {
        if (this.#closed) return;
        for (const [index, { flow }] of answers.entries()) if (flow !== null) visit(index, flow);
        const errors = answers.flatMap(({ errno }, index) => (errno === 0 ? [] : [{ index, errno }]));
        resolve({ sent: requests.length, errors, unknown: 0 });
      };
      this.#wire.pass("requests", requests.length === 0 ? done : work);
    });
  }

  #request(request: Request): Answer {
    const answer = this.#kernel.request(request, this.portId);
    this.#note(answer.flow ?? request.flow, `${request.type}, errno ${answer.errno}`);
    return answer;
  }

  #note({ words }: DecodedFlow, what: string): void {
    if (this.#wire.note === undefined) return;
    const [state, status, timeout] = [words[W_PROTOINFO]! & 0xff, words[W_STATUS]!, words[W_TIMEOUT]!];
    this.#wire.note(
      words,
      `${what}: state ${state}, status ${status.toString(16)}, mark ${words[W_MARK]}, ${timeout} s`,
    );
  }

  #queue(event: KernelEvent): void {
    if (!this.#hearsNew && event.kind === EVENT_NEW) return;
    if (event.portId !== 0 && event.portId === this.#mutedPort && event.kind !== EVENT_DESTROY) return;
    if (this.overflows > 0) {
      this.overflows--;
      this.#hasOverrun = true;
    } else this.#events.push(event);
    if (this.#isDue) return;
    this.#isDue = true;
    this.#wire.pass("events", () => {
      this.#isDue = false;
      if (!this.#closed) this.#read();
    });
  }

  #read(): void {
    const sink = this.#sink;
    if (sink === null) return;
    if (this.#hasOverrun) sink.onOverrun();
    else if (this.#events.length === 0) return;
    this.#hasOverrun = false;
    const events = this.#events.splice(0, this.#events.length === 0 ? 0 : this.#wire.portion(this.#events.length));
    for (const { kind, flow, portId } of events) {
      this.#note(flow, `reads event ${EVENT_NAMES[kind]}${portId === 0 ? "" : ` of port ${portId}`}`);
      sink.onEvent(kind, flow, portId);
    }
    const more = this.#events.length > 0;
    sink.onDrained(events.length, more);
    if (!more || this.#isDue) return;
    this.#isDue = true;
    this.#wire.pass("events", () => {
      this.#isDue = false;
      if (!this.#closed) this.#read();
    });
  }
}
