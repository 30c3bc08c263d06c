/**
 * A netlink socket inside a network namespace: runs itself there as a child process. One request batch at a time goes
 * in, all messages up to its acknowledgement or the end of its dump come out; with groups, events until it is closed.
 */
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { fileURLToPath } from "node:url";

const NETLINK_NETFILTER = 12;
const NLMSG_ERROR = 2;
const NLMSG_DONE = 3;

/** One netlink message whole, with what its header says. */
export interface NetlinkMessage {
  type: number;
  flags: number;
  sequence: number;
  bytes: Uint8Array;
}

/** The parent's end. */
export class NetlinkExchange implements AsyncDisposable {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #waiting: ((messages: NetlinkMessage[]) => void)[] = [];
  readonly events: NetlinkMessage[] = [];
  #changed: () => void = () => {};

  private constructor(child: ChildProcessByStdio<Writable, Readable, null>) {
    this.#child = child;
    createInterface({ input: child.stdout }).on("line", (line) => {
      const frame = JSON.parse(line) as { kind: string; hex: string[] };
      const messages = frame.hex.flatMap((hex) => splitMessages(Buffer.from(hex, "hex")));
      if (frame.kind === "event") this.events.push(...messages);
      else this.#waiting.shift()?.(messages);
      this.#changed();
    });
  }

  /** Opens a socket in `namespace` that is subscribed to `groups`. */
  static async open(namespace: string, groups: number[] = []): Promise<NetlinkExchange> {
    const child = spawn(
      "ip",
      ["netns", "exec", namespace, process.execPath, fileURLToPath(import.meta.url), "child", ...groups.map(String)],
      { stdio: ["pipe", "pipe", "inherit"] },
    );
    const exchange = new NetlinkExchange(child);
    await new Promise<void>((ready) => exchange.#waiting.push(() => ready()));
    return exchange;
  }

  /** Sends a batch and gives what comes back for it. */
  request(bytes: Uint8Array): Promise<NetlinkMessage[]> {
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
      this.#child.stdin.write(`${Buffer.from(bytes).toString("hex")}\n`);
    });
  }

  /** Waits until the events so far fulfil `condition`. */
  async until(condition: (events: NetlinkMessage[]) => boolean, limitMs = 30_000): Promise<void> {
    const deadline = Date.now() + limitMs;
    while (!condition(this.events)) {
      if (Date.now() > deadline) throw new Error(`no such event among ${this.events.length}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 200);
        this.#changed = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = new Promise((resolve) => this.#child.once("exit", resolve));
    this.#child.stdin.end();
    await ended;
  }
}

/** Cuts a datagram into its messages. */
export function splitMessages(datagram: Uint8Array): NetlinkMessage[] {
  const view = new DataView(datagram.buffer, datagram.byteOffset, datagram.byteLength);
  const messages: NetlinkMessage[] = [];
  for (let at = 0; datagram.length - at >= 16; ) {
    const length = view.getUint32(at, true);
    if (length < 16 || length > datagram.length - at) throw new Error(`message of ${length} bytes at ${at}`);
    messages.push({
      type: view.getUint16(at + 4, true),
      flags: view.getUint16(at + 6, true),
      sequence: view.getUint32(at + 8, true),
      bytes: datagram.subarray(at, at + length),
    });
    at += (length + 3) & ~3;
  }
  return messages;
}

/** The child: a line of hex is sent as it is; the answers go back as one line, events as they come. */
async function serve(groups: number[]): Promise<void> {
  const { RawNetlinkSocket } = await import("netlink");
  const socket = new RawNetlinkSocket(NETLINK_NETFILTER, { recvBufferSize: 4 << 20, sendBufferSize: 1 << 20 });
  for (const group of groups) socket.addMembership(group);
  let gathered: string[] = [];
  let last = -1;
  socket.on("message", (datagram) => {
    const messages = splitMessages(datagram);
    const answers = messages.some((message) => message.sequence !== 0);
    if (!answers) return answer("event", [datagram.toString("hex")]);
    gathered.push(datagram.toString("hex"));
    if (messages.some((m) => m.type === NLMSG_DONE || (m.type === NLMSG_ERROR && m.sequence === last))) {
      answer("answer", gathered);
      gathered = [];
    }
  });
  createInterface({ input: process.stdin })
    .on("line", (line) => {
      const bytes = Buffer.from(line, "hex");
      last = splitMessages(bytes).at(-1)?.sequence ?? -1;
      socket.send(bytes);
    })
    .on("close", () => socket.close());
  answer("ready", []);
}

function answer(kind: string, hex: string[]): void {
  process.stdout.write(`${JSON.stringify({ kind, hex })}\n`);
}

if (process.argv[1] === fileURLToPath(import.meta.url) && process.argv[2] === "child") {
  await serve(process.argv.slice(3).map(Number));
}
