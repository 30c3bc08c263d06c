/** The dependencies: what an audit of them says, and that every one is pinned to its bytes. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { auditVerdict } from "../support/audit.js";

const HOLE = { severity: "high", range: "<2.0.0", via: [{ title: "a hole", url: "GHSA-1" }] };

test("an audit fails for known holes, and not where the registry does not tell", () => {
  const found = auditVerdict(JSON.stringify({ vulnerabilities: { nats: HOLE, other: { ...HOLE, via: ["nats"] } } }));
  assert.equal(found.failed, true);
  assert.match(found.text, /^ {2}nats <2\.0\.0: high: a hole GHSA-1$/m);
  assert.match(found.text, /^ {2}other <2\.0\.0: high: by nats$/m);
  assert.deepEqual(auditVerdict(JSON.stringify({ vulnerabilities: {} })), {
    text: "audit of the dependencies: no known holes",
    failed: false,
  });
  for (const [output, why] of [
    [JSON.stringify({ statusCode: 405, error: {} }), "it says 405"],
    ["", "no answer"],
    ["<html>", "no answer"],
  ] as const) {
    const verdict = auditVerdict(output);
    assert.equal(verdict.failed, false);
    assert.match(verdict.text, new RegExp(`^[^\\n]*skipped[^\\n]*\\(${why}\\)$`));
  }
});

test("every dependency is pinned, with the hash of its bytes for every platform", () => {
  const own = JSON.parse(readFileSync("package.json", "utf8")) as Record<string, Record<string, string>>;
  for (const kind of ["dependencies", "devDependencies", "optionalDependencies", "peerDependencies"]) {
    for (const [name, version] of Object.entries(own[kind] ?? {})) {
      if (kind !== "peerDependencies")
        assert.match(version, /^\d+\.\d+\.\d+(-[\w.]+)?$/, `${kind}: ${name} ${version}`);
    }
  }
  const lock = JSON.parse(readFileSync("package-lock.json", "utf8")) as {
    packages: Record<string, { integrity?: string; link?: boolean; resolved?: string; optional?: boolean }>;
  };
  const others = Object.entries(lock.packages).filter(([path]) => path !== "");
  assert.ok(others.length > 0);
  for (const [path, { integrity }] of others) assert.match(integrity ?? "", /^sha512-/, path);
});
