/** Announcements that nobody, or somebody else, has signed are not believed where there are keys. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  ANNOUNCEMENT_BYTES_MAX,
  type Announcement,
  decodeSigned,
  encodeAnnouncement,
} from "../../src/discovery/announcement.js";
import { AnnouncementKeys } from "../../src/discovery/signed-announcement.js";
import { makeCertificate, opensslMissing } from "../support/certificate.js";
import { temporaryDirectory } from "../support/nats-server.js";

const FW2: Announcement = { cluster: "edge", node: "fw2", address: "10.77.0.2", port: 4222 };
const MINUTE_MS = 60_000;

describe("a signed announcement", { skip: opensslMissing() }, () => {
  it("is believed when the key of the node that it names has signed it, and not otherwise", async () => {
    await using directory = await temporaryDirectory();
    const keysOf = (node: string, authority: string, name = node) =>
      new AnnouncementKeys(
        { ...makeCertificate(directory.path, authority, name, `DNS:${node}`), nodes: "nodes.json" },
        (known) => known !== "fw9",
      );
    const fw1 = keysOf("fw1", "authority");
    const fw2 = keysOf("fw2", "authority");
    const foreign = keysOf("fw2", "another", "fw2-other");
    const fw3 = keysOf("fw3", "authority");
    const fw9 = keysOf("fw9", "authority");
    // Not before the certificates are valid, which are of whole seconds.
    const nowMs = Date.now();
    const doubt = (by: AnnouncementKeys | null, as: Announcement = FW2, heard = as, atMs = nowMs): string | null => {
      const bytes = encodeAnnouncement(heard, by === null ? null : by.sign(as, atMs));
      assert.ok(bytes.length <= ANNOUNCEMENT_BYTES_MAX / 2, `${bytes.length} bytes`);
      const decoded = decodeSigned(bytes)!;
      assert.deepEqual(decoded.announcement, heard);
      return fw1.doubt(decoded.announcement, decoded.signed, nowMs);
    };
    assert.equal(doubt(fw2), null);
    assert.equal(doubt(fw2, FW2, FW2, nowMs - 9 * MINUTE_MS), null);
    assert.equal(doubt(null), "it is not signed");
    assert.equal(doubt(foreign), "its certificate is not of this authority");
    assert.equal(doubt(fw3), "it is signed by fw3");
    assert.equal(doubt(fw9, { ...FW2, node: "fw9" }), "fw9 was revoked, or is not among the nodes");
    for (const change of [{ address: "10.77.0.66" }, { port: 1 }, { cluster: "core" }]) {
      assert.equal(doubt(fw2, FW2, { ...FW2, ...change }), "its signature does not hold");
    }
    assert.match(doubt(fw2, FW2, FW2, nowMs - 11 * MINUTE_MS) ?? "", /^it is 11 minutes old/);
    assert.match(doubt(fw2, FW2, FW2, nowMs + 60 * MINUTE_MS) ?? "", /^it is 60 minutes old or early/);
    const signed = fw2.sign(FW2, nowMs);
    const later = nowMs + 3 * 86_400_000;
    assert.equal(fw1.doubt(FW2, fw2.sign(FW2, later), later), "its certificate is not valid now");
    for (const damage of [{ certificate: "" }, { certificate: "AAAA" }, { signature: "" }, { signature: "AAAA" }]) {
      assert.notEqual(fw1.doubt(FW2, { ...signed, ...damage }, nowMs), null);
    }
  });
});
