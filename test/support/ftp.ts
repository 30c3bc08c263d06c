/**
 * An FTP server and client that speak as much FTP as a conntrack helper looks at: USER, PORT, EPRT, PASV, EPSV, RETR, NOOP.
 * Both run as child processes inside a network namespace:
 *
 *     node ftp.js server HOST PORT [HOST …]     prints "listening"
 *     node ftp.js client HOST PORT [SOURCE]     takes steps from stdin, one a line, and answers each with one line of JSON
 *
 * Steps: `port`, `eprt`, `pasv`, `epsv` agree on a data connection and leave it pending; `retr BYTES BYTES_PER_SECOND` makes and
 * reads it; `noop` shows that the control connection works.
 */
import { createServer, connect as netConnect, type Server, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

/** What the client says of one step. */
export interface FtpAnswer {
  readonly step: string;
  /** The server's last line, or why there is none. */
  readonly reply: string;
  /** `retr`: bytes that came, and how many of them were not what the server sends at that place. */
  readonly bytes?: number;
  readonly wrong?: number;
}

/** This file, compiled: what node is to run. */
export const FTP_PROGRAM = fileURLToPath(import.meta.url);

const CHUNK_BYTES = 16 * 1024;
const TICK_MS = 20;

/** The byte at a place of every file. */
function byteAt(at: number): number {
  return (at * 31 + (at >>> 8) * 7 + (at >>> 16)) & 0xff;
}

function pattern(from: number, length: number): Buffer {
  const bytes = Buffer.allocUnsafe(length);
  for (let i = 0; i < length; i++) bytes[i] = byteAt(from + i);
  return bytes;
}

/** The port and host of `PORT h1,h2,h3,h4,p1,p2`, `EPRT |2|host|port|`, and of the answers to PASV and EPSV. */
function dataAddress(text: string, host: string): { host: string; port: number } {
  const commas = /(\d+),(\d+),(\d+),(\d+),(\d+),(\d+)/.exec(text)?.slice(1).map(Number);
  if (commas !== undefined) return { host: commas.slice(0, 4).join("."), port: commas[4]! * 256 + commas[5]! };
  const extended = /\|(?:\d\|([^|]+)|\|)\|(\d+)\|/.exec(text);
  if (extended === null) throw new Error(`no address in "${text}"`);
  return { host: extended[1] ?? host, port: Number(extended[2]) };
}

/** Resolves with the first connection of a server that is listening, and closes it for others. */
function accept(server: Server): Promise<Socket> {
  return new Promise((resolve) => {
    server.once("connection", (socket) => {
      server.close();
      resolve(socket);
    });
  });
}

function listen(host: string): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer().once("error", reject);
    server.listen(0, host, () => resolve(server));
  });
}

function connectTo(host: string, port: number, localAddress?: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = netConnect({ host, port, ...(localAddress === undefined ? {} : { localAddress }) });
    socket.once("error", reject).once("connect", () => resolve(socket));
  });
}

function portOf(server: Server): number {
  return (server.address() as { port: number }).port;
}

/** `h1,h2,h3,h4,p1,p2`. */
function commaAddress(host: string, port: number): string {
  return `${host.replaceAll(".", ",")},${port >>> 8},${port & 0xff}`;
}

function serve(hosts: readonly string[], port: number): void {
  let waiting = hosts.length;
  for (const host of hosts) {
    createServer((control) => serveControl(control)).listen(port, host, () => {
      waiting--;
      if (waiting === 0) process.stdout.write("listening\n");
    });
  }
}

function serveControl(control: Socket): void {
  let data: Promise<Socket> | (() => Promise<Socket>) = () => Promise.reject(new Error("no PORT and no PASV"));
  const reply = (line: string): unknown => control.write(`${line}\r\n`);
  const host = control.localAddress ?? "";
  const command = async (line: string): Promise<void> => {
    const [verb, ...rest] = line.split(" ");
    switch (verb) {
      case "PORT":
      case "EPRT": {
        const address = dataAddress(line, "");
        data = () => connectTo(address.host, address.port, host);
        reply(`200 ${line}`);
        return;
      }
      case "PASV":
      case "EPSV": {
        const server = await listen(host);
        data = accept(server);
        const at = portOf(server);
        reply(verb === "PASV" ? `227 Passive (${commaAddress(host, at)})` : `229 Passive (|||${at}|)`);
        return;
      }
      case "RETR":
        reply("150 coming");
        await sendFile(await (typeof data === "function" ? data() : data), Number(rest[0]), Number(rest[1]));
        reply("226 sent");
        return;
      default:
        reply("200 ok");
    }
  };
  control.on("error", () => control.destroy());
  createInterface({ input: control }).on("line", (line) => {
    command(line).catch((error: unknown) => reply(`425 ${String(error)}`));
  });
  reply("220 ready");
}

/** Sends the pattern at about `bytesPerSecond`, and waits until the client has taken it. */
async function sendFile(data: Socket, bytes: number, bytesPerSecond: number): Promise<void> {
  const started = performance.now();
  for (let sent = 0; sent < bytes; ) {
    const due = Math.min(bytes, ((performance.now() - started) / 1000) * bytesPerSecond);
    for (; sent < due; sent += CHUNK_BYTES) {
      const part = pattern(sent, Math.min(CHUNK_BYTES, bytes - sent));
      if (!data.write(part)) await new Promise((resolve) => data.once("drain", resolve));
    }
    await new Promise((resolve) => setTimeout(resolve, TICK_MS));
  }
  await new Promise<void>((resolve, reject) => {
    data.once("error", reject).once("close", () => resolve());
    data.resume().end();
  });
}

/** The client's side of one control connection. */
class FtpClient {
  readonly #control: Socket;
  readonly #lines: string[] = [];
  #waiting: ((line: string) => void) | null = null;
  #data: (() => Promise<Socket>) | null = null;

  constructor(control: Socket) {
    this.#control = control;
    control.on("error", (error) => this.#take(`000 ${error.message}`));
    control.on("close", () => this.#take("000 closed"));
    createInterface({ input: control }).on("line", (line) => this.#take(line));
  }

  #take(line: string): void {
    const waiting = this.#waiting;
    this.#waiting = null;
    if (waiting === null) this.#lines.push(line);
    else waiting(line);
  }

  reply(): Promise<string> {
    const line = this.#lines.shift();
    if (line !== undefined) return Promise.resolve(line);
    return new Promise((resolve) => {
      this.#waiting = resolve;
    });
  }

  async say(line: string): Promise<string> {
    this.#control.write(`${line}\r\n`);
    return this.reply();
  }

  async step(step: string): Promise<FtpAnswer> {
    const host = this.#control.localAddress ?? "";
    const [verb, ...rest] = step.split(" ");
    switch (verb) {
      case "port":
      case "eprt": {
        const server = await listen(host);
        const coming = accept(server);
        this.#data = () => coming;
        const family = host.includes(":") ? 2 : 1;
        const at = portOf(server);
        const line = verb === "port" ? `PORT ${commaAddress(host, at)}` : `EPRT |${family}|${host}|${at}|`;
        return { step, reply: await this.say(line) };
      }
      case "pasv":
      case "epsv": {
        const reply = await this.say(verb.toUpperCase());
        const address = dataAddress(reply, this.#control.remoteAddress ?? "");
        this.#data = () => connectTo(address.host, address.port, host);
        return { step, reply };
      }
      case "retr":
        return this.#retrieve(step, rest);
      default:
        return { step, reply: await this.say("NOOP") };
    }
  }

  async #retrieve(step: string, rest: readonly string[]): Promise<FtpAnswer> {
    const first = this.say(`RETR ${rest.join(" ")}`);
    const socket = await this.#data!();
    let bytes = 0;
    let wrong = 0;
    for await (const part of socket as AsyncIterable<Buffer>) {
      for (const byte of part) if (byte !== byteAt(bytes++)) wrong++;
    }
    await first;
    return { step, reply: await this.reply(), bytes, wrong };
  }
}

async function runClient(host: string, port: number, source: string | undefined): Promise<void> {
  const client = new FtpClient(await connectTo(host, port, source));
  await client.reply();
  const answer = (result: FtpAnswer): unknown => process.stdout.write(`${JSON.stringify(result)}\n`);
  // The helper looks at what follows a line, so a first line has to go by before it reads a PORT.
  answer({ step: "user", reply: await client.say("USER x") });
  for await (const line of createInterface({ input: process.stdin })) {
    answer(await client.step(line).catch((error: unknown) => ({ step: line, reply: `000 ${String(error)}` })));
  }
}

if (process.argv[1] === FTP_PROGRAM) {
  const [, , role, host = "", port = "", ...rest] = process.argv;
  if (role === "server") serve([host, ...rest], Number(port));
  if (role === "client") {
    await runClient(host, Number(port), rest[0]);
    process.exit(0);
  }
}
