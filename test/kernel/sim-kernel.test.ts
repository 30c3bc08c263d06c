/** The simulator's kernel answers, lists and tells of flows as the real one does. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { RequestBatch } from "../../src/ctnetlink/encode.js";
import { type EventKind, EventSocket } from "../../src/ctnetlink/event-socket.js";
import { type BatchResult, type DumpResult, RequestSocket } from "../../src/ctnetlink/request-socket.js";
import {
  type DecodedFlow,
  W_HAS,
  W_MARK,
  W_ORIG_DST,
  W_ORIG_L4,
  W_ORIG_SRC,
  W_PROTO,
  W_PROTOINFO,
  W_REPLY_DST,
  W_REPLY_L4,
  W_REPLY_SRC,
  W_STATUS,
  W_TIMEOUT,
} from "../../src/flow/record.js";
import { KernelNamespace, kernelAvailable, waitUntil } from "../support/kernel-namespace.js";
import { Random } from "../support/records.js";
import { SimKernel } from "../support/sim-kernel.js";
import { AT_ONCE, SimSockets } from "../support/sim-sockets.js";
import { record } from "../support/sim-traffic.js";

const skip = kernelAvailable() ?? false;
const FLOWS = 12;
const BATCHES = 40;
const REQUESTS = 20;
const STATUSES = [0, 2, 6];
const MARKS = 3;

/** What both kernels can be asked. */
interface Requests {
  send(batch: RequestBatch): Promise<BatchResult>;
  getAll(batch: RequestBatch, visit: (index: number, flow: DecodedFlow) => void): Promise<BatchResult>;
  dump(options: object, visit: (flow: DecodedFlow) => void): Promise<DumpResult>;
}

/** Notes events until it is asked for them. */
class Notes {
  events: string[] = [];

  onEvent(kind: EventKind, flow: DecodedFlow, portId: number): void {
    this.events.push(`${kind} ${portId === 0 ? "packets" : "request"} ${text(flow, false)}`);
  }

  onMalformed(): void {
    this.events.push("malformed");
  }

  onOverrun(): void {
    this.events.push("overrun");
  }

  onDrained(): void {}
}

/** Whatever of a flow does not depend on who it was made by; its time in steps of ten seconds. */
function text({ words }: DecodedFlow, withTime: boolean): string {
  const shown = [W_PROTO, W_ORIG_SRC, W_ORIG_DST, W_ORIG_L4, W_REPLY_SRC, W_REPLY_DST, W_REPLY_L4].map((i) => words[i]);
  const state = words[W_PROTOINFO]! & 0xff;
  const time = withTime ? Math.ceil(words[W_TIMEOUT]! / 10) : "";
  return `${shown} ${words[W_STATUS]} ${state} ${words[W_MARK]} ${words[W_HAS]} ${time}`;
}

async function told(requests: Requests): Promise<string[]> {
  const flows: string[] = [];
  await requests.dump({}, (flow) => flows.push(text(flow, true)));
  return flows.sort();
}

/** One kind of request for some flows, in whatever state; the same for each kernel. */
function fill(batch: RequestBatch, random: Random): "change" | "get" {
  const isGet = random.oneIn(4);
  batch.reset();
  for (let i = 0; i < REQUESTS; i++) {
    const words = record(random.below(FLOWS), { index: random.below(2) }, random.below(3));
    // The reply tuple of another flow, so that one of the two is refused.
    if (random.oneIn(8)) words[W_REPLY_L4] = record(1, { index: 0 }, 1)[W_REPLY_L4]!;
    // As an original tuple, the reply of another: it is found by that.
    const isTurned = random.oneIn(8);
    if (isTurned) turn(words);
    words[W_STATUS] = random.pick(STATUSES);
    words[W_MARK] = random.below(MARKS);
    if (words[W_PROTOINFO] !== 0) words[W_PROTOINFO] = 1 + random.below(8);
    const options = { timeoutSeconds: 100 * (1 + random.below(5)), liberal: true };
    const choice = isTurned ? 2 + random.below(3) : random.below(5);
    if (isGet) batch.get(words, 0);
    else if (choice < 2) batch.create(words, 0, null, options);
    else if (choice < 4) batch.update(words, 0, null, options);
    else batch.delete(words, 0);
  }
  return isGet ? "get" : "change";
}

function turn(words: Uint32Array): void {
  for (const [a, b] of [
    [W_ORIG_SRC, W_REPLY_SRC],
    [W_ORIG_DST, W_REPLY_DST],
    [W_ORIG_L4, W_REPLY_L4],
  ] as const) {
    [words[a], words[b]] = [words[b]!, words[a]!];
  }
}

for (const seed of [1, 2, 3, 4]) {
  test(`the simulator's kernel does what the real one does (seed ${seed})`, { skip }, async () => {
    await using namespace = await KernelNamespace.create();
    const real = namespace.run(() => new RequestSocket());
    const realNotes = new Notes();
    const events = namespace.run(() => new EventSocket({ gatherMs: 0 }));
    events.listen(realNotes);
    const simNotes = new Notes();
    const sim = new SimSockets(new SimKernel(0), { portId: 1, wire: AT_ONCE });
    sim.listen(simNotes);
    const kernels: Requests[] = [
      {
        send: (batch) => real.send(batch),
        getAll: (...of) => real.getAll(...of),
        dump: (options, visit) => real.dump(options, visit),
      },
      sim,
    ];
    const [random, batch] = [new Random(seed), new RequestBatch()];
    for (let i = 0; i < BATCHES; i++) {
      const kind = fill(batch, random);
      const answers: unknown[] = [];
      for (const kernel of kernels) {
        const found: string[] = [];
        const visit = (index: number, flow: DecodedFlow): number => found.push(`${index} ${text(flow, true)}`);
        const { errors } = kind === "get" ? await kernel.getAll(batch, visit) : await kernel.send(batch);
        answers.push({ errors, found });
      }
      assert.deepEqual(answers[1], answers[0], `batch ${i}`);
      assert.deepEqual(await told(sim), await told(kernels[0]!), `after batch ${i}`);
      await waitUntil(() => realNotes.events.length >= simNotes.events.length, `the events of batch ${i}`);
      assert.deepEqual(simNotes.events.splice(0), realNotes.events.splice(0), `events of batch ${i}`);
    }
    real.close();
    await events.close();
  });
}
