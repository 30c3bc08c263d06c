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
});
