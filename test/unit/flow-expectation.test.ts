import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type ExpectationJson,
  expectationFromJson,
  expectationKey,
  expectationToJson,
  formatExpectation,
  formatExpectationTool,
  formatExpectationXml,
  setExpectationZone,
} from "../../src/flow/expectation.js";
import { W_ORIG_L4, W_ORIG_SRC, W_ZONE } from "../../src/flow/record.js";

const ACTIVE_FTP: ExpectationJson = {
  family: "ipv4",
  protocol: "tcp",
  tuple: { src: "198.51.100.7", dst: "203.0.113.1", sport: 0, dport: 51210 },
  mask: { src: "255.255.255.255", dst: "255.255.255.255", sport: 0, dport: 65535 },
  master: { family: "ipv4", protocol: "tcp", src: "10.0.0.12", dst: "198.51.100.7", sport: 40000, dport: 21 },
  nat: { direction: "reply", tuple: { src: "0.0.0.0", dst: "0.0.0.0", sport: 51210, dport: 0 } },
  timeoutSeconds: 300,
  class: 0,
  helper: "ftp",
  fn: "nat-follow-master",
  id: 959_964_812,
};

const RTP: ExpectationJson = {
  family: "ipv6",
  protocol: "udp",
  tuple: { src: "::", dst: "2001:db8::2", sport: 0, dport: 5004 },
  mask: { src: "::", dst: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", sport: 0, dport: 65535 },
  master: { family: "ipv6", protocol: "udp", src: "2001:db8::2", dst: "2001:db8::9", sport: 5060, dport: 5060 },
  zone: 7,
  timeoutSeconds: 180,
  flags: ["PERMANENT", "INACTIVE"],
  class: 1,
  helper: "sip",
};

test("the object form and back", () => {
  for (const json of [ACTIVE_FTP, RTP]) {
    const again = expectationToJson(expectationFromJson(json));
    const { zone: _, ...master } = again.master;
    assert.deepEqual({ ...again, master }, json);
  }
});

test("text says flags, zone and class as conntrack(8) does", () => {
  const rtp = expectationFromJson(RTP);
  const line =
    "proto=17 src=:: dst=2001:db8::2 sport=0 dport=5004 " +
    "mask-src=:: mask-dst=ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff sport=0 dport=65535 " +
    "master-src=2001:db8::2 master-dst=2001:db8::9 sport=5060 dport=5060 " +
    "zone=7 PERMANENT,INACTIVE class=1 helper=sip";
  assert.equal(formatExpectation(rtp, 5), `${line} [active since 5s]`);
  assert.equal(formatExpectationTool(rtp), `180 ${line}`);
  assert.match(
    formatExpectationXml(rtp, { timeout: false }),
    /<zone>7<\/zone><permanent\/><inactive\/><\/meta><\/flow>$/,
  );
});

test("a helper's name is escaped in XML", () => {
  const expectation = { ...expectationFromJson(ACTIVE_FTP), helper: "<&>" };
  assert.match(formatExpectationXml(expectation, { timeout: false }), /<helper-name>&#60;&#38;&#62;<\/helper-name>/);
});

test("the key tells tuples, masks and zones apart, and nothing else", () => {
  const key = expectationKey(expectationFromJson(ACTIVE_FTP));
  const changed = (change: (expectation: ReturnType<typeof expectationFromJson>) => void): string => {
    const expectation = expectationFromJson(ACTIVE_FTP);
    change(expectation);
    return expectationKey(expectation);
  };
  for (const change of [
    (e: ReturnType<typeof expectationFromJson>) => e.tuple[W_ORIG_L4]!++,
    (e: ReturnType<typeof expectationFromJson>) => e.tuple[W_ORIG_SRC]!++,
    (e: ReturnType<typeof expectationFromJson>) => e.mask[W_ORIG_SRC]!--,
    (e: ReturnType<typeof expectationFromJson>) => setExpectationZone(e, 1),
  ]) {
    assert.notEqual(changed(change), key);
  }
  const same = changed((e) => {
    e.timeoutSeconds = 1;
    e.id = 5;
    e.master[W_ORIG_L4]!++;
  });
  assert.equal(same, key);
});

test("a zone is that of both directions, and of the master", () => {
  const expectation = expectationFromJson(ACTIVE_FTP);
  setExpectationZone(expectation, 0xfffe);
  assert.equal(expectation.tuple[W_ZONE], 0xfffefffe);
  assert.equal(expectation.master[W_ZONE], 0xfffefffe);
  assert.equal(expectationToJson(expectation).zone, 0xfffe);
});
