import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { describe, it } from "node:test";
import { HashLanes, LANES } from "../../src/history/archive/hash-lanes.js";
import { Random } from "../support/records.js";

const MESSAGES = 103;
const WORDS_MAX = 13;

for (const [kind, count] of [
  ["sha256", 3],
  ["sha1", 5],
] as const) {
  describe(`${kind} in lanes`, () => {
    it("gives what OpenSSL gives, for messages of every length side by side", () => {
      const random = new Random(3);
      const lanes = new HashLanes(MESSAGES);
      for (let round = 0; round < 20; round++) {
        const expected: Buffer[] = [];
        for (let message = 0; message < MESSAGES; message++) {
          const length = 1 + random.below(WORDS_MAX);
          const bytes = Buffer.alloc(4 * length);
          for (let word = 0; word < length; word++) {
            bytes.writeUInt32BE(random.word(), 4 * word);
            lanes.words[lanes.at(message) + LANES * word] = bytes.readUInt32BE(4 * word);
          }
          lanes.end(message, length);
          expected.push(createHash(kind).update(bytes).digest());
        }
        lanes[kind](MESSAGES);
        for (const [message, hash] of expected.entries()) {
          for (let word = 0; word < count; word++) {
            assert.equal(lanes.words[lanes.at(message) + LANES * word], hash.readUInt32BE(4 * word));
          }
        }
      }
    });
  });
}
