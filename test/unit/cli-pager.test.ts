/** Long output in a pager. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { afterEach, test } from "node:test";
import { paged } from "../../src/cli/process/pager.js";
import { OutputClosed, Terminal } from "../../src/cli/process/terminal.js";
import { temporaryDirectory } from "../support/nats-server.js";

const { CONNTRAIL_PAGER } = process.env;

afterEach(() => {
  if (CONNTRAIL_PAGER === undefined) delete process.env.CONNTRAIL_PAGER;
  else process.env.CONNTRAIL_PAGER = CONNTRAIL_PAGER;
});

function screen(isTTY: boolean): { terminal: Terminal; texts(): [out: string, err: string] } {
  const [out, err] = [new PassThrough(), new PassThrough()];
  for (const stream of [out, err]) Object.assign(stream, { isTTY, columns: 80 });
  const terminal = new Terminal(out as unknown as NodeJS.WriteStream, err as unknown as NodeJS.WriteStream);
  return { terminal, texts: () => [String(out.read() ?? ""), String(err.read() ?? "")] };
}

test("the output goes to the pager, and what is said comes after it", async () => {
  await using directory = await temporaryDirectory();
  const file = join(directory.path, "paged");
  process.env.CONNTRAIL_PAGER = `cat >${file}`;
  const { terminal, texts } = screen(true);
  assert.equal(terminal.columns, 80);
  await paged(terminal, async () => {
    await terminal.write("a line\n");
    terminal.complain("said later");
    assert.deepEqual([texts(), terminal.watched], [["", ""], false]);
  });
  assert.equal(readFileSync(file, "utf8"), "a line\n");
  assert.deepEqual(texts(), ["", "conntrail: said later\n"]);
  await terminal.write("behind it\n");
  assert.equal(texts()[0], "behind it\n");
});

test("whoever leaves the pager ends the output", async () => {
  process.env.CONNTRAIL_PAGER = "true";
  const { terminal } = screen(true);
  const endless = async (): Promise<void> => {
    for (;;) await terminal.write("a line\n");
  };
  await assert.rejects(paged(terminal, endless), OutputClosed);
  assert.ok(terminal.closed.aborted);
});

test("no pager: no terminal, none wanted, none installed", async () => {
  for (const [isTTY, pager] of [
    [false, "cat >/dev/null"],
    [true, ""],
    [true, "cat"],
    [true, "no-such-pager --with-options"],
  ] as const) {
    process.env.CONNTRAIL_PAGER = pager;
    const { terminal, texts } = screen(isTTY);
    await paged(terminal, () => terminal.write("a line\n"));
    assert.deepEqual(texts(), ["a line\n", ""], pager);
    assert.equal(terminal.columns, isTTY ? 80 : null);
  }
});
