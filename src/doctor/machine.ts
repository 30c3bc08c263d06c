import { execFile } from "node:child_process";
import { type Dirent, readdirSync, readFileSync, realpathSync, statfsSync, statSync } from "node:fs";
import { connect } from "node:net";
import { networkInterfaces } from "node:os";

const RUN_MS_MAX = 10_000;
const OUTPUT_BYTES_MAX = 64 * 1024 * 1024;
const CONNECT_MS_MAX = 2000;
/** Where Debian has programs, some of which are not in the PATH of users. */
const DIRECTORIES = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const TMPFS_MAGIC = 0x01021994;

/** What a program printed and how it ended. */
export interface RunResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** The disk below a path. */
export interface DiskFacts {
  readonly freeBytes: number;
  readonly totalBytes: number;
  /** True if it is memory, which a reboot empties. */
  readonly isMemory: boolean;
}

/** Everything that `doctor` may ask of this machine; it changes nothing. */
export interface Machine {
  /** The text of a file; null if it cannot be read. */
  read(path: string): string | null;
  /** The names in a directory; empty if it cannot be read. */
  list(path: string): readonly string[];
  /** The path with its links resolved; null if there is nothing. */
  realPath(path: string): string | null;
  /** True if it is a file that may be run. */
  isExecutable(path: string): boolean;
  /** Runs a program; null if it is not installed. */
  run(program: string, args: readonly string[]): Promise<RunResult | null>;
  /** The disk of a path, or of the nearest folder above that exists. */
  disk(path: string): DiskFacts | null;
  /** Name of the interface that has an address; null: none that is up has it. */
  interfaceOf(address: string): string | null;
  /** True if something accepts connections there. */
  accepts(host: string, port: number): Promise<boolean>;
}

/** This machine, in the network namespace of this process. */
export const thisMachine: Machine = {
  read(path) {
    try {
      return readFileSync(path, "utf8");
    } catch {
      return null;
    }
  },
  list(path) {
    try {
      return readdirSync(path, { withFileTypes: true }).map((entry: Dirent) => entry.name);
    } catch {
      return [];
    }
  },
  realPath(path) {
    try {
      return realpathSync(path);
    } catch {
      return null;
    }
  },
  isExecutable(path) {
    const stat = statSync(path, { throwIfNoEntry: false });
    return stat?.isFile() === true && (stat.mode & 0o111) !== 0;
  },
  run(program, args) {
    const env = { ...process.env, LC_ALL: "C", PATH: `${process.env.PATH ?? ""}:${DIRECTORIES}` };
    const options = { timeout: RUN_MS_MAX, maxBuffer: OUTPUT_BYTES_MAX, env };
    return new Promise((resolve) => {
      execFile(program, args, options, (error, stdout, stderr) => {
        if (error !== null && error.code === "ENOENT") return resolve(null);
        const code = error === null ? 0 : typeof error.code === "number" ? error.code : 1;
        resolve({ code, stdout, stderr });
      });
    });
  },
  disk(path) {
    for (let at = path; ; at = at.slice(0, at.lastIndexOf("/"))) {
      try {
        const { bavail, blocks, bsize, type } = statfsSync(at === "" ? "/" : at);
        return { freeBytes: bavail * bsize, totalBytes: blocks * bsize, isMemory: type === TMPFS_MAGIC };
      } catch {
        if (at === "") return null;
      }
    }
  },
  interfaceOf(address) {
    for (const [name, addresses] of Object.entries(networkInterfaces())) {
      if (addresses?.some((one) => one.address === address)) return name;
    }
    return null;
  },
  accepts(host, port) {
    return new Promise((resolve) => {
      const socket = connect({ host, port, timeout: CONNECT_MS_MAX });
      const end = (answer: boolean): void => {
        socket.destroy();
        resolve(answer);
      };
      socket.once("connect", () => end(true));
      socket.once("error", () => end(false));
      socket.once("timeout", () => end(false));
    });
  },
};
