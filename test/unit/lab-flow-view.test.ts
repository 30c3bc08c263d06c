import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  establishedTo,
  flowText,
  isNated,
  isPortTranslated,
  parseConntrackLine,
  parseDump,
} from "../../src/lab/flow-view.js";

const TCP_LINE =
  "tcp      6 431998 ESTABLISHED src=10.10.0.100 dst=203.0.113.100 sport=43210 dport=7007 " +
  "src=203.0.113.100 dst=203.0.113.1 sport=7007 dport=43210 [ASSURED] mark=16 use=1";
const TCP_JSON = {
  family: "ipv4",
  protocol: "tcp",
  orig: { src: "10.10.0.100", dst: "203.0.113.100", sport: 43210, dport: 7007 },
  reply: { src: "203.0.113.100", dst: "203.0.113.1", sport: 7007, dport: 43210 },
  status: ["SEEN_REPLY", "ASSURED", "CONFIRMED", "SRC_NAT"],
  state: "ESTABLISHED",
  timeoutSeconds: 431999,
  mark: 16,
};

describe("flow view", () => {
  it("is the same from conntrack's line and from conntrail's JSON", () => {
    const line = parseConntrackLine(TCP_LINE);
    const [json] = parseDump(JSON.stringify(TCP_JSON));
    assert.ok(line && json);
    assert.deepEqual(json, line);
    assert.equal(
      flowText(line),
      "tcp ESTABLISHED 10.10.0.100>203.0.113.100(43210,7007) <> 203.0.113.100>203.0.113.1(7007,43210) ASSURED mark=16",
    );
    assert.equal(isNated(line), true);
    assert.equal(isPortTranslated(line), false);
    assert.equal(isPortTranslated({ ...line, reply: { ...line.reply, l4: "7007,61000" } }), true);
    assert.deepEqual(establishedTo([line], [7007]), [line]);
    assert.deepEqual(establishedTo([line], [22]), []);
  });

  it("is the same for ICMP without a reply", () => {
    const line = parseConntrackLine(
      "icmpv6   58 29 src=fd00:10::100 dst=fd00:30::100 type=128 code=0 id=7 [UNREPLIED] " +
        "src=fd00:30::100 dst=fd00:10::100 type=129 code=0 id=7 mark=0 use=1",
    );
    const [json] = parseDump(
      JSON.stringify({
        family: "ipv6",
        protocol: "icmpv6",
        orig: { src: "fd00:10::100", dst: "fd00:30::100", icmpType: 128, icmpCode: 0, icmpId: 7 },
        reply: { src: "fd00:30::100", dst: "fd00:10::100", icmpType: 129, icmpCode: 0, icmpId: 7 },
        status: ["CONFIRMED"],
      }),
    );
    assert.ok(line && json);
    assert.deepEqual(json, line);
    assert.equal(isNated(line), false);
    assert.equal(line.seenReply, false);
  });

  it("reads a dump as an array, as lines, and when it is empty", () => {
    assert.equal(parseDump(JSON.stringify([TCP_JSON, TCP_JSON])).length, 2);
    assert.equal(parseDump(`${JSON.stringify(TCP_JSON)}\n${JSON.stringify(TCP_JSON)}\n`).length, 2);
    assert.deepEqual(parseDump("\n"), []);
  });

  it("is none of a line that is no flow", () => {
    assert.equal(parseConntrackLine(""), undefined);
    assert.equal(parseConntrackLine("conntrack v1.4.7 (conntrack-tools): 5 flow entries have been shown."), undefined);
  });
});
