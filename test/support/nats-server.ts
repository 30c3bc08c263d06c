import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { randomInt } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { connect, type JetStreamManager, type JsMsg, type NatsConnection } from "nats";
import { type Logger, pino } from "pino";
import { knownHoles } from "../../src/stream/broker/advisories.js";
import { parseBrokerVersion } from "../../src/stream/broker/broker-config.js";
import { programDirectories } from "../../src/stream/broker/broker-host.js";

const START_TIMEOUT_MS = 30_000;
/** Below those that the kernel gives to clients: one of theirs may take a port at any moment, and a server's that is being restarted, too. */
const PORT_MIN = 20_000;
const PORT_COUNT = 12_000;
const PORT_ATTEMPTS_MAX = 100;

/** The reason to skip tests that need a nats-server, or false when it is installed. */
export function natsServerMissing(): string | false {
  try {
    execFileSync("nats-server", ["--version"], { env: { PATH: programDirectories().join(":") }, stdio: "ignore" });
    return false;
  } catch {
    return "nats-server is not installed (apt-get install nats-server)";
  }
}

/** A logger that says nothing. */
/** A known hole of this machine's nats-server as text; false when it does not have it. */
export function natsServerHole(id: string): string | false {
  const version = execFileSync("nats-server", ["--version"], { env: { PATH: programDirectories().join(":") } });
  const holes = knownHoles(parseBrokerVersion(String(version)) ?? [0, 0, 0]);
  return holes.find((hole) => hole.startsWith(id)) ?? false;
}

export function silentLogger(): Logger {
  return pino({ level: "silent" });
}

/** A port of 127.0.0.1 that was free a moment ago. */
export async function freePort(): Promise<number> {
  for (let attempt = 0; attempt < PORT_ATTEMPTS_MAX; attempt++) {
    const port = PORT_MIN + randomInt(PORT_COUNT);
    const server = createServer();
    const free = await new Promise<boolean>((resolve) => {
      server.once("error", () => resolve(false));
      server.listen({ port, host: "127.0.0.1", exclusive: true }, () => resolve(true));
    });
    if (!free) continue;
    await new Promise((resolve) => server.close(resolve));
    return port;
  }
  throw new Error("no port");
}

/** Resolves when `condition` holds. Fails after `timeoutMs` with what was waited for. */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  timeoutMs = 30_000,
): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`waited ${timeoutMs} ms in vain for: ${what}`);
    await delay(5);
  }
}

/** A directory that is removed at the end of its block. */
export async function temporaryDirectory(): Promise<{ path: string } & AsyncDisposable> {
  const path = await mkdtemp(join(tmpdir(), `conntrail-${process.pid}-`));
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) };
}

export interface NatsServerOptions {
  maxFileStore?: number;
  /** False: without JetStream, which an operator's system account would be needed for. */
  jetStream?: boolean;
  /** Further lines of configuration. */
  more?: string;
}

/** Starts a real nats-server with JetStream, a store and a port of its own. Use with `await using`. */
export async function startNatsServer(options: NatsServerOptions = {}): Promise<TestNatsServer> {
  const server = new TestNatsServer(
    await mkdtemp(join(tmpdir(), `conntrail-${process.pid}-`)),
    await freePort(),
    options,
  );
  await server.start();
  return server;
}

/** A nats-server that a test may kill, stop and start again over the same store. */
export class TestNatsServer implements AsyncDisposable {
  readonly directory: string;
  readonly port: number;
  readonly #options: NatsServerOptions;
  #child: ChildProcess | null = null;
  #exited: Promise<void> = Promise.resolve();
  #output = "";

  constructor(directory: string, port: number, options: NatsServerOptions) {
    this.directory = directory;
    this.port = port;
    this.#options = options;
  }

  /** `host:port` for clients. */
  get address(): string {
    return `127.0.0.1:${this.port}`;
  }

  async start(): Promise<void> {
    const config = join(this.directory, "test.conf");
    const { maxFileStore = 2 * 1024 ** 3, jetStream = true, more = "" } = this.#options;
    const streams = `jetstream { store_dir: "${this.directory}", max_file_store: ${maxFileStore}, max_memory_store: 16777216 }`;
    await writeFile(config, `listen: "${this.address}"\nmax_payload: 2097152\n${jetStream ? streams : ""}\n${more}\n`);
    const path = programDirectories().join(":");
    const child = spawn("nats-server", ["-c", config], { env: { PATH: path }, stdio: ["ignore", "pipe", "pipe"] });
    this.#child = child;
    this.#output = "";
    for (const output of [child.stdout, child.stderr]) {
      output.on("data", (data: Buffer) => {
        this.#output = (this.#output + data.toString()).slice(-10_000);
      });
    }
    this.#exited = new Promise((resolve) => child.once("close", () => resolve()));
    await until(
      "nats-server to be ready",
      () => {
        if (child.exitCode !== null) throw new Error(`nats-server ended: ${this.#output}`);
        return this.#output.includes("Server is ready");
      },
      START_TIMEOUT_MS,
    );
  }

  /** Ends the server with SIGKILL unless told otherwise, and waits until it is gone. */
  async kill(signal: "SIGKILL" | "SIGTERM" = "SIGKILL"): Promise<void> {
    this.#child?.kill(signal);
    await this.#exited;
    this.#child = null;
  }

  /** Freezes the server as a hung disk would. */
  pause(): void {
    this.#child?.kill("SIGSTOP");
  }

  resume(): void {
    this.#child?.kill("SIGCONT");
  }

  /** A client of the test's own. */
  client(): Promise<NatsConnection> {
    return connect({ servers: this.address, maxReconnectAttempts: -1, reconnectTimeWait: 50 });
  }

  /** Runs `use` with a stream manager over a connection of its own. */
  async manage<T>(use: (jsm: JetStreamManager) => Promise<T>): Promise<T> {
    const client = await this.client();
    try {
      return await use(await client.jetstreamManager());
    } finally {
      await client.close();
    }
  }

  /** Every message of a stream, in its order. */
  async messagesIn(stream: string): Promise<JsMsg[]> {
    const client = await this.client();
    try {
      const consumer = await client.jetstream().consumers.get(stream);
      const messages: JsMsg[] = [];
      let left = (await consumer.info(true)).num_pending;
      while (left > 0) {
        for await (const message of await consumer.fetch({ max_messages: Math.min(left, 1000), expires: 2000 })) {
          messages.push(message);
          left--;
        }
      }
      return messages;
    } finally {
      await client.close();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.resume();
    await this.kill();
    await rm(this.directory, { recursive: true, force: true });
  }
}
