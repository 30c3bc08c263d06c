/** The soak's client: holds sessions that stay, and keeps short flows coming and going. */
import { createSocket } from "node:dgram";
import { connect, type Socket } from "node:net";
import { answerQuestions } from "../support/child-answers.js";
import { Random } from "../support/records.js";
import type { SessionView, TrafficOptions } from "./traffic-protocol.js";

const LINE_MS = 1000;
/** Lines under way, after which a session that gets no answer sends no more. */
const UNANSWERED_MAX = 300;
const OPEN_MS_MAX = 10_000;
/** One of the sessions ends in an orderly way this often. */
const ROTATION_MS = 5000;
const SHORT_MS_MAX = 8000;
const DATAGRAMS_MAX = 4;
/** So many short flows at most wait for a way through the firewalls. */
const SHORT_ALIVE_MAX = 200;

class LastingSession {
  readonly id: number;
  readonly startedMs = Date.now();
  openedMs = 0;
  answeredMs = 0;
  broken: string | null = null;
  name = "";
  readonly #socket: Socket;
  #partial = "";
  #sent = 0;
  #answered = 0;

  constructor(id: number, host: string, port: number) {
    this.id = id;
    this.#socket = connect({ host, port, noDelay: true });
    this.#socket.on("connect", () => {
      this.name = `${this.#socket.localAddress} ${this.#socket.localPort} > ${host}`;
      this.send();
    });
    this.#socket.on("data", (chunk: Buffer) => this.#receive(chunk.toString("latin1")));
    this.#socket.on("error", (error) => this.#break(error.message));
    this.#socket.on("close", () => this.#break("closed"));
  }

  send(): void {
    if (this.#socket.connecting || this.broken !== null || this.#sent - this.#answered >= UNANSWERED_MAX) return;
    this.#sent++;
    this.#socket.write(`${this.#sent} ${Date.now()}\n`);
  }

  /** Ends it in an orderly way. */
  end(): void {
    this.#socket.end();
  }

  /** Ends it at once. */
  destroy(): void {
    this.#socket.resetAndDestroy();
  }

  #break(reason: string): void {
    this.broken ??= reason;
  }

  #receive(text: string): void {
    const lines = (this.#partial + text).split("\n");
    this.#partial = lines.pop() ?? "";
    for (const line of lines) {
      const [sequence, sentMs] = line.split(" ").map(Number);
      if (sequence !== this.#answered + 1) {
        this.#break(`answered "${line}" for line ${this.#answered + 1}`);
        return;
      }
      this.#answered = sequence;
      this.answeredMs = sentMs ?? 0;
      if (this.openedMs === 0) this.openedMs = Date.now();
    }
  }
}

class Traffic {
  readonly #options: TrafficOptions;
  readonly #random: Random;
  #sessions: LastingSession[] = [];
  #nextId = 1;
  #shortAlive = 0;
  #shortDone = 0;

  constructor(options: TrafficOptions) {
    this.#options = options;
    this.#random = new Random(options.seed);
    setInterval(() => this.#keepUp(), LINE_MS);
    setInterval(() => this.#rotate(), ROTATION_MS);
    setInterval(() => this.#startShort(), 1000 / options.shortPerSecond);
    this.#keepUp();
  }

  get sessions(): SessionView[] {
    return this.#sessions
      .filter(({ openedMs }) => openedMs > 0)
      .map(({ id, name, openedMs, answeredMs, broken }) => ({ id, name, openedMs, answeredMs, broken }));
  }

  get shortDone(): number {
    return this.#shortDone;
  }

  drop(ids: readonly number[]): void {
    for (const session of this.#sessions) if (ids.includes(session.id)) session.destroy();
    this.#sessions = this.#sessions.filter(({ id }) => !ids.includes(id));
    this.#keepUp();
  }

  #keepUp(): void {
    const late = (one: LastingSession): boolean =>
      one.openedMs === 0 && (one.broken !== null || Date.now() - one.startedMs > OPEN_MS_MAX);
    for (const session of this.#sessions) {
      if (late(session)) session.destroy();
      else session.send();
    }
    this.#sessions = this.#sessions.filter((session) => !late(session));
    while (this.#sessions.length < this.#options.sessions) {
      this.#sessions.push(new LastingSession(this.#nextId++, this.#host(), this.#options.port));
    }
  }

  #rotate(): void {
    const at = this.#random.below(this.#sessions.length);
    const session = this.#sessions[at];
    if (session === undefined || session.openedMs === 0 || session.broken !== null) return;
    session.end();
    this.#sessions.splice(at, 1);
  }

  #startShort(): void {
    if (this.#shortAlive >= SHORT_ALIVE_MAX) return;
    this.#shortAlive++;
    const lifeMs = this.#random.below(SHORT_MS_MAX);
    const done = (succeeded: boolean): void => {
      this.#shortAlive--;
      if (succeeded) this.#shortDone++;
    };
    if (this.#random.oneIn(2)) exchangeDatagrams(this.#host(), this.#options.port, lifeMs, done);
    else shortConnection(this.#host(), this.#options.port, lifeMs, done);
  }

  #host(): string {
    return this.#random.pick(this.#options.hosts);
  }
}

/** Sends a line, and another one before it closes. */
function shortConnection(host: string, port: number, lifeMs: number, done: (succeeded: boolean) => void): void {
  const socket = connect({ host, port, noDelay: true });
  let answered = false;
  socket.on("connect", () => socket.write("short\n"));
  socket.on("data", () => {
    answered = true;
  });
  socket.on("error", () => undefined);
  const timer = setTimeout(() => (answered ? socket.end("short\n") : socket.resetAndDestroy()), lifeMs + 50);
  const limit = setTimeout(() => socket.resetAndDestroy(), lifeMs + OPEN_MS_MAX);
  socket.once("close", () => {
    clearTimeout(timer);
    clearTimeout(limit);
    done(answered);
  });
}

function exchangeDatagrams(host: string, port: number, lifeMs: number, done: (succeeded: boolean) => void): void {
  const socket = createSocket(host.includes(":") ? "udp6" : "udp4");
  let answers = 0;
  socket.on("error", () => undefined);
  socket.on("message", () => answers++);
  const send = setInterval(() => socket.send("short", port, host), lifeMs / DATAGRAMS_MAX + 10);
  setTimeout(() => {
    clearInterval(send);
    socket.close();
    done(answers > 0);
  }, lifeMs + 200);
}

let traffic: Traffic | null = null;
answerQuestions({
  start: (options: TrafficOptions) => {
    traffic = new Traffic(options);
    return null;
  },
  sessions: () => traffic?.sessions ?? [],
  drop: (ids: readonly number[]) => {
    traffic?.drop(ids);
    return null;
  },
  short: () => traffic?.shortDone ?? 0,
});
