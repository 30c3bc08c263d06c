/**
 * Holds the sessions of the laboratory. Run as a process inside the client's namespace; speaks session-protocol.ts on
 * its standard input and output, and ends when its standard input does.
 */

import { spawn } from "node:child_process";
import { createSocket } from "node:dgram";
import { connect, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { Duplex } from "node:stream";
import { errorText } from "../errors.js";
import { pause } from "../os/pause.js";
import { reportSessions, Session } from "./session.js";
import type { SessionAnswer, SessionCommand, SessionTarget } from "./session-protocol.js";

const OPEN_TIMEOUT_MS = 15_000;
const DATAGRAM_TIMEOUT_MS = 5_000;
/** Sessions send in turns, so that they do not come as one burst. */
const TURNS = 10;

/** Monotonic, milliseconds. */
const clock = (): number => performance.now();

/** The sessions and the window that is being measured. */
class SessionClient {
  #sessions: Session[] = [];
  #sockets: Socket[] = [];
  #windowStartMs = clock();
  #turn = 0;
  #sending = true;

  async handle(command: SessionCommand): Promise<SessionAnswer> {
    switch (command.type) {
      case "open":
        await this.#open(command.targets, command.sshArguments, command.intervalMs);
        return { type: "done" };
      case "mark": {
        const answer = this.#report();
        this.#windowStartMs = clock();
        for (const session of this.#sessions) session.mark(this.#windowStartMs);
        return answer;
      }
      case "peek":
        return this.#report();
      case "pause":
        this.#sending = false;
        for (const session of this.#sessions) session.pause();
        return { type: "done" };
      case "resume":
        this.#sending = true;
        return { type: "done" };
      case "close":
        for (const session of this.#sessions.splice(0, command.count)) session.expectClose();
        for (const socket of this.#sockets.splice(0, command.count)) socket.end();
        return { type: "done" };
      case "datagrams":
        await Promise.all(command.targets.map(exchangeDatagrams));
        return { type: "done" };
    }
  }

  #report(): SessionAnswer {
    return { type: "report", report: reportSessions(this.#sessions, clock(), this.#windowStartMs) };
  }

  async #open(targets: readonly SessionTarget[], sshArguments: readonly string[], intervalMs: number): Promise<void> {
    for (const target of targets) {
      for (let i = 0; i < target.count; i++) {
        const socket = connect({
          host: target.host,
          port: target.port,
          noDelay: true,
          ...(target.local && { localAddress: target.local.address, localPort: target.local.port }),
        });
        this.#sockets.push(socket);
        this.#sessions.push(new Session(target.name, socket, clock));
      }
    }
    if (sshArguments.length > 0) this.#sessions.push(new Session("ssh", sshStream(sshArguments), clock));
    setInterval(() => this.#sendTurn(), intervalMs / TURNS);
    const deadlineMs = clock() + OPEN_TIMEOUT_MS;
    for (;;) {
      const broken = this.#sessions.find((session) => session.brokenBy !== undefined);
      if (broken) throw new Error(`session with ${broken.target}: ${broken.brokenBy}`);
      const waiting = this.#sessions.filter((session) => !session.open);
      if (waiting.length === 0) return;
      if (clock() > deadlineMs)
        throw new Error(`${waiting.length} sessions did not open, one with ${waiting[0]?.target}`);
      await pause(20);
    }
  }

  #sendTurn(): void {
    if (!this.#sending) return;
    const nowMs = clock();
    this.#turn = (this.#turn + 1) % TURNS;
    for (let i = this.#turn; i < this.#sessions.length; i += TURNS) this.#sessions[i]?.tick(nowMs);
  }
}

/** The two pipes of an ssh process as one stream; what it complains of becomes the stream's error. */
function sshStream(sshArguments: readonly string[]): Duplex {
  const child = spawn("ssh", sshArguments, { stdio: ["pipe", "pipe", "pipe"] });
  const stream = Duplex.from({ writable: child.stdin, readable: child.stdout });
  let complaint = "";
  child.stderr.on("data", (chunk: Buffer) => {
    complaint = (complaint + chunk.toString()).slice(-500);
  });
  child.once("exit", (code) => stream.destroy(new Error(`ssh ended with ${code}: ${complaint.trim()}`)));
  child.once("error", (error) => stream.destroy(error));
  return stream;
}

/** Sends one datagram from each of `count` new sockets and waits for the echoes. */
async function exchangeDatagrams(target: SessionTarget): Promise<void> {
  const exchange = async (): Promise<void> => {
    const socket = createSocket(target.host.includes(":") ? "udp6" : "udp4");
    try {
      await new Promise<void>((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error(`no datagram back from ${target.name}`)), DATAGRAM_TIMEOUT_MS);
        socket.once("error", reject);
        socket.once("message", () => {
          clearTimeout(timer);
          resolve();
        });
        socket.send("echo", target.port, target.host);
      });
    } finally {
      socket.close();
    }
  };
  await Promise.all(Array.from({ length: target.count }, exchange));
}

const client = new SessionClient();
for await (const line of createInterface({ input: process.stdin })) {
  let answer: SessionAnswer;
  try {
    answer = await client.handle(JSON.parse(line) as SessionCommand);
  } catch (error) {
    answer = { type: "error", message: errorText(error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0);
