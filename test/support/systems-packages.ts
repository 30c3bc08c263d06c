/** Builds two versions of the package, and the one of this Node.js, into the directory that is named: see systems.sh. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { type Build, nodePackage, programPackage } from "../../deploy/packaging/packages.js";
import { projectRoot } from "../../src/lab/process.js";
import { temporaryDirectory } from "./nats-server.js";

const out = process.argv[2] ?? "";
mkdirSync(out, { recursive: true });
await using scratch = await temporaryDirectory();
for (const version of ["1.0.0", "1.0.1"]) {
  const how = { date: "2026-01-31", cpus: [process.arch], compression: "none" } as const;
  const build: Build = { root: projectRoot(), scratch: join(scratch.path, version), out, version, ...how };
  await programPackage(build);
  if (version === "1.0.0") nodePackage(build, process.execPath, process.versions.node);
}
