import { createHash } from "node:crypto";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Namespace } from "../../../src/lab/namespace.js";
import { type LineProcess, waitFor } from "../../../src/lab/process.js";
import { blockOf, DISC_BLOCKS } from "./disc.js";

const PORT = 80;
const START_TIMEOUT_MS = 30_000;

/** A web server that gives a disc slowly until it is told to hurry, and the clients that fetch it. */
export class Downloads {
  readonly server: LineProcess;
  readonly #directory: string;
  readonly #clients: LineProcess[] = [];

  constructor(server: Namespace, directory: string) {
    const script = fileURLToPath(new URL("./download-server.js", import.meta.url));
    this.#directory = directory;
    this.server = server.spawn("download-server", process.execPath, [script, String(PORT)], join(directory, "web.log"));
  }

  /** Every process of it. */
  get processes(): readonly LineProcess[] {
    return [this.server, ...this.#clients];
  }

  /** Starts wget as the text does, one attempt, and waits until it has received something. */
  async start(client: Namespace, host: string): Promise<void> {
    await this.server.waitForLine("it listens", START_TIMEOUT_MS, (line) => (line === "listening" ? true : undefined));
    const name = `wget of ${client.name} from ${host}`;
    const url = `http://${host.includes(":") ? `[${host}]` : host}:${PORT}/disc.iso`;
    const script = 'wget --no-proxy -nv -t1 -O- "$1" | sha256sum';
    const log = join(this.#directory, `wget-${this.#clients.length}.log`);
    this.#clients.push(client.spawn(name, "sh", ["-c", script, "sh", url], log));
    const wanted = this.#clients.length;
    await waitFor(
      `${name} has begun`,
      START_TIMEOUT_MS,
      () => this.server.lines.filter((line) => line === "begun").length >= wanted,
    );
  }

  /** How many have come to their end, well or not. */
  get ended(): number {
    return this.#clients.filter((client) => !client.running).length;
  }

  /** Gives the rest at full speed; the checksums that the clients saw, when all have ended. */
  async finish(timeoutMs: number): Promise<string[]> {
    this.server.send("hurry");
    await waitFor("the ends of the downloads", timeoutMs, () => this.ended === this.#clients.length);
    await Promise.all(this.#clients.map((client) => client.exited));
    return this.#clients.map((client) => client.lines.find((line) => /^[0-9a-f]{64} /.test(line))?.slice(0, 64) ?? "");
  }
}

/** The checksum of the whole disc. */
export function discChecksum(): string {
  const hash = createHash("sha256");
  for (let index = 0; index < DISC_BLOCKS; index++) hash.update(blockOf(index));
  return hash.digest("hex");
}
