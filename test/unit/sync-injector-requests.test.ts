import assert from "node:assert/strict";
import { test } from "node:test";
import { IP_CT_TCP_FLAG_BE_LIBERAL } from "../../src/ctnetlink/constants.js";
import { decodeConntrack } from "../../src/ctnetlink/decode.js";
import type { RequestBatch } from "../../src/ctnetlink/encode.js";
import type { BatchResult } from "../../src/ctnetlink/request-socket.js";
import { flowFromRecord, recordFromFlow, type TcpInfo } from "../../src/flow/flow.js";
import { DecodedFlow } from "../../src/flow/record.js";
import { InjectorRequests } from "../../src/sync/inject/injector-requests.js";

const FLOW = recordFromFlow({
  family: "ipv4",
  protocol: "tcp",
  orig: { src: "10.0.0.1", dst: "10.0.0.2", sport: 1, dport: 80 },
  reply: { src: "10.0.0.2", dst: "10.0.0.1", sport: 80, dport: 1 },
  status: ["SEEN_REPLY", "ASSURED", "CONFIRMED"],
  state: "ESTABLISHED",
  tcp: { windowScaleOrig: 7, windowScaleReply: 9, flagsOrig: 3, flagsOrigMask: 0, flagsReply: 3, flagsReplyMask: 0 },
});

for (const liberal of [true, false]) {
  test(`window scales go into the kernel; BE_LIBERAL ${liberal ? "too" : "does not"}`, async () => {
    const sent: (TcpInfo | undefined)[] = [];
    const send = async (batch: RequestBatch): Promise<BatchResult> => {
      const bytes = batch.bytes(1, 1);
      const flow = new DecodedFlow();
      assert.equal(decodeConntrack(bytes, 16, bytes.length, flow), 0);
      sent.push(flowFromRecord(flow.words, 0, flow.rare).tcp);
      return { sent: batch.count, errors: [], unknown: 0 };
    };
    const requests = new InjectorRequests({ send, getAll: send }, liberal);
    const item = { slot: 0, words: FLOW.words, rare: null, timeoutSeconds: 60 };
    await requests.send("create", [item]);
    await requests.send("update", [item]);
    const flags = 3 | (liberal ? IP_CT_TCP_FLAG_BE_LIBERAL : 0);
    const scales = { windowScaleOrig: 7, windowScaleReply: 9 };
    const expected = { ...scales, flagsOrig: flags, flagsOrigMask: 15, flagsReply: flags, flagsReplyMask: 15 };
    assert.deepEqual(sent, [expected, expected]);
  });
}
