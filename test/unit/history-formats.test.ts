/** What is printed of a connection, format by format. That others can read it: test/integration/history-consumers.test.ts. */
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";
import { ConnectionTable, formatCount, formatLocalTime } from "../../src/cli/history/connection-table.js";
import { connectionToJson, gapToJson } from "../../src/history/format/connection-json.js";
import { csvHead, csvRow } from "../../src/history/format/csv.js";
import { ecsDocument } from "../../src/history/format/ecs.js";
import { connState, zeekFoot, zeekHead, zeekJsonRow, zeekRow } from "../../src/history/format/zeek.js";
import { bareConnection, connection, echoConnection, NOON_MS, tcpConnection } from "../support/connections.js";

const zone = process.env.TZ;

beforeEach(() => {
  process.env.TZ = "UTC";
});

afterEach(() => {
  if (zone === undefined) delete process.env.TZ;
  else process.env.TZ = zone;
});

test("JSON has what was recorded", () => {
  assert.deepEqual(connectionToJson(tcpConnection({})), {
    uid: "C5pVnZ0r2LhK8xQdW",
    communityId: "1:782gCtnX2jBdX7d102ysnVL3Av4=",
    start: "2026-01-31T12:00:00.125500Z",
    end: "2026-01-31T12:00:05.250Z",
    durationSeconds: 5.1245,
    outcome: "ended",
    family: "ipv4",
    protocol: "tcp",
    orig: { src: "10.0.0.12", dst: "198.51.100.7", sport: 40000, dport: 443 },
    reply: { src: "198.51.100.7", dst: "203.0.113.1", sport: 443, dport: 61000 },
    nat: { src: { address: "203.0.113.1", port: 61000 } },
    status: ["SEEN_REPLY", "ASSURED", "CONFIRMED", "SRC_NAT"],
    state: "TIME_WAIT",
    mark: 7,
    counters: { orig: { packets: 12, bytes: 3456 }, reply: { packets: 10, bytes: 78901 } },
    path: [
      { node: "fw1", since: "2026-01-31T12:00:00.125500Z" },
      { node: "fw2", since: "2026-01-31T12:00:03Z" },
    ],
    timedByKernel: true,
    mayMiss: false,
  });
});

test("JSON leaves out what was not", () => {
  const json = connectionToJson(bareConnection());
  for (const key of ["start", "end", "durationSeconds", "counters", "mark", "nat", "zone", "state"]) {
    assert.ok(!(key in json), key);
  }
  assert.equal(json.outcome, "open");
  assert.equal(json.mayMiss, true);
  // When it was gone by is no duration.
  assert.equal(connectionToJson(echoConnection()).end, "2026-01-31T12:00:05.250Z");
  assert.ok(!("durationSeconds" in connectionToJson(echoConnection())));
});

test("a gap as JSON", () => {
  const gap = { node: "fw2", fromMs: null, untilMs: NOON_MS, reason: "the stream begins here", events: null };
  assert.deepEqual(gapToJson(gap), { node: "fw2", until: "2026-01-31T12:00:00Z", reason: "the stream begins here" });
  assert.deepEqual(gapToJson({ node: "fw2", fromMs: NOON_MS, untilMs: null, reason: "overrun", events: 3 }), {
    node: "fw2",
    from: "2026-01-31T12:00:00Z",
    reason: "overrun",
    events: 3,
  });
});

/** The cells of a line by the names of the heading, those that are not empty. */
function cells(names: readonly string[], values: readonly string[], empty: string): Record<string, string> {
  assert.equal(values.length, names.length);
  return Object.fromEntries(names.map((name, i) => [name, values[i]!]).filter(([, value]) => value !== empty));
}

test("CSV", () => {
  assert.match(csvHead(), /^uid,community_id,start,end,.*,may_miss\r\n$/);
  const names = csvHead().trimEnd().split(",");
  assert.deepEqual(cells(names, csvRow(bareConnection()).trimEnd().split(","), ""), {
    uid: "C000",
    community_id: "1:wvOnEQSe+MzVbI4KIDmQ15OLRVk=",
    outcome: "open",
    family: "ipv6",
    protocol: "udp",
    protocol_number: "17",
    orig_src: "2001:db8::1",
    orig_sport: "5000",
    orig_dst: "2001:db8::2",
    orig_dport: "53",
    reply_src: "2001:db8::2",
    reply_sport: "53",
    reply_dst: "2001:db8::1",
    reply_dport: "5000",
    status: "CONFIRMED",
    timed_by_kernel: "false",
    nodes: "fw1",
    node_times: "2026-01-31T12:00:00Z",
    may_miss: "true",
  });
  const full = cells(names, csvRow(tcpConnection({})).trimEnd().split(","), "");
  assert.equal(full.duration_seconds, "5.1245");
  assert.equal(full.nat_src_port, "61000");
  assert.equal(full.reply_bytes, "78901");
  assert.equal(full.nodes, "fw1 fw2");
});

test("CSV quotes what needs it", () => {
  const line = csvRow(tcpConnection({ helper: 'a,"b"\r\nc' }));
  assert.ok(line.includes(',"a,""b""\\u000d\\u000ac",'), line);
});

test("Zeek's header, types under names", () => {
  const lines = zeekHead(NOON_MS).split("\n");
  assert.deepEqual(lines.slice(0, 6), [
    "#separator \\x09",
    "#set_separator\t,",
    "#empty_field\t(empty)",
    "#unset_field\t-",
    "#path\tconn",
    "#open\t2026-01-31-12-00-00",
  ]);
  const own =
    "ts uid id.orig_h id.orig_p id.resp_h id.resp_p proto service duration orig_bytes resp_bytes conn_state local_orig " +
    "local_resp missed_bytes history orig_pkts orig_ip_bytes resp_pkts resp_ip_bytes tunnel_parents ip_proto";
  assert.ok(lines[6]!.startsWith(`#fields\t${own.replaceAll(" ", "\t")}\tcommunity_id\tnat_orig_h\t`));
  const ownTypes =
    "time string addr port addr port enum string interval count count string bool bool count string count count count count " +
    "set[string] count";
  assert.ok(lines[7]!.startsWith(`#types\t${ownTypes.replaceAll(" ", "\t")}\tstring\taddr\t`));
  assert.equal(lines[6]!.split("\t").length, lines[7]!.split("\t").length);
  assert.equal(lines[8], "");
  assert.equal(zeekFoot(NOON_MS), "#close\t2026-01-31-12-00-00\n");
});

test("Zeek's lines", () => {
  const names = zeekHead(NOON_MS).split("\n")[6]!.split("\t").slice(1);
  const row = (line: string): Record<string, string> => cells(names, line.replace(/\n$/, "").split("\t"), "-");
  assert.deepEqual(row(zeekRow(tcpConnection({}))), {
    ts: "1769860800.125500",
    uid: "C5pVnZ0r2LhK8xQdW",
    "id.orig_h": "10.0.0.12",
    "id.orig_p": "40000",
    "id.resp_h": "198.51.100.7",
    "id.resp_p": "443",
    proto: "tcp",
    duration: "5.124500",
    conn_state: "SF",
    orig_pkts: "12",
    orig_ip_bytes: "3456",
    resp_pkts: "10",
    resp_ip_bytes: "78901",
    ip_proto: "6",
    community_id: "1:782gCtnX2jBdX7d102ysnVL3Av4=",
    nat_orig_h: "203.0.113.1",
    nat_orig_p: "61000",
    ct_state: "TIME_WAIT",
    ct_outcome: "ended",
    ct_mark: "7",
    ct_nodes: "fw1,fw2",
    ct_may_miss: "F",
  });
  assert.equal(row(zeekRow(bareConnection())).ts, undefined);
  const echo = row(zeekRow(echoConnection()));
  assert.deepEqual([echo["id.orig_p"], echo["id.resp_p"], echo.proto, echo.ip_proto], ["8", "0", "icmp", "1"]);
  assert.equal(echo.ct_zone, "3");
});

test("Zeek's JSON has the same, without what is unset", () => {
  assert.deepEqual(JSON.parse(zeekJsonRow(bareConnection())), {
    uid: "C000",
    "id.orig_h": "2001:db8::1",
    "id.orig_p": 5000,
    "id.resp_h": "2001:db8::2",
    "id.resp_p": 53,
    proto: "udp",
    conn_state: "S0",
    ip_proto: 17,
    community_id: "1:wvOnEQSe+MzVbI4KIDmQ15OLRVk=",
    ct_outcome: "open",
    ct_nodes: ["fw1"],
    ct_may_miss: true,
  });
});

test("Zeek's conn_state says no more than the kernel knew", () => {
  const closing = { windowScaleOrig: 7, windowScaleReply: 7, flagsOrigMask: 0, flagsReplyMask: 0 };
  const replied = ["SEEN_REPLY", "CONFIRMED"];
  const assured = ["SEEN_REPLY", "ASSURED", "CONFIRMED"];
  const states: [string, Parameters<typeof tcpConnection>[0], string | null][] = [
    ["a SYN without an answer", { state: "SYN_SENT", status: ["CONFIRMED"] }, "S0"],
    ["a SYN and its answer", { state: "SYN_RECV", status: replied }, "OTH"],
    ["established", { state: "ESTABLISHED", status: assured }, "S1"],
    ["both sent a FIN", { state: "LAST_ACK", status: assured }, "SF"],
    ["the originator sent a FIN", { state: "FIN_WAIT", tcp: { ...closing, flagsOrig: 4, flagsReply: 0 } }, "S2"],
    ["the responder sent a FIN", { state: "CLOSE_WAIT", tcp: { ...closing, flagsOrig: 0, flagsReply: 4 } }, "S3"],
    ["one of them sent a FIN", { state: "FIN_WAIT" }, null],
    ["the SYN was answered by a RST", { state: "CLOSE", status: replied }, "REJ"],
    ["one of them sent a RST", { state: "CLOSE", status: assured }, null],
    ["picked up in the middle", { state: "ESTABLISHED", status: ["CONFIRMED"] }, "OTH"],
    ["datagrams both ways", { protocol: "udp", state: "NONE", status: replied }, "SF"],
    ["another protocol", { protocol: "sctp", state: "ESTABLISHED", status: assured }, "OTH"],
  ];
  for (const [what, { state, ...flow }, expected] of states) {
    const made =
      flow.protocol === "udp" ? udp(replied) : tcpConnection({ ...flow, ...(state !== undefined && { state }) });
    assert.equal(connState(made.words), expected, what);
  }
  assert.equal(connState(udp(["CONFIRMED"]).words), "S0");
});

function udp(status: string[]): ReturnType<typeof connection> {
  return connection({ family: "ipv4", protocol: "udp", orig: { src: "10.0.0.1", dst: "10.0.0.2" }, status });
}

test("ECS", () => {
  const document = ecsDocument(tcpConnection({}));
  assert.deepEqual(document.source, {
    address: "10.0.0.12",
    ip: "10.0.0.12",
    port: 40000,
    nat: { ip: "203.0.113.1", port: 61000 },
    bytes: 3456,
    packets: 12,
  });
  assert.deepEqual(document.network, {
    type: "ipv4",
    iana_number: "6",
    transport: "tcp",
    community_id: "1:782gCtnX2jBdX7d102ysnVL3Av4=",
    bytes: 82357,
    packets: 22,
  });
  assert.equal((document.event as { duration: number }).duration, 5_124_500_000);
  const bare = ecsDocument(bareConnection());
  assert.equal(bare["@timestamp"], "2026-01-31T12:00:00Z");
  assert.deepEqual(bare.destination, { address: "2001:db8::2", ip: "2001:db8::2", port: 53 });
});

test("the table", () => {
  const rows = [tcpConnection({}), bareConnection(), echoConnection()].map((each) => ({ connection: each }));
  const options = { colours: false, untilMs: NOON_MS + 60_000, changes: false, width: null };
  const table = new ConnectionTable(options);
  assert.equal(
    table.rows(rows, true),
    `START                     DURATION  PROTO  SOURCE                 DESTINATION                NAT                    STATE            PACKETS  BYTES       NODES
2026-01-31 12:00:00.125Z  5.1 s     tcp    10.0.0.12:40000        198.51.100.7:443           203.0.113.1:61000      TIME_WAIT ended  12/10    3456/78901  fw1 → fw2
before                    -         udp    [2001:db8::1]:5000     [2001:db8::2]:53           -                      UNREPLIED open   -        -           fw1 ?
2026-01-31 12:00:00.125Z  <5.1 s    icmp   10.0.0.12              198.51.100.7 type 8 id 77  203.0.113.1:900        lost             -        -           fw1 → fw2
`,
  );
  // Later rows keep the columns, and have no heading.
  assert.match(
    table.rows(rows.slice(0, 1), false),
    /^2026-01-31 12:00:00\.125Z {2}5\.1 s {5}tcp {4}10.* {2}fw1 → fw2\n$/,
  );
  const alive = tcpConnection({}, { end: "open", endMs: null });
  assert.match(
    new ConnectionTable({ ...options, changes: true }).rows([{ type: "new", connection: alive }], false),
    /^new {6}2026-01-31 12:00:00\.125Z {2}59\.9 s\+ {3}tcp/,
  );
  const coloured = new ConnectionTable({ ...options, colours: true }).rows([{ connection: alive }], true);
  assert.ok(coloured.includes("\u001b[1mSTART\u001b[0m") && coloured.includes("\u001b[32mTIME_WAIT open\u001b[0m"));
});

test("a table for a narrow terminal leaves out what is least asked for, and cuts what is still too long", () => {
  process.env.TZ = "UTC";
  const rows = [tcpConnection({}), bareConnection(), echoConnection()].map((each) => ({ connection: each }));
  const options = { colours: false, untilMs: NOON_MS + 60_000, changes: false };
  const lines = (width: number): string[] => new ConnectionTable({ ...options, width }).rows(rows, true).split("\n");
  assert.deepEqual(lines(110).slice(0, 3), [
    "START           PROTO  SOURCE                 DESTINATION                NAT                    BYTES   NODES",
    "01-31 12:00:00  tcp    10.0.0.12:40000        198.51.100.7:443           203.0.113.1:61000      82.4k   fw1 →…",
    "before          udp    [2001:db8::1]:5000     [2001:db8::2]:53           -                      -       fw1 ?",
  ]);
  assert.equal(lines(80)[1], "01-31 12:00:00  tcp    10.0.0.12:40000        198.51.100.7:443           82.4k");
  for (const width of [20, 40, 80, 100, 132, 150, 200]) {
    for (const line of lines(width)) assert.ok(line.length <= width, `${line.length} of ${width}: ${line}`);
  }
  assert.match(lines(40)[1]!, /^01-31 12:00:00 {2}tcp {4}10\.0\.0\.12:40000/);
  assert.deepEqual([0, 999, 1000, 12_345, 999_949, 999_950, 4.5e6, 1e15].map(formatCount), [
    ...["0", "999", "1.0k", "12.3k", "999.9k", "1.0M", "4.5M", "1.0P"],
  ]);
});

test("both translations in one column", () => {
  const both = tcpConnection({
    orig: { src: "10.0.0.12", dst: "203.0.113.80", sport: 40000, dport: 443 },
    reply: { src: "10.1.0.80", dst: "10.1.0.1", sport: 8443, dport: 61000 },
  });
  const options = { colours: false, untilMs: NOON_MS, changes: false, width: null };
  assert.match(
    new ConnectionTable(options).rows([{ connection: both }], false),
    / 10\.1\.0\.1:61000 → 10\.1\.0\.80:8443 /,
  );
});

test("wall clock times say how far they are from UTC", () => {
  process.env.TZ = "Asia/Kolkata";
  assert.equal(formatLocalTime(NOON_MS + 5), "2026-01-31 17:30:00.005+05:30");
  process.env.TZ = "America/St_Johns";
  assert.equal(formatLocalTime(NOON_MS), "2026-01-31 08:30:00.000-03:30");
});
