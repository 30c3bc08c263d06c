import assert from "node:assert/strict";
import { PassThrough } from "node:stream";
import { describe, it } from "node:test";
import { Terminal } from "../../src/cli/process/terminal.js";
import { formatTop, rates, type TopSample } from "../../src/cli/top.js";
import { STATUS } from "../support/control-handlers.js";

const BEFORE: TopSample = {
  atMs: 1000,
  status: STATUS,
  stats: {
    events: { eventsReceived: 100 },
    publisher: { messages: 50, bytes: 1000 },
    "reader.fw2": { rows: 10, bytes: 0 },
  },
  hosts: [],
};
const NOW: TopSample = {
  ...BEFORE,
  atMs: 3000,
  stats: {
    events: { eventsReceived: 2100 },
    publisher: { messages: 51, bytes: 41_000 },
    "reader.fw2": { rows: 30, bytes: 3_000_000 },
  },
  hosts: [
    { host: "10.0.0.12", flows: 40 },
    { host: "2001:db8::1", flows: 2 },
  ],
};

describe("top", () => {
  it("has rates of what has grown, and none below 0 after a restart", () => {
    const found = rates(NOW, BEFORE);
    assert.deepEqual(
      [found.eventsPerSecond, found.publishedPerSecond, found.publishedBytesPerSecond, found.peers.fw2],
      [1000, 0.5, 20_000, { rowsPerSecond: 10, bytesPerSecond: 1_500_000 }],
    );
    assert.equal(rates({ ...BEFORE, atMs: 5000 }, NOW).eventsPerSecond, 0);
  });

  it("shows the node, its peers with why they are not in sync, and the busiest hosts", () => {
    const text = formatTop(NOW, BEFORE);
    for (const line of [
      /^node +fw1 of cluster edge$/m,
      /^kernel +3 of 262144 entries \(0\.0 %\), 1000 events\/s$/m,
      /^published +0\.5 messages\/s, 20\.0 kB\/s$/m,
      /^fw2 +backup +yes +0 +1 ms +10 +1\.5 MB +2 +\+2 ms$/m,
      /^fw3: its broker at 10\.77\.0\.3 does not answer$/m,
      /^10\.0\.0\.12 +40$/m,
    ]) {
      assert.match(text, line);
    }
    assert.match(formatTop({ ...NOW, hosts: null }, BEFORE), /more than 200000 flows/);
  });

  it("fits on the screen, and passes nothing on that a terminal would act upon", async () => {
    const out = Object.assign(new PassThrough(), { isTTY: true, columns: 10, rows: 4 });
    const terminal = new Terminal(
      out as unknown as NodeJS.WriteStream,
      new PassThrough() as unknown as NodeJS.WriteStream,
    );
    assert.equal(terminal.isTerminal, true);
    await terminal.screen("0123456789abc\n\u001b[2Jx\nthird\nfourth\nfifth\n");
    const written = String(out.read());
    assert.equal(written, "\u001b[H0123456789\u001b[K\n\\u001b[2Jx\u001b[K\nthird\u001b[K\u001b[J");
  });
});
