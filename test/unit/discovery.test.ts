import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import fc from "fast-check";
import { pino } from "pino";
import { type Config, checkConfig, type PeerConfig, parseConfig } from "../../src/config/config.js";
import {
  ANNOUNCEMENT_BYTES_MAX,
  type Announcement,
  decodeAnnouncement,
  encodeAnnouncement,
  judgeAnnouncement,
  PEERS_MAX,
  peersMax,
} from "../../src/discovery/announcement.js";
import { discoveredPath, saveDiscovered, withDiscovered } from "../../src/discovery/discovered-peers.js";

const OWN: Announcement = { cluster: "edge", node: "fw1", address: "10.77.0.1", port: 4222 };
const OTHER: Announcement = { cluster: "edge", node: "fw2", address: "10.77.0.2", port: 4222 };
const TEXT = '{"conntrail":1,"cluster":"edge","node":"fw2","address":"10.77.0.2","port":4222}';

const directory = mkdtempSync(join(tmpdir(), `conntrail-discovery-${process.pid}-`));
after(() => rmSync(directory, { recursive: true, force: true }));

test("an announcement is these bytes, and they are that announcement", () => {
  assert.equal(encodeAnnouncement(OTHER).toString(), TEXT);
  assert.deepEqual(decodeAnnouncement(Buffer.from(TEXT)), OTHER);
  const more = TEXT.replace("}", ',"later":[1]}');
  assert.deepEqual(decodeAnnouncement(Buffer.from(more)), OTHER, "unknown keys are skipped");
  const ipv6 = { ...OTHER, address: "fd00:77:0:0::2" };
  assert.equal(decodeAnnouncement(encodeAnnouncement(ipv6))?.address, "fd00:77::2");
});

test("the longest announcement fits", () => {
  const address = "2001:db8:1111:2222:3333:4444:5555:6666";
  const longest = { cluster: "c".repeat(32), node: "n".repeat(32), address, port: 65_535 };
  const bytes = encodeAnnouncement(longest);
  assert.ok(bytes.length <= 512, "earlier versions read no longer one");
  assert.deepEqual(decodeAnnouncement(bytes), longest);
});

test("whatever else comes is malformed", () => {
  const wrong = [
    "",
    "null",
    "[]",
    "1",
    TEXT.slice(0, -1),
    TEXT.replace('"conntrail":1', '"conntrail":2'),
    TEXT.replace('"conntrail":1,', ""),
    TEXT.replace("edge", "ed.ge"),
    TEXT.replace("fw2", ""),
    TEXT.replace("fw2", "n".repeat(33)),
    TEXT.replace('"fw2"', "2"),
    TEXT.replace("10.77.0.2", "10.77.0"),
    TEXT.replace("10.77.0.2", "225.0.0.50"),
    TEXT.replace("10.77.0.2", "0.0.0.0"),
    TEXT.replace("10.77.0.2", "fe80::1%eth2"),
    TEXT.replace("4222", "0"),
    TEXT.replace("4222", "65536"),
    TEXT.replace("4222", '"4222"'),
    TEXT.replace("4222", "1.5"),
    TEXT.replace("}", `,"more":"${"x".repeat(ANNOUNCEMENT_BYTES_MAX)}"}`),
  ];
  for (const text of wrong) assert.equal(decodeAnnouncement(Buffer.from(text)), null, text);
  const bytes = fc.uint8Array({ maxLength: 2 * ANNOUNCEMENT_BYTES_MAX });
  fc.assert(
    fc.property(bytes, fc.nat(TEXT.length - 1), fc.nat(255), (noise, at, byte) => {
      assert.equal(decodeAnnouncement(Buffer.from(noise)), null);
      const damaged = Buffer.from(TEXT);
      damaged[at] = byte;
      const read = decodeAnnouncement(damaged);
      if (read !== null) assert.deepEqual(decodeAnnouncement(encodeAnnouncement(read)), read);
    }),
  );
});

test("a node of the same cluster is found, once", () => {
  assert.deepEqual(judge(OTHER), { type: "found" });
  assert.deepEqual(judge(OTHER, { peers: [OTHER] }), { type: "known" });
  assert.deepEqual(judge(OWN), { type: "own" });
  assert.deepEqual(judge({ ...OTHER, cluster: "lab" }), { type: "foreign" });
  assert.deepEqual(judge({ ...OWN, cluster: "lab" }), { type: "foreign" });
});

test("what contradicts itself or what is known is refused, and the reason says what to do", () => {
  const known: PeerConfig[] = [{ node: "fw2", address: "10.77.0.2", discovered: true }];
  const reasonOf = (heard: Announcement, options: Parameters<typeof judge>[1] = {}): string => {
    const verdict = judge(heard, options);
    return verdict.type === "refused" ? verdict.reason : assert.fail(`${verdict.type}, not refused`);
  };
  assert.equal(
    reasonOf(OTHER, { source: "10.77.0.9" }),
    "fw2 announces 10.77.0.2, but from 10.77.0.9: its listen must be its address on this link",
  );
  assert.equal(
    reasonOf({ ...OTHER, node: "fw1" }),
    "fw1 at 10.77.0.2 has the name or the address of this node: give each node its own",
  );
  assert.equal(
    reasonOf({ ...OTHER, address: "10.77.0.1" }),
    "fw2 at 10.77.0.1 has the name or the address of this node: give each node its own",
  );
  assert.equal(
    reasonOf({ ...OTHER, address: "10.77.0.7" }, { peers: known }),
    "fw2 announces 10.77.0.7, known is fw2 at 10.77.0.2: if this is right, stop the daemon, take fw2 out of discovered.json in broker.store, start it",
  );
  assert.equal(
    reasonOf({ ...OTHER, node: "fw7" }, { peers: [{ node: "fw2", address: "10.77.0.2" }] }),
    "fw7 announces 10.77.0.2, known is fw2 at 10.77.0.2: if this is right, stop the daemon, correct peers, start it",
  );
  assert.equal(
    reasonOf({ ...OTHER, port: 4333 }),
    "fw2 has broker.port 4333, this node 4222: set the same on all nodes",
  );
  const many = Array.from({ length: PEERS_MAX }, (_, i) => ({ node: `n${i}`, address: `10.78.0.${i + 1}` }));
  assert.equal(reasonOf(OTHER, { peers: many }), "fw2 at 10.77.0.2 is one too many: 16 peers are known");
  assert.deepEqual(judge(OTHER, { peers: [...many, OTHER] }), { type: "known" });
});

test("the source is compared as an address, not as a text", () => {
  const ipv6 = { ...OTHER, address: "fd00:77::2" };
  const own = { ...OWN, address: "fd00:77::1" };
  assert.deepEqual(judgeAnnouncement(ipv6, "fd00:77:0:0:0:0:0:2", own, []), { type: "found" });
  assert.equal(judgeAnnouncement(ipv6, "fe80::2%eth2", own, []).type, "refused");
});

test("discovered peers outlive the daemon", async () => {
  const config = configOf("outlive");
  assert.deepEqual(await withDiscovered(config, quiet()), config, "no file yet");
  const found: PeerConfig[] = [
    { node: "fw2", address: "10.77.0.2", discovered: true },
    { node: "fw3", address: "10.77.0.3", discovered: true },
  ];
  await saveDiscovered(config, [{ node: "listed", address: "10.77.0.9" }, ...found]);
  assert.deepEqual((await withDiscovered(config, quiet())).peers, found, "listed peers are not discovered ones");
  assert.equal(
    readFileSync(discoveredPath(config), "utf8"),
    '{"cluster":"edge","peers":[{"node":"fw2","address":"10.77.0.2"},{"node":"fw3","address":"10.77.0.3"}]}\n',
  );
  assert.deepEqual(readdirSync(config.broker.store), ["discovered.json"]);
  assert.deepEqual(await withDiscovered({ ...config, discover: null }, quiet()), { ...config, discover: null });
});

test("the configuration goes before the file, and another cluster's file is not believed", async () => {
  const config = configOf("before");
  await saveDiscovered(config, [
    { node: "fw1", address: "10.77.0.7", discovered: true },
    { node: "fw2", address: "10.77.0.2", discovered: true },
    { node: "fw3", address: "10.77.0.3", discovered: true },
    { node: "fw4", address: "10.77.0.4", discovered: true },
  ]);
  const peers: PeerConfig[] = [
    { node: "fw2", address: "10.77.0.22" },
    { node: "fw33", address: "10.77.0.3" },
  ];
  const fw4 = { node: "fw4", address: "10.77.0.4", discovered: true };
  assert.deepEqual((await withDiscovered({ ...config, peers }, quiet())).peers, [...peers, fw4]);
  assert.deepEqual((await withDiscovered({ ...config, cluster: "lab" }, quiet())).peers, []);
});

test("a damaged file is told of, and peers are found again", async () => {
  const config = configOf("damaged");
  mkdirSync(config.broker.store);
  const peer = '{"node":"fw2","address":"10.77.0.2"}';
  const whole = `{"cluster":"edge","peers":[${peer}]}`;
  const texts = [
    "",
    "null",
    "[]",
    whole.slice(0, -5),
    `{"cluster":"edge"}`,
    whole.replace(peer, "null"),
    "x".repeat(100_000),
  ];
  for (const text of texts) {
    writeFileSync(discoveredPath(config), text);
    const said: string[] = [];
    assert.deepEqual(await withDiscovered(config, quiet(said)), config, text.slice(0, 80));
    assert.match(said.join(), /the file of discovered peers is not one/);
  }
});

test("the configuration: what discover takes, and what it does not go with", () => {
  assert.deepEqual(configOf("any").discover, { group: "225.0.0.50", port: 3780, interface: null });
  const text = (more: string): string => `cluster: edge\nnode: fw1\nlisten: 10.77.0.1\n${more}`;
  const problem = (more: string): string => {
    const check = checkConfig(text(more), "/x.yaml");
    return check.ok ? "none" : check.problems.map(({ line, key, text }) => `${line}: ${key}: ${text}`).join("\n");
  };
  assert.equal(
    problem("discover: { group: ff02::1:50, port: 3780, interface: eth2 }"),
    '4: discover.group: found "ff02::1:50", allowed is a group of the same address family as listen',
  );
  assert.equal(
    problem("discover: { group: 225.0.0.50 }\nbroker: { mode: shared, servers: ['nats://10.0.9.1:4222'] }"),
    "4: discover: found beside broker.mode shared, allowed is to list the peers",
  );
  assert.match(problem("discover: { group: 10.77.0.2 }"), /found "10.77.0.2", allowed is a multicast group/);
  assert.equal(peersMax(configOf("any")), PEERS_MAX);
  assert.equal(peersMax(parseConfig(text("peers: { fw2: 10.77.0.2 }"), "/x.yaml")), 1);
});

function judge(heard: Announcement, options: { source?: string; peers?: readonly PeerConfig[] } = {}) {
  return judgeAnnouncement(heard, options.source ?? heard.address, OWN, options.peers ?? []);
}

function configOf(name: string): Config {
  const store = join(directory, name);
  const lines = ["cluster: edge", "node: fw1", "listen: 10.77.0.1", "discover: { group: 225.0.0.50 }"];
  return parseConfig([...lines, `broker: { store: ${store} }`].join("\n"), join(directory, "conntrail.yaml"));
}

function quiet(said: string[] = []) {
  return pino({}, { write: (line: string) => said.push(line) });
}
