import assert from "node:assert/strict";
import { test } from "node:test";
import { decodeHeartbeat, encodeHeartbeat, HEARTBEAT_BYTES_MAX } from "../../src/stream/format/heartbeat.js";
import { heartbeat } from "../support/heartbeats.js";

const bytes = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value));

test("a heartbeat comes back as it was sent", () => {
  const sent = heartbeat({ groups: { lan: "primary", wan: "backup" }, unpublished: 3, trouble: "the store is full" });
  assert.deepEqual(decodeHeartbeat(encodeHeartbeat(sent)), sent);
});

test("keys of a later version are skipped, and those of a later one that this one lacks have their defaults", () => {
  const { groups: _, unpublished: __, trouble: ___, unread: ____, holds: _____, ...bare } = heartbeat();
  const found = decodeHeartbeat(bytes({ conntrail: 1, ...bare, later: [1, 2] }));
  assert.deepEqual(found, { ...bare, groups: {}, unpublished: 0, unread: false, trouble: null, holds: null });
});

test("what is no heartbeat is null, whatever it is", () => {
  const sound = { conntrail: 1, ...heartbeat() };
  const cases: Record<string, unknown> = {
    "not JSON": new TextEncoder().encode("{"),
    "not UTF-8": Uint8Array.of(0xff, 0xfe),
    empty: new Uint8Array(),
    list: bytes([]),
    "another version": bytes({ ...sound, conntrail: 2 }),
    "a name with a line feed": bytes({ ...sound, node: "fw1\n" }),
    "a negative place": bytes({ ...sound, number: -1 }),
    "a place beyond exact integers": bytes({ ...sound, epoch: 2 ** 60 }),
    "a role that is none": bytes({ ...sound, role: "king" }),
    "too many groups": bytes({
      ...sound,
      groups: Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`g${i}`, "backup"])),
    }),
    "too many versions": bytes({ ...sound, reads: Array.from({ length: 17 }, (_, i) => i) }),
    "too many nodes": bytes({ ...sound, holds: Array.from({ length: 256 }, (_, i) => `fw${i}`) }),
    "too long a trouble": bytes({ ...sound, trouble: "x".repeat(257) }),
    "too many bytes": bytes({ ...sound, later: "x".repeat(HEARTBEAT_BYTES_MAX) }),
  };
  for (const [what, payload] of Object.entries(cases)) assert.equal(decodeHeartbeat(payload as Uint8Array), null, what);
});

test("a reason of any length leaves the heartbeat readable", () => {
  const found = decodeHeartbeat(encodeHeartbeat(heartbeat({ trouble: "x".repeat(5000) })));
  assert.equal(found?.trouble?.length, 256);
});
