import { isStrict, type Release } from "./release.js";

/** What a sub-command may be limited to: flows or expectations. */
export type Part = "ct" | "expect";

/** The statistics that `-s` knows. */
export type StatsPart = "network" | "cache" | "runtime" | "link" | "rsqueue" | "process" | "queue" | Part;

/** A request of conntrackd's command line to the running daemon. `part` null: both. */
export type ConntrackdRequest =
  | { readonly kind: "commit" | "flush-kernel" | "resync-kernel"; readonly part: Part | null }
  | { readonly kind: "dump"; readonly table: "internal" | "external"; readonly part: Part; readonly xml: boolean }
  | { readonly kind: "flush"; readonly cache: "internal" | "external" | "caches" }
  | { readonly kind: "stats"; readonly part: StatsPart }
  | { readonly kind: "bulk" | "resync-peers" | "purge" }
  | { readonly kind: "stop" };

/** A message that conntrackd writes to standard error. */
export interface Complaint {
  readonly level: "ERROR" | "warning";
  readonly text: string;
}

/** A parsed command line. `usage`: print the help before the complaints. */
export interface ParsedOptions {
  readonly does:
    | { readonly kind: "exit"; readonly code: number }
    | { readonly kind: "version" }
    | { readonly kind: "daemon"; readonly background: boolean }
    | { readonly kind: "request"; readonly request: ConntrackdRequest };
  /** `-C`; null: not given. */
  readonly configPath: string | null;
  readonly usage: boolean;
  readonly complaints: readonly Complaint[];
}

/**
 * In the order in which prefixes match: `c` is cache, `r` runtime, `n` network. `multicast` is the old name of link.
 */
const STATS_PARTS = [
  "network",
  "cache",
  "runtime",
  "multicast",
  "link",
  "rsqueue",
  "process",
  "queue",
  "ct",
  "expect",
] as const;

/** The letters of the options that ask the daemon. */
const REQUESTS = "ciefFRBntks";

/** Thrown to end the reading of a command line. */
class Stop {
  readonly code: number;

  constructor(code: number) {
    this.code = code;
  }
}

/**
 * Parses a command line as conntrackd does: the second letter of a word decides, the last of several requests counts,
 * `-x` belongs to the dump before it, sub-commands may be abbreviated. An unknown option prints the help; before 1.4.9
 * it exits 0 then.
 */
export function parseOptions(argv: readonly string[], release: Release): ParsedOptions {
  const reader = new Reader(argv, release);
  try {
    reader.read();
  } catch (stop) {
    if (!(stop instanceof Stop)) throw stop;
    return { ...reader.result, does: { kind: "exit", code: stop.code } };
  }
  return reader.result;
}

class Reader {
  readonly #argv: readonly string[];
  readonly #release: Release;
  readonly #complaints: Complaint[] = [];
  #index = 0;
  #configPath: string | null = null;
  #usage = false;
  #mode: "daemon" | "request" | null = null;
  #request: ConntrackdRequest | null = null;
  #version = false;

  constructor(argv: readonly string[], release: Release) {
    this.#argv = argv;
    this.#release = release;
  }

  get result(): ParsedOptions {
    const does = this.#version
      ? ({ kind: "version" } as const)
      : this.#request !== null
        ? ({ kind: "request", request: this.#request } as const)
        : ({ kind: "daemon", background: this.#mode === "daemon" } as const);
    return { does, configPath: this.#configPath, usage: this.#usage, complaints: this.#complaints };
  }

  read(): void {
    for (let word = this.#argv[0]; word !== undefined && !this.#version; word = this.#argv[++this.#index]) {
      this.#option(word);
    }
  }

  #option(word: string): void {
    const letter = word[1] ?? "";
    if (letter !== "" && REQUESTS.includes(letter)) {
      this.#choose("request");
      this.#request = this.#requestOf(letter);
      return;
    }
    switch (letter) {
      case "d":
        this.#choose("daemon");
        break;
      case "C":
        this.#config();
        break;
      case "x":
        this.#request = this.#request?.kind === "dump" ? { ...this.#request, xml: true } : this.#invalid();
        break;
      case "v":
        this.#version = true;
        break;
      case "h":
        this.#usage = true;
        throw new Stop(0);
      default:
        this.#usage = true;
        this.#complain("ERROR", `Unknown option: ${word}`);
        throw new Stop(isStrict(this.#release) ? 1 : 0);
    }
  }

  #requestOf(letter: string): ConntrackdRequest {
    switch (letter) {
      case "c":
        return { kind: "commit", part: this.#part() };
      case "i":
        return { kind: "dump", table: "internal", part: this.#part() ?? "ct", xml: false };
      case "e":
        return { kind: "dump", table: "external", part: this.#part() ?? "ct", xml: false };
      case "F":
        return { kind: "flush-kernel", part: this.#part() };
      case "f":
        return { kind: "flush", cache: this.#argument("-f", ["internal", "external"]) ?? "caches" };
      case "R":
        return { kind: "resync-kernel", part: this.#part() };
      case "B":
        return { kind: "bulk" };
      case "n":
        return { kind: "resync-peers" };
      case "t":
        return { kind: "purge" };
      case "k":
        return { kind: "stop" };
      default:
        return { kind: "stats", part: this.#statsPart() };
    }
  }

  #choose(mode: "daemon" | "request"): void {
    if (this.#mode !== null && this.#mode !== mode) this.#invalid();
    this.#mode = mode;
  }

  #invalid(): never {
    this.#usage = true;
    this.#complain("ERROR", "Invalid parameters");
    throw new Stop(1);
  }

  #config(): void {
    const path = this.#argv[++this.#index];
    if (path !== undefined) {
      this.#configPath = path;
      return;
    }
    this.#usage = true;
    this.#complain("ERROR", "Missing config filename");
    // Before 1.4.9, conntrackd then continues with the default file.
    if (isStrict(this.#release)) throw new Stop(1);
  }

  #statsPart(): StatsPart {
    const part = this.#argument("-s", STATS_PARTS) ?? "ct";
    if (part !== "multicast") return part;
    this.#complain("warning", "use `link' instead of `multicast' as parameter.");
    return "link";
  }

  /** `ct` or `expect`; any other word is parsed as the next option. */
  #part(): Part | null {
    const next = this.#argv[this.#index + 1];
    if (next === undefined || next.startsWith("-")) return null;
    const part = (["ct", "expect"] as const).find((name) => name.startsWith(next));
    if (part === undefined) return null;
    this.#index++;
    return part;
  }

  #argument<const T extends string>(option: string, names: readonly T[]): T | null {
    const next = this.#argv[this.#index + 1];
    if (next === undefined || next.startsWith("-")) return null;
    const name = names.find((each) => each.startsWith(next));
    if (name === undefined) {
      this.#complain("ERROR", `unknown parameter \`${next}' for option \`${option}'`);
      throw new Stop(1);
    }
    this.#index++;
    return name;
  }

  #complain(level: Complaint["level"], text: string): void {
    this.#complaints.push({ level, text });
  }
}

/** What `-h` prints. */
export function usageText(release: Release, version: string): string {
  return `${headline(release, version)}
Usage: conntrackd [commands] [options]

  -C [configfile], conntrackd.conf or conntrail's YAML (default: /etc/conntrackd/conntrackd.conf)
  -d, run in the background; without a command: in the foreground
  -v, version
  -h, this help

Requests to the running daemon:
  -i [ct|expect], print the internal cache
  -e [ct|expect], print the external cache
  -x, after -i or -e: print XML
  -c [ct|expect], write the external cache into the kernel
  -f [internal|external], empty the caches
  -F [ct|expect], empty the kernel table
  -R [ct|expect], read the kernel table anew
  -B, send the whole internal cache to the peers
  -n, ask the peers for their caches
  -t, remove what other nodes carry now from the kernel, after PurgeTimeout
  -s [network|cache|runtime|link|rsqueue|process|queue|ct|expect], print statistics
  -k, end the daemon

`;
}

/** What `-v` prints: the release of conntrackd that this command line imitates, then its own name. */
export function versionText(release: Release, version: string): string {
  return `${headline(release, version)}\nMIT license.\n`;
}

function headline(release: Release, version: string): string {
  return `Connection tracking userspace daemon v${release}, as conntrail ${version} has it`;
}
