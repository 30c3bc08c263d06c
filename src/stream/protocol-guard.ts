/**
 * What a NATS server sends is lines, and some lines announce a payload:
 *
 *   INFO {…}␍␊    PING␍␊    PONG␍␊    +OK␍␊    -ERR 'text'␍␊
 *   MSG <subject> <sid> [reply] <bytes>␍␊<payload>␍␊
 *   HMSG <subject> <sid> [reply] <bytes of headers> <bytes>␍␊<headers and payload>␍␊
 */

/** Longest line. */
export const LINE_BYTES_MAX = 64 * 1024;
/** Largest payload with its headers. Messages of streams stay below 2 MiB, answers of JetStream's API far below. */
export const PAYLOAD_BYTES_MAX = 8 * 1024 * 1024;

const LF = 0x0a;
const CRLF_BYTES = 2;
const VERBS = /^(?:INFO|PING|PONG|\+OK|-ERR)(?=[ \t\r\n])/i;
/** Words after the verb, without a subject for answers. */
const WORDS_MIN: ReadonlyMap<string, number> = new Map([
  ["MSG", 3],
  ["HMSG", 4],
]);
const BLANKS = /[ \t]+/;
const SIZE = /^\d{1,10}$/;

/**
 * Follows what a server sends, packet by packet, and finds what is too long, or no line of the protocol. It keeps the
 * beginning of at most one line.
 */
export class ProtocolGuard {
  /** Bytes of the payload that are still to come. */
  #payloadBytes = 0;
  /** The beginning of a line whose end has not come yet. */
  #partial: Buffer | null = null;
  #partialBytes = 0;

  /** Why the connection must end, or null. Nothing may follow after a reason. */
  refuses(packet: Uint8Array): string | null {
    for (let at = 0; at < packet.length; ) {
      if (this.#payloadBytes > 0) {
        const taken = Math.min(this.#payloadBytes, packet.length - at);
        this.#payloadBytes -= taken;
        at += taken;
        continue;
      }
      const end = packet.indexOf(LF, at);
      const until = end === -1 ? packet.length : end + 1;
      if (this.#partialBytes + until - at > LINE_BYTES_MAX) return `a line has more than ${LINE_BYTES_MAX} bytes`;
      if (end === -1) this.#keep(packet.subarray(at));
      else {
        const refused = this.#readLine(packet.subarray(at, until));
        if (refused !== null) return refused;
      }
      at = until;
    }
    return null;
  }

  #keep(part: Uint8Array): void {
    this.#partial ??= Buffer.allocUnsafe(LINE_BYTES_MAX);
    this.#partial.set(part, this.#partialBytes);
    this.#partialBytes += part.length;
  }

  #readLine(rest: Uint8Array): string | null {
    let line = Buffer.from(rest.buffer, rest.byteOffset, rest.byteLength);
    if (this.#partialBytes > 0 && this.#partial !== null) {
      this.#keep(rest);
      line = this.#partial.subarray(0, this.#partialBytes);
      this.#partialBytes = 0;
    }
    const text = line.toString("latin1");
    if (VERBS.test(text)) return null;
    const [verb = "", ...words] = text.trimEnd().split(BLANKS);
    const wordsMin = WORDS_MIN.get(verb.toUpperCase());
    if (wordsMin === undefined) return "a line is none of the NATS protocol";
    const size = words.at(-1) ?? "";
    // There may be a subject for answers.
    if (words.length < wordsMin || words.length > wordsMin + 1 || !SIZE.test(size)) return "a message without its size";
    const bytes = Number(size);
    if (bytes > PAYLOAD_BYTES_MAX) return `a message of ${bytes} bytes, the limit is ${PAYLOAD_BYTES_MAX}`;
    this.#payloadBytes = bytes + CRLF_BYTES;
    return null;
  }
}
