/**
 * Compacts an archive, to be killed by a test: DIRECTORY NOW_MS KILL_AT [KEY CERT]. It kills itself before its so many-th change of
 * the file system after it has begun to compact, or while the file is being written (0), and says `done` if it gets to its end.
 */
import { createRequire, syncBuiltinESMExports } from "node:module";

const require = createRequire(import.meta.url);
const [directory = "", now = "", killAt = "", key, cert] = process.argv.slice(2);
let begun = false;
let changes = 0;

function kill(): void {
  process.kill(process.pid, "SIGKILL");
}

const files = require("node:fs/promises") as Record<string, (...args: unknown[]) => Promise<unknown>>;
for (const name of ["mkdir", "open", "rename", "rm", "writeFile"]) {
  const change = files[name]!;
  files[name] = (...args) => {
    if (begun && ++changes === Number(killAt)) kill();
    return change(...args);
  };
}
const processes = require("node:child_process") as { fork: (...args: unknown[]) => NodeJS.EventEmitter };
const { fork } = processes;
processes.fork = (...args) => {
  begun = true;
  if (killAt === "0") setTimeout(kill, 150);
  return fork(...args);
};
syncBuiltinESMExports();

const { Compactor } = await import("../../src/history/archive/compactor.js");
const { readSealer } = await import("../../src/history/archive/seal.js");
const { ArchiveWriter } = await import("../../src/history/archive/writer.js");
const limits = { threads: 1, memoryMiB: 64 };
const sealing = key === undefined || cert === undefined ? {} : { sealer: await readSealer({ key, cert }) };
const fail = (why: unknown): void => {
  process.stdout.write(`failed: ${String(why)}\n`);
};
const writer = await ArchiveWriter.open({ directory, limits, onDamaged: fail, ...sealing });
const compactor = new Compactor({ directory, writer, now: () => Number(now), onFailure: fail });
await compactor.finish(new AbortController().signal);
await writer.close();
process.stdout.write("done\n");
