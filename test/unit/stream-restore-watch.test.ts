import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { streamsAccount, streamsDirectory } from "../../src/stream/broker/broker-host.js";
import { RestoreWatch } from "../../src/stream/broker/restore-watch.js";

describe("the stream that makes a broker crash", () => {
  for (const [what, readers] of [
    ["with keys", ["fw2"]],
    ["without keys", undefined],
  ] as const) {
    it(`is found in the account that has the streams ${what}`, () => {
      const account = streamsAccount(readers === undefined ? {} : { readers });
      const watch = new RestoreWatch();
      watch.take(`[7] [INF]   Starting restore for stream '${account} > CT_fw1'`);
      watch.take(`[7] [INF]   Restored 3 messages for stream '${account} > CT_fw1'`);
      watch.take(`[7] [INF]   Starting restore for stream '${account} > CT_fw2'`);
      watch.take("panic: runtime error: slice bounds out of range");
      assert.equal(watch.fatalStream, "CT_fw2");
      assert.equal(streamsDirectory("/store", account), `/store/jetstream/${account}/streams`);
    });
  }

  it("is none when the broker got no more memory: the stream is sound", () => {
    for (const line of [
      "fatal error: out of memory",
      "fatal error: runtime: cannot allocate memory",
      "fatal error: newosproc",
    ]) {
      const watch = new RestoreWatch();
      watch.take(`[7] [INF]   Starting restore for stream '${streamsAccount({})} > CT_fw2'`);
      watch.take("runtime: out of memory: cannot allocate 4194304-byte block");
      watch.take(line);
      assert.equal(watch.fatalStream, null, line);
    }
  });
});
