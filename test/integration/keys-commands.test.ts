/** Keys by the command line: two commands and a copy, and what becomes of keys that are wrong. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, it } from "node:test";
import { loadAnyConfig } from "../../src/cli/command/config-file.js";
import { loadConfig } from "../../src/config/config.js";
import { issueCertificate, makeAuthority } from "../../src/keys/authority.js";
import { checkOwnCertificate, EXPIRY_WARN_MS } from "../../src/keys/certificate.js";
import { readAuthority, writeKeys } from "../../src/keys/key-folder.js";
import { readRoster } from "../../src/keys/roster.js";
import { programDirectories } from "../../src/stream/broker/broker-host.js";
import { opensslMissing } from "../support/certificate.js";
import { natsServerMissing, temporaryDirectory } from "../support/nats-server.js";
import { finish, type ProgramResult, startMain } from "../support/program.js";

const DAY_MS = 86_400_000;

function run(...args: string[]): Promise<ProgramResult> {
  return finish(startMain(args));
}

async function done(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await run(...args);
  assert.equal(code, 0, stderr);
  return stdout;
}

async function refused(code: number, line: RegExp, ...args: string[]): Promise<void> {
  const result = await run(...args);
  assert.equal(result.code, code, result.stderr);
  assert.match(result.stderr, /^conntrail: [^\n]+\n$/, "one line");
  assert.match(result.stderr, line);
}

/** The configuration of each node, made as the README says: a command, a copy, a command. */
async function cluster(directory: string): Promise<readonly [fw1: string, fw2: string, audit: string]> {
  const [fw1, fw2, audit] = ["fw1", "fw2", "audit1"].map((node) => join(directory, node, "conntrail.yaml")) as [
    string,
    string,
    string,
  ];
  const first = ["--cluster", "edge", "--node", "fw1", "--listen", "127.0.0.1", "--peer", "fw2=127.0.0.2"];
  await done("init", ...first, "--observer", "audit1=127.0.0.100", "-c", fw1);
  for (const [node, path] of [
    ["fw2", fw2],
    ["audit1", audit],
  ] as const) {
    const copy = join(directory, `${node}.copy`);
    copyFileSync(join(directory, "fw1", `${node}.bundle`), copy);
    await done("init", "--bundle", copy, "-c", path);
    assert.equal(existsSync(copy), false, "the bundle is gone");
  }
  return [fw1, fw2, audit];
}

const modeOf = (path: string): number => statSync(path).mode & 0o777;

describe("keys", { skip: opensslMissing() }, () => {
  it("are made by two commands and a copy, for firewalls and observers", async () => {
    await using directory = await temporaryDirectory();
    const paths = await cluster(directory.path);
    const expected = [
      { node: "fw1", mode: "cache", peers: ["fw2"], listen: "127.0.0.1" },
      { node: "fw2", mode: "cache", peers: ["fw1"], listen: "127.0.0.2" },
      { node: "audit1", mode: "observer", peers: ["fw1", "fw2"], listen: "127.0.0.100" },
    ];
    for (const [index, path] of paths.entries()) {
      const config = loadConfig(path);
      const { node, mode, listen } = config;
      assert.deepEqual({ node, mode, listen, peers: config.peers.map((peer) => peer.node).sort() }, expected[index]);
      const tls = config.tls!;
      const facts = checkOwnCertificate(tls, { node, address: listen }, Date.now());
      assert.deepEqual(facts.names, [node]);
      assert.deepEqual(readRoster(tls.nodes!), { nodes: ["fw1", "fw2", "audit1"], revoked: [] });
      assert.equal(modeOf(tls.key), 0o600);
      assert.equal(
        existsSync(join(dirname(tls.ca), "ca.key")),
        node === "fw1",
        "the authority stays where it was made",
      );
    }
    assert.equal(modeOf(join(directory.path, "fw1", "keys", "ca.key")), 0o600);
    assert.equal(modeOf(join(directory.path, "fw1", "fw2.bundle")), 0o600);
  });

  it("come from a bundle only if it is whole, readable for its owner only, and for this node", async () => {
    await using directory = await temporaryDirectory();
    const [fw1, fw2] = await cluster(directory.path);
    const bundle = join(directory.path, "fw1", "fw2.bundle");
    const other = join(directory.path, "other", "conntrail.yaml");
    chmodSync(bundle, 0o644);
    await refused(2, /fw2\.bundle: can be read by others: chmod 600/, "init", "--bundle", bundle, "-c", other);
    chmodSync(bundle, 0o600);
    await refused(2, /is for fw2 of cluster edge, and this node is fw1/, "keys", "install", bundle, "-c", fw1);
    const text = readFileSync(bundle, "utf8");
    for (const [what, wrong] of [
      ["cut", text.slice(0, text.length / 2)],
      [
        "of another key",
        text.replace(
          /-----BEGIN PRIVATE KEY-----[\s\S]+-----END PRIVATE KEY-----\n/,
          readFileSync(loadConfig(fw1).tls!.key, "utf8"),
        ),
      ],
      ["of another node", text.replace('"node":"fw2"', '"node":"fw1"')],
      ["no bundle", "hello"],
    ] as const) {
      const path = join(directory.path, "wrong.bundle");
      writeFileSync(path, wrong, { mode: 0o600 });
      await refused(2, /wrong\.bundle: /, "init", "--bundle", path, "-c", other);
      assert.equal(existsSync(other), false, what);
    }
    await done("keys", "install", bundle, "-c", fw2);
  });

  it("that are wrong, expired or open to others are refused at the start in one line", async () => {
    await using directory = await temporaryDirectory();
    const [fw1] = await cluster(directory.path);
    const tls = loadConfig(fw1).tls!;
    const authority = readAuthority(tls);
    const stranger = makeAuthority("edge", Date.now());
    const now = Date.now();
    const cases: readonly (readonly [why: RegExp, spoil: () => void])[] = [
      [/node\.key: can be read or written by others: chmod 600/, () => chmodSync(tls.key, 0o604)],
      [/node\.pem: can be written by others: chmod 644/, () => chmodSync(tls.cert, 0o666)],
      [/nodes\.json: can be written by others/, () => chmodSync(tls.nodes!, 0o666)],
      [/node\.key: is no private key/, () => writeFileSync(tls.key, "x")],
      [/node\.pem: is no certificate/, () => writeFileSync(tls.cert, "x")],
      [/nodes\.json: allowed is \{"nodes":/, () => writeFileSync(tls.nodes!, '{"nodes":["a b"],"revoked":[]}')],
      [
        /node\.pem: is not the certificate of the key/,
        () => writeFileSync(tls.cert, issueCertificate(authority, "fw1", now).cert),
      ],
      [/node\.pem: is for fw2, and this node is fw1/, () => put(issueCertificate(authority, "fw2", now))],
      [/node\.pem: is not signed by the authority/, () => put(issueCertificate(stranger, "fw1", now))],
      [
        /node\.pem: has expired on \d{4}-\d\d-\d\d: conntrail keys renew/,
        () => put(issueCertificate(authority, "fw1", now - 9 * DAY_MS, 8)),
      ],
      [
        /node\.pem: is valid from \d{4}-\d\d-\d\d only: set this machine's clock/,
        () => put(issueCertificate(authority, "fw1", now + 9 * DAY_MS)),
      ],
    ];
    const put = ({ cert, key }: { cert: string; key: string }): void => {
      writeKeys(tls, { cert, key, ca: authority.cert }, { nodes: ["fw1", "fw2"], revoked: [] });
    };
    for (const [why, spoil] of cases) {
      put(issueCertificate(authority, "fw1", now));
      for (const [path, mode] of [
        [tls.key, 0o600],
        [tls.cert, 0o644],
        [tls.nodes!, 0o644],
      ] as const)
        chmodSync(path, mode);
      spoil();
      await refused(1, why, "daemon", "-c", fw1);
    }
  });

  it("are missed by a daemon that would listen to others, unless somebody wrote that there shall be none", async () => {
    await using directory = await temporaryDirectory();
    const path = join(directory.path, "conntrail.yaml");
    const write = (more: string, listen = "192.0.2.1"): void => {
      const broker = `broker: { store: ${join(directory.path, "store")} }`;
      const mode = `mode: observer\ncontrol: ${join(directory.path, "c.sock")}`;
      writeFileSync(path, `cluster: edge\nnode: fw1\nlisten: ${listen}\n${mode}\n${broker}\n${more}`);
    };
    write("");
    await refused(
      1,
      /tls: is missing, and whoever reaches 192\.0\.2\.1 could read .*: make keys with conntrail keys create, or write tls: false/,
      "daemon",
      "-c",
      path,
    );
    write("tls: false\n");
    const open = await run("daemon", "-c", path);
    assert.match(
      open.stdout,
      /the link has no keys \([^)]*\): whoever reaches 192\.0\.2\.1 port 4222, local users too, can read all connections and change the tables/,
    );
    assert.match(open.stderr, /192\.0\.2\.1 is no address of this machine/, "it went on");
  });

  it("are made for a configuration that has none, which then names them", async () => {
    await using directory = await temporaryDirectory();
    const path = join(directory.path, "conntrail.yaml");
    for (const [more, lines] of [
      ["", 0],
      ["tls: false\nlog: { level: warn }\n", 1],
    ] as const) {
      writeFileSync(path, `cluster: edge\nnode: fw1\nlisten: 127.0.0.1\npeers: { fw2: 127.0.0.2 }\n${more}`);
      await done("keys", "create", ...(lines === 0 ? [] : ["--force"]), "-c", path);
      const config = loadConfig(path);
      assert.equal(config.isOpen, false);
      checkOwnCertificate(config.tls!, { node: "fw1", address: "127.0.0.1" }, Date.now());
    }
    const conf = join(directory.path, "etc", "conntrackd.conf");
    mkdirSync(dirname(conf));
    copyFileSync("test/golden/conntrackd-conf/ha-fw-1.conf", conf);
    assert.equal(loadAnyConfig(conf).isOpen, true);
    await done("keys", "create", "-c", conf);
    const { tls, node, listen } = loadAnyConfig(conf);
    assert.deepEqual(checkOwnCertificate(tls!, { node, address: listen }, Date.now()).names, ["172-30-16-1"]);
    assert.equal(existsSync(join(directory.path, "etc", "172-30-16-2.bundle")), true);
    await refused(2, /there are keys already/, "keys", "create", "-c", path);
  });

  it("are in the configuration of a nats-server that runs beside the daemon", {
    skip: natsServerMissing(),
  }, async () => {
    await using directory = await temporaryDirectory();
    const [fw1] = await cluster(directory.path);
    writeFileSync(join(directory.path, "conntrail-accounts.conf"), await done("keys", "broker", "-c", fw1));
    const { ca, cert, key } = loadConfig(fw1).tls!;
    const delivered = readFileSync("nats.conf", "utf8");
    const text = delivered
      .replace(/^# (tls \{|include .*|\}| {2}(?:cert_file|key_file|ca_file|verify_and_map|timeout): .*)$/gm, "$1")
      .replace("/etc/conntrail/keys/node.pem", cert)
      .replace("/etc/conntrail/keys/node.key", key)
      .replace("/etc/conntrail/keys/ca.pem", ca)
      .replace("/var/lib/conntrail", join(directory.path, "store"));
    const file = join(directory.path, "nats.conf");
    writeFileSync(file, text);
    assert.match(text, /^tls \{$[\s\S]*^ {2}verify_and_map: true$[\s\S]*^include /m);
    const env = { PATH: programDirectories().join(":") };
    const checked = spawnSync("nats-server", ["-t", "-c", file], { env, encoding: "utf8" });
    assert.equal(checked.status, 0, checked.stderr);
  });

  it("are in the accounts of the servers of broker.mode shared, and stay when these are printed again", {
    skip: natsServerMissing(),
  }, async () => {
    await using directory = await temporaryDirectory();
    const path = join(directory.path, "conntrail.yaml");
    const text = "cluster: edge\nnode: fw1\nlisten: 127.0.0.1\npeers: { fw2: 127.0.0.2 }\ntls: false\n";
    writeFileSync(path, text);
    await refused(2, /broker\.mode: found embedded, allowed is shared/, "keys", "permissions", "-c", path);
    writeFileSync(path, `${text}broker: { mode: shared, servers: ["nats://127.0.0.1:4222"] }\n`);
    const printed = await done("keys", "permissions", "--observer", "audit1", "-c", path);
    for (const node of ["fw1", "fw2", "audit1"]) {
      assert.equal(modeOf(join(directory.path, `${node}.nkey`)), 0o600);
      assert.match(printed, new RegExp(`^"conntrail_${node}@edge": \\{$`, "m"));
    }
    assert.equal(await done("keys", "permissions", "--observer", "audit1", "-c", path), printed);
    writeFileSync(join(directory.path, "conntrail-edge.conf"), printed);
    const file = join(directory.path, "nats.conf");
    writeFileSync(file, 'accounts { include "conntrail-edge.conf" }\n');
    const env = { PATH: programDirectories().join(":") };
    const checked = spawnSync("nats-server", ["-t", "-c", file], { env, encoding: "utf8" });
    assert.equal(checked.status, 0, checked.stderr);
  });

  it("are listed, renewed, revoked and given to more nodes", async () => {
    await using directory = await temporaryDirectory();
    const [fw1, fw2] = await cluster(directory.path);
    const before = readFileSync(loadConfig(fw1).tls!.cert, "utf8");
    assert.match(await done("keys", "renew", "--days", "20", "-c", fw1), /^fw1 has a new certificate until /);
    assert.notEqual(readFileSync(loadConfig(fw1).tls!.cert, "utf8"), before);
    const soon = new Date(Date.now() + 20 * DAY_MS).toISOString().slice(0, 10);
    assert.ok(20 * DAY_MS < EXPIRY_WARN_MS);
    const list = await done("keys", "list", "-c", fw1);
    assert.match(list, new RegExp(`^fw1 +this node +${soon}$`, "m"));
    assert.match(list, /^fw2 +may connect +20\d\d-/m);
    await refused(2, /ca\.key: this node does not have the authority's key/, "keys", "renew", "-c", fw2);
    await done("keys", "renew", "fw2", "--force", "-c", fw1);
    await done("keys", "install", join(directory.path, "fw1", "fw2.bundle"), "-c", fw2);
    await done("keys", "add-node", "fw3=127.0.0.3", "-c", fw1);
    assert.equal(existsSync(join(directory.path, "fw1", "fw3.bundle")), true);
    await done("keys", "add-node", "fw3", "-c", fw2);
    const third = join(directory.path, "fw3", "conntrail.yaml");
    mkdirSync(dirname(third));
    await done("init", "--bundle", join(directory.path, "fw1", "fw3.bundle"), "-c", third);
    assert.deepEqual(
      loadConfig(third)
        .peers.map(({ node }) => node)
        .sort(),
      ["fw1", "fw2"],
    );
    for (const path of [fw1, fw2]) {
      await done("keys", "revoke", "fw3", "-c", path);
      assert.match(await done("keys", "list", "-c", path), /^fw3 +revoked/m);
      await refused(
        2,
        /fw3 was revoked, and a certificate of that name may still be about/,
        "keys",
        "add-node",
        "fw3=127.0.0.3",
        "-c",
        path,
      );
    }
  });
});
