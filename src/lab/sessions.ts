import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { ConntrailError } from "../errors.js";
import type { Namespace } from "./namespace.js";
import { type LineProcess, waitFor } from "./process.js";
import type { SessionAnswer, SessionCommand, SessionReport, SessionTarget } from "./session-protocol.js";
import { END_HOST, ipv4, ipv6, LAN, ROUTED, SECOND_CLIENT_HOST, WAN } from "./topology.js";

/** Port of the laboratory's echo service. */
export const ECHO_PORT = 7007;
/** Below the kernel's range of ephemeral ports. */
const TWIN_PORT = 20_000;
const ANSWER_TIMEOUT_MS = 20_000;
const LINE_INTERVAL_MS = 100;

/** The echo service by each path to it, NATed or routed, IPv4 or IPv6, with these counts of sessions. */
export function echoTargets(counts: {
  readonly nat4: number;
  readonly nat6: number;
  readonly routed4: number;
  readonly routed6: number;
}): SessionTarget[] {
  return [
    { name: "IPv4 NATed", host: ipv4(WAN, END_HOST), port: ECHO_PORT, count: counts.nat4 },
    { name: "IPv6 NATed", host: ipv6(WAN, END_HOST), port: ECHO_PORT, count: counts.nat6 },
    { name: "IPv4 routed", host: ipv4(ROUTED, END_HOST), port: ECHO_PORT, count: counts.routed4 },
    { name: "IPv6 routed", host: ipv6(ROUTED, END_HOST), port: ECHO_PORT, count: counts.routed6 },
  ];
}

/**
 * `count` sessions: 70 % IPv4 with NAT, and 10 % each IPv6 with NAT, IPv4 routed and IPv6 routed. From ten on, two of
 * them share a source port, so that NAT must translate the port of one.
 */
export function sessionTargets(count: number): SessionTarget[] {
  const tenth = Math.floor(count / 10);
  const twins = tenth > 0 ? [END_HOST, SECOND_CLIENT_HOST] : [];
  const rest = count - 3 * tenth - twins.length;
  return [
    ...twins.map((host) => ({
      name: "IPv4 NATed, one source port",
      host: ipv4(WAN, END_HOST),
      port: ECHO_PORT,
      count: 1,
      local: { address: ipv4(LAN, host), port: TWIN_PORT },
    })),
    ...echoTargets({ nat4: rest, nat6: tenth, routed4: tenth, routed6: tenth }),
  ];
}

const ECHO_ADDRESSES = [WAN, ROUTED].flatMap((network) => [ipv4(network, END_HOST), ipv6(network, END_HOST)]);

/** Starts the echo service inside the server's namespace, for UDP on `addresses`. */
export async function startEchoServer(
  server: Namespace,
  directory: string,
  addresses: readonly string[] = ECHO_ADDRESSES,
): Promise<LineProcess> {
  const script = fileURLToPath(new URL("./session-server.js", import.meta.url));
  const echo = server.spawn(
    "session-server",
    process.execPath,
    [script, String(ECHO_PORT), ...addresses],
    join(directory, "session-server.log"),
  );
  await echo.waitForLine("it listens", 10_000, (line) => (line.includes('"done"') ? true : undefined));
  return echo;
}

/** The sessions of the laboratory, held by a process inside the client's namespace. */
export class Sessions {
  readonly process: LineProcess;
  #answers: SessionAnswer[] = [];
  #queue: Promise<unknown> = Promise.resolve();

  constructor(client: Namespace, logFile: string) {
    const script = fileURLToPath(new URL("./session-client.js", import.meta.url));
    this.process = client.spawn("session-client", process.execPath, [script], logFile);
    this.process.onLine((line) => {
      if (line.startsWith("{")) this.#answers.push(JSON.parse(line) as SessionAnswer);
    });
  }

  /** Opens the sessions, and one by ssh if there are arguments for it; returns when each has had its first echo. */
  async open(targets: readonly SessionTarget[], sshArguments: readonly string[]): Promise<void> {
    await this.#ask({ type: "open", targets, sshArguments, intervalMs: LINE_INTERVAL_MS });
  }

  /** Reports the window that ends now, and starts a new one. */
  async mark(): Promise<SessionReport> {
    return this.#askReport({ type: "mark" });
  }

  /** Reports the window so far. */
  async peek(): Promise<SessionReport> {
    return this.#askReport({ type: "peek" });
  }

  /** Stops sending: the connections stay, the traffic ends. */
  async pause(): Promise<void> {
    await this.#ask({ type: "pause" });
  }

  async resume(): Promise<void> {
    await this.#ask({ type: "resume" });
  }

  /** Closes the first `count` TCP sessions in an orderly way. */
  async close(count: number): Promise<void> {
    await this.#ask({ type: "close", count });
  }

  /** Exchanges a datagram with each target from `count` new sockets. */
  async datagrams(targets: readonly SessionTarget[]): Promise<void> {
    await this.#ask({ type: "datagrams", targets });
  }

  /**
   * Waits until every session has answered a line sent since the last `mark` or is broken, at most `timeoutMs`. The
   * report shows which; a session that does not answer is a value, not an error.
   */
  async settle(timeoutMs: number, signal?: AbortSignal): Promise<SessionReport> {
    const deadlineMs = performance.now() + timeoutMs;
    return waitFor(
      "the sessions' report",
      timeoutMs + ANSWER_TIMEOUT_MS,
      async () => {
        const report = await this.peek();
        const settled = report.answering + report.broken >= report.sessions;
        return settled || performance.now() >= deadlineMs ? report : undefined;
      },
      signal === undefined ? {} : { signal },
    );
  }

  async #askReport(command: SessionCommand): Promise<SessionReport> {
    const answer = await this.#ask(command);
    if (answer.type !== "report") throw new ConntrailError("MALFORMED", `session client answered ${answer.type}`);
    return answer.report;
  }

  /** Sends one command at a time, so that answers need no number. */
  #ask(command: SessionCommand): Promise<SessionAnswer> {
    const turn = this.#queue.then(async () => {
      this.#answers.length = 0;
      this.process.send(JSON.stringify(command));
      const answer = await waitFor(
        `session client's answer to "${command.type}"`,
        ANSWER_TIMEOUT_MS,
        () => {
          if (!this.process.running)
            throw new ConntrailError("TIMEOUT", `session client ended: ${this.process.lines.at(-1)}`);
          return this.#answers.shift();
        },
        { intervalMs: 5 },
      );
      if (answer.type === "error") throw new ConntrailError("TIMEOUT", answer.message);
      return answer;
    });
    this.#queue = turn.catch(() => {});
    return turn;
  }
}
