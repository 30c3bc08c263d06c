import { closeSync } from "node:fs";
import { AF_UNIX, errno, MSG_DONTWAIT, MSG_NOSIGNAL, SOCK_CLOEXEC, SOCK_DGRAM, sendto, socket } from "./libc.js";

/** sun_path of struct sockaddr_un. */
const PATH_BYTES_MAX = 107;

/**
 * Sends datagrams to a UNIX socket (syslog's /dev/log, systemd's NOTIFY_SOCKET), which Node cannot do. Sending never
 * waits. The socket is not connected, so a reader that was restarted gets the next datagram.
 */
export class UnixDatagram {
  readonly #fd: number;
  readonly #address: Uint8Array;

  /**
   * `path` is the reader's socket; a leading @ makes it abstract, as in systemd. Throws when no socket can have that
   * path.
   */
  constructor(path: string) {
    const name = Buffer.from(path.replace(/^@/, "\0"), "utf8");
    if (name.length === 0 || name.length > PATH_BYTES_MAX) throw new Error(`${path}: not the path of a UNIX socket`);
    // An abstract name has no end mark, a path has.
    const address = Buffer.alloc(2 + name.length + (name[0] === 0 ? 0 : 1));
    new Uint16Array(address.buffer, address.byteOffset, 1)[0] = AF_UNIX;
    name.copy(address, 2);
    this.#address = address;
    this.#fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (this.#fd < 0) throw new Error(`no UNIX datagram socket: errno ${errno()}`);
  }

  /** False when nobody reads, or when the reader is so far behind that its buffer is full. */
  send(text: string): boolean {
    const data = Buffer.from(text, "utf8");
    const flags = MSG_DONTWAIT | MSG_NOSIGNAL;
    return sendto(this.#fd, data, data.length, flags, this.#address, this.#address.length) === data.length;
  }

  close(): void {
    closeSync(this.#fd);
  }
}
