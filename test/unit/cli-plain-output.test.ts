/** Whatever text comes from outside, no output makes a terminal act, hides or turns text, or gets a line more than it has. */
import assert from "node:assert/strict";
import { Writable } from "node:stream";
import { describe, it } from "node:test";
import fc from "fast-check";
import { pino } from "pino";
import { printGaps } from "../../src/cli/history/answer.js";
import { TEXT_FORMATS, textOutput } from "../../src/cli/history/connection-output.js";
import { formatWho } from "../../src/cli/history/who.js";
import { formatLogLine, formatLogText, parseLogEntry } from "../../src/cli/process/log-line.js";
import { Terminal } from "../../src/cli/process/terminal.js";
import { formatStatus } from "../../src/cli/status.js";
import { recordFromFlow } from "../../src/flow/flow.js";
import { formatConntrack, formatXml } from "../../src/flow/format.js";
import { plainLines, plainText } from "../../src/flow/plain-text.js";
import { csvCell } from "../../src/history/format/csv.js";
import { whoAnswer } from "../../src/history/who-answer.js";
import { envelopeOf } from "../../src/stream/format/envelope.js";
import { decodeHeartbeat } from "../../src/stream/format/heartbeat.js";
import { MarkCodec } from "../../src/stream/format/mark.js";
import { unpackRare } from "../../src/stream/format/rare.js";
import { tcpConnection } from "../support/connections.js";
import { STATUS } from "../support/control-handlers.js";

/** Texts that end a line, move the cursor, set the window's title, turn what follows around, or are cut in halves. */
const NASTY = [
  ...[
    "\u001b[2J",
    "\u001b[8m",
    "\u001b]0;x\u0007",
    "\u009b31m",
    "\u0090q\u009c",
    "\r",
    "\n",
    "\r\n",
    "\u2028",
    "\u2029",
    "\u0085",
  ],
  ...[
    "\u202e",
    "\u2066",
    "\u200f",
    "\u061c",
    "\ud800",
    "\udc00",
    "\u0000",
    "\u007f",
    "\u00ad",
    "\ufeff",
    "\u{e0041}",
    "\u001b[32m",
  ],
  ...["a", ",", '"', "<&>", "\t"],
];
const nasty = fc.array(fc.constantFrom(...NASTY), { minLength: 1, maxLength: 6 }).map((parts) => parts.join(""));
const HIDDEN = /[\p{Cf}\p{Cs}\p{Zl}\p{Zp}]|[^\P{Cc}\n\r\t]/u;

/** A terminal whose output the test reads. */
function screen(isTTY: boolean) {
  let text = "";
  const stream = (): NodeJS.WriteStream =>
    Object.assign(
      new Writable({
        decodeStrings: false,
        write: (chunk: string, _, done) => {
          text += chunk;
          done();
        },
      }),
      { isTTY },
    ) as unknown as NodeJS.WriteStream;
  return { terminal: new Terminal(stream(), stream()), text: () => text };
}

/** All that conntrail prints of a text from outside, on a terminal or into a file. */
async function outputsOf(said: string, isTTY: boolean): Promise<string[]> {
  const printed: string[] = [];
  const show = async (print: (terminal: Terminal) => unknown): Promise<void> => {
    const { terminal, text } = screen(isTTY);
    await print(terminal);
    printed.push(text());
  };
  const connection = tcpConnection({ helper: said, secctx: said }, { path: [{ node: said, sinceMs: 0 }], uid: "C1" });
  for (const format of TEXT_FORMATS) {
    await show(async (terminal) => {
      const output = textOutput(format, { changes: false, untilMs: null, head: {} } as never, terminal);
      await output.write([{ connection }]);
      await output.end([{ node: said, fromMs: null, untilMs: null, reason: said, events: null }]);
    });
  }
  const { words } = recordFromFlow({ ...tcpConnectionFlow(), helper: "ftp" });
  const rare = { helper: said, secctx: said };
  await show((terminal) =>
    terminal.line(formatConntrack(words, 0, rare, { activeSeconds: 1, timeout: true } as never)),
  );
  await show((terminal) => terminal.line(formatXml(words, 0, rare, { timeout: true } as never)));
  await show((terminal) =>
    terminal.write(formatWho([{ ...whoAnswer(connection, "203.0.113.1", 61_000), connection }])),
  );
  await show((terminal) => printGaps([{ node: said, fromMs: 0, untilMs: 1, reason: said, events: 1 }], terminal));
  await show((terminal) => terminal.write(`${csvCell(said)}\n`));
  await show((terminal) => terminal.complain(said));
  await show((terminal) => terminal.progress(said));
  const [peer] = STATUS.peers;
  const broker = { ...STATUS.broker, version: said, state: said };
  const hook = { group: "", role: "primary", saidMs: 0, state: "failed", error: said } as const;
  const status = {
    ...STATUS,
    reason: said,
    warnings: [said],
    broker,
    peers: [{ ...peer!, reason: said, node: said }],
    hooks: [hook],
  };
  await show((terminal) => terminal.write(formatStatus(status)));
  await show((terminal) => terminal.json(status));
  let line = "";
  const logger = pino({ hooks: { streamWrite: plainLines } }, { write: (text: string) => (line = text) });
  logger.warn({ said }, said);
  printed.push(line, formatLogLine(line), formatLogText(parseLogEntry(line)!));
  return printed;
}

function tcpConnectionFlow() {
  return {
    family: "ipv4" as const,
    protocol: "tcp",
    orig: { src: "10.0.0.1", dst: "10.0.0.2", sport: 1, dport: 2 },
    reply: { src: "10.0.0.2", dst: "10.0.0.1", sport: 2, dport: 1 },
    status: [],
  };
}

/** Without colours of a table. */
function withoutColours(text: string): string {
  return ["0", "1", "32", "33"].reduce((rest, code) => rest.replaceAll(`\u001b[${code}m`, ""), text);
}

describe("text from outside", () => {
  for (const isTTY of [true, false]) {
    it(`is shown as text in every output ${isTTY ? "on a terminal" : "into a file"}`, async () => {
      const plain = await outputsOf("a", isTTY);
      await fc.assert(
        fc.asyncProperty(nasty, async (said) => {
          const outputs = await outputsOf(said, isTTY);
          for (const [i, output] of outputs.entries()) {
            const text = isTTY ? withoutColours(output) : output;
            assert.doesNotMatch(text.replaceAll("\r\n", "\n"), /\r/);
            assert.doesNotMatch(text, HIDDEN, JSON.stringify(output));
            assert.equal(text.split("\n").length, plain[i]!.split("\n").length, JSON.stringify(output));
          }
        }),
        { numRuns: 60 },
      );
    });
  }

  it("is the same JSON when it is escaped, and colours pass only where a table has them", () => {
    fc.assert(
      fc.property(nasty, (said) => {
        assert.equal(JSON.parse(plainLines(JSON.stringify(said))), said);
        assert.doesNotMatch(plainText(said), /[\r\n]/);
      }),
    );
    assert.equal(plainLines("\u001b[32mopen\u001b[0m\n", true), "\u001b[32mopen\u001b[0m\n");
    assert.equal(plainLines("\u001b[32mopen\u001b[8m\n", true), "\u001b[32mopen\\u001b[8m\n");
    assert.equal(plainLines("\u001b[32mopen", false), "\\u001b[32mopen");
  });

  it("is refused by the decoders where it is to be a name, and escaped where it is a sentence", () => {
    const marks = new MarkCodec();
    const envelope = { node: "fw1", epoch: 1, number: 1, stamp: 1, wallMs: 1 };
    const beat = { conntrail: 1, cluster: "edge", node: "fw1", writes: 1, reads: [1], epoch: 1, number: 1, flows: 1 };
    fc.assert(
      fc.property(nasty, (said) => {
        assert.equal(envelopeOf({ o: said, e: 1, n: 1, h: 1, w: 1 }) !== null, /^[A-Za-z0-9_-]{1,32}$/.test(said));
        assert.equal(unpackRare({ helper: said }) !== null, /^[ -~]{1,15}$/.test(said));
        const mark = marks.decode(marks.encode(envelope, { type: "gap", reason: said }, 0))?.mark;
        assert.ok(mark?.type === "gap");
        assert.equal(mark.reason, plainText(mark.reason));
        const text = JSON.stringify({ ...beat, flowsAt: 1, wallMs: 1, role: "backup", trouble: said });
        assert.equal(decodeHeartbeat(Buffer.from(text))?.trouble, plainText(said));
      }),
    );
  });
});
