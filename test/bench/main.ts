/** `npm run bench [-- PART …]`: the measurements. Each prints what it saw; none passes or fails. */

import { benchArchive } from "./archive.js";
import { benchHistory, benchWho } from "./history.js";
import { benchReplay } from "./replay.js";

const PARTS: Record<string, () => Promise<void>> = {
  archive: () => benchArchive(2_000_000),
  replay: () => benchReplay(1_000_000, 3),
  history: () => benchHistory(20_000_000),
  // As a quiet firewall writes them.
  "history-small": () => benchHistory(3_000_000, 20),
  who: () => benchWho(100_000_000),
};

const asked = process.argv.slice(2);
const unknown = asked.find((name) => !Object.hasOwn(PARTS, name));
if (unknown !== undefined) {
  console.error(`bench: unknown part ${unknown}, allowed are ${Object.keys(PARTS).join(", ")}`);
  process.exit(2);
}
for (const [name, run] of Object.entries(PARTS)) {
  if (asked.length > 0 && !asked.includes(name)) continue;
  console.log(`${name}`);
  await run();
}
