/** `history`, `at` and `who` as child processes, in a copy of the build with connections made by hand for the streams. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { asyncBufferFromFile, parquetReadObjects } from "hyparquet";
import { compressors } from "hyparquet-compressors";
import { loadDuckdb } from "../../src/history/archive/duckdb.js";
import { type IpfixMessage, IpfixReader, splitMessages } from "../support/ipfix-messages.js";
import { finish, ProgramCopy, type ProgramResult } from "../support/program.js";

const noDuckdb = await loadDuckdb().then(
  () => false,
  () => "DuckDB is not installed",
);
const directory = mkdtempSync(join(tmpdir(), `conntrail-cli-history-${process.pid}-`));
const copy = new ProgramCopy(join(directory, "tree"));
const config = join(directory, "fw1.yaml");

const SOURCE_FILE = "cli/history/source.js";
/** Stands in for the streams: what is asked is in the reason of a gap. MANY connections where port 1 is asked for, none for port 2. */
const SOURCE = `
import { bareConnection, echoConnection, NOON_MS, tcpConnection } from ${JSON.stringify(new URL("../support/connections.js", import.meta.url).href)};
const ALL = [tcpConnection({}), echoConnection(), bareConnection()];
const MANY = Array.from({ length: 512 }, () => tcpConnection({}));
async function* batches(query, signal) {
  const port = query.filter?.port ?? query.port;
  if (port === "1") while (!signal.aborted) { yield MANY; await new Promise(setImmediate); }
  else if (port !== "2" && port !== 2) yield ALL;
  if (query.filter?.proto === "esp") throw new Error("the stream\\nbroke");
}
const answer = (asked, query, signal) => ({
  connections: batches(query, signal),
  gaps: () => query.nodes?.[0] === "fw2" ? [] : [{ node: "fw1", fromMs: NOON_MS, untilMs: null, reason: asked + " " + JSON.stringify(query), events: 3 }],
  progress: () => ({ messages: 1, events: 3, messagesTotal: 1, timeMs: null, malformed: query.filter?.mark === "9" ? 1 : 0 }),
});
const HISTORY = {
  nodes: ["fw1", "fw2"],
  connections: (query, signal) => answer("history", query, signal),
  at: (ms, query, signal) => answer("at", query, signal),
  who: (question, signal) => answer("who", { ...question, nodes: question.address === "203.0.113.2" ? ["fw2"] : null }, signal),
  follow: async function* (query, signal) {
    yield [{ type: "new", connection: tcpConnection({}, { end: "open", endMs: null }) }];
    yield [{ type: "updated", connection: tcpConnection({}) }, { type: "ended", connection: tcpConnection({}) }];
    if (!signal.aborted) await new Promise((resolve) => { const timer = setInterval(() => {}, 1000); signal.addEventListener("abort", () => { clearInterval(timer); resolve(); }); });
  },
};
export const withHistory = (context, use) => use(HISTORY);
`;

before(() => {
  copy.replace(SOURCE_FILE, SOURCE);
  writeFileSync(config, "cluster: edge\nnode: fw1\nlisten: 127.0.0.1\n");
});

after(() => rmSync(directory, { recursive: true, force: true }));

function start(...args: string[]): ChildProcess {
  const env = { ...process.env, TZ: "UTC" };
  return spawn(process.execPath, [copy.path, ...args, "-c", config], {
    cwd: "/",
    env,
    stdio: ["ignore", "pipe", "pipe"],
  });
}

function run(...args: string[]): Promise<ProgramResult> {
  return finish(start(...args));
}

/** What reached the streams, out of the gap that says it. */
function asked(stderr: string): { sinceMs: number; untilMs: number; filter: unknown; nodes: unknown; limit: unknown } {
  return JSON.parse(/\(3 events\): \w+ (\{.*\})$/m.exec(stderr)![1]!);
}

test("history prints a table and says what may be missing", async () => {
  const { code, stdout, stderr } = await run("history");
  assert.equal(code, 0);
  assert.match(stdout, /^START .* NODES\n2026-01-31 12:00:00\.125Z {2}5\.1 s .*\n.*\nbefore .* fw1 \?\n$/);
  assert.match(
    stderr,
    /^conntrail: events of fw1 may be missing from 2026-01-31T12:00:00Z \(3 events\): history \{.*\}\nconntrail: \? marks connections for which events may be missing\nconntrail: that was the last hour: --since 2d shows more\n$/,
  );
  const { sinceMs } = asked(stderr);
  assert.ok(Date.now() - sinceMs < 3_700_000 && Date.now() - sinceMs >= 3_600_000);
  for (const args of [["--json"], ["--limit", "3"], ["--until", "2026-01-31T13:00Z"]]) {
    assert.equal(asked((await run("history", ...args)).stderr).sinceMs, null, args.join(" "));
  }
});

test("history counts in place of printing", async () => {
  const top = await run("history", "--top", "dst", "--by", "bytes", "--since", "2026-01-31");
  assert.equal(top.code, 0);
  assert.match(top.stdout, /^DESTINATION +CONNECTIONS +BYTES +PACKETS\n198\.51\.100\.7 +\d+ +\d.*\n/);
  const one = await run("history", "--top", "port", "--limit", "1", "--json");
  assert.equal(asked(one.stderr).limit, null);
  const json = JSON.parse(one.stdout);
  assert.deepEqual([json.top, json.by, json.rows.length, json.exact], ["port", "connections", 1, true]);
  const summary = await run("history", "--summary", "--since", "2026-01-31");
  assert.match(summary.stdout, /^3 connections: 1 ended, 1 lost, 1 open; 2 translated\n/);
  assert.match(summary.stdout, /\nPROTOCOL +CONNECTIONS.*\nicmp +1 +- +-\ntcp +1 .*\nudp +1 +- +-\n\nNODE .*\nfw1 +3 /);
  const histogram = await run("history", "--histogram", "--since", "2026-01-31");
  assert.match(
    histogram.stdout,
    /^FROM +BEGUN {2}each 1\.0 s\n2026-01-31 12:00:00 +2 {2}#+\n1 connections began earlier\n$/,
  );
  for (const args of [
    ["--top", "x"],
    ["--by", "bytes"],
    ["--summary", "--histogram"],
    ["--summary", "--follow"],
  ]) {
    const { code, stderr } = await run("history", ...args);
    assert.deepEqual([code, stderr.split("\n").length], [2, 2], stderr);
  }
});

test("history writes a Parquet file", { skip: noDuckdb }, async () => {
  const path = join(directory, "answer.parquet");
  const { code, stdout } = await run("history", "--format", "parquet", "--output", path);
  assert.deepEqual([code, stdout], [0, ""]);
  const rows = await parquetReadObjects({ file: await asyncBufferFromFile(path), compressors });
  assert.deepEqual(
    rows.map(({ outcome, protocol }) => `${outcome} ${protocol}`),
    ["ended tcp", "lost icmp", "open udp"],
  );
  assert.match((await run("history", "--format", "parquet")).stderr, /needs --output FILE/);
  const nowhere = await run("history", "--format", "parquet", "--output", join(directory, "none", "x"));
  assert.deepEqual(
    [nowhere.code, nowhere.stderr.split("\n").filter((line) => /cannot be written/.test(line)).length],
    [1, 1],
  );
});

test("options reach the streams", async () => {
  const { stderr } = await run(
    ...[
      "history",
      "--since",
      "2026-01-31T11:00Z",
      "--until",
      "2026-01-31T13:00Z",
      "--host",
      "10.0.0.0/8",
      "--proto",
      "tcp",
    ],
    ...["--nat", "--port", "443", "--mark", "9", "--node", "fw1,fw2", "--limit", "5"],
  );
  assert.deepEqual(asked(stderr), {
    sinceMs: Date.UTC(2026, 0, 31, 11),
    untilMs: Date.UTC(2026, 0, 31, 13),
    filter: { host: "10.0.0.0/8", proto: "tcp", nat: true, port: "443", mark: "9" },
    nodes: ["fw1", "fw2"],
    limit: 5,
  });
  assert.match(stderr, /^conntrail: passed over: 1 message, damaged, of a later format version, or not conntrail's$/m);
  assert.equal((await run("history", "--node", "fw2")).stderr.includes("may be missing from"), false);
});

test("--json is one object", async () => {
  const { code, stdout } = await run("history", "--json", "--since", "-2h");
  assert.equal(code, 0);
  const { since, connections, gaps } = JSON.parse(stdout);
  assert.match(since, /^\d{4}-.*Z$/);
  assert.deepEqual(
    connections.map(({ uid, outcome }: { uid: string; outcome: string }) => [uid, outcome]),
    [
      ["C5pVnZ0r2LhK8xQdW", "ended"],
      ["C111", "lost"],
      ["C000", "open"],
    ],
  );
  assert.deepEqual([gaps[0].node, gaps[0].from, gaps[0].events], ["fw1", "2026-01-31T12:00:00Z", 3]);
  assert.deepEqual(JSON.parse((await run("history", "--json", "--port", "2", "--node", "fw2")).stdout), {
    connections: [],
    gaps: [],
  });
});

test("the other formats", async () => {
  const lines = async (format: string): Promise<string[]> =>
    (await run("history", "--format", format)).stdout.trimEnd().split("\n");
  assert.deepEqual(
    (await lines("ndjson")).map((line) => JSON.parse(line).uid),
    ["C5pVnZ0r2LhK8xQdW", "C111", "C000"],
  );
  assert.match((await lines("csv"))[0]!, /^uid,community_id,/);
  const zeek = await lines("zeek");
  assert.equal(zeek.length, 8 + 3 + 1);
  assert.match(zeek.at(-1)!, /^#close\t/);
  assert.equal(JSON.parse((await lines("zeek-json"))[2]!).proto, "udp");
  assert.equal(JSON.parse((await lines("ecs"))[0]!).source.nat.port, 61000);
  // An empty answer is an empty file of its format.
  const none = await run("history", "--format", "zeek", "--port", "2");
  assert.match(none.stdout, /^#separator \\x09\n(?:.*\n)*#types\t.*\n#close\t.*\n$/);
  assert.equal((await run("history", "--format", "table", "--port", "2")).stdout, "");
});

test("a long answer ends quietly when its reader goes", async () => {
  for (const format of ["table", "ndjson", "zeek", "json"]) {
    const child = start("history", "--port", "1", "--format", format);
    const result = finish(child);
    await once(child.stdout!, "data");
    child.stdout!.destroy();
    const { code, stderr } = await result;
    assert.deepEqual({ code, stderr }, { code: 0, stderr: "" }, format);
  }
});

test("what breaks in the middle is a failure, and JSON stays open", async () => {
  const { code, stdout, stderr } = await run("history", "--proto", "esp", "--json");
  assert.equal(code, 1);
  assert.equal(stderr, "conntrail: the stream broke\n");
  assert.throws(() => JSON.parse(stdout));
});

test("at takes its time as words", async () => {
  const { code, stdout, stderr } = await run("at", "2026-01-31", "12:00:02Z", "--node", "fw1", "--format", "ndjson");
  assert.equal(code, 0);
  assert.equal(stdout.split("\n").length, 4);
  assert.equal(asked(stderr).sinceMs, Date.UTC(2026, 0, 31, 12, 0, 2));
  const { at } = JSON.parse((await run("at", "-2h", "--json")).stdout);
  assert.ok(Math.abs(Date.parse(at) - (Date.now() - 7_200_000)) < 60_000);
});

test("who names the host inside", async () => {
  const { code, stdout, stderr } = await run(
    "who",
    "203.0.113.1:61000",
    "--at",
    "2026-01-31T12:00:02Z",
    "--proto",
    "tcp",
  );
  assert.equal(code, 0);
  assert.match(
    stdout,
    /^INSIDE .* PROTO {2}TRANSLATION .*\n10\.0\.0\.12:40000 +tcp +source +198\.51\.100\.7:443 +2026-01-31 12:00:00\.125Z +2026-01-31 12:00:05\.250Z +fw1 → fw2\n/,
  );
  const { address, port, protocol, sinceMs, untilMs } = asked(stderr) as unknown as Record<string, unknown>;
  // Clocks and logs write whole seconds.
  assert.deepEqual(
    [address, port, protocol, sinceMs, untilMs],
    ["203.0.113.1", 61000, 6, Date.UTC(2026, 0, 31, 12, 0, 2), Date.UTC(2026, 0, 31, 12, 0, 2, 999)],
  );
  assert.match(
    (await run("who", "203.0.113.1:61000")).stderr,
    /^conntrail: tcp and icmp and udp: --proto chooses one of them$/m,
  );
});

test("who as JSON", async () => {
  const { stdout } = await run("who", "203.0.113.1:61000", "--at", "2026-01-31T12:00:02Z", "--json", "--limit", "1");
  const report = JSON.parse(stdout);
  assert.deepEqual(
    { ...report, answers: report.answers.length, gaps: report.gaps.length },
    { address: "203.0.113.1", port: 61000, at: "2026-01-31T12:00:02Z", answers: 1, mayMiss: true, gaps: 1 },
  );
  const { inside, remote, translation, connection } = report.answers[0];
  assert.deepEqual(
    [inside, remote, translation, connection.uid],
    [{ address: "10.0.0.12", port: 40000 }, { address: "198.51.100.7", port: 443 }, "source", "C5pVnZ0r2LhK8xQdW"],
  );
});

test("who exits 1 when there was nobody, and says whether events may be missing", async () => {
  const time = ["--at", "2026-01-31T12:00:02Z"];
  const doubtful = await run("who", "203.0.113.1:2", "--proto", "udp", ...time);
  assert.deepEqual([doubtful.code, doubtful.stdout], [1, ""]);
  assert.match(
    doubtful.stderr,
    /^conntrail: nobody had 203\.0\.113\.1:2 \(udp\) at 2026-01-31T12:00:02Z; but events may be missing around then\nconntrail: events of fw1 may be missing from /,
  );
  const sure = await run("who", "203.0.113.2:2", ...time);
  assert.deepEqual(sure, {
    code: 1,
    stdout: "",
    stderr: "conntrail: nobody had 203.0.113.2:2 at 2026-01-31T12:00:02Z; no events are missing around then\n",
  });
  const json = await run("who", "203.0.113.2:2", ...time, "--json");
  assert.equal(json.code, 1);
  assert.deepEqual(JSON.parse(json.stdout).answers, []);
});

test("--follow prints changes until it is interrupted", async () => {
  const child = start("history", "--follow", "--format", "zeek");
  const result = finish(child);
  await printed(child, "C5pVnZ0r2LhK8xQdW");
  child.kill("SIGINT");
  const { code, stdout, stderr } = await result;
  assert.deepEqual({ code, stderr }, { code: 0, stderr: "" });
  // A log has a connection once, when it has ended.
  assert.equal(stdout.match(/C5pVnZ0r2LhK8xQdW/g)?.length, 1);
  assert.match(stdout, /\n#close\t.*\n$/);
  const some = await run("history", "--follow", "--limit", "2");
  assert.match(some.stdout, /^CHANGE {3}START .*\nnew {6}2026-01-31 12:00:00\.125Z {2}- .*\nupdated {2}2026.*\n$/);
  const json = await run("history", "--follow", "--limit", "3", "--format", "ndjson");
  assert.deepEqual(
    json.stdout
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line).change),
    ["new", "updated", "ended"],
  );
});

async function printed(child: ChildProcess, what: string): Promise<void> {
  let text = "";
  for await (const [chunk] of on(child)) {
    text += chunk.toString();
    if (text.includes(what)) return;
  }
}

async function* on(child: ChildProcess): AsyncGenerator<[Buffer]> {
  while (child.exitCode === null) yield (await once(child.stdout!, "data")) as [Buffer];
}

test("IPFIX to a file has the events of the range", async () => {
  const path = join(directory, "nat.ipfix");
  const { code, stdout, stderr } = await run("history", "--format", "ipfix", "--output", path);
  assert.equal(code, 0);
  assert.match(stdout, /^4 NAT events in 1 messages to .*nat\.ipfix\n$/);
  assert.deepEqual(asked(stderr).filter, { nat: true });
  const reader = new IpfixReader();
  const [message] = splitMessages(readFileSync(path)).map((each) => reader.read(each));
  assert.deepEqual(
    message!.records.map((record) => Number(record.get(230))),
    [4, 5, 4, 5],
  );
  const range = ["--since", "2026-01-31T12:00:03Z", "--until", "2026-01-31T12:01:00Z"];
  const report = JSON.parse((await run("history", "--format", "ipfix", "--output", path, ...range, "--json")).stdout);
  assert.deepEqual([report.events, report.messages], [2, 1]);
});

test("IPFIX of changes: a create when it begins, a delete when it ends", async () => {
  const path = join(directory, "follow.ipfix");
  const args = ["--format", "ipfix", "--output", path, "--follow", "--limit", "3", "--json"];
  const { code, stdout } = await run("history", ...args);
  assert.equal(code, 0);
  assert.deepEqual(JSON.parse(stdout), { events: 2, messages: 2, bytes: readFileSync(path).length });
  const reader = new IpfixReader();
  const records = splitMessages(readFileSync(path)).flatMap((message) => reader.read(message).records);
  assert.deepEqual(
    records.map((record) => Number(record.get(230))),
    [4, 5],
  );
  const nowhere = await run("history", "--format", "ipfix", "--output", join(directory, "none", "x"));
  assert.equal(nowhere.code, 1);
  assert.match(nowhere.stderr, /^conntrail: NAT events cannot be written: ENOENT: .*\n$/);
});

test("IPFIX to a collector, over UDP and TCP", async () => {
  const socket = createSocket("udp4");
  socket.bind(0, "127.0.0.1");
  await once(socket, "listening");
  const reader = new IpfixReader();
  const heard: Promise<IpfixMessage> = once(socket, "message").then(([message]) => reader.read(message as Buffer));
  const { port } = socket.address();
  const udp = await run("history", "--format", "ipfix", "--collector", `127.0.0.1:${port}`);
  assert.match(udp.stdout, /^4 NAT events in 1 messages to 127\.0\.0\.1 port \d+ \(udp\)\n$/);
  assert.equal((await heard).records.length, 4);
  socket.close();

  const chunks: Buffer[] = [];
  const server = createServer((client) => client.on("data", (chunk: Buffer) => chunks.push(chunk)));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port: tcpPort } = server.address() as { port: number };
  const tcp = await run("history", "--format", "ipfix", "--collector", `tcp:127.0.0.1:${tcpPort}`);
  server.close();
  assert.equal(tcp.stderr.includes("cannot"), false);
  assert.equal(splitMessages(Buffer.concat(chunks)).map((each) => new IpfixReader().read(each))[0]!.records.length, 4);
  const refused = await run("history", "--format", "ipfix", "--collector", `tcp:127.0.0.1:${tcpPort}`);
  assert.deepEqual([refused.code, refused.stdout], [1, ""]);
  assert.match(refused.stderr, /^conntrail: NAT events cannot be written: connect ECONNREFUSED 127\.0\.0\.1:\d+\n$/);
});

test("mistakes end with one line and 2", async () => {
  const noTime = /" is no time; give 2026-01-31T12:00:05Z, /;
  const mistakes: [string[], RegExp][] = [
    [["history", "--since", "noon"], /^--since: "noon" is no time; give /],
    [["history", "--until", "2026-02-30"], noTime],
    [["history", "--since", "2199-01-01"], /^--since: "2199-01-01" is 2199-01-01T00:00:00Z, which lies ahead: it is /],
    [["history", "--since", "-1h", "--until", "-2h"], /^--until lies before --since: from .* until .*; exchange them$/],
    [["history", "--follow", "--until", "now"], /^--until is of no use with --follow/],
    [
      ["history", "--src", "10.0.0.1", "--dst", "2001:db8::1"],
      /^--src 10\.0\.0\.1 is IPv4, --dst 2001:db8::1 is IPv6: no flow is both/,
    ],
    [["history", "--proto", "icmp", "--host", "::1"], /^--proto icmp is IPv4, --host ::1 is IPv6: /],
    [["history", "--proto", "icmp", "--port", "53"], /^--port: icmp has no ports; /],
    [["history", "--limit", "0"], /^--limit: "0" is not allowed; give a number from 1 to 1000000$/],
    [["history", "--limit", "many"], /^--limit: "many" /],
    [["history", "--node", "fw9"], /^--node: there is no stream of "fw9" here; there are those of fw1, fw2$/],
    [
      ["history", "--format", "xml"],
      /Allowed choices are table, json, ndjson, csv, zeek, zeek-json, ecs, ipfix, parquet\.$/,
    ],
    [["history", "--format", "ipfix"], /^--format ipfix needs either --output FILE or --collector /],
    [["history", "--output", "x"], /^--output and --collector belong to --format ipfix and parquet; /],
    [
      ["history", "--format", "ipfix", "--collector", "2001:db8::1:99999"],
      /^--collector: "2001:db8::1:99999" is not allowed; /,
    ],
    [["history", "more"], /^too many arguments for 'history'/],
    [["at"], /^missing required argument 'time'$/],
    [["at", "soon"], /^at: "soon" is no time; /],
    [["at", "2199-01-01"], /which lies ahead/],
    [["at", "now", "--bogus"], /^unknown option '--bogus'$/],
    [["at", "now", "--format", "ipfix"], /Allowed choices are table, /],
    [["who"], /^missing required argument 'address:port'$/],
    [["who", "here:80"], /^"here:80" is no address and port; give 203\.0\.113\.1:61000, or \[2001:db8::1\]:443$/],
    [
      ["who", "203.0.113.1"],
      /^203\.0\.113\.1: the port is missing; give 203\.0\.113\.1:PORT, of ICMP the id with --proto icmp$/,
    ],
    [["who", "2001:db8::1"], /^2001:db8::1: the port is missing; give \[2001:db8::1\]:PORT/],
    [["who", "203.0.113.1", "--proto", "icmp"], /^203\.0\.113\.1: the ICMP id is missing; give 203\.0\.113\.1:ID$/],
    [["who", "203.0.113.1:80", "--proto", "esp"], /^protocol 50 has no ports: give the address alone$/],
    [["who", "203.0.113.1:65536"], /^203\.0\.113\.1:65536: "65536" is no port; /],
    [["who", "203.0.113.1:80", "--proto", "icmpv6"], /^--proto icmpv6 does not go with 203\.0\.113\.1, which is IPv4$/],
    [["who", "203.0.113.1:80", "--proto", "tpc"], /^--proto: "tpc" is not allowed; /],
    [["who", "203.0.113.1:80", "--at", "2199-01-01"], /^--at: .* lies ahead/],
  ];
  await Promise.all(
    [0, 1].map(async (half) => {
      for (const [args, line] of mistakes.filter((_, i) => i % 2 === half)) {
        const { code, stdout, stderr } = await run(...args);
        assert.deepEqual([code, stdout], [2, ""], args.join(" "));
        assert.match(stderr, /^conntrail: [^\n]*\n$/);
        assert.match(stderr.slice("conntrail: ".length, -1), line);
      }
    }),
  );
});

test("without a broker it is a failure that says so", async () => {
  copy.restore(SOURCE_FILE);
  try {
    writeFileSync(join(directory, "none.yaml"), "cluster: edge\nnode: fw1\nlisten: 127.0.0.1\nbroker: { port: 1 }\n");
    const child = spawn(process.execPath, [copy.path, "history", "-c", join(directory, "none.yaml")]);
    const { code, stdout, stderr } = await finish(child);
    assert.deepEqual([code, stdout], [1, ""]);
    assert.match(stderr, /^conntrail: no connection to the broker at 127\.0\.0\.1:1: .*; is the daemon running\?\n$/);
  } finally {
    copy.replace(SOURCE_FILE, SOURCE);
  }
});
