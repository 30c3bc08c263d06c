/** The Debian package: dpkg installs, upgrades, rolls back and purges it in a directory of its own. */
import assert from "node:assert/strict";
import { execFile, spawnSync } from "node:child_process";
import { existsSync, lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { promisify } from "node:util";
import { sizeOf } from "../../deploy/packaging/debian-package.js";
import { debianVersion, programPackage } from "../../deploy/packaging/packages.js";
import { copyProductionModules, productionPackages } from "../../deploy/packaging/production-modules.js";
import { projectRoot } from "../../src/lab/process.js";
import { temporaryDirectory } from "../support/nats-server.js";

const MIB = 1024 * 1024;
const EARLIER = "0.9.0";
const LATER = "1.0.0-rc.7";

function missing(): string | false {
  if (process.geteuid?.() !== 0) return "not root: dpkg installs as root only";
  const lacking = ["dpkg", "dpkg-deb", "systemd-sysusers", "userdel"].filter(
    (name) => spawnSync("sh", ["-c", `command -v ${name}`], { stdio: "ignore" }).status !== 0,
  );
  return lacking.length === 0 ? false : `no ${lacking.join(", ")}`;
}

/** All files below a directory, but for dpkg's own records and the lists of users. */
function filesBelow(root: string): string[] {
  return readdirSync(root, { recursive: true, encoding: "utf8" })
    .filter((path) => !/^(var\/lib\/dpkg|etc\/(passwd|group|shadow|gshadow|\.pwd\.lock|.*-$))/.test(path))
    .filter((path) => !lstatSync(join(root, path)).isDirectory())
    .sort();
}

describe("the Debian package", { skip: missing(), timeout: 300_000 }, () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let root: string;
  const packages = new Map<string, string>();

  before(async () => {
    directory = await temporaryDirectory();
    root = join(directory.path, "root");
    mkdirSync(join(root, "var/lib/dpkg/info"), { recursive: true });
    mkdirSync(join(root, "var/lib/dpkg/updates"), { recursive: true });
    mkdirSync(join(root, "etc"), { recursive: true });
    writeFileSync(join(root, "var/lib/dpkg/status"), "");
    for (const version of [EARLIER, LATER]) {
      const made = { root: projectRoot(), scratch: join(directory.path, version), out: directory.path };
      const how = { date: "2026-01-31", cpus: [process.arch], compression: "none" } as const;
      packages.set(version, await programPackage({ ...made, version, ...how }));
    }
  });

  after(() => directory[Symbol.asyncDispose]());

  const dpkg = async (...args: string[]): Promise<void> => {
    const force = ["--force-script-chrootless", "--force-depends", "--force-bad-path", "--force-architecture"];
    await promisify(execFile)("dpkg", [`--root=${root}`, ...force, ...args]);
  };
  const install = (version: string): Promise<void> => dpkg("--install", packages.get(version)!);
  const program = () => join(root, "usr/sbin/conntrail");
  const version = async (): Promise<string> =>
    (await promisify(execFile)(program(), ["--version"], { timeout: 60_000 })).stdout.trim();

  it("puts each file in its place, and the program runs from there", async () => {
    await install(EARLIER);
    assert.equal(await version(), EARLIER);
    assert.equal(readlinkSync(join(root, "usr/lib/conntrail/current")), `versions/${EARLIER}`);
    // keepalived resolves links when it starts, and would go on calling the version of that day.
    assert.ok(lstatSync(program()).isFile());
    const files = filesBelow(root);
    for (const file of [
      "usr/sbin/conntrail",
      "usr/sbin/conntrail-conntrackd",
      "usr/lib/systemd/system/conntrail.service",
      "usr/lib/sysusers.d/conntrail.conf",
      "usr/lib/sysctl.d/60-conntrail.conf",
      "usr/lib/modules-load.d/conntrail.conf",
      "usr/share/man/man8/conntrail.8.gz",
      "usr/share/man/man8/conntrail-conntrackd.8.gz",
      "usr/share/man/man5/conntrail.yaml.5.gz",
      "usr/share/bash-completion/completions/conntrail",
      "usr/share/zsh/vendor-completions/_conntrail",
      "usr/share/fish/vendor_completions.d/conntrail.fish",
      "usr/share/doc/conntrail/changelog.gz",
      "usr/share/doc/conntrail/copyright",
      "usr/share/doc/conntrail/examples/nftables.conf",
      "usr/share/doc/conntrail/examples/keepalived.conf",
    ]) {
      assert.ok(files.includes(file), file);
    }
    assert.ok(!files.some((file) => file.includes("@duckdb")));
    const config = join(directory.path, "conntrail.yaml");
    writeFileSync(config, "cluster: edge\nnode: fw1\nlisten: 127.0.0.1\n");
    const sql = spawnSync(program(), ["sql", "SELECT 1", "-c", config], { encoding: "utf8" });
    assert.equal(sql.status, 1);
    assert.match(sql.stderr, /^conntrail: the archive and sql need DuckDB: install [^\n]+\n$/);
    const unit = readFileSync(join(root, "usr/lib/systemd/system/conntrail.service"), "utf8");
    assert.match(unit, /^ExecStart=\/usr\/sbin\/conntrail daemon$/m);
    assert.doesNotMatch(unit, /opt\/conntrail/);
    assert.match(readFileSync(join(root, "etc/passwd"), "utf8"), /^conntrail:/m);
    const bytes = sizeOf(join(root, "usr"));
    assert.ok(bytes < 60 * MIB, `${(bytes / MIB).toFixed(1)} MiB installed`);
  });

  it("is whole at every moment of an upgrade and of a rollback", async () => {
    for (const next of [LATER, EARLIER, LATER]) {
      const changed = new AbortController();
      const seen: string[] = [];
      const asking = (async () => {
        do seen.push(await version());
        while (!changed.signal.aborted);
      })();
      await install(next);
      changed.abort();
      await asking.catch((error: Error) => assert.fail(`a call failed: ${error.message}`));
      assert.equal(await version(), next);
      assert.deepEqual(
        seen.filter((one) => one !== EARLIER && one !== LATER),
        [],
      );
      assert.match(
        readlinkSync(join(root, "usr/lib/conntrail/current")),
        new RegExp(`^versions/${debianVersion(next)}`),
      );
    }
    await install(LATER);
    const versions = readdirSync(join(root, "usr/lib/conntrail/versions")).sort();
    assert.deepEqual(versions, [debianVersion(LATER), `${debianVersion(LATER)}.1`], "this version and the one before");
  });

  it("leaves the configuration when it is removed, and nothing when it is purged", async () => {
    const config = join(root, "etc/conntrail/conntrail.yaml");
    writeFileSync(config, "cluster: edge\n");
    mkdirSync(join(root, "var/lib/conntrail/jetstream"), { recursive: true });
    writeFileSync(join(root, "var/lib/conntrail/jetstream/block"), "");
    await dpkg("--remove", "conntrail");
    assert.deepEqual(filesBelow(root), ["etc/conntrail/conntrail.yaml", "var/lib/conntrail/jetstream/block"]);
    await dpkg("--purge", "conntrail");
    assert.deepEqual(filesBelow(root), []);
    assert.ok(!existsSync(join(root, "etc/conntrail")) && !existsSync(join(root, "usr/lib/conntrail")));
    assert.doesNotMatch(readFileSync(join(root, "etc/passwd"), "utf8"), /conntrail/);
  });
});

describe("the package of npm", { timeout: 120_000 }, () => {
  it("has the built program, and neither sources nor tests", () => {
    const packed = spawnSync("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], {
      cwd: projectRoot(),
      encoding: "utf8",
    });
    assert.equal(packed.status, 0, packed.stderr);
    const [{ files }] = JSON.parse(packed.stdout) as [{ files: { path: string }[] }];
    const paths = files.map(({ path }) => path);
    for (const path of ["bin/conntrail", "bin/conntrackd", "dist/src/cli/main.js", "deploy/conntrail.service"]) {
      assert.ok(paths.includes(path), path);
    }
    assert.deepEqual(
      paths.filter((path) => /^(src|test|deploy\/packaging|dist\/(test|deploy))\/|\.map$|(?<!\.d)\.ts$/.test(path)),
      [],
    );
  });

  it("needs less than 60 MB of packages beside it, and no DuckDB", async () => {
    await using to = await temporaryDirectory();
    assert.deepEqual(copyProductionModules(projectRoot(), to.path, [process.arch]), [process.arch]);
    const bytes = [...productionPackages(projectRoot()).keys()]
      .map((path) => join(projectRoot(), path))
      .filter((path) => existsSync(path))
      .reduce((sum, path) => sum + sizeOf(path), 0);
    assert.ok(bytes < 60 * MIB, `${(bytes / MIB).toFixed(1)} MiB`);
    assert.ok(!existsSync(join(to.path, "node_modules/@duckdb")));
  });
});
