import { chmodSync, cpSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { signal } from "../../../src/lab/leftover.js";
import type { Namespace } from "../../../src/lab/namespace.js";
import { type CommandResult, LineProcess, projectRoot, runCommand, waitFor } from "../../../src/lab/process.js";

/** Where the distribution's conntrackd has its examples. */
export const EXAMPLES = "/usr/share/doc/conntrackd/examples/sync";
/** The distribution's own script, which keepalived calls. */
export const PRIMARY_BACKUP = join(EXAMPLES, "primary-backup.sh");

/** What an administrator puts on a firewall. Files are copied as they are. */
export interface FirewallFiles {
  /** For /etc/conntrackd/conntrackd.conf. */
  readonly conntrackd: string;
  /** For /etc/keepalived/keepalived.conf. */
  readonly keepalived: string;
  /** Commands of a shell that load the ruleset. */
  readonly ruleset: readonly string[];
}

/** What serves as /usr/sbin/conntrackd: conntrail's, or (SEEDS_WITH=conntrackd) the one of the distribution, to prove a scenario. */
export const WITH_CONNTRACKD = process.env.SEEDS_WITH === "conntrackd";

const CONFIG = "/etc/conntrackd/conntrackd.conf";
const READY_TIMEOUT_MS = 30_000;
const STOP_TIMEOUT_MS = 15_000;
const WORDS_LINES = 60;

/**
 * A firewall of a seed. Beside its network namespace it has a mount namespace: /etc/conntrackd, /etc/keepalived, /run,
 * /var/lock, /var/log and /var/lib/conntrail are its own, so that two firewalls of one machine may use the same paths, and the seed's
 * files stay as they are. A process that only waits holds it.
 */
export class SeedFirewall {
  readonly name: string;
  readonly namespace: Namespace;
  readonly #directory: string;
  #holder: LineProcess | undefined;
  #keepalived: LineProcess | undefined;
  #service: LineProcess | undefined;

  constructor(name: string, namespace: Namespace, directory: string) {
    this.name = name;
    this.namespace = namespace;
    this.#directory = directory;
  }

  /** Makes the mount namespace, puts the files where they belong and loads the ruleset. */
  async install(files: FirewallFiles): Promise<void> {
    for (const name of ["conntrackd", "keepalived"]) mkdirSync(join(this.#directory, name), { recursive: true });
    const file = (...path: string[]): string => join(this.#directory, ...path);
    writeFileSync(file("conntrackd", "conntrackd.conf"), files.conntrackd);
    writeFileSync(file("keepalived", "keepalived.conf"), files.keepalived);
    cpSync(PRIMARY_BACKUP, file("conntrackd", "primary-backup.sh"));
    writeFileSync(file("logger"), '#!/bin/sh\necho "$*" >>/var/log/logger.log\n');
    writeFileSync(file("program"), `#!/bin/sh\nexec ${join(projectRoot(), "bin", "conntrackd")} "$@"\n`);
    for (const path of [file("conntrackd", "primary-backup.sh"), file("logger"), file("program")])
      chmodSync(path, 0o755);
    this.#holder = this.namespace.spawn(
      `mounts of ${this.name}`,
      "unshare",
      ["--mount", "sh", "-ec", MOUNTS, "sh", this.#directory, WITH_CONNTRACKD ? "" : file("program")],
      file("mounts.log"),
    );
    await this.#holder.waitForLine("they are there", READY_TIMEOUT_MS, (line) => (line === "ready" ? true : undefined));
    await this.namespace.sysctl({
      // By default the kernel adopts a connection in mid-stream, and a firewall without any state would seem to work.
      "net.netfilter.nf_conntrack_tcp_loose": 0,
    });
    await this.#must("sh", "-ec", files.ruleset.join("\n"));
  }

  /** Runs a command on this firewall; a failing one is a value. */
  async run(file: string, ...args: string[]): Promise<CommandResult> {
    return runCommand("nsenter", this.#enter(file, args));
  }

  /** Sends a request to the daemon, as an administrator does. */
  async conntrackd(...args: string[]): Promise<CommandResult> {
    return this.run("conntrackd", ...args);
  }

  /** The lines of `conntrackd ARGS`, empty ones left out. Throws when that fails. */
  async lines(...args: string[]): Promise<string[]> {
    return (await this.#must("conntrackd", ...args)).split("\n").filter((line) => line !== "");
  }

  /** Waits until a line of `conntrackd OPTION` matches. */
  async waitLine(option: "-i" | "-e", pattern: RegExp, timeoutMs: number): Promise<void> {
    let lines: string[] = [];
    const found = async (): Promise<boolean> => {
      lines = await this.lines(option);
      return lines.some((line) => pattern.test(line));
    };
    await waitFor(`${pattern} in ${option} of ${this.name}`, timeoutMs, found).catch((error: unknown) => {
      throw new Error(`${this.name} ${option} says:\n${lines.join("\n")}`, { cause: error });
    });
  }

  /** The kernel's own table, of one address family. */
  async kernel(family: "ipv4" | "ipv6" = "ipv4"): Promise<string[]> {
    return (await this.#must("conntrack", "-L", "-f", family)).split("\n").filter((line) => line !== "");
  }

  /** Starts the daemon as its systemd unit does and waits until it answers. */
  async startService(): Promise<void> {
    this.#service = this.#spawn("conntrackd", "conntrackd", ["-C", CONFIG]);
    await this.waitService();
  }

  /** Starts the daemon in the background, as scripts do. */
  async startDaemon(): Promise<void> {
    await this.#must("conntrackd", "-C", CONFIG, "-d");
    await this.waitService();
  }

  /** Waits until the daemon answers. */
  async waitService(): Promise<void> {
    await waitFor(`the daemon of ${this.name}`, READY_TIMEOUT_MS, async () => {
      if (this.#service?.running === false) throw new Error(`${this.name}: ${this.#service.lines.join(" | ")}`);
      return (await this.conntrackd("-s")).code === 0;
    });
  }

  /** Waits until the daemon that `startService` has started is gone; gives its exit code. */
  async serviceEnds(): Promise<number> {
    return (await this.#service?.exited) ?? 0;
  }

  /** Starts keepalived with its configuration file at its usual place. */
  startKeepalived(): void {
    const command = "exec keepalived --dont-fork --log-console --log-detail --vrrp >>/var/log/keepalived.log 2>&1";
    this.#keepalived = this.#spawn("keepalived", "sh", ["-c", command]);
  }

  /** Ends keepalived in good order: it gives its addresses back and tells its peers. */
  async stopKeepalived(): Promise<void> {
    await this.#keepalived?.stop(STOP_TIMEOUT_MS);
    this.#keepalived = undefined;
  }

  /** True when it has the address. */
  async holds(address: string): Promise<boolean> {
    const result = await runCommand("ip", ["-n", this.namespace.name, "-o", "addr", "show"]);
    return result.stdout.includes(` ${address}/`);
  }

  /** Waits until it has the address. */
  async waitHolds(address: string, timeoutMs: number): Promise<void> {
    await waitFor(`${this.name} has ${address}`, timeoutMs, () => this.holds(address), { intervalMs: 20 });
  }

  /** Waits until keepalived's log of this run matches. */
  async waitKeepalived(pattern: RegExp, timeoutMs: number): Promise<void> {
    await waitFor(`keepalived of ${this.name} says ${pattern}`, timeoutMs, async () =>
      pattern.test((await this.run("cat", "/var/log/keepalived.log")).stdout),
    );
  }

  /** Every line that primary-backup.sh has given to logger: its complaints. */
  async complaints(): Promise<string[]> {
    return (await this.run("cat", "/var/log/logger.log")).stdout.split("\n").filter((line) => line !== "");
  }

  /** Cuts it off as a power failure does: frozen first, so that nobody says goodbye. Its mounts stay to be looked at. */
  async cut(devices: readonly string[]): Promise<void> {
    const pids = this.namespace.pids().filter((pid) => pid !== this.#holder?.pid);
    for (const pid of pids) signal(pid, "SIGSTOP");
    await this.namespace.ip(devices.map((device) => `link set ${device} down`));
    for (const pid of pids) signal(pid, "SIGKILL");
  }

  /** What was said here last, for a test that failed. */
  async lastWords(): Promise<string> {
    const files = ["conntrackd", "keepalived", "logger"].map((name) => `/var/log/${name}.log`);
    const { stdout } = await this.run("tail", "-v", "-n", String(WORDS_LINES), ...files);
    const service = this.#service?.lines.slice(-WORDS_LINES).join("\n") ?? "";
    return `--- ${this.name}\n${stdout}==> service <==\n${service}\n`;
  }

  /** Waits for the ends of its processes, which the network's removal brings about. */
  async gone(): Promise<void> {
    await Promise.all([this.#holder?.exited, this.#keepalived?.exited, this.#service?.exited]);
  }

  async #must(file: string, ...args: string[]): Promise<string> {
    const result = await this.run(file, ...args);
    if (result.code === 0) return result.stdout;
    throw new Error(`${this.name}: ${file} ${args.join(" ")}: exit ${result.code}: ${result.stderr.trim()}`);
  }

  #spawn(title: string, file: string, args: readonly string[]): LineProcess {
    const log = join(this.#directory, `${title}.log`);
    return new LineProcess(`${title} of ${this.name}`, "nsenter", this.#enter(file, args), log);
  }

  /** nsenter(1) replaces itself, so the child has the command's own pid. */
  #enter(file: string, args: readonly string[]): string[] {
    return ["--target", String(this.#holder?.pid), "--mount", "--net", "--", file, ...args];
  }
}

/** Run by sh in a new mount namespace: $1 is the firewall's directory, $2 what stands in for conntrackd. Ends with its input. */
const MOUNTS = `
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -m 1777 /run/lock
[ -L /var/lock ] || mount -t tmpfs -o mode=1777 tmpfs /var/lock
[ -L /var/run ] || mount -t tmpfs -o mode=755 tmpfs /var/run
mount -t tmpfs -o mode=755 tmpfs /var/log
if [ -d /var/lib/conntrail ]; then mount -t tmpfs -o mode=755 tmpfs /var/lib/conntrail
else mount -t tmpfs -o mode=755 tmpfs /var/lib; fi
mount --bind "$1/conntrackd" /etc/conntrackd
mount --bind "$1/keepalived" /etc/keepalived
mount --bind "$1/logger" "$(command -v logger)"
[ -z "$2" ] || mount --bind "$2" /usr/sbin/conntrackd
echo ready
exec cat
`;
