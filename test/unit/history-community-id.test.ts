/**
 * Against what the specification publishes: the tables and the JSON of the folder `baseline` of
 * https://github.com/corelight/community-id-spec (seed 0). There, the ports of ICMP are its type and its counterpart or code.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type FlowTuple, recordFromFlow } from "../../src/flow/flow.js";
import { hasPorts, isIcmp, protocolText } from "../../src/flow/protocol.js";
import { communityId } from "../../src/history/format/community-id.js";

type Row = readonly [protocol: number, src: string, dst: string, sport: number, dport: number, id: string];

const BASELINE: readonly Row[] = [
  [6, "1.2.3.4", "5.6.7.8", 1122, 3344, "1:wCb3OG7yAFWelaUydu0D+125CLM="],
  [6, "5.6.7.8", "1.2.3.4", 3344, 1122, "1:wCb3OG7yAFWelaUydu0D+125CLM="],
  [17, "1.2.3.4", "5.6.7.8", 1122, 3344, "1:0Mu9InQx6z4ZiCZM/7HXi2WMhOg="],
  [17, "5.6.7.8", "1.2.3.4", 3344, 1122, "1:0Mu9InQx6z4ZiCZM/7HXi2WMhOg="],
  [132, "1.2.3.4", "5.6.7.8", 1122, 3344, "1:EKt4MsxuyaE6mL+hmrEkQ9csDD8="],
  [132, "5.6.7.8", "1.2.3.4", 3344, 1122, "1:EKt4MsxuyaE6mL+hmrEkQ9csDD8="],
  [1, "1.2.3.4", "5.6.7.8", 8, 0, "1:crodRHL2FEsHjbv3UkRrfbs4bZ0="],
  [1, "5.6.7.8", "1.2.3.4", 0, 0, "1:crodRHL2FEsHjbv3UkRrfbs4bZ0="],
  [1, "1.2.3.4", "5.6.7.8", 11, 0, "1:f/YiSyWqczrTgfUCZlBUnvHRcPk="],
  [
    58,
    "fe80:1:203:405:607:809:a0b:c0d",
    "fe80:1011:1213:1415:1617:1819:1a1b:1c1d",
    128,
    0,
    "1:0bf7hyMJUwt3fMED7z8LIfRpBeo=",
  ],
  [
    58,
    "fe80:1011:1213:1415:1617:1819:1a1b:1c1d",
    "fe80:1:203:405:607:809:a0b:c0d",
    129,
    0,
    "1:0bf7hyMJUwt3fMED7z8LIfRpBeo=",
  ],
  [
    58,
    "fe80:1:203:405:607:809:a0b:c0d",
    "fe80:1011:1213:1415:1617:1819:1a1b:1c1d",
    146,
    0,
    "1:fYC8+pz24E+EhANP1EZhpX0Dw10=",
  ],
  [46, "1.2.3.4", "5.6.7.8", 0, 0, "1:ikv3kmf89luf73WPz1jOs49S768="],
  [46, "5.6.7.8", "1.2.3.4", 0, 0, "1:ikv3kmf89luf73WPz1jOs49S768="],
  [
    46,
    "fe80:1:203:405:607:809:a0b:c0d",
    "fe80:1011:1213:1415:1617:1819:1a1b:1c1d",
    0,
    0,
    "1:wQ/2mwrnXP4lmJcHdGL5ePjR+e0=",
  ],
  [
    46,
    "fe80:1011:1213:1415:1617:1819:1a1b:1c1d",
    "fe80:1:203:405:607:809:a0b:c0d",
    0,
    0,
    "1:wQ/2mwrnXP4lmJcHdGL5ePjR+e0=",
  ],
  [58, "fe80::200:86ff:fe05:80da", "fe80::260:97ff:fe07:69ea", 135, 136, "1:dGHyGvjMfljg6Bppwm3bg0LO8TY="],
  [58, "fe80::260:97ff:fe07:69ea", "fe80::200:86ff:fe05:80da", 136, 135, "1:dGHyGvjMfljg6Bppwm3bg0LO8TY="],
  [58, "fe80::260:97ff:fe07:69ea", "fe80::200:86ff:fe05:80da", 135, 136, "1:zavyT/cezQr1fmImYCwYnMXbgck="],
  [58, "fe80::200:86ff:fe05:80da", "fe80::260:97ff:fe07:69ea", 136, 135, "1:zavyT/cezQr1fmImYCwYnMXbgck="],
  [58, "3ffe:501:1800:2345::2", "3ffe:507:0:1:200:86ff:fe05:80da", 3, 0, "1:2ObVBgIn28oZvibYZhZMBgh7WdQ="],
  [58, "3ffe:501:410:0:2c0:dfff:fe47:33e", "3ffe:507:0:1:200:86ff:fe05:80da", 1, 4, "1:hLZd0XGWojozrvxqE0dWB1iM6R0="],
  [58, "3ffe:507:0:1:200:86ff:fe05:80da", "3ffe:501:0:1001::2", 128, 129, "1:+TW+HtLHvV1xnGhV1lv7XoJrqQg="],
  [58, "3ffe:501:0:1001::2", "3ffe:507:0:1:200:86ff:fe05:80da", 129, 128, "1:+TW+HtLHvV1xnGhV1lv7XoJrqQg="],
  [58, "fe80::200:86ff:fe05:80da", "ff02::2", 133, 134, "1:hO+sN4H+MG5MY/8hIrXPqc4ZQz0="],
  [58, "fe80::260:97ff:fe07:69ea", "ff02::1", 134, 133, "1:pkvHqCL88/tg1k4cPigmZXUtL00="],
  [1, "192.168.0.89", "192.168.0.1", 8, 0, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="],
  [1, "192.168.0.1", "192.168.0.89", 0, 8, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="],
  [1, "10.0.0.1", "10.0.0.2", 11, 0, "1:YHxtAirCG//0OzkcVAukqKQN9xM="],
  [6, "2001:470:e5bf:dead:4957:2174:e82c:4887", "2607:f8b0:400c:c03::1a", 63943, 25, "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4="],
  [6, "2607:f8b0:400c:c03::1a", "2001:470:e5bf:dead:4957:2174:e82c:4887", 25, 63943, "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4="],
  [132, "192.168.170.8", "192.168.170.56", 7, 7, "1:MP2EtRCAUIZvTw6MxJHLV7N7JDs="],
  [132, "192.168.170.56", "192.168.170.8", 7, 7, "1:MP2EtRCAUIZvTw6MxJHLV7N7JDs="],
  [6, "128.232.110.120", "66.35.250.204", 34855, 80, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="],
  [6, "66.35.250.204", "128.232.110.120", 80, 34855, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="],
  [17, "192.168.1.52", "8.8.8.8", 54585, 53, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="],
  [17, "8.8.8.8", "192.168.1.52", 53, 54585, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="],
  [46, "10.1.12.1", "10.1.12.2", 0, 0, "1:KHlLkgoJW7ifUTyTSgyVfkFHzKw="],
  [46, "10.1.12.2", "10.1.12.1", 0, 0, "1:KHlLkgoJW7ifUTyTSgyVfkFHzKw="],
];

/** A table of the specification gives the code of ICMP where its JSON gives the counterpart; neither tells a type with an answer from one without. */
function idOf([protocol, src, dst, sport, dport]: Row): string {
  const tuple: FlowTuple = { src, dst };
  if (hasPorts(protocol)) Object.assign(tuple, { sport, dport });
  else if (isIcmp(protocol)) Object.assign(tuple, { icmpType: sport, icmpCode: dport, icmpId: 4711 });
  const family = src.includes(":") ? "ipv6" : "ipv4";
  return communityId(recordFromFlow({ family, protocol: protocolText(protocol), orig: tuple }).words, 0);
}

for (const row of BASELINE) {
  const [protocol, src, dst, sport, dport, id] = row;
  test(`protocol ${protocol}, ${src} ${sport} to ${dst} ${dport}`, () => {
    assert.equal(idOf(row), id);
  });
}

test("the two ends may be one address", () => {
  const there = idOf([6, "10.0.0.1", "10.0.0.1", 1000, 80, ""]);
  assert.equal(there, idOf([6, "10.0.0.1", "10.0.0.1", 80, 1000, ""]));
  assert.notEqual(there, idOf([6, "10.0.0.1", "10.0.0.1", 1000, 81, ""]));
});

test("a record that stands anywhere in its array", () => {
  const { words } = recordFromFlow({
    family: "ipv4",
    protocol: "tcp",
    orig: { src: "1.2.3.4", dst: "5.6.7.8", sport: 1122, dport: 3344 },
  });
  const many = new Uint32Array(words.length * 3);
  many.set(words, words.length);
  assert.equal(communityId(many, words.length), "1:wCb3OG7yAFWelaUydu0D+125CLM=");
});
