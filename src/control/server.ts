import { createServer, type Server, type Socket } from "node:net";
import { setImmediate } from "node:timers/promises";
import type { Logger } from "pino";
import { z } from "zod";
import { ConntrailError, errorText } from "../errors.js";
import type { HookStart } from "./hook-start.js";
import {
  type BulkReport,
  type CommandArgs,
  type CommandName,
  type CommitReport,
  type ExpectationsReport,
  type ExpectationView,
  encodeFrame,
  FLOW_TABLES,
  FLUSH_TARGETS,
  type FlowTableName,
  type FlushReport,
  type FlushTarget,
  type FrameType,
  GROUP_NAME,
  HOOK_ROLES,
  type HookReport,
  type HookRole,
  PROTOCOL_VERSION,
  type PurgeReport,
  REQUEST_BYTES_MAX,
  RESYNC_SOURCES,
  type RehearsalReport,
  type RekeyReport,
  type ReloadReport,
  type ReportCommand,
  type ResyncReport,
  type ResyncSource,
  ROW_KINDS,
  type RowKind,
  type StatsReport,
  type StatusReport,
} from "./protocol.js";
import { type RecordSink, RecordWriter } from "./record-writer.js";
import { listenAt, type SocketFile } from "./socket-file.js";

/** Sends a line to the waiting person; dropped when the client does not read, or is gone. */
export type ProgressListener = (text: string) => void;

/**
 * The requests to a node. A rejection with ConntrailError reaches the client with its code and message.
 * Only `dump` stops when its client goes away (`signal`): a commit finishes even when keepalived kills the script.
 */
export interface NodeHandlers {
  status(): StatusReport | Promise<StatusReport>;
  stats(): StatsReport | Promise<StatsReport>;
  dump(table: FlowTableName, sink: RecordSink, signal: AbortSignal, replicated?: boolean): Promise<void>;
  expectations(table: FlowTableName): Promise<readonly ExpectationView[]>;
  commit(progress: ProgressListener, only?: RowKind): Promise<CommitReport>;
  flush(table: FlushTarget, only?: RowKind): Promise<FlushReport>;
  resync(source: ResyncSource, progress: ProgressListener, wait?: boolean): Promise<ResyncReport>;
  bulk(progress: ProgressListener, wait?: boolean): Promise<BulkReport>;
  purge(): PurgeReport | Promise<PurgeReport>;
  rehearse(progress: ProgressListener): Promise<RehearsalReport>;
  hook(role: HookRole, progress: ProgressListener, group?: string, started?: HookStart): Promise<HookReport>;
}

/** All requests of the control socket. */
export interface ControlHandlers extends NodeHandlers {
  /** Reads the keys again. Rejects with ConntrailError CONFIG when they cannot be used. */
  rekey(): Promise<RekeyReport>;
  /** Reads the configuration again. */
  reload(): Promise<ReloadReport>;
  /** Begins to end the daemon. */
  stop(): void;
}

/** Limits of the server. */
export interface ControlLimits {
  /** Connections at a time; further ones get an error and are closed. */
  readonly connectionsMax: number;
  /** Dumps at a time; fewer than connections, so that hooks always find room. */
  readonly dumpsMax: number;
  /** How long a client may take to send its request. */
  readonly requestTimeoutMs: number;
  /** How long a client may leave the answer unread. */
  readonly stallTimeoutMs: number;
  /** How often a waiting client gets a sign of life. */
  readonly heartbeatMs: number;
}

/** The limits of a daemon. */
export const CONTROL_LIMITS: ControlLimits = {
  connectionsMax: 32,
  dumpsMax: 8,
  requestTimeoutMs: 5000,
  stallTimeoutMs: 600_000,
  heartbeatMs: 1000,
};

/** This many fit into a frame. */
const EXPECTATIONS_PER_FRAME = 500;

/** What happened on the socket since the start, all at zero; the group `control` of `stats`. */
function newCounters() {
  return {
    requests: 0,
    /** Requests that a handler rejected. */
    failed: 0,
    /** Requests that were not valid. */
    malformed: 0,
    /** Requests longer than a request may be. */
    oversized: 0,
    /** Clients that did not send their request in time. */
    timedOut: 0,
    /** Clients that left before request or answer was complete. */
    aborted: 0,
    /** Clients that left their answer unread for too long. */
    stalled: 0,
    /** Clients refused because there were too many. */
    refused: 0,
    /** Flows whose rare attributes did not fit into a dump. */
    rareDropped: 0,
  };
}

/** The counters of the control socket. */
export type ControlCounters = ReturnType<typeof newCounters>;

/** A listening control socket. */
export interface ControlServer {
  readonly path: string;
  readonly counters: Readonly<ControlCounters>;
  /** Accepts no more requests, stops dumps, waits up to `graceMs` for other answers, removes the socket. */
  close(graceMs?: number): Promise<void>;
}

/** Options of a server; `limits` override single limits of CONTROL_LIMITS. */
export interface ControlServerOptions {
  readonly logger?: Logger;
  readonly limits?: Partial<ControlLimits>;
}

/**
 * Serves `handlers` at `path`, for root alone. Throws ConntrailError ALREADY_RUNNING when another daemon answers
 * there, PERMISSION or CONTROL when the socket cannot be made. Replaces the socket file of a killed daemon.
 */
export async function serveControl(
  path: string,
  handlers: ControlHandlers,
  options: ControlServerOptions = {},
): Promise<ControlServer> {
  const control = new Control(handlers, { ...CONTROL_LIMITS, ...options.limits }, options.logger);
  await control.listen(path);
  return control;
}

class Control implements ControlServer {
  readonly counters: ControlCounters = newCounters();
  readonly #handlers: ControlHandlers;
  readonly #limits: ControlLimits;
  readonly #logger: Logger | undefined;
  readonly #server: Server;
  /** Each with a promise that resolves when it has been answered and closed. */
  readonly #connections = new Map<Connection, Promise<void>>();
  #dumps = 0;
  #file: SocketFile | null = null;

  constructor(handlers: ControlHandlers, limits: ControlLimits, logger: Logger | undefined) {
    this.#handlers = handlers;
    this.#limits = limits;
    this.#logger = logger;
    this.#server = createServer((socket) => this.#accept(socket));
    // Connections over the limit get an error, up to a second limit.
    this.#server.maxConnections = limits.connectionsMax * 2;
    this.#server.on("drop", () => this.counters.refused++);
  }

  get path(): string {
    return this.#file?.path ?? "";
  }

  async listen(path: string): Promise<void> {
    this.#file = await listenAt(this.#server, path);
    // accept(2) can fail for lack of descriptors: the server continues, and the client sees no daemon.
    this.#server.on("error", (error) => this.#logger?.error({ error: errorText(error) }, "control socket"));
  }

  async close(graceMs = 2000): Promise<void> {
    this.#file?.remove();
    // Not awaited: clients that asked for the end stay connected until the process is gone.
    this.#server.close();
    for (const connection of this.#connections.keys()) connection.stopUnlessBusy();
    const timer = setTimeout(() => {
      for (const connection of this.#connections.keys()) connection.stop();
    }, graceMs);
    await Promise.all(this.#connections.values());
    clearTimeout(timer);
  }

  #accept(socket: Socket): void {
    const connection = new Connection(socket, this.#limits, this.counters);
    const full = this.#connections.size >= this.#limits.connectionsMax;
    if (full) this.counters.refused++;
    const answer = full ? connection.fail(busy("requests", this.#limits.connectionsMax)) : this.#answer(connection);
    const closed = answer
      .catch((error: unknown) => this.#logger?.error({ err: error }, "control connection"))
      .finally(() => this.#connections.delete(connection));
    this.#connections.set(connection, closed);
  }

  async #answer(connection: Connection): Promise<void> {
    let request: ControlRequest;
    try {
      const line = await connection.request();
      if (line === null) return;
      this.counters.requests++;
      request = parseRequest(line);
    } catch (error) {
      if (error instanceof ConntrailError && error.code === "MALFORMED") this.counters.malformed++;
      await connection.fail(error);
      return;
    }
    try {
      if (request.command === "stop") {
        this.#handlers.stop();
        return connection.keep();
      }
      await this.#run(request, connection);
      await connection.end();
    } catch (error) {
      if (connection.signal.aborted) return;
      this.counters.failed++;
      if (!(error instanceof ConntrailError)) {
        this.#logger?.error({ err: error, command: request.command }, "control request failed");
      }
      await connection.fail(error);
    }
  }

  async #run(request: Exclude<ControlRequest, { command: "stop" }>, connection: Connection): Promise<void> {
    if (request.command === "dump") return this.#dump(request.args, connection);
    const heartbeat = setInterval(() => connection.progress(""), this.#limits.heartbeatMs);
    try {
      const report = await this.#report(request, (text) => connection.progress(text));
      await connection.send("J", JSON.stringify(report));
    } finally {
      clearInterval(heartbeat);
    }
  }

  async #expectations(table: FlowTableName, offset: number): Promise<ExpectationsReport> {
    const views = await this.#handlers.expectations(table);
    return { total: views.length, expectations: views.slice(offset, offset + EXPECTATIONS_PER_FRAME) };
  }

  #report(request: Extract<ControlRequest, { command: ReportCommand }>, progress: ProgressListener): unknown {
    switch (request.command) {
      case "status":
        return this.#handlers.status();
      case "stats":
        return this.#handlers.stats();
      case "expectations":
        return this.#expectations(request.args.table, request.args.offset);
      case "commit":
        return this.#handlers.commit(progress, request.args.only);
      case "flush":
        return this.#handlers.flush(request.args.table, request.args.only);
      case "resync":
        return this.#handlers.resync(request.args.source, progress, request.args.wait);
      case "bulk":
        return this.#handlers.bulk(progress, request.args.wait);
      case "purge":
        return this.#handlers.purge();
      case "rehearse":
        return this.#handlers.rehearse(progress);
      case "rekey":
        return this.#handlers.rekey();
      case "reload":
        return this.#handlers.reload();
      case "hook":
        return this.#handlers.hook(request.args.role, progress, request.args.group, request.args.started);
      default:
        return request satisfies never;
    }
  }

  async #dump({ table, replicated }: CommandArgs["dump"], connection: Connection): Promise<void> {
    if (this.#dumps >= this.#limits.dumpsMax) {
      this.counters.refused++;
      throw busy("dumps", this.#limits.dumpsMax);
    }
    this.#dumps++;
    connection.stoppable = true;
    const writer = new RecordWriter(async (type, payload) => {
      await connection.send(type, payload);
      // A client that reads as fast as we write must not block the daemon's other work.
      await setImmediate();
    });
    const heartbeat = setInterval(() => connection.progress(""), this.#limits.heartbeatMs);
    try {
      await this.#handlers.dump(table, writer, connection.signal, replicated);
      await writer.drain();
    } finally {
      clearInterval(heartbeat);
      this.counters.rareDropped += writer.rareDropped;
      this.#dumps--;
    }
  }
}

/** One client: reads its request, writes its answer, notices when it goes. */
class Connection {
  /** True while the answer may be cut short. */
  stoppable = true;
  readonly #socket: Socket;
  readonly #limits: ControlLimits;
  readonly #counters: ControlCounters;
  readonly #gone = new AbortController();
  #complete = false;
  #stopped = false;

  constructor(socket: Socket, limits: ControlLimits, counters: ControlCounters) {
    this.#socket = socket;
    this.#limits = limits;
    this.#counters = counters;
    socket.on("error", () => socket.destroy());
    socket.on("close", () => this.#gone.abort());
  }

  /** Aborted when the client is gone or the server ends. */
  get signal(): AbortSignal {
    return this.#gone.signal;
  }

  /** Closes the connection at once. */
  stop(): void {
    this.#stopped = true;
    this.#socket.destroy();
    this.#gone.abort();
  }

  /** Leaves the connection open and unanswered until the process ends, which it does not delay. */
  keep(): void {
    this.#complete = true;
    this.#socket.unref();
  }

  /** Closes it at once, unless its answer must be finished. */
  stopUnlessBusy(): void {
    if (this.stoppable) this.stop();
  }

  /** The first line; null when the client left before it was complete. */
  request(): Promise<string | null> {
    const chunks: Buffer[] = [];
    let bytes = 0;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#counters.timedOut++;
        reject(new ConntrailError("TIMEOUT", `no request within ${this.#limits.requestTimeoutMs} ms`));
      }, this.#limits.requestTimeoutMs);
      this.signal.addEventListener("abort", () => {
        clearTimeout(timer);
        if (!this.#complete && !this.#stopped) this.#counters.aborted++;
        resolve(null);
      });
      const onData = (chunk: Buffer): void => {
        const end = chunk.indexOf(0x0a);
        const part = end === -1 ? chunk : chunk.subarray(0, end);
        bytes += part.length;
        if (bytes > REQUEST_BYTES_MAX) {
          this.#counters.oversized++;
          reject(new ConntrailError("MALFORMED", `request is longer than ${REQUEST_BYTES_MAX} bytes`));
        } else {
          chunks.push(part);
          if (end === -1) return;
          this.stoppable = false;
          resolve(Buffer.concat(chunks).toString("utf8"));
        }
        clearTimeout(timer);
        this.#socket.off("data", onData);
        // Further data is discarded: reading only serves to notice that the client leaves.
        this.#socket.resume();
      };
      this.#socket.on("data", onData);
    });
  }

  /** Writes a frame and waits until there is room for more. Rejects when the client is gone or does not read. */
  async send(type: FrameType, payload: Uint8Array | string): Promise<void> {
    if (this.signal.aborted) throw gone();
    if (this.#socket.write(encodeFrame(type, payload))) return;
    await new Promise<void>((resolve, reject) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#socket.off("drain", done);
        this.signal.removeEventListener("abort", done);
        if (this.signal.aborted) reject(gone());
        else resolve();
      };
      const timer = setTimeout(() => {
        this.#counters.stalled++;
        this.stop();
      }, this.#limits.stallTimeoutMs);
      this.#socket.on("drain", done);
      this.signal.addEventListener("abort", done);
    });
  }

  /** Sends a line for a person; drops it while the client does not read. */
  progress(text: string): void {
    if (this.signal.aborted || this.#socket.writableNeedDrain || this.#socket.writableEnded) return;
    this.#socket.write(encodeFrame("P", text.slice(0, 1000)));
  }

  async end(): Promise<void> {
    await this.#finish(encodeFrame("E"));
  }

  /** Sends the error in place of an answer, and closes. */
  async fail(error: unknown): Promise<void> {
    const code = error instanceof ConntrailError ? error.code : "CONTROL";
    await this.#finish(encodeFrame("X", JSON.stringify({ code, message: errorText(error).slice(0, 2000) })));
  }

  /** Sends the last frame, waits until the client has read everything, then a moment for it to close its side. */
  #finish(frame: Buffer): Promise<void> {
    this.#complete = true;
    this.stoppable = false;
    if (this.signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      let timer = setTimeout(() => {
        this.#counters.stalled++;
        this.stop();
      }, this.#limits.stallTimeoutMs);
      this.signal.addEventListener("abort", () => {
        clearTimeout(timer);
        resolve();
      });
      this.#socket.resume();
      this.#socket.end(frame, () => {
        clearTimeout(timer);
        if (!this.signal.aborted) timer = setTimeout(() => this.stop(), this.#limits.requestTimeoutMs);
      });
    });
  }
}

function busy(what: string, max: number): ConntrailError {
  return new ConntrailError("CONTROL", `the daemon answers ${max} ${what} already: try again when one has ended`);
}

function gone(): ConntrailError {
  return new ConntrailError("CONTROL", "the client has gone");
}

/** A valid request. */
export type ControlRequest = { [C in CommandName]: { command: C; args: CommandArgs[C] } }[CommandName];

const noArgs = z.strictObject({}).default({});

const dumpArgs = z.strictObject({ table: z.enum(FLOW_TABLES), replicated: z.boolean().optional() });

const expectationsArgs = z.strictObject({ table: z.enum(FLOW_TABLES), offset: z.int().min(0) });

const hookArgs = z.strictObject({
  role: z.enum(HOOK_ROLES),
  group: z.string().regex(GROUP_NAME).optional(),
  started: z.strictObject({ ticks: z.int().min(0), pid: z.int().min(1) }).optional(),
});

const only = z.enum(ROW_KINDS).optional();

const flushArgs = z.strictObject({ table: z.enum(FLUSH_TARGETS), only });

const wait = z.boolean().optional();

const resyncArgs = z.strictObject({ source: z.enum(RESYNC_SOURCES), wait });

const requestSchema = z.discriminatedUnion("command", [
  z.strictObject({ command: z.literal("status"), args: noArgs }),
  z.strictObject({ command: z.literal("stats"), args: noArgs }),
  z.strictObject({ command: z.literal("dump"), args: dumpArgs }),
  z.strictObject({ command: z.literal("expectations"), args: expectationsArgs }),
  z.strictObject({ command: z.literal("commit"), args: z.strictObject({ only }).default({}) }),
  z.strictObject({ command: z.literal("flush"), args: flushArgs }),
  z.strictObject({ command: z.literal("resync"), args: resyncArgs }),
  z.strictObject({ command: z.literal("bulk"), args: z.strictObject({ wait }).default({}) }),
  z.strictObject({ command: z.literal("purge"), args: noArgs }),
  z.strictObject({ command: z.literal("rehearse"), args: noArgs }),
  z.strictObject({ command: z.literal("rekey"), args: noArgs }),
  z.strictObject({ command: z.literal("reload"), args: noArgs }),
  z.strictObject({ command: z.literal("stop"), args: noArgs }),
  z.strictObject({ command: z.literal("hook"), args: hookArgs }),
]);

const envelopeSchema = z.object({ version: z.number() });

/** Parses a request line. Throws ConntrailError MALFORMED with the reason. */
export function parseRequest(line: string): ControlRequest {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw new ConntrailError("MALFORMED", "request is not a line of JSON", { cause: error });
  }
  const envelope = envelopeSchema.safeParse(value);
  if (!envelope.success) throw new ConntrailError("MALFORMED", "request has no protocol version");
  if (envelope.data.version !== PROTOCOL_VERSION) {
    const versions = `daemon speaks control protocol ${PROTOCOL_VERSION}, the command line ${envelope.data.version}`;
    throw new ConntrailError(
      "MALFORMED",
      `${versions}: restart the daemon after an update, use the same release of both`,
    );
  }
  const { version: _, ...rest } = value as Record<string, unknown>;
  const request = requestSchema.safeParse(rest);
  if (request.success) return request.data;
  const issue = request.error.issues[0];
  throw new ConntrailError("MALFORMED", `request is not one: ${issue?.path.join(".") ?? ""}: ${issue?.message ?? ""}`);
}
