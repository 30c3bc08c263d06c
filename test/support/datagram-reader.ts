import { closeSync, rmSync } from "node:fs";
import koffi from "koffi";
import { AF_UNIX, bind, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, socket } from "../../src/os/libc.js";

const recv = koffi.load(null).func("long recv(int fd, void *data, size_t length, int flags)") as (
  fd: number,
  data: Uint8Array,
  length: number,
  flags: number,
) => number;

/** A UNIX datagram socket that reads: stands in for syslog's and for systemd's. */
export class DatagramReader implements Disposable {
  readonly path: string;
  readonly #fd: number;

  constructor(path: string) {
    this.path = path;
    this.#fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    const address = Buffer.alloc(2 + path.length + 1);
    address.writeUInt16LE(AF_UNIX);
    address.write(path, 2);
    if (bind(this.#fd, address, address.length) !== 0) throw new Error(`${path}: cannot be bound`);
  }

  /** What has come in since the last call. */
  read(): string[] {
    const all: string[] = [];
    const data = Buffer.alloc(65_536);
    for (
      let length = recv(this.#fd, data, data.length, 0);
      length >= 0;
      length = recv(this.#fd, data, data.length, 0)
    ) {
      all.push(data.toString("utf8", 0, Number(length)));
    }
    return all;
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
    rmSync(this.path, { force: true });
  }
}
