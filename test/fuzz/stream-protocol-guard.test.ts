import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { LINE_BYTES_MAX, PAYLOAD_BYTES_MAX, ProtocolGuard } from "../../src/stream/protocol-guard.js";

/** One thing that a server may say. */
const said = fc.oneof(
  fc.constantFrom("PING\r\n", "PONG\r\n", "+OK\r\n", "-ERR 'no'\r\n", 'INFO {"a":1}\r\n', "ping\r\n").map(Buffer.from),
  fc.uint8Array({ maxLength: 300 }).map((payload) => {
    const head = `MSG ct.fw1.ev 1 $JS.ACK.x ${payload.length}\r\n`;
    return Buffer.concat([Buffer.from(head), payload, Buffer.from("\r\n")]);
  }),
  fc.uint8Array({ maxLength: 300 }).map((payload) => {
    const head = `HMSG ct.fw1.ev 1 12 ${payload.length + 12}\r\nNATS/1.0\r\n\r\n`;
    return Buffer.concat([Buffer.from(head), payload, Buffer.from("\r\n")]);
  }),
);

/** The bytes in pieces of the lengths given, again and again. */
function pieces(bytes: Buffer, lengths: readonly number[]): Buffer[] {
  const parts: Buffer[] = [];
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const end = at + lengths[i % lengths.length]!;
    parts.push(bytes.subarray(at, end));
    at = end;
  }
  return parts;
}

describe("protocol guard", () => {
  it("lets pass what a server says, however it is cut into packets", () => {
    const lengths = fc.array(fc.integer({ min: 1, max: 64 }), { minLength: 1, maxLength: 8 });
    fc.assert(
      fc.property(fc.array(said, { maxLength: 30 }), lengths, (all, cuts) => {
        const guard = new ProtocolGuard();
        for (const piece of pieces(Buffer.concat(all), cuts)) assert.equal(guard.refuses(piece), null);
      }),
    );
  });

  it("never throws, and never holds more than a line, whatever comes", () => {
    const packets = fc.array(fc.oneof(fc.uint8Array({ maxLength: 200 }), said), { maxLength: 40 });
    fc.assert(
      fc.property(packets, (all) => {
        const guard = new ProtocolGuard();
        for (const packet of all) if (guard.refuses(packet) !== null) return;
      }),
    );
  });

  it("refuses a line and a message above the limits, and lets pass the largest", () => {
    const line = (bytes: number): Buffer => Buffer.from(`-ERR '${"x".repeat(bytes - 9)}'\r\n`);
    assert.equal(new ProtocolGuard().refuses(line(LINE_BYTES_MAX)), null);
    assert.match(new ProtocolGuard().refuses(line(LINE_BYTES_MAX + 1)) ?? "", /a line has more than/);
    const drip = new ProtocolGuard();
    const dripped = Array.from({ length: LINE_BYTES_MAX + 1 }, () => drip.refuses(Buffer.from("x")));
    assert.equal(dripped.filter((reason) => reason !== null).length, 1);
    const message = (bytes: number): Buffer => Buffer.from(`MSG a 1 ${bytes}\r\n`);
    assert.equal(new ProtocolGuard().refuses(message(PAYLOAD_BYTES_MAX)), null);
    assert.match(new ProtocolGuard().refuses(message(PAYLOAD_BYTES_MAX + 1)) ?? "", /the limit is/);
    for (const size of ["", "-1", "1e9", "99999999999", "0x10"]) {
      assert.match(
        new ProtocolGuard().refuses(Buffer.from(`MSG a 1 ${size}\r\n`)) ?? "",
        /limit|without its size/,
        size,
      );
    }
  });
});
