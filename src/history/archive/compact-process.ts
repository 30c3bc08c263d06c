/** Compacts one group of files, with low priority. Its single argument is the task; it answers by a message, and ends with its parent. */
import { mkdtemp, rm } from "node:fs/promises";
import { setPriority } from "node:os";
import { dirname, join } from "node:path";
import { errorText } from "../../errors.js";
import { type CompactTask, compactFiles } from "./compact.js";
import type { CompactMessage } from "./compactor.js";
import { Database, duckdbText } from "./duckdb.js";
import { SPILL } from "./files.js";
import { COMPACT_LIMITS } from "./limits.js";

const NICE = 19;

const onOrphaned = (): void => process.exit(1);
process.on("disconnect", onOrphaned);
// The parent may have gone while this program was loaded.
if (!process.connected) onOrphaned();
const message = await compact().catch(
  (error): CompactMessage => ({ type: "failed", text: duckdbText(errorText(error)) }),
);
process.off("disconnect", onOrphaned);
process.send?.(message, () => process.disconnect());

async function compact(): Promise<CompactMessage> {
  setPriority(0, NICE);
  const task = JSON.parse(process.argv[2] ?? "") as CompactTask;
  const spill = await mkdtemp(join(dirname(dirname(task.temporary)), `${SPILL}-compact-`));
  try {
    const database = await Database.open({ ...COMPACT_LIMITS, temporary: spill });
    const result = await compactFiles(database, task);
    database.close();
    return { type: "done", result };
  } finally {
    await rm(spill, { recursive: true, force: true });
  }
}
