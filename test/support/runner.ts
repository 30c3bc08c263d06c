/**
 * Runs test files by kind with node:test and says in the end what passed, what failed, and what was skipped and why.
 *
 *   node dist/test/support/runner.js unit golden ...
 *
 * Files are found among the sources, so that what is left in dist of a deleted test does not run.
 * Exit code 1 when a test failed, 2 when a kind is unknown.
 */
import { existsSync, readdirSync } from "node:fs";
import { basename, join } from "node:path";
import { run } from "node:test";
import { fileURLToPath } from "node:url";

interface Kind {
  /** Test files that run at the same time. What shares the machine's namespaces or timing runs alone. */
  concurrency: number;
  /** Limit for one file; it is killed then. Against one that hangs: a slow machine takes ten times as long as a quiet one. */
  fileSecondsMax: number;
  /** Print each test as it ends, because it takes long. */
  verbose: boolean;
}

const KINDS: ReadonlyMap<string, Kind> = new Map([
  ["unit", { concurrency: 4, fileSecondsMax: 600, verbose: false }],
  ["golden", { concurrency: 4, fileSecondsMax: 600, verbose: false }],
  ["fuzz", { concurrency: 2, fileSecondsMax: 600, verbose: false }],
  ["sim", { concurrency: 2, fileSecondsMax: 600, verbose: true }],
  ["integration", { concurrency: 2, fileSecondsMax: 600, verbose: true }],
  ["kernel", { concurrency: 1, fileSecondsMax: 600, verbose: true }],
  ["cluster", { concurrency: 1, fileSecondsMax: 900, verbose: true }],
]);

/** This much of what a failed file printed is shown, from the end. */
const OUTPUT_CHARS_MAX = 8_000;

/** What was seen of one kind. */
interface Tally {
  kind: string;
  passed: number;
  failed: number;
  skipped: { name: string; reason: string }[];
  seconds: number;
}

const DIST = fileURLToPath(new URL("../..", import.meta.url));

function print(line = ""): void {
  process.stdout.write(`${line}\n`);
}

/** The compiled files of a kind, in order of name. */
function filesOf(kind: string): string[] {
  const folder = join("test", kind);
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".test.ts"))
    .sort()
    .map((file) => join(DIST, folder, file.replace(/\.ts$/, ".js")));
}

async function runKind(kind: string, settings: Kind): Promise<Tally> {
  const tally: Tally = { kind, passed: 0, failed: 0, skipped: [], seconds: 0 };
  const files = filesOf(kind);
  if (files.length === 0) return tally;
  const start = performance.now();
  const output = new Map<string, string>();
  const stream = run({ files, concurrency: settings.concurrency, timeout: settings.fileSecondsMax * 1000 });
  for await (const event of stream) {
    switch (event.type) {
      case "test:stdout":
      case "test:stderr": {
        const file = event.data.file ?? "";
        output.set(file, ((output.get(file) ?? "") + event.data.message).slice(-OUTPUT_CHARS_MAX));
        break;
      }
      case "test:pass":
        pass(tally, event.data, settings);
        break;
      case "test:fail":
        fail(tally, event.data, output);
        break;
      default:
    }
  }
  tally.seconds = (performance.now() - start) / 1000;
  print(summary(tally));
  return tally;
}

interface Passed {
  name: string;
  file?: string | undefined;
  skip?: string | boolean | undefined;
  todo?: string | boolean | undefined;
  nesting: number;
  details: { duration_ms: number; type?: string | undefined };
}

function pass(tally: Tally, data: Passed, settings: Kind): void {
  const name = `${tally.kind}/${testFile(data.file)}: ${data.name}`;
  if (data.skip !== undefined) {
    tally.skipped.push({
      name,
      reason: typeof data.skip === "string" && data.skip !== "" ? data.skip : "no reason given",
    });
    return;
  }
  if (data.details.type === "suite") return;
  tally.passed++;
  if (settings.verbose && data.nesting === 0) print(`  ok ${name} (${(data.details.duration_ms / 1000).toFixed(1)} s)`);
}

interface Failed {
  name: string;
  file?: string | undefined;
  todo?: string | boolean | undefined;
  details: { error: Error };
}

function fail(tally: Tally, data: Failed, output: ReadonlyMap<string, string>): void {
  const error = data.details.error as Error & { failureType?: string };
  // A parent fails with its subtest, which has been shown.
  if (error.failureType === "subtestsFailed") return;
  if (data.todo !== undefined) {
    const name = `${tally.kind}/${testFile(data.file)}: ${data.name}`;
    tally.skipped.push({ name, reason: `known to fail: ${data.todo}` });
    return;
  }
  tally.failed++;
  print(`  FAILED ${tally.kind}/${testFile(data.file)}: ${data.name}`);
  const cause = error.cause instanceof Error ? (error.cause.stack ?? error.cause.message) : error.message;
  print(indent(cause));
  const said = output.get(data.file ?? "");
  if (said) print(indent(said.trimEnd()));
}

function testFile(file: string | undefined): string {
  return basename(file ?? "", ".test.js");
}

function indent(text: string): string {
  return text.replace(/^/gm, "    ");
}

function summary(tally: Tally): string {
  const skipped = tally.skipped.length > 0 ? `, ${tally.skipped.length} skipped` : "";
  const failed = tally.failed > 0 ? `, ${tally.failed} FAILED` : "";
  return `${tally.kind.padEnd(12)} ${tally.passed} passed${failed}${skipped} (${tally.seconds.toFixed(1)} s)`;
}

/** Skipped tests under their reasons, so that one missing tool is one line with its tests below. */
function printSkipped(tallies: readonly Tally[]): void {
  const byReason = new Map<string, string[]>();
  for (const { name, reason } of tallies.flatMap((tally) => tally.skipped)) {
    byReason.set(reason, [...(byReason.get(reason) ?? []), name]);
  }
  if (byReason.size === 0) return;
  print("\nSkipped on this machine:");
  for (const [reason, names] of byReason) {
    print(`  ${reason}`);
    for (const name of names) print(`    ${name}`);
  }
}

const wanted = process.argv.slice(2);
const unknown = wanted.filter((kind) => !KINDS.has(kind));
if (wanted.length === 0 || unknown.length > 0) {
  process.stderr.write(`runner: name one or more of ${[...KINDS.keys()].join(" ")}; found "${unknown.join(" ")}"\n`);
  process.exit(2);
}
const tallies: Tally[] = [];
for (const kind of wanted) tallies.push(await runKind(kind, KINDS.get(kind)!));
printSkipped(tallies);
const total = (count: (tally: Tally) => number): number => tallies.reduce((sum, tally) => sum + count(tally), 0);
const failed = total((tally) => tally.failed);
print(
  `\ntotal        ${total((tally) => tally.passed)} passed, ${failed} failed, ${total((tally) => tally.skipped.length)} skipped ` +
    `(${total((tally) => tally.seconds).toFixed(1)} s)`,
);
process.exitCode = failed > 0 ? 1 : 0;
