/** Every line of the log has a stable name, and the journal gets it as text with its priority. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { closeSync, fstatSync, openSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { formatJournalLine } from "../../src/cli/process/journal.js";
import { eventOf, eventTexts } from "../../src/cli/process/log-events.js";
import { projectRoot } from "../../src/lab/process.js";
import { temporaryDirectory } from "../support/nats-server.js";

/** The arguments of each call that writes a line of level info or higher. */
function loggedCalls(): { file: string; args: string }[] {
  const calls: { file: string; args: string }[] = [];
  for (const path of readdirSync(join(projectRoot(), "src"), { recursive: true, encoding: "utf8" })) {
    if (!path.endsWith(".ts")) continue;
    const text = readFileSync(join(projectRoot(), "src", path), "utf8");
    for (const match of text.matchAll(/\b(?:#?log|logger)\??\.(?:info|warn|error|fatal)\(/g)) {
      const from = match.index + match[0].length;
      calls.push({ file: path, args: text.slice(from, endOfCall(text, from)) });
    }
  }
  return calls;
}

/** Where the parenthesis that is open at `from` closes, quotes and templates left out. */
function endOfCall(text: string, from: number): number {
  let depth = 1;
  let quote = "";
  for (let i = from; i < text.length; i++) {
    const char = text[i]!;
    if (quote !== "") {
      if (char === "\\") i++;
      else if (char === quote) quote = "";
    } else if (char === '"' || char === "`") quote = char;
    else if (char === "(") depth++;
    else if (char === ")" && --depth === 0) return i;
  }
  return text.length;
}

describe("the names of the log's lines", () => {
  it("are there for every text of the program; a text that is made up brings its own", () => {
    const used = new Set<string>();
    for (const { file, args } of loggedCalls()) {
      const text = /"((?:[^"\\]|\\.)*)"\s*,?\s*$/.exec(args)?.[1];
      if (text === undefined) assert.match(args, /\bevent\b|^err, text$/, `src/${file}: ${args}`);
      else assert.notEqual(eventOf(text), undefined, `src/${file}: "${text}" has no name in log-events.ts`);
      if (text !== undefined) used.add(text);
    }
    const idle = eventTexts().filter((text) => !used.has(text));
    assert.deepEqual(idle, [], "texts that nothing writes");
  });

  it("are unique, and of one form", () => {
    const names = eventTexts().map((text) => eventOf(text)!);
    assert.equal(new Set(names).size, names.length);
    for (const name of names) assert.match(name, /^[a-z]+\.[a-z]+(-[a-z]+)*$/);
  });
});

describe("the journal", () => {
  it("gets text with the priority of syslog in front and the name at the end", () => {
    const line = (level: number): string =>
      formatJournalLine(JSON.stringify({ level, time: 0, node: "fw1", event: "a.b", msg: "not in sync", peer: "fw2" }));
    assert.equal(line(30), "<6>not in sync peer=fw2 [a.b]\n");
    assert.equal(line(40), "<4>not in sync peer=fw2 [a.b]\n");
    assert.equal(line(50), "<3>not in sync peer=fw2 [a.b]\n");
    assert.equal(line(60), "<2>not in sync peer=fw2 [a.b]\n");
  });

  /** Standard output of a log that is opened with this format, with or without a journal behind it. */
  async function logged(format: string, journal: boolean): Promise<string> {
    await using directory = await temporaryDirectory();
    const path = join(directory.path, "out");
    const fd = openSync(path, "w");
    const { dev, ino } = fstatSync(fd);
    const log = new URL("../../src/cli/process/log.js", import.meta.url).href;
    const config = { node: "fw1", logLevel: "info", logFormat: format, logFile: null, logSyslog: null };
    const script = `const { openLog } = await import(${JSON.stringify(log)});
      const { logger } = openLog(${JSON.stringify(config)}); logger.warn({ peer: "fw2" }, "not in sync"); logger.info("made up");`;
    const env = { ...process.env, JOURNAL_STREAM: journal ? `${dev}:${ino}` : "1:1" };
    const stdio: ("ignore" | number | "pipe")[] = ["ignore", fd, "pipe"];
    const run = spawnSync(process.execPath, ["--input-type=module", "-e", script], { env, stdio, encoding: "utf8" });
    closeSync(fd);
    assert.equal(run.status, 0, run.stderr);
    return readFileSync(path, "utf8");
  }

  it("is recognised by its stream; log.format says otherwise where it is asked", async () => {
    assert.equal(await logged("auto", true), "<4>not in sync peer=fw2 [peer.not-in-sync]\n<6>made up\n");
    assert.match(await logged("json", true), /^\{"level":40,.*"event":"peer.not-in-sync","msg":"not in sync"\}\n\{/);
    assert.match(await logged("auto", false), /^\{"level":40,/);
    assert.match(await logged("text", false), /^[\d:.]+Z WARN {2}not in sync peer=fw2 \[peer.not-in-sync\]\n/);
  });
});
