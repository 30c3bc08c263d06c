/** What stands around an answer: colours, progress, gaps. */
import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import { afterEach, mock, test } from "node:test";
import { printAnswer } from "../../src/cli/history/answer.js";
import { type OutputRow, textOutput } from "../../src/cli/history/connection-output.js";
import { Terminal } from "../../src/cli/process/terminal.js";
import type { Connection, Gap, HistoryAnswer } from "../../src/history/connection.js";
import { NOON_MS, tcpConnection } from "../support/connections.js";

afterEach(() => mock.timers.reset());

class Screen {
  readonly out = new PassThrough();
  readonly err = new PassThrough();
  readonly terminal: Terminal;

  constructor(isTTY: boolean) {
    for (const stream of [this.out, this.err]) Object.assign(stream, { isTTY });
    const [out, err] = [this.out, this.err] as unknown as [NodeJS.WriteStream, NodeJS.WriteStream];
    this.terminal = new Terminal(out, err);
  }

  texts(): [out: string, err: string] {
    return [this.out, this.err].map((stream) => String(stream.read() ?? "")) as [string, string];
  }
}

function answerOf(connections: AsyncIterable<readonly Connection[]>, gaps: readonly Gap[] = []): HistoryAnswer {
  const progress = { messages: 30, events: 1_234_567, messagesTotal: 120, timeMs: NOON_MS + 250, malformed: 0 };
  return { connections, gaps: () => gaps, progress: () => progress };
}

async function* batches(...list: readonly (readonly Connection[])[]): AsyncGenerator<readonly Connection[]> {
  yield* list;
}

function print(screen: Screen, answer: HistoryAnswer): Promise<unknown> {
  const output = textOutput("table", { untilMs: NOON_MS, changes: false, head: {} }, screen.terminal);
  return printAnswer(answer, output, screen.terminal);
}

test("colours on a terminal, unless NO_COLOR is set", async () => {
  const before = process.env.NO_COLOR;
  delete process.env.NO_COLOR;
  try {
    const screen = new Screen(true);
    await print(screen, answerOf(batches([tcpConnection({})])));
    assert.ok(screen.texts()[0].startsWith("\u001b[1mSTART\u001b[0m"));
    const file = new Screen(false);
    await print(file, answerOf(batches([tcpConnection({})])));
    assert.ok(file.texts()[0].startsWith("START "));
    process.env.NO_COLOR = "1";
    assert.equal(screen.terminal.colours, false);
  } finally {
    if (before === undefined) delete process.env.NO_COLOR;
    else process.env.NO_COLOR = before;
  }
});

test("a long scan shows its progress on a terminal, in a line that goes away", async () => {
  mock.timers.enable({ apis: ["setInterval"] });
  mock.method(performance, "now", () => clock);
  let clock = 0;
  const screens = [new Screen(true), new Screen(false)];
  for (const screen of screens) {
    clock = 0;
    async function* slow(): AsyncGenerator<readonly Connection[]> {
      mock.timers.tick(250);
      clock = 1000;
      mock.timers.tick(250);
      yield [];
    }
    await print(screen, answerOf(slow()));
  }
  mock.restoreAll();
  const [watched, piped] = screens.map((screen) => screen.texts());
  assert.deepEqual(watched, ["", "\r\u001b[K25 %, 1,234,567 events read, at 2026-01-31T12:00:00Z\r\u001b[K\r\u001b[K"]);
  assert.deepEqual(piped, ["", ""]);
});

test("a long reading of the archive shows its files until all are read", async () => {
  mock.timers.enable({ apis: ["setInterval"] });
  const screen = new Screen(true);
  let archive = { files: 2, filesTotal: 12 };
  async function* slow(): AsyncGenerator<readonly Connection[]> {
    for (let ms = 0; ms < 2000; ms += 250) mock.timers.tick(250);
    archive = { files: 12, filesTotal: 12 };
    mock.timers.tick(250);
    yield [];
  }
  let clock = 0;
  mock.method(performance, "now", () => {
    clock += 250;
    return clock;
  });
  const answer = answerOf(slow());
  await print(screen, { ...answer, progress: () => ({ ...answer.progress(), archive }) });
  mock.restoreAll();
  const lines = screen
    .texts()[1]
    .split("\r")
    .map((line) => line.replace("\u001b[K", ""));
  assert.ok(lines.includes("file 3 of 12 of the archive"));
  assert.deepEqual(
    lines.filter((line) => line.startsWith("25 %")),
    ["25 %, 1,234,567 events read, at 2026-01-31T12:00:00Z"],
  );
});

test("gaps are lines, many alike are one, up to a bound", async () => {
  const screen = new Screen(false);
  const gap: Gap = { node: "fw2", fromMs: NOON_MS, untilMs: NOON_MS + 1000, reason: "overrun", events: 1 };
  const alike = Array.from({ length: 10 }, (_, i) => ({ ...gap, untilMs: NOON_MS + 1000 * (i + 1) }));
  const others = Array.from({ length: 9 }, (_, i) => ({ ...gap, reason: `reason ${i}` }));
  await print(screen, answerOf(batches([]), [...alike, ...others]));
  const lines = screen.texts()[1].trimEnd().split("\n");
  const until = "until 2026-01-31T12:00:01Z (1 event)";
  const begin = "conntrail: events of fw2 may be missing";
  assert.deepEqual(lines, [
    `${begin} in 10 stretches from 2026-01-31T12:00:00Z until 2026-01-31T12:00:10Z (10 events): overrun; --json lists them`,
    ...Array.from({ length: 7 }, (_, i) => `${begin} from 2026-01-31T12:00:00Z ${until}: reason ${i}`),
    "conntrail: and 2 more gaps; --json lists them all",
  ]);
});

test("nothing but rows is held: each batch is written before the next is asked for", async () => {
  const screen = new Screen(false);
  const order: string[] = [];
  async function* asked(): AsyncGenerator<readonly Connection[]> {
    for (const uid of ["C1", "C2"]) {
      order.push(`asked ${uid}`);
      yield [tcpConnection({}, { uid })];
    }
  }
  const output = {
    marksDoubt: false,
    takesEndsOnce: false,
    write: async (rows: readonly OutputRow[]) => void order.push(`wrote ${rows[0]?.connection.uid}`),
    flush: async () => {},
    end: async () => void order.push("end"),
  };
  await printAnswer(answerOf(asked()), output, screen.terminal);
  assert.deepEqual(order, ["asked C1", "wrote C1", "asked C2", "wrote C2", "end"]);
});
