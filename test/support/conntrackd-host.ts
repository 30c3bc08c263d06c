import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { type CommandResult, runCommand, runOrThrow, toolEnvironment, waitFor } from "../../src/lab/process.js";
import { DatagramReader } from "./datagram-reader.js";

const START_MS_MAX = 30_000;

/** Where conntrackd looks for its configuration. */
const CONF = "/etc/conntrackd/conntrackd.conf";

/** bin/conntrackd of the directory that this file was built in. */
export const CONNTRACKD = programAbove(dirname(fileURLToPath(import.meta.url)), join("bin", "conntrackd"));

/**
 * A machine as far as conntrackd can tell: network, processes, /run, /var/lib, /etc and /dev of its own, so that its default
 * files can be used as they are. Everything in it dies with it, also when the test is killed.
 */
export class ConntrackdHost implements AsyncDisposable {
  readonly number: number;
  /** Seen by the test, too: its log and its configuration lie here. */
  readonly directory: string;
  readonly #holder: ChildProcess;
  readonly #pid: number;

  private constructor(number: number, directory: string, holder: ChildProcess, pid: number) {
    this.number = number;
    this.directory = directory;
    this.#holder = holder;
    this.#pid = pid;
  }

  /** One host with a dedicated link that leads nowhere yet. `number` is the last byte of its address on it. */
  static async create(number: number): Promise<ConntrackdHost> {
    const directory = mkdtempSync(join(tmpdir(), `conntrail-host-${process.pid}-${number}-`));
    const script = [
      "mount -t tmpfs tmpfs /run",
      "mount -t tmpfs tmpfs /var/lib",
      // Copies, so that the machine's own get no file for the sake of a test.
      "mkdir -p /run/lock /run/netns /run/etc",
      "cp -a /etc/. /run/etc",
      "mkdir -p /run/etc/conntrackd",
      "mount --bind /run/etc /etc",
      "mkdir /run/dev",
      "cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /run/dev",
      "mount --bind /run/dev /dev",
      "ip link set lo up",
      "echo up",
      // The shell stays, and reaps what the daemon leaves.
      "{ cat; exit; }",
    ].join(" && ");
    const separate = ["--mount", "--propagation=private", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"];
    const holder = spawn("unshare", [...separate, "sh", "-c", script], {
      env: toolEnvironment(),
      stdio: ["pipe", "pipe", "inherit"],
    });
    let said = "";
    holder.stdout?.on("data", (chunk: Buffer) => {
      said += chunk.toString();
    });
    await waitFor("a host of its own", START_MS_MAX, () => said.includes("up") || holder.exitCode !== null);
    const children = readFileSync(`/proc/${holder.pid}/task/${holder.pid}/children`, "utf8");
    const host = new ConntrackdHost(number, directory, holder, Number(children.trim()));
    await host.exec("sysctl", "-qw", "net.netfilter.nf_conntrack_events=1");
    return host;
  }

  /** Two hosts, each other's peer, with their configuration. */
  static async pair(): Promise<[ConntrackdHost, ConntrackdHost]> {
    const a = await ConntrackdHost.create(1);
    const b = await ConntrackdHost.create(2);
    const link = `link add sync0 netns ${a.#pid} type veth peer name sync0 netns ${b.#pid}`;
    await runOrThrow("ip", link.split(" "));
    for (const host of [a, b]) {
      await host.exec("ip", "addr", "add", `10.9.8.${host.number}/24`, "dev", "sync0");
      await host.exec("ip", "link", "set", "sync0", "up");
      await host.configure(host.conf());
    }
    return [a, b];
  }

  /** Its /dev/log, read by the test. */
  syslog(): DatagramReader {
    return new DatagramReader(`/proc/${this.#pid}/root/dev/log`);
  }

  get logFile(): string {
    return join(this.directory, "log");
  }

  /** Its conntrackd.conf; `general` stands in the General block, too. */
  conf(general = ""): string {
    return `Sync {
  Mode FTFW { }
  UDP {
    IPv4_address 10.9.8.${this.number}
    IPv4_Destination_Address 10.9.8.${3 - this.number}
    Port 3780
    Interface sync0
    Checksum on
  }
  Options { ExpectationSync On }
}
General {
  HashSize 1024
  HashLimit 4096
  LogFile ${this.logFile}
  LockFile /var/lock/conntrack.lock
  UNIX { Path /var/run/conntrackd.ctl }
  Filter From Userspace { Protocol Ignore { VRRP } }
  ${general}
}
`;
  }

  /** Writes its conntrackd.conf. */
  async configure(text: string): Promise<void> {
    const file = join(this.directory, "conntrackd.conf");
    writeFileSync(file, text);
    await this.exec("cp", file, CONF);
  }

  /** conntrackd with these options; a failing one is a value. */
  conntrackd(...args: string[]): Promise<CommandResult> {
    return this.run(CONNTRACKD, ...args);
  }

  /** Any command in it; a failing one is a value. */
  run(file: string, ...args: string[]): Promise<CommandResult> {
    return runCommand("nsenter", this.#enter(file, args), { timeoutMs: 90_000 });
  }

  /** Any command in it; gives what it printed, throws when it fails. */
  async exec(file: string, ...args: string[]): Promise<string> {
    return await runOrThrow("nsenter", this.#enter(file, args));
  }

  /** Starts a command in it. */
  spawn(file: string, args: readonly string[], env: Readonly<Record<string, string>> = {}): ChildProcess {
    return spawn("nsenter", this.#enter(file, args), { env: { ...toolEnvironment(), ...env }, stdio: "ignore" });
  }

  /** The messages in its log file, oldest first. */
  log(): string[] {
    if (!existsSync(this.logFile)) return [];
    const lines = readFileSync(this.logFile, "utf8").trim().split("\n");
    return lines.filter((line) => line !== "").map((line) => String((JSON.parse(line) as { msg: unknown }).msg));
  }

  /** Whether a file is there in it. */
  async has(path: string): Promise<boolean> {
    return (await this.run("test", "-e", path)).code === 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = new Promise((resolve) => this.#holder.once("exit", resolve));
    const gone = this.#holder.exitCode !== null || this.#holder.signalCode !== null;
    this.#holder.kill("SIGKILL");
    if (!gone) await ended;
    rmSync(this.directory, { recursive: true, force: true });
  }

  #enter(file: string, args: readonly string[]): string[] {
    return ["--target", String(this.#pid), "--mount", "--net", "--pid", "--wd=/", "--", file, ...args];
  }
}

function programAbove(start: string, path: string): string {
  for (let directory = start; ; directory = dirname(directory)) {
    const program = join(directory, path);
    if (existsSync(program)) return program;
    if (directory === dirname(directory)) throw new Error(`no ${path} above the tests`);
  }
}
