import { createConnection, type Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { ConntrailError, type ErrorCode } from "../errors.js";
import {
  type CommandArgs,
  type CommandName,
  type CommandReports,
  decodeJson,
  type ErrorReport,
  type ExpectationView,
  type FlowTableName,
  type Frame,
  FrameDecoder,
  PROTOCOL_VERSION,
  type ReportCommand,
} from "./protocol.js";
import { type RecordBatch, RecordReader } from "./record-reader.js";

/** How long the daemon may be silent: it sends something every second while it works. */
export const SILENCE_MS_MAX = 15_000;

/** Options of a request. */
export interface RequestOptions {
  /** Ends the request. The daemon stops a dump, and finishes anything else. */
  readonly signal?: AbortSignal;
  /** Called with each line of progress. */
  readonly onProgress?: (text: string) => void;
  /** Defaults to SILENCE_MS_MAX. */
  readonly silenceMsMax?: number;
}

/** How a table is dumped. */
export interface DumpOptions extends RequestOptions {
  /** Of the kernel's table only the flows that are replicated, with the kernel's counters. */
  readonly replicated?: boolean;
}

/**
 * Sends one request and yields the frames J, R and A of the answer as they come; a slow reader slows the daemon down.
 * Throws ConntrailError: CONTROL when no daemon answers or the answer breaks off, TIMEOUT when it falls silent,
 * PERMISSION for users other than root, and the daemon's own code and message when it refuses or fails.
 */
export async function* request<C extends CommandName>(
  path: string,
  command: C,
  args: CommandArgs[C],
  options: RequestOptions = {},
): AsyncGenerator<Frame, void, undefined> {
  const socket = await connect(path);
  const abort = (): void => {
    socket.destroy(new ConntrailError("CONTROL", "interrupted"));
  };
  options.signal?.addEventListener("abort", abort);
  try {
    if (options.signal?.aborted) throw new ConntrailError("CONTROL", "interrupted");
    socket.write(requestLine(command, args));
    const decoder = new FrameDecoder();
    for await (const chunk of chunks(socket, path, options.silenceMsMax ?? SILENCE_MS_MAX)) {
      for (const frame of decoder.push(chunk)) {
        if (frame.type === "E") return;
        if (frame.type === "X") throw reported(decodeJson(frame.payload));
        if (frame.type !== "P") yield frame;
        else if (frame.payload.length > 0) options.onProgress?.(Buffer.from(frame.payload).toString("utf8"));
      }
    }
    throw brokenOff(path, socket);
  } finally {
    options.signal?.removeEventListener("abort", abort);
    socket.destroy();
  }
}

/** How long a request waits for a daemon that is not there. systemd restarts one after a second. */
const ABSENT_MS_MAX = 5_000;
/** How long a request waits for a daemon that is there and does not answer yet. */
const READY_MS_MAX = 60_000;
const RETRY_MS = 100;
/** How often `isThere` is asked. */
const LOOK_MS = 500;
/** Errors of a socket on which nobody listens yet or any more, or whose server hangs up. */
const UNANSWERED: readonly (string | undefined)[] = ["ENOENT", "ECONNREFUSED", "EAGAIN", "ECONNRESET", "EPIPE"];

/** Limits of `requestWhenReady`, for tests. */
export interface ReadyLimits {
  readonly absentMsMax: number;
  readonly readyMsMax: number;
}

/**
 * As `requestReport`, but waits for a daemon that starts, ends or restarts: up to a minute while `isThere` is true, and
 * 5 s after the daemon was there last. The request may reach a daemon twice. Throws what the last attempt threw.
 */
export async function requestWhenReady<C extends ReportCommand>(
  path: string,
  command: C,
  args: CommandArgs[C],
  isThere: () => boolean,
  options: RequestOptions & Partial<ReadyLimits> = {},
): Promise<CommandReports[C]> {
  const { absentMsMax = ABSENT_MS_MAX, readyMsMax = READY_MS_MAX } = options;
  const startedMs = performance.now();
  let thereMs = startedMs;
  let lookedMs = startedMs;
  for (;;) {
    try {
      return await requestReport(path, command, args, options);
    } catch (error) {
      if (!isPassing(error)) throw error;
      const nowMs = performance.now();
      if ((error as ConntrailError).code === "AGAIN") thereMs = nowMs;
      if (nowMs - lookedMs >= LOOK_MS) {
        lookedMs = nowMs;
        if (isThere()) thereMs = nowMs;
      }
      if (nowMs - thereMs >= absentMsMax || nowMs - startedMs >= readyMsMax) throw error;
      await delay(RETRY_MS);
    }
  }
}

/** True for errors that come of a daemon that starts or ends. */
function isPassing(error: unknown): boolean {
  if (!(error instanceof ConntrailError)) return false;
  if (error.code === "AGAIN") return true;
  return error.code === "CONTROL" && UNANSWERED.includes((error.cause as NodeJS.ErrnoException | undefined)?.code);
}

/** The report that answers `command`. Throws like `request`. */
export async function requestReport<C extends ReportCommand>(
  path: string,
  command: C,
  args: CommandArgs[C],
  options: RequestOptions = {},
): Promise<CommandReports[C]> {
  let report: unknown;
  for await (const frame of request(path, command, args, options)) {
    if (frame.type === "J") report = decodeJson(frame.payload);
  }
  if (report === undefined) throw new ConntrailError("MALFORMED", `the daemon on ${path} answered without a report`);
  return report as CommandReports[C];
}

/** How long a daemon may take to end; after 15 s it kills itself. */
const END_MS_MAX = 30_000;

/**
 * Asks the daemon to end; resolves when its process is gone. Throws like `request`, and CONTROL when the socket still
 * answers afterwards: conntrackd itself hangs up on unknown requests, and keeps running.
 */
export async function requestStop(path: string): Promise<void> {
  const socket = await connect(path);
  let refusal: ConntrailError | null = null;
  try {
    socket.write(requestLine("stop", {}));
    const decoder = new FrameDecoder();
    for await (const chunk of chunks(socket, path, END_MS_MAX)) {
      for (const frame of decoder.push(chunk)) if (frame.type === "X") refusal = reported(decodeJson(frame.payload));
    }
  } catch (error) {
    // A daemon that is already ending breaks connections off.
    if ((error as ConntrailError).code === "TIMEOUT") throw error;
  } finally {
    socket.destroy();
  }
  if (refusal !== null) throw refusal;
  const other = await connect(path).catch(() => null);
  if (other === null) return;
  other.destroy();
  throw new ConntrailError(
    "CONTROL",
    `what listens on ${path} has not ended: stop it with the program that started it`,
  );
}

/** The flows of a table, in no order. Throws like `request`. */
export async function* requestDump(
  path: string,
  table: FlowTableName,
  { replicated, ...options }: DumpOptions = {},
): AsyncGenerator<RecordBatch, void, undefined> {
  const reader = new RecordReader();
  const args = replicated === undefined ? { table } : { table, replicated };
  for await (const frame of request(path, "dump", args, options)) {
    const batch = reader.take(frame);
    if (batch !== null) yield batch;
  }
  const last = reader.rest();
  if (last !== null) yield last;
}

/** The expectations of a table, in no order. Throws like `request`. */
export async function requestExpectations(
  path: string,
  table: FlowTableName,
  options: RequestOptions = {},
): Promise<ExpectationView[]> {
  const all: ExpectationView[] = [];
  for (;;) {
    const report = await requestReport(path, "expectations", { table, offset: all.length }, options);
    all.push(...report.expectations);
    if (report.expectations.length === 0 || all.length >= report.total) return all;
  }
}

function requestLine<C extends CommandName>(command: C, args: CommandArgs[C]): string {
  return `${JSON.stringify({ command, args, version: PROTOCOL_VERSION })}\n`;
}

function connect(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = createConnection(path);
    socket.once("error", (cause: NodeJS.ErrnoException) => {
      reject(
        cause.code === "EACCES"
          ? new ConntrailError("PERMISSION", `the control socket ${path} is for root alone: run as root`, { cause })
          : new ConntrailError(
              "CONTROL",
              `no conntrail daemon answers on ${path}: start it with systemctl start conntrail, or conntrail daemon`,
              {
                cause,
              },
            ),
      );
    });
    socket.once("connect", () => {
      socket.removeAllListeners("error");
      // Later errors reach the reader.
      socket.on("error", () => {});
      resolve(socket);
    });
  });
}

/**
 * The bytes as they come. Silence counts only while the reader waits, not while it is busy. A process that was stalled
 * itself must first read what came meanwhile.
 */
async function* chunks(socket: Socket, path: string, silenceMs: number): AsyncGenerator<Buffer, void, undefined> {
  const reader = socket[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  let waiting = 0;
  const onSilence = (turn: number): void => {
    if (turn !== waiting) return;
    const text = `the daemon on ${path} has said nothing for ${silenceMs / 1000} s: look at its log`;
    socket.destroy(new ConntrailError("TIMEOUT", text));
  };
  for (;;) {
    const turn = ++waiting;
    // The event loop reads sockets between timers and immediates.
    const timer = setTimeout(() => setImmediate(onSilence, turn), silenceMs);
    try {
      const next = await reader.next();
      if (next.done) return;
      waiting++;
      clearTimeout(timer);
      yield next.value;
    } catch (error) {
      throw error instanceof ConntrailError ? error : brokenOff(path, socket, error);
    } finally {
      clearTimeout(timer);
    }
  }
}

function brokenOff(path: string, { bytesRead }: Socket, cause?: unknown): ConntrailError {
  const text =
    bytesRead > 0
      ? `the daemon on ${path} broke off its answer: look at its log`
      : `the daemon on ${path} hung up without an answer: it ends just now, or it is not conntrail's`;
  return new ConntrailError("CONTROL", text, {
    cause: cause ?? Object.assign(new Error(text), { code: "ECONNRESET" }),
  });
}

function reported(value: unknown): ConntrailError {
  const { code, message } = value as ErrorReport;
  return new ConntrailError(code as ErrorCode, message);
}
