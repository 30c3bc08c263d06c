/**
 * The web server of the seeds, run as a process inside the server's namespace with its port as argument. It gives disc.ts's
 * disc to whoever asks, a block each 20 ms, the second half slower, so that it lasts for as long as a test may take, and all that is
 * left at once when told "hurry" on its standard input.
 */
import { once } from "node:events";
import { createServer, type ServerResponse } from "node:http";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { BLOCK_BYTES, blockOf, DISC_BLOCKS } from "./disc.js";

const INTERVAL_MS = 20;
const SECOND_HALF_INTERVAL_MS = 200;
let hurry = false;

async function give(response: ServerResponse): Promise<void> {
  response.writeHead(200, { "content-length": DISC_BLOCKS * BLOCK_BYTES });
  process.stdout.write("begun\n");
  for (let index = 0; index < DISC_BLOCKS && !response.destroyed; index++) {
    if (!response.write(blockOf(index))) await Promise.race([once(response, "drain"), once(response, "close")]);
    if (!hurry) await delay(index < DISC_BLOCKS / 2 ? INTERVAL_MS : SECOND_HALF_INTERVAL_MS);
  }
  response.end();
}

const server = createServer((_, response) => {
  response.on("error", () => response.destroy());
  give(response).catch((error: unknown) => process.stdout.write(`${String(error)}\n`));
});
server.listen({ host: "::", port: Number(process.argv[2]) }, () => process.stdout.write("listening\n"));
for await (const line of createInterface({ input: process.stdin })) if (line === "hurry") hurry = true;
process.exit(0);
