import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { describe, it } from "node:test";
import { AF_INET, W_ORIG_DST, W_ORIG_L4, W_ORIG_SRC, W_PROTO, W_ZONE } from "../../src/flow/record.js";
import { createUid } from "../../src/history/uid.js";
import { anyRecord, Random, tcpRecord } from "../support/records.js";

const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

const connectionUid = createUid();

/** The definition, as slow as it is plain. */
function uidOf(birth: number, words: Uint32Array): string {
  const width = words[W_PROTO]! >>> 8 === AF_INET ? 1 : 4;
  const bytes = new DataView(new ArrayBuffer(20 + 8 * width));
  bytes.setFloat64(0, birth);
  const rest = [words[W_ZONE]! >>> 16, words[W_PROTO]!, words[W_ORIG_L4]!];
  rest.push(...words.subarray(W_ORIG_SRC, W_ORIG_SRC + width), ...words.subarray(W_ORIG_DST, W_ORIG_DST + width));
  for (const [i, word] of rest.entries()) bytes.setUint32(8 + 4 * i, word);
  let value = BigInt(`0x${createHash("sha256").update(bytes).digest("hex").slice(0, 24)}`);
  let text = "";
  for (let i = 0; i < 17; i++, value /= 62n) text = DIGITS[Number(value % 62n)]! + text;
  return `C${text}`;
}

describe("the uid of a connection", () => {
  it("is base62 of 96 bits of sha256 over birth, zone, protocol and original tuple", () => {
    const random = new Random(7);
    for (let i = 0; i < 500; i++) {
      const words = anyRecord(random);
      const birth = random.word() * 4096 + random.below(4096);
      assert.equal(connectionUid(birth, words), uidOf(birth, words));
    }
  });

  it("differs where the birth does", () => {
    assert.notEqual(connectionUid(1, tcpRecord(1)), connectionUid(2, tcpRecord(1)));
    assert.notEqual(connectionUid(1, tcpRecord(1)), connectionUid(1, tcpRecord(2)));
  });
});
