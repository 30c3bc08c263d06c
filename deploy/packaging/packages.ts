import { cpSync, existsSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { wholeProgram } from "../../src/cli/main.js";
import { bashCompletion, fishCompletion, zshCompletion } from "./completions.js";
import { DebianPackage, text } from "./debian-package.js";
import { configurationManPage, conntrackdPage, conntrailPage, type Edition } from "./man-pages.js";
import { ARCHITECTURES, copyPackage, copyProductionModules } from "./production-modules.js";
import { commandTree } from "./program-tree.js";

/** What the packages are made of and where they go. */
export interface Build {
  /** The root of the project, with its build in `dist`. */
  readonly root: string;
  /** An empty directory for the trees of the packages. */
  readonly scratch: string;
  /** Where the packages are put. */
  readonly out: string;
  /** The release, as in package.json: `1.0.0-rc.1`. */
  readonly version: string;
  /** The day of the release: `2026-01-31`. */
  readonly date: string;
  /** Names of processors, as Node has them, for which native parts are sought. */
  readonly cpus: readonly string[];
  /** dpkg-deb's: `xz` is small, `none` is fast. */
  readonly compression: "xz" | "none";
}

const DOCUMENTS = ["README.md", "ARCHITECTURE.md", "FORMAT.md", "SECURITY.md", "docs"];
const EXAMPLES: Readonly<Record<string, string>> = {
  "deploy/nftables.conf.example": "nftables.conf",
  "deploy/keepalived.conf.example": "keepalived.conf",
  "deploy/conntrackd-override.conf": "conntrackd-override.conf",
  "deploy/networkd-link.network.example": "networkd-link.network",
  "deploy/nats.service": "conntrail-nats.service",
  "nats.conf": "nats.conf",
  "deploy/prometheus-alerts.yaml": "prometheus-alerts.yaml",
  "deploy/grafana-dashboard.json": "grafana-dashboard.json",
};

/** The version as Debian writes it: a release candidate is older than its release. */
export function debianVersion(version: string): string {
  return version.replace(/-(?=[a-z])/, "~");
}

/** The program: for all architectures if all native parts are there, otherwise for this machine's. */
export async function programPackage(build: Build): Promise<string> {
  const { root, scratch, version } = build;
  const tree = join(scratch, "conntrail");
  const home = join(tree, "usr/lib/conntrail/program");
  mkdirSync(home, { recursive: true });
  const whole = copyProductionModules(root, home, build.cpus);
  const isForAll = Object.keys(ARCHITECTURES).every((cpu) => whole.includes(cpu));
  const made = new DebianPackage(tree, {
    name: "conntrail",
    version: debianVersion(version),
    architecture: isForAll ? "all" : architecture(),
    depends:
      "nodejs (>= 20) | conntrail-node, nats-server (>= 2.9), openssl, conntrack, kmod, procps, util-linux, systemd | systemd-standalone-sysusers | systemd-sysusers, init-system-helpers (>= 1.54)",
    recommends: "keepalived, nftables",
    suggests: "conntrail-duckdb",
    summary: "replicates the connection tracking table between firewalls",
    description: [
      "Connections survive the death of a firewall: each firewall publishes the",
      "events of its kernel's connection tracking table to a stream of its own in",
      "NATS JetStream, and follows those of the others. When keepalived makes it",
      "primary, it writes their connections into its kernel. It takes the place",
      "of conntrackd, and keeps the history of all connections.",
      "",
      "Where the distribution's Node.js is older than 20, install the package",
      "conntrail-node beside this one.",
    ],
  });
  addProgram(made, build);
  addSystem(made, build);
  await addDocumentation(made, build);
  for (const name of ["postinst", "prerm", "postrm"] as const) {
    made.script(
      name,
      text(join(root, "deploy/packaging/debian", name)).replaceAll("@VERSION@", debianVersion(version)),
    );
  }
  return made.build(build);
}

function addProgram(made: DebianPackage, { root, version }: Build): void {
  const home = "usr/lib/conntrail/program";
  for (const name of ["conntrail", "conntrackd"]) made.copy(join(root, "bin", name), `${home}/bin/${name}`);
  cpSync(join(root, "dist/src"), made.path(`${home}/dist/src`), {
    recursive: true,
    filter: (source) => !source.endsWith(".map"),
  });
  const manifest = JSON.parse(text(join(root, "package.json"))) as object;
  made.write(`${home}/package.json`, `${JSON.stringify({ ...manifest, version }, null, 2)}\n`);
  for (const name of ["conntrail", "conntrail-conntrackd"]) {
    made.write(`usr/sbin/${name}`, text(join(root, "deploy/launcher")), 0o755);
  }
}

/** The files that the system reads. The unit and the examples name the program by its place in this package. */
function addSystem(made: DebianPackage, { root }: Build): void {
  const deploy = (name: string): string => installedPaths(text(join(root, name)));
  made.write("usr/lib/systemd/system/conntrail.service", deploy("deploy/conntrail.service"));
  made.write("usr/lib/sysusers.d/conntrail.conf", deploy("deploy/conntrail-sysusers.conf"));
  made.write("usr/lib/modules-load.d/conntrail.conf", deploy("deploy/conntrail-modules.conf"));
  made.write("usr/lib/sysctl.d/60-conntrail.conf", deploy("deploy/conntrail-sysctl.conf"));
  for (const [file, name] of Object.entries(EXAMPLES)) {
    if (existsSync(join(root, file))) made.write(`usr/share/doc/conntrail/examples/${name}`, deploy(file));
  }
}

function installedPaths(content: string): string {
  return content
    .replaceAll("/opt/conntrail/bin/conntrackd", "/usr/sbin/conntrail-conntrackd")
    .replaceAll("/opt/conntrail/bin/conntrail", "/usr/sbin/conntrail");
}

async function addDocumentation(made: DebianPackage, build: Build): Promise<void> {
  const { root, version, date } = build;
  const tree = commandTree(await wholeProgram());
  const edition: Edition = { version, date };
  made.writeCompressed("usr/share/man/man8/conntrail.8", conntrailPage(tree, edition));
  made.writeCompressed("usr/share/man/man8/conntrail-conntrackd.8", conntrackdPage(edition));
  made.writeCompressed("usr/share/man/man5/conntrail.yaml.5", configurationManPage(edition));
  made.write("usr/share/bash-completion/completions/conntrail", bashCompletion(tree));
  made.write("usr/share/zsh/vendor-completions/_conntrail", zshCompletion(tree));
  made.write("usr/share/fish/vendor_completions.d/conntrail.fish", fishCompletion(tree));
  for (const name of DOCUMENTS) made.copy(join(root, name), `usr/share/doc/conntrail/${name}`);
  made.writeCompressed("usr/share/doc/conntrail/changelog", text(join(root, "CHANGELOG.md")));
  made.write("usr/share/doc/conntrail/copyright", text(join(root, "deploy/packaging/debian/copyright")));
}

/** DuckDB, which the archive and `sql` need, for this machine's architecture. */
export function duckdbPackage(build: Build): string {
  const made = new DebianPackage(join(build.scratch, "conntrail-duckdb"), {
    name: "conntrail-duckdb",
    version: debianVersion(build.version),
    architecture: architecture(),
    depends: "conntrail",
    summary: "DuckDB for conntrail's archive of connections",
    description: ["Needed by `archive` in conntrail's configuration, and by `conntrail sql`."],
  });
  const packages = join(build.root, "node_modules");
  for (const name of readdirSync(join(packages, "@duckdb"))) {
    copyPackage(join(packages, "@duckdb", name), made.path(`usr/lib/conntrail/node_modules/@duckdb/${name}`));
  }
  copyPackage(join(packages, "detect-libc"), made.path("usr/lib/conntrail/node_modules/detect-libc"));
  return made.build(build);
}

/** Node.js for distributions whose own is too old, from an installed Node.js: one program. */
export function nodePackage(build: Build, program: string, nodeVersion: string): string {
  const made = new DebianPackage(join(build.scratch, "conntrail-node"), {
    name: "conntrail-node",
    version: nodeVersion,
    architecture: architecture(),
    depends: "libc6, libstdc++6",
    summary: "Node.js for conntrail",
    description: ["Node.js beside conntrail, where the distribution's own is older than 20."],
  });
  made.copy(program, "usr/lib/conntrail/node/bin/node");
  return made.build(build);
}

function architecture(): string {
  const name = ARCHITECTURES[process.arch];
  if (name === undefined) throw new Error(`no package for the processor ${process.arch}`);
  return name;
}
