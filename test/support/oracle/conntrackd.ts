import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Namespace } from "../../../src/lab/namespace.js";
import { type CommandResult, findTool, type LineProcess, runCommand, waitFor } from "../../../src/lab/process.js";

const START_TIMEOUT_MS = 30_000;
const LINK_PORT = 3780;
const FLOWS_MAX = 131_072;

/** Why the real conntrackd cannot be asked here, or false. */
export function conntrackdMissing(): string | false {
  return findTool("conntrackd") === undefined && "needs conntrackd(8) as the oracle: run apt-get install conntrackd";
}

/** Where a conntrackd sits. */
export interface ConntrackdOptions {
  readonly namespace: Namespace;
  /** A directory of its own, which is made. */
  readonly directory: string;
  /** Its own address and its peer's on the dedicated link. */
  readonly own: string;
  readonly peer: string;
  readonly device: string;
  /** `TCPWindowTracking`. */
  readonly windowTracking: boolean;
  /** conntrackd ignores what has its source here, besides loopback. */
  readonly ignore: readonly string[];
  /** HashLimit, its default unless said. */
  readonly flowsMax?: number;
  /** Mode NOTRACK over this multicast group, in place of FTFW over UDP: how conntrackd serves more than two nodes. */
  readonly multicastGroup?: string;
  /** DisableExternalCache: what the peer tells goes straight into the kernel. */
  readonly injects?: boolean;
}

/** conntrackd's command line as a client of a daemon. */
export class ConntrackdClient {
  readonly #namespace: Namespace;
  readonly #program: string;
  readonly #configFile: string;

  constructor(namespace: Namespace, program: string, configFile: string) {
    this.#namespace = namespace;
    this.#program = program;
    this.#configFile = configFile;
  }

  /** What it prints to a request; throws when it fails. */
  async ask(...args: readonly string[]): Promise<string> {
    const { code, stdout, stderr } = await this.run(...args);
    if (code !== 0) throw new Error(`${this.#program} ${args.join(" ")}: exit ${code}: ${stderr.trim()}`);
    return stdout;
  }

  /** As `ask`; a failing command is a value. */
  run(...args: readonly string[]): Promise<CommandResult> {
    const command = this.#namespace.execArguments(this.#program, ["-C", this.#configFile, ...args]);
    return runCommand("ip", command);
  }
}

/** The distribution's conntrackd, with files of its own, in one namespace. */
export class Conntrackd {
  readonly client: ConntrackdClient;
  readonly #options: ConntrackdOptions;
  readonly #configFile: string;
  readonly #socket: string;
  #daemon: LineProcess | null = null;

  constructor(options: ConntrackdOptions) {
    this.#options = options;
    this.#configFile = join(options.directory, "conntrackd.conf");
    this.#socket = join(options.directory, "ctl");
    this.client = new ConntrackdClient(options.namespace, "conntrackd", this.#configFile);
    mkdirSync(options.directory, { mode: 0o700 });
    writeFileSync(this.#configFile, this.#config(this.#socket), { mode: 0o600 });
  }

  /** Another program as a client of another daemon, by this very conntrackd.conf but for the control socket. */
  clientOf(program: string, socket: string): ConntrackdClient {
    const configFile = join(this.#options.directory, "other.conf");
    writeFileSync(configFile, this.#config(socket), { mode: 0o600 });
    return new ConntrackdClient(this.#options.namespace, program, configFile);
  }

  #config(socket: string): string {
    const {
      directory,
      own,
      peer,
      device,
      ignore,
      windowTracking,
      flowsMax = FLOWS_MAX,
      injects = false,
      multicastGroup,
    } = this.#options;
    const address =
      multicastGroup === undefined
        ? `IPv4_address ${own}
		IPv4_Destination_Address ${peer}
		Port ${LINK_PORT}`
        : `IPv4_address ${multicastGroup}
		IPv4_interface ${own}
		Group ${LINK_PORT}`;
    const addresses = ignore.map((address) => `IPv${address.includes(":") ? 6 : 4}_address ${address}`);
    return `
Sync {
	Mode ${multicastGroup === undefined ? "FTFW" : "NOTRACK"} {
		DisableExternalCache ${injects ? "On" : "Off"}
	}
	${multicastGroup === undefined ? "UDP" : "Multicast"} {
		${address}
		Interface ${device}
		SndSocketBuffer 1249280
		RcvSocketBuffer 1249280
		Checksum on
	}
	Options {
		TCPWindowTracking ${windowTracking ? "On" : "Off"}
		ExpectationSync On
	}
}
General {
	HashSize ${flowsMax / 4}
	HashLimit ${flowsMax}
	LogFile ${join(directory, "log")}
	LockFile ${join(directory, "lock")}
	UNIX {
		Path ${socket}
	}
	NetlinkBufferSize 8388608
	NetlinkBufferSizeMaxGrowth 33554432
	Filter From Userspace {
		Address Ignore {
			${addresses.join("\n\t\t\t")}
		}
	}
}
`;
  }

  /** Its process, while it runs. */
  get pid(): number | undefined {
    return this.#daemon?.pid;
  }

  /** Starts it, and resolves when it answers. */
  async start(): Promise<void> {
    const { namespace, directory } = this.#options;
    const daemon = namespace.spawn(
      `conntrackd in ${namespace.name}`,
      "conntrackd",
      ["-C", this.#configFile],
      join(directory, "out.log"),
    );
    this.#daemon = daemon;
    await waitFor(`${namespace.name}: conntrackd answers`, START_TIMEOUT_MS, async () => {
      if (!daemon.running) throw new Error(`conntrackd ended: ${daemon.lines.join(" | ")}`);
      return existsSync(this.#socket) && (await this.client.run("-s")).code === 0;
    });
  }

  /** Ends it; the kernel's table stays as it is. */
  async stop(): Promise<void> {
    await this.#daemon?.stop();
  }

  /** Resolves when it runs no more. */
  async gone(): Promise<void> {
    await this.#daemon?.exited;
  }
}
