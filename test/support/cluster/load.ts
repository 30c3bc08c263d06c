import { setTimeout as delay } from "node:timers/promises";
import { RequestBatch } from "../../../src/ctnetlink/encode.js";
import { BATCH_MESSAGES, type RequestSocket } from "../../../src/ctnetlink/request-socket.js";
import { RECORD_WORDS } from "../../../src/flow/record.js";
import { errnoName } from "../../../src/os/errno.js";
import { Random } from "../records.js";
import type { BulkOperation, LoadOptions, LoadTruth } from "./agent-protocol.js";
import { writeTestFlow } from "./flows.js";

const TICK_MS = 5;
/** A load that was held up does not catch up at once with more than this. */
const OPERATIONS_PER_TICK_MAX = 1024;
const ENCODE = { timeoutSeconds: 86_400, liberal: false };

type Operation = BulkOperation["type"];

/** Sends requests about test flows in batches, and counts what the kernel refuses. */
class FlowWriter {
  readonly refused: Record<string, number> = {};
  readonly #socket: RequestSocket;
  readonly #batch = new RequestBatch();
  readonly #words = new Uint32Array(RECORD_WORDS);

  readonly #batchMax: number;

  constructor(socket: RequestSocket, batchMax = BATCH_MESSAGES) {
    this.#socket = socket;
    this.#batchMax = batchMax;
  }

  get full(): boolean {
    return this.#batch.count >= this.#batchMax;
  }

  add(operation: Operation, range: number, index: number, mark: number): void {
    const words = this.#words;
    writeTestFlow(words, range, index, mark);
    const taken =
      operation === "create"
        ? this.#batch.create(words, 0, null, ENCODE)
        : operation === "update"
          ? this.#batch.update(words, 0, null, ENCODE)
          : this.#batch.delete(words, 0);
    if (!taken) throw new Error("a batch of the load is larger than its buffer");
  }

  async send(): Promise<void> {
    if (this.#batch.count === 0) return;
    const { errors, unknown } = await this.#socket.send(this.#batch);
    this.#batch.reset();
    for (const { errno } of errors) this.#count(errnoName(errno), 1);
    if (unknown > 0) this.#count("unknown", unknown);
  }

  #count(reason: string, by: number): void {
    this.refused[reason] = (this.refused[reason] ?? 0) + by;
  }
}

/**
 * Makes, changes and destroys the flows of one range at a steady pace, a tuple that ended often coming again, and knows
 * what the kernel must hold.
 */
export class Load {
  operations = 0;
  readonly #options: LoadOptions;
  readonly #random: Random;
  readonly #writer: FlowWriter;
  /** The mark of each flow; 0: it is not there. */
  readonly #marks: Uint32Array;
  readonly #touched = new Set<number>();
  readonly #running: Promise<void>;
  #stopped = false;
  #mark = 0;

  constructor(socket: RequestSocket, options: LoadOptions) {
    this.#options = options;
    this.#random = new Random(options.seed);
    this.#writer = new FlowWriter(socket, options.batchMax);
    this.#marks = new Uint32Array(options.flowsMax);
    const { alive = [], marks = [] } = options.goesOnFrom ?? {};
    for (const [at, index] of alive.entries()) this.#marks[index] = marks[at]!;
    this.#mark = Math.max(0, ...marks);
    this.#running = this.#run();
    // Told to whoever stops it.
    this.#running.catch(() => undefined);
  }

  async stop(): Promise<LoadTruth> {
    this.#stopped = true;
    await this.#running;
    const alive = Uint32Array.from([...this.#marks.keys()].filter((index) => this.#marks[index] !== 0));
    return {
      operations: this.operations,
      refused: this.#writer.refused,
      alive,
      marks: alive.map((index) => this.#marks[index]!),
      touched: Uint32Array.from(this.#touched),
    };
  }

  async #run(): Promise<void> {
    const started = performance.now();
    let skipped = 0;
    while (!this.#stopped) {
      const due = ((performance.now() - started) / 1000) * this.#options.operationsPerSecond - skipped;
      const behind = Math.floor(due) - this.operations;
      const now = Math.min(behind, OPERATIONS_PER_TICK_MAX);
      skipped += behind - now;
      for (let i = 0; i < now; i++) {
        this.#addOne();
        if (this.#writer.full) await this.#writer.send();
      }
      await this.#writer.send();
      this.operations += now;
      await delay(TICK_MS);
    }
  }

  #addOne(): void {
    const { range, flowsMax } = this.#options;
    const index = this.#random.below(flowsMax);
    const isThere = this.#marks[index] !== 0;
    const operation = !isThere ? "create" : this.#random.oneIn(2) ? "update" : "destroy";
    const mark = operation === "destroy" ? 0 : ++this.#mark;
    this.#marks[index] = mark;
    if (mark !== 0) this.#touched.add(index);
    this.#writer.add(operation, range, index, mark);
  }
}

/** Works through the operations as fast as the kernel takes them; gives what was refused, by reason. */
export async function applyBulk(
  socket: RequestSocket,
  operations: readonly BulkOperation[],
): Promise<Readonly<Record<string, number>>> {
  const writer = new FlowWriter(socket);
  for (const { type, range, from, count, mark = 1 } of operations) {
    for (let index = from; index < from + count; index++) {
      writer.add(type, range, index, mark);
      if (writer.full) await writer.send();
    }
  }
  await writer.send();
  return writer.refused;
}
