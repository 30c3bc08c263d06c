/** What a reload applies, and what it names. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { pino } from "pino";
import { keyValues } from "../../src/config/changes.js";
import { type Config, parseConfig } from "../../src/config/config.js";
import { Reload } from "../../src/daemon/reload.js";

const BASE = "cluster: edge\nnode: fw1\nlisten: 10.77.0.1\ntls: false\n";
const config = (text = "") => parseConfig(BASE + text, "fw.yaml");

function withLog(text = "") {
  const lines: { level: number; msg: string; restart?: string[] }[] = [];
  const log = pino({ level: "info" }, { write: (line: string) => void lines.push(JSON.parse(line)) });
  return { lines, reload: new Reload(config(text), log) };
}

test("what a part applies is applied, and the rest needs a restart, at every reload", async () => {
  const { lines, reload } = withLog();
  const purges: number[] = [];
  reload.onReload(["purge.after"], ({ purgeAfterSeconds }) => {
    purges.push(purgeAfterSeconds);
    return [];
  });
  assert.deepEqual(await reload.reload(config()), { applied: [], restart: [], failed: [] });
  const changed = "purge: { after: 5s }\nbroker: { port: 4223 }\n";
  assert.deepEqual(await reload.reload(config(changed)), {
    applied: ["purge.after"],
    restart: ["broker.port"],
    failed: [],
  });
  assert.deepEqual(await reload.reload(config(changed)), { applied: [], restart: ["broker.port"], failed: [] });
  assert.deepEqual(await reload.reload(config()), { applied: ["purge.after"], restart: [], failed: [] });
  assert.deepEqual(purges, [5, 60]);
  assert.deepEqual(
    lines.map(({ level, msg, restart }) => [level, msg, restart]),
    [
      [30, "reloaded", []],
      [40, "reloaded in part: what is named restart needs a restart", ["broker.port"]],
      [40, "reloaded in part: what is named restart needs a restart", ["broker.port"]],
      [30, "reloaded", []],
    ],
  );
});

test("a part may leave keys, and one that fails keeps what it had", async () => {
  const { reload } = withLog("peers: { fw2: 10.77.0.2 }\n");
  reload.onReload(["peers."], (_, changed) => changed.filter((key) => key !== "peers.fw3"));
  reload.onReload(["expectations"], () => {
    throw new Error("the socket is gone");
  });
  reload.onReload([], () => []);
  const next = config("peers: { fw2: 10.77.0.22, fw3: 10.77.0.3 }\nexpectations: false\n");
  const { applied, restart, failed } = await reload.reload(next);
  assert.deepEqual(applied, ["peers.fw3"]);
  assert.deepEqual([...restart].sort(), ["expectations", "peers.fw2"]);
  assert.deepEqual(failed, ["the socket is gone"]);
});

test("a reload before the node is there is applied when its parts are", async () => {
  const { reload } = withLog();
  assert.deepEqual((await reload.reload(config("purge: { after: 5s }\n"))).restart, ["purge.after"]);
  const applied = new Promise((resolve) => {
    reload.onReload(["purge.after"], ({ purgeAfterSeconds }) => {
      resolve(purgeAfterSeconds);
      return [];
    });
  });
  assert.equal(await applied, 5);
  assert.deepEqual(await reload.reload(config("purge: { after: 5s }\n")), { applied: [], restart: [], failed: [] });
});

test("every key of a configuration is compared", async () => {
  const read = new Set<string | symbol>();
  const whole = config();
  const get = (target: Config, key: string | symbol): unknown => {
    read.add(key);
    return Reflect.get(target, key);
  };
  keyValues(new Proxy(whole, { get }));
  // Where the file is says nothing of what is in it.
  assert.deepEqual(
    Object.keys(whole).filter((key) => !read.has(key)),
    ["path"],
  );
  const texts = [
    ...[
      "mode: inject",
      "control: /run/x",
      "lock: /x",
      "nice: 1",
      "scheduler: { policy: rr, priority: 1 }",
      "peer_timeout: 5s",
      "expectations: [ftp]",
    ],
    ...[
      "cache: { limit: 5 }",
      "publish: { interval: 9ms }",
      "purge: { after: 1s }",
      "metrics: { listen: 127.0.0.1:1 }",
    ],
    ...["commit: { ahead: 2s }", "keepalived: { fifo: /x }", "log: { format: json }"],
    ...["commit: { timeout: 9s }", "commit: { window_tracking: true }", "stats: { file: /x }", "archive: { dir: /x }"],
    ...["discover: { group: 225.0.0.50 }", "log: { level: warn }", "log: { file: /x }", "log: { syslog: true }"],
    ...["broker: { port: 1 }", "broker: { store: /x }", "broker: { max_age: 1h }", "broker: { max_bytes: 1GiB }"],
    ...["broker: { mode: external, servers: [10.0.0.1:4222] }", "broker: { login: { token: /x } }"],
    ...["broker: { encryption_key: /x }", "netlink: { buffer: 1MiB }", "netlink: { buffer_max: 8MiB }"],
    ...["netlink: { reliable: true }", "netlink: { overrun_resync: 1s }", "netlink: { poll: 1s }"],
    ...["netlink: { iteration_limit: 5 }", "filter: { protocols: [tcp] }", "filter: { ignore: [10.0.0.1] }"],
    ...["filter: { states: [CLOSE] }", "filter: { where: kernelspace }", "filter: { local: true }"],
  ];
  for (const text of texts) {
    const { restart } = await withLog().reload.reload(config(`${text}\n`));
    assert.ok(restart.length > 0, text);
  }
});
