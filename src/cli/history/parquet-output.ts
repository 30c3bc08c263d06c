/** `history --format parquet --output FILE`. */
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ParquetFile } from "../../history/archive/parquet-file.js";
import type { ConnectionOutput } from "./connection-output.js";

/** Writes connections to a Parquet file, which gets its name when it is complete. @throws ConntrailError STORE where DuckDB is missing */
export async function openParquet(path: string): Promise<ConnectionOutput & { close(): Promise<void> }> {
  const file = await ParquetFile.open(path, await mkdtemp(join(tmpdir(), "conntrail-parquet-")));
  return {
    marksDoubt: false,
    takesEndsOnce: true,
    write: (rows) => file.add(rows.map(({ connection }) => connection)),
    flush: async () => {},
    end: () => file.finish(),
    close: () => file.close(),
  };
}
