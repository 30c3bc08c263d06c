/** The command `history` itself over a large store: how long it takes, and how much memory, which the bench's own process cannot tell. */
import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { TestNatsServer } from "../support/nats-server.js";

const PROGRAM = fileURLToPath(new URL("../../../bin/conntrail", import.meta.url));
const LOOK_EVERY_MS = 20;

/** What a command took. */
export interface CommandCost {
  readonly lines: number;
  readonly ms: number;
  /** The greatest resident size, KiB. */
  readonly peakKib: number;
}

/** Runs `history --format ndjson` with more options against a broker that holds the streams of fw1, fw2 and fw3. */
export async function historyCommand(server: TestNatsServer, ...options: readonly string[]): Promise<CommandCost> {
  const config = join(server.directory, "bench.yaml");
  const broker = `{ mode: external, servers: ["nats://${server.address}"] }`;
  const peers = "{ fw2: 127.0.0.2, fw3: 127.0.0.3 }";
  writeFileSync(config, `cluster: bench\nnode: fw1\nlisten: 127.0.0.1\npeers: ${peers}\nbroker: ${broker}\n`);
  const startedMs = performance.now();
  const child = spawn(process.execPath, [PROGRAM, "history", "-c", config, "--format", "ndjson", ...options], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let peakKib = 0;
  const timer = setInterval(() => {
    peakKib = Math.max(peakKib, peakOf(child.pid));
  }, LOOK_EVERY_MS);
  let lines = 0;
  child.stdout.on("data", (bytes: Buffer) => {
    for (let at = bytes.indexOf(10); at >= 0; at = bytes.indexOf(10, at + 1)) lines++;
  });
  const code = await new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", resolve);
  });
  clearInterval(timer);
  if (code !== 0) throw new Error(`history ended with ${code}`);
  return { lines, ms: performance.now() - startedMs, peakKib };
}

/** VmHWM; 0 of a process that is gone. */
function peakOf(pid: number | undefined): number {
  try {
    return Number(/^VmHWM:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0);
  } catch {
    return 0;
  }
}
