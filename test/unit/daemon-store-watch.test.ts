import assert from "node:assert/strict";
import { test } from "node:test";
import { pino } from "pino";
import { type DiskRoom, StoreWatch } from "../../src/daemon/store-watch.js";
import type { PublisherTrouble } from "../../src/stream/publisher-options.js";

const MIB = 1024 * 1024;

function setUp() {
  const lines: { level: number; msg: string }[] = [];
  const log = pino({ level: "debug" }, { write: (line: string) => lines.push(JSON.parse(line)) });
  const restarts: string[] = [];
  const state = {
    trouble: null as PublisherTrouble | null,
    copies: [] as PublisherTrouble[],
    room: { free: 900 * MIB, total: 1000 * MIB } as DiskRoom | null,
  };
  const watch = new StoreWatch({
    path: "/var/lib/conntrail",
    publisher: {
      get trouble() {
        return state.trouble;
      },
    },
    broker: { restart: (reason) => restarts.push(reason) },
    log,
    room: async () => state.room,
  });
  watch.watchCopies(() => state.copies);
  return { lines, restarts, state, watch };
}

/** Trouble that began so long ago. */
function since(ageMs: number): PublisherTrouble {
  return { text: "insufficient storage", sinceMs: performance.now() - ageMs, refused: true };
}

test("while all is well there is nothing to say, and nobody is restarted", async () => {
  const { watch, restarts, lines } = setUp();
  await watch.look();
  assert.equal(watch.trouble, null);
  assert.deepEqual([restarts, lines], [[], []]);
});

test("a moment of trouble is ordinary", async () => {
  const { watch, state } = setUp();
  state.trouble = since(1000);
  await watch.look();
  assert.equal(watch.trouble, null);
});

test("a full disk is called that, once, and the server is left alone", async () => {
  const { watch, state, restarts, lines } = setUp();
  state.trouble = since(60_000);
  state.room = { free: 0, total: 1000 * MIB };
  await watch.look();
  await watch.look();
  assert.match(watch.trouble ?? "", /^the disk of broker.store \/var\/lib\/conntrail is full \(0 of 1000 MiB free\)/);
  assert.equal(lines.filter(({ level }) => level === 50).length, 1);
  assert.deepEqual(restarts, []);
});

test("refused though the disk has room: the server is started again, and not again at once", async () => {
  const { watch, state, restarts } = setUp();
  state.trouble = since(4000);
  await watch.look();
  assert.deepEqual(restarts, [], "not yet");
  state.trouble = since(6000);
  await watch.look();
  await watch.look();
  assert.deepEqual(restarts, ["it takes no messages (insufficient storage), though the disk has room"]);
  assert.equal(watch.trouble, "insufficient storage");
});

test("a server that hangs refuses nothing: it is left to its supervisor", async () => {
  const { watch, state, restarts } = setUp();
  state.trouble = { ...since(60_000), text: "its broker does not confirm what it is sent", refused: false };
  await watch.look();
  assert.deepEqual(restarts, []);
  assert.equal(watch.trouble, "its broker does not confirm what it is sent");
});

test("a copy that is refused while the own stream is quiet: the server is started again, and the own stream has no trouble", async () => {
  const { watch, state, restarts } = setUp();
  state.copies = [{ ...since(60_000), text: "its broker is away", refused: false }, since(4000)];
  await watch.look();
  assert.deepEqual(restarts, [], "not yet");
  state.copies = [{ ...since(60_000), text: "its broker is away", refused: false }, since(6000)];
  await watch.look();
  await watch.look();
  assert.deepEqual(restarts, ["it takes no messages (insufficient storage), though the disk has room"]);
  assert.equal(watch.trouble, null);
});

test("a full disk is called that though only a copy is written", async () => {
  const { watch, state, restarts, lines } = setUp();
  state.copies = [since(60_000)];
  state.room = { free: 0, total: 1000 * MIB };
  await watch.look();
  assert.match(lines[0]?.msg ?? "", /^the disk of broker.store \/var\/lib\/conntrail is full/);
  state.copies = [];
  state.room = { free: 900 * MIB, total: 1000 * MIB };
  await watch.look();
  assert.equal(lines[1]?.msg, "the disk of broker.store has room again");
  assert.deepEqual(restarts, []);
});

test("where the room cannot be told nobody is restarted, and the broker's own words are shown", async () => {
  const { watch, state, restarts } = setUp();
  state.trouble = since(60_000);
  state.room = null;
  await watch.look();
  assert.deepEqual(restarts, []);
  assert.equal(watch.trouble, "insufficient storage");
});

test("a file system that is too small for the streams is named at the start", async () => {
  const { watch, lines } = setUp();
  await watch.start(2000 * MIB);
  watch.stop();
  assert.match(lines[0]?.msg ?? "", /lower broker.max_bytes/);
});
