/** The history against the truth: traffic whose ends know what there was, through three firewalls, two failovers and worse. */
import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import type { FlowQuery } from "../../src/flow/filter.js";
import type { ConnectionJson } from "../../src/history/format/connection-json.js";
import type { Firewall } from "../../src/lab/firewall.js";
import { labObstacle } from "../../src/lab/lab.js";
import { waitFor } from "../../src/lab/process.js";
import type { Answer } from "../support/history/asker-protocol.js";
import { MARKS, type Margins, type Place, Scene } from "../support/history/scene.js";
import type { TrafficFlow } from "../support/history/traffic-protocol.js";
import { type Life, Truth, touches } from "../support/history/truth.js";

const PHASE_MS = 3600;
/** A phase is so many times as long as an event may be late. */
const PHASE_EVENTS = 4;
/** Of TCP, alive to the end, from the inside and from the outside. */
const KEPT = 6;
const SETTLE_MS = 30_000;
const SAMPLE = 12;
const ATTEMPTS_MAX = 3;
/** Connections of which all is known, at the least. */
const KNOWN_MIN = 100;

const obstacle = labObstacle();

describe("history", { skip: obstacle ?? false, timeout: 800_000 }, () => {
  let scene: Scene;
  let truth: Truth;
  let whole: Answer;
  let lives: ReadonlyMap<string, Life>;
  let sinceMs = 0;
  let untilMs = 0;
  let margins: Margins;
  let followed = "";
  let second = "";
  let third = "";
  /** The second was away. */
  let away: readonly [number, number] = [0, 0];
  let firewalls: readonly Firewall[] = [];

  before(async () => {
    if (obstacle !== undefined) return;
    for (let attempt = 1; ; attempt++) {
      scene = await Scene.start();
      const failure = await play().catch((error: unknown) => error);
      // Of a failover that nobody ordered nobody knows the truth.
      const takenOver = scene.takenOverByItself;
      if (takenOver === 0 && failure !== undefined) throw failure;
      if (takenOver === 0) break;
      assert.ok(attempt < ATTEMPTS_MAX, `${takenOver} failovers by themselves, and in each attempt before`);
      await scene[Symbol.asyncDispose]();
    }
    margins = await scene.margins();
    truth = new Truth(await scene.traffic({ type: "report" }), scene.failovers, margins);
    firewalls = scene.lab.firewalls;
  });

  /** All that the history is to tell of. */
  async function play(): Promise<void> {
    scene.startFollowing();
    scene.startArchiver();
    sinceMs = Date.now();
    await scene.traffic({ type: "open", tcp: 24, udp: 8 });
    await scene.traffic({ type: "begin" });
    await phase();
    // fw2 and fw3, the other way round where fw2 was too busy to be first.
    second = (await scene.failOver("handOver")).to;
    await phase();
    const cut = await scene.failOver("cut");
    const { startMs } = cut;
    third = cut.to;
    await delay(PHASE_MS / 4);
    await scene.boot(scene.firewall(second));
    away = [startMs, Date.now()];
    await phase();
    await scene.traffic({ type: "pause" });
    await scene.traffic({ type: "close", keep: KEPT });
    await settled(null);
    untilMs = Date.now();
    followed = await scene.stopFollowing();
    await scene.stopArchiver("stop");
    scene.startArchiver();
  }

  after(() => scene?.[Symbol.asyncDispose]());

  /** Traffic for a while, with a snapshot of every node in the middle. */
  async function phase(): Promise<void> {
    const beganMs = Date.now();
    await delay(PHASE_MS / 2);
    await scene.observer.conntrail("resync", "peers");
    await delay(PHASE_MS / 2);
    const { eventMs } = await scene.margins();
    await delay(Math.max(0, beganMs + PHASE_EVENTS * eventMs - Date.now()));
  }

  /** Waits until all but the kept connections have ended in what the observer and the nodes tell. */
  async function settled(filter: FlowQuery | null): Promise<void> {
    await scene.inSync();
    for (const of of [scene.observer, place("fw1")]) {
      await waitFor("the end of the traffic in the history", SETTLE_MS, async () => {
        const found = await of.ask("history", { ...query(null, null), filter: filter ?? {} });
        return found.connections.filter(({ outcome }) => outcome === "open").length <= 2 * KEPT;
      });
    }
  }

  const place = (name: string): Place => scene.place(scene.firewall(name));
  const query = (since: number | null, until: number | null) => ({
    sinceMs: since,
    untilMs: until,
    filter: {},
    nodes: null,
    limit: null,
  });
  const seconds = (): number[] => {
    const all: number[] = [];
    for (let ms = Math.ceil(sinceMs / 1000) * 1000; ms < untilMs; ms += 1000) all.push(ms);
    return all;
  };

  async function assertAt(of: Place): Promise<number> {
    const times = seconds();
    const tables = await of.ask("at", times);
    return tables.reduce((sum, table, i) => sum + truth.checkAt(times[i]!, table, lives).sure, 0);
  }

  async function assertSame(of: Place): Promise<void> {
    const answer = await of.ask("history", query(sinceMs, untilMs));
    assert.deepEqual(byUid(answer.connections), byUid(whole.connections), of.name);
    assert.deepEqual(answer.gaps, whole.gaps, of.name);
    await assertAt(of);
    const questions = truth.questions(seconds()[0]!, untilMs).filter((_, i) => i % SAMPLE === 0);
    const replies = await of.ask("whoCached", questions);
    for (const [i, question] of questions.entries()) truth.checkWho(question, replies[i]!);
  }

  it("has a record of each connection, and of nothing else", async (t) => {
    whole = await place("fw1").ask("history", query(sinceMs, untilMs));
    lives = truth.match(whole);
    const flows = truth.lives.length;
    const carried = truth.lives.filter(({ path }) => (path?.length ?? 0) > 1).length;
    const crossing = truth.lives.filter(({ crosses }) => crosses).length;
    t.diagnostic(
      `${flows} connections, ${whole.connections.length} records; carried ${carried}, at a failover ${crossing}`,
    );
    // The later events are, the more of them may lie within a failover.
    assert.ok(carried >= 2 * KEPT && flows - crossing >= KNOWN_MIN);
    const [gap, ...more] = whole.gaps;
    assert.ok(gap !== undefined && more.length === 0, JSON.stringify(whole.gaps));
    assert.equal(gap.node, second);
    const [from, until] = [Date.parse(gap.from ?? ""), Date.parse(gap.until ?? "")];
    assert.ok(from <= away[0] + margins.eventMs && until >= away[0] && until <= away[1], JSON.stringify({ gap, away }));
  });

  it("tells the table of every second", async (t) => {
    t.diagnostic(`${seconds().length} seconds, ${await assertAt(place("fw1"))} connections alive for certain`);
  });

  it("tells who had each public address and port, every second", async (t) => {
    const questions = truth.questions(seconds()[0]!, untilMs);
    // Three brokers share the work.
    const places = [place("fw1"), place("fw2"), scene.observer];
    const shares = await Promise.all(
      places.map((of, share) =>
        of.ask(
          "whoCached",
          questions.filter((_, i) => i % 3 === share),
        ),
      ),
    );
    const replies = questions.map((_, i) => shares[i % 3]![Math.floor(i / 3)]!);
    const found = { sure: 0, nobody: 0, edge: 0 };
    questions.forEach((question, i) => {
      found[truth.checkWho(question, replies[i]!)]++;
    });
    t.diagnostic(`${questions.length} questions: ${JSON.stringify(found)}`);
    assert.ok(found.sure > 100 && found.nobody > 100);
    // The broker itself says what the copy of its streams did.
    const some = questions.map((_, i) => i).filter((i) => i % (4 * SAMPLE) === 0);
    const asked = await place("fw1").ask(
      "who",
      some.map((i) => questions[i]!),
    );
    assert.deepEqual(
      asked,
      some.map((i) => replies[i]),
    );
  });

  it("says the same of a range however it is cut", async () => {
    const step = (untilMs - sinceMs) / 7;
    for (let cut = 0; cut < 7; cut++) {
      const [from, to] = [Math.floor(sinceMs + cut * step), Math.floor(sinceMs + (cut + 1.5) * step)];
      const part = await place("fw1").ask("history", query(from, Math.min(to, untilMs)));
      assertPart(whole, part, from, Math.min(to, untilMs), margins.eventMs);
      const isAway = from <= away[1] && to >= away[0] - margins.eventMs;
      if (!isAway || (from < away[1] - 1000 && to > away[0]))
        assert.equal(part.gaps.length, isAway ? 1 : 0, JSON.stringify({ from, to, away, gaps: part.gaps }));
    }
  });

  it("filters by host, port, protocol, translation and node", async () => {
    const { flow } = truth.lives.find(({ flow: { inside, public: end } }) => end !== null && end.port !== inside.port)!;
    const filters: [object, (record: ConnectionJson) => boolean][] = [
      [{ host: flow.inside.address }, ({ orig, reply }) => [orig.src, reply?.src].includes(flow.inside.address)],
      [{ host: "203.0.113.1" }, ({ orig, reply }) => [orig.dst, reply?.dst].includes("203.0.113.1")],
      [{ dst: "198.51.100.0/24" }, ({ orig }) => orig.dst.startsWith("198.51.100.")],
      [{ port: flow.inside.port }, ({ orig, reply }) => [orig.sport, reply?.dport].includes(flow.inside.port)],
      [{ port: flow.public!.port }, ({ orig, reply }) => [orig.sport, reply?.dport].includes(flow.public!.port)],
      [{ proto: "udp" }, ({ protocol }) => protocol === "udp"],
      [{ proto: "icmpv6" }, ({ protocol }) => protocol === "icmpv6"],
      [{ nat: true }, ({ orig, reply }) => orig.src !== reply?.dst || orig.dst !== reply.src],
      [{ mark: MARKS.led }, ({ reply }) => reply?.src === "10.10.0.100"],
      [{ mark: `${MARKS.udp}/0x20` }, ({ protocol, reply }) => protocol === "udp" || reply?.src === "10.10.0.100"],
    ];
    for (const [filter, isWanted] of filters) {
      const answer = await place("fw1").ask("history", { ...query(sinceMs, untilMs), filter });
      const wanted = byUid(whole.connections.filter(isWanted));
      assert.ok(wanted.length > 0 && wanted.length < whole.connections.length, JSON.stringify(filter));
      assert.deepEqual(byUid(answer.connections), wanted, JSON.stringify(filter));
    }
    for (const node of ["fw1", "fw2", "fw3"]) {
      const answer = await place("fw1").ask("history", { ...query(sinceMs, untilMs), nodes: [node] });
      const wanted = whole.connections.filter(({ path }) => path.some((step) => step.node === node));
      assert.deepEqual(byUid(answer.connections), byUid(wanted), node);
    }
  });

  it("answers on the command line", async () => {
    const range = ["--since", iso(sinceMs), "--until", iso(untilMs)];
    const history = await place("fw3").conntrail("history", ...range, "--format", "ndjson");
    assert.equal(history.code, 0, history.stderr);
    assert.deepEqual(byUid(linesOf(history.stdout)), byUid(whole.connections));
    assert.match(history.stderr, new RegExp(`^conntrail: events of ${second} may be missing from [^\\n]+\\n$`));
    const udp = await place("fw3").conntrail(
      "history",
      ...range,
      "--format",
      "ndjson",
      "--proto",
      "udp",
      "--node",
      "fw1",
    );
    const wanted = whole.connections.filter(({ protocol, path }) => protocol === "udp" && path[0]?.node === "fw1");
    assert.deepEqual(byUid(linesOf(udp.stdout)), byUid(wanted));
    const momentMs = seconds()[2]!;
    const at = await place("fw2").conntrail("at", iso(momentMs), "--format", "ndjson");
    assert.equal(at.stderr, "");
    truth.checkAt(momentMs, { connections: linesOf(at.stdout), gaps: [] }, lives);
    const life = truth.lives.find(
      ({ flow: { led, long, protocol, public: end }, crosses }) =>
        !crosses && led === null && long && protocol === "tcp" && end !== null,
    )!;
    const { public: end, inside } = life.flow;
    const who = await scene.observer.conntrail(
      "who",
      `${bracketed(end!.address)}:${end!.port}`,
      "--at",
      iso(momentMs),
      "--json",
    );
    assert.equal(who.code, 0, who.stderr);
    const { answers, mayMiss } = JSON.parse(who.stdout) as { answers: { inside: unknown }[]; mayMiss: boolean };
    assert.deepEqual({ inside: answers.map((answer) => answer.inside), mayMiss }, { inside: [inside], mayMiss: false });
    const nobody = await scene.observer.conntrail("who", "203.0.113.1:9", "--at", iso(momentMs));
    assert.equal(nobody.code, 1);
    assert.match(nobody.stderr, /^conntrail: nobody had 203\.0\.113\.1:9 at \S+; no events are missing around then\n$/);
  });

  it("has told the same to who followed it", () => {
    const last = new Map(linesOf(followed).map((record) => [record.uid, record]));
    const connections = [...last.values()].map((record) => {
      const { change: _, ...rest } = record as ConnectionJson & { change?: string };
      return rest;
    });
    truth.match({ connections, gaps: [] });
    assert.deepEqual(byUid(connections).map(withoutPath), byUid(whole.connections).map(withoutPath));
  });

  it("says the same from every node and the observer", async () => {
    for (const of of [place("fw2"), place("fw3"), scene.observer]) await assertSame(of);
  });

  it("says the same after the daemons have been restarted", async () => {
    await Promise.all([...firewalls.map((firewall) => firewall.daemon?.stop(20_000)), scene.stopObserver()]);
    for (const firewall of firewalls) firewall.startDaemon();
    scene.startObserver();
    await Promise.all([...firewalls.map((firewall) => firewall.waitReady(30_000)), scene.observerReady()]);
    await scene.inSync();
    for (const of of [place("fw1"), place("fw3"), scene.observer]) await assertSame(of);
  });

  it("tells of the time in which a daemon was dead, and of no other", async () => {
    const primary = scene.firewall(third);
    await scene.stopArchiver("kill");
    scene.startArchiver();
    await scene.traffic({ type: "phase" });
    await scene.traffic({ type: "begin" });
    const beganMs = Date.now();
    await delay(Math.max(2000, PHASE_EVENTS * margins.eventMs));
    const deadMs = Date.now();
    primary.daemon?.kill();
    await primary.daemon?.exited;
    const unseen = (flows: readonly TrafficFlow[], untilMs: number): Life | undefined =>
      new Truth(flows, scene.failovers, margins).lives.find(
        ({ flow, start, end }) =>
          flow.public !== null && flow.led === null && start[0] > deadMs + 100 && end[1] < untilMs,
      );
    await waitFor("a connection that lives while the daemon is dead", SETTLE_MS, async () => {
      margins = await scene.margins();
      return unseen(await scene.traffic({ type: "report" }), Date.now() - 1000);
    });
    const restartMs = Date.now();
    primary.startDaemon();
    await primary.waitReady(30_000);
    const backMs = Date.now();
    await delay(2000);
    const frozenMs = Date.now();
    scene.signalBroker(primary, "SIGSTOP");
    await delay(1500);
    scene.signalBroker(primary, "SIGCONT");
    await delay(1000);
    await scene.traffic({ type: "pause" });
    await settled({ port: 7010 });
    const endMs = Date.now();
    margins = await scene.margins();
    const { eventMs } = margins;
    const flows = (await scene.traffic({ type: "report" })).filter(({ startMs }) => startMs >= beganMs);
    const late = new Truth(flows, scene.failovers, margins);
    const fw1 = place("fw1");
    const answer = await fw1.ask("history", { ...query(beganMs, endMs), filter: { port: 7010 } });
    const old = new Set(whole.connections.map(({ uid }) => uid));
    const fresh = answer.connections.filter(({ uid }) => !old.has(uid));
    const tcpAndUdp = new Truth(
      late.lives.map(({ flow }) => flow).filter(({ kind }) => kind !== "icmp"),
      scene.failovers,
      margins,
    );
    const { problems } = tcpAndUdp.compare({ ...answer, connections: fresh });
    const excused = problems.filter(
      ({ life }) => life !== null && answer.gaps.some((gap) => touches(gap, life, eventMs)),
    );
    assert.deepEqual(
      problems.filter((problem) => !excused.includes(problem)).map(({ text }) => text),
      [],
    );
    assert.ok(excused.length > 0, "nothing was lost: this has shown nothing");
    const ofPrimary = (gaps: Answer["gaps"]) => gaps.filter(({ node }) => node === third);
    const [gap] = ofPrimary(answer.gaps);
    assert.ok(
      Date.parse(gap?.from ?? "") <= deadMs + margins.eventMs && Date.parse(gap?.until ?? "") <= backMs,
      JSON.stringify(answer.gaps),
    );
    const gapsOf = async (from: number, to: number) =>
      ofPrimary((await fw1.ask("history", query(from, to))).gaps).length;
    // The gap begins with the last event that has a stamp: before it was killed, events may have been late.
    const sureMs = deadMs - Math.max(500, eventMs);
    if (sureMs > beganMs + 500) assert.equal(await gapsOf(beganMs + 500, sureMs), 0);
    assert.equal(await gapsOf(deadMs + 500, deadMs + 1500), 1);
    assert.equal(await gapsOf(backMs + 500, frozenMs), 0);
    const lived = unseen(flows, restartMs);
    assert.ok(lived !== undefined, "no connection lived while the daemon was dead");
    const { address, port } = lived.flow.public!;
    const who = await fw1.conntrail(
      "who",
      `${bracketed(address)}:${port}`,
      "--at",
      iso(lived.flow.startMs),
      "--proto",
      lived.flow.protocol,
    );
    assert.equal(who.code, 1);
    assert.match(
      who.stderr,
      new RegExp(`; but events may be missing around then\\nconntrail: events of ${third} may be missing from `),
    );
  });

  it("says the same when the node that carried most is gone for good", async () => {
    const carried = (node: string): number =>
      whole.connections.filter(({ path }) => path.some((step) => step.node === node)).length;
    const [most, ...left] = [...firewalls].sort((a, b) => carried(b.name) - carried(a.name));
    await scene.remove(most!);
    for (const of of [...left.map((firewall) => scene.place(firewall)), scene.observer]) await assertSame(of);
  });

  it("tells each connection once, out of streams that were cut and the archive", async (t) => {
    await scene.stopArchiver("stop");
    // Of what the streams still hold, too, each once.
    const sql = `SELECT count(*) AS n, count(DISTINCT uid) AS uids, count(*) FILTER (WHERE outcome = 'ended') AS ended FROM connections
      WHERE start_time <= '${iso(untilMs)}' AND (end_time IS NULL OR end_time >= '${iso(sinceMs)}')`;
    const { stdout, stderr } = await scene.withArchive("sql", sql, "--json");
    const [counts] = JSON.parse(stdout === "" ? "[{}]" : stdout) as Record<string, string>[];
    const n = whole.connections.length;
    assert.deepEqual([Number(counts?.n), Number(counts?.uids)], [n, n], stderr);
    const files = await scene.withArchive("sql", "SELECT max(end_time) AS until FROM connections", "--json");
    t.diagnostic(`${JSON.stringify(counts)}, archived: ${files.stdout.trim()}`);
    await scene.observer.ask("cut", sinceMs + (untilMs - sinceMs) / 2);
    const alone = await scene.observer.ask("history", query(sinceMs, untilMs));
    assert.ok(alone.connections.length < n, "nothing was cut: this has shown nothing");
    const range = ["--since", iso(sinceMs), "--until", iso(untilMs), "--format", "ndjson"];
    const found = linesOf((await scene.withArchive("history", ...range)).stdout);
    const told = new Set(found.map(({ uid }) => uid));
    assert.deepEqual(
      whole.connections.filter(({ uid }) => !told.has(uid)),
      [],
      "what is missing",
    );
    const open = new Set(whole.connections.filter(({ end }) => end === undefined).map(({ uid }) => uid));
    assert.deepEqual(
      byUid(found).map(({ uid }) => uid),
      byUid(whole.connections).map(({ uid }) => uid),
    );
    const ended = (list: readonly ConnectionJson[]) => byUid(list.filter(({ uid }) => !open.has(uid))).map(withoutPath);
    assert.deepEqual(ended(found), ended(whole.connections));
    const span = range.slice(0, 4);
    const summary = JSON.parse((await scene.withArchive("history", ...span, "--summary", "--json")).stdout);
    assert.equal(summary.total.connections, n);
    const top = JSON.parse(
      (await scene.withArchive("history", ...span, "--top", "src", "--limit", "100000", "--json")).stdout,
    );
    const sum = (top.rows as { connections: number }[]).reduce((total, { connections }) => total + connections, 0);
    assert.deepEqual([sum, top.exact], [n, true]);
  });
});

function iso(ms: number): string {
  return new Date(ms).toISOString();
}

function bracketed(address: string): string {
  return address.includes(":") ? `[${address}]` : address;
}

function linesOf(text: string): ConnectionJson[] {
  const lines = text.split("\n").filter((line) => line !== "");
  return lines.map((line) => JSON.parse(line) as ConnectionJson);
}

function byUid(connections: readonly ConnectionJson[]): ConnectionJson[] {
  const key = ({ uid, end = "" }: ConnectionJson): string => `${uid} ${end}`;
  return [...connections].sort((a, b) => (key(a) < key(b) ? -1 : 1));
}

/** What may be missing is told of what was read of the path. */
function withoutPath({ path: _, mayMiss: __, ...record }: ConnectionJson): object {
  return record;
}

/** A node that states a flow tells since when in whole seconds, and within a second of the birth it is taken for that. */
const SINCE_MS = 2000;

/** What is read begins with a snapshot, which knows of the node's own time with a connection only, and that in whole seconds. */
function assertPath(found: ConnectionJson, record: ConnectionJson, text: string, eventMs: number): void {
  const first = record.path.findIndex(({ node }) => node === found.path[0]?.node);
  const known = record.path.slice(first);
  for (const [i, { node, since }] of found.path.entries()) {
    const lateMs = Date.parse(known[i]?.since ?? "") - Date.parse(since);
    // The kernel's own time of the start comes with the end.
    const early = known[i]?.since === record.start ? eventMs : 0;
    assert.ok(
      node === known[i]?.node && lateMs >= -early && lateMs < SINCE_MS,
      `${text}: ${JSON.stringify([found, record])}`,
    );
  }
}

/** Those that lived in the part, and none other; what had ended then is told as in the whole. */
function assertPart(whole: Answer, part: Answer, sinceMs: number, untilMs: number, eventMs: number): void {
  const told = new Map(part.connections.map((record) => [record.uid, record]));
  const text = `${iso(sinceMs)} to ${iso(untilMs)}`;
  for (const record of whole.connections) {
    const startMs = Date.parse(record.start ?? "");
    const endMs = record.end === undefined ? Number.POSITIVE_INFINITY : Date.parse(record.end);
    const found = told.get(record.uid);
    told.delete(record.uid);
    // An event's time in the stream is later than the kernel's own.
    const inside = startMs <= untilMs - eventMs && endMs >= sinceMs;
    const outside = startMs > untilMs || endMs < sinceMs;
    if (inside || outside) assert.equal(found !== undefined, inside, `${text}: ${JSON.stringify(record)}`);
    if (found === undefined) continue;
    assertPath(found, record, text, eventMs);
    if (endMs <= untilMs - eventMs) assert.deepEqual(withoutPath(found), withoutPath(record), text);
    else
      assert.equal(
        found.start !== undefined && Math.abs(Date.parse(found.start) - startMs) <= eventMs,
        true,
        `${text}: ${JSON.stringify([found, record])}`,
      );
  }
  assert.deepEqual([...told.values()], [], text);
}
