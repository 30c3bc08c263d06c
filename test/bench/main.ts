/** `npm run bench [-- PART …]`: the measurements. Each prints what it saw; none passes or fails. */
import { benchReplay } from "./replay.js";

const PARTS: Record<string, () => Promise<void>> = {
  replay: () => benchReplay(1_000_000, 3),
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
