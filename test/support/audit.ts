/**
 * Asks the registry for known holes of the dependencies, through npm. Exit code 1 when there are any; a registry that does
 * not answer such questions is said in a line, and is no failure.
 */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

const TIMEOUT_MS = 20_000;

/** What an audit says, in lines, and whether it fails. */
export interface AuditVerdict {
  readonly text: string;
  readonly failed: boolean;
}

interface Vulnerability {
  readonly severity?: string;
  readonly range?: string;
  readonly via?: readonly (string | { readonly title?: string; readonly url?: string })[];
}

/** Reads the output of `npm audit --json`. */
export function auditVerdict(output: string): AuditVerdict {
  let report: { readonly vulnerabilities?: Readonly<Record<string, Vulnerability>>; readonly statusCode?: number } = {};
  try {
    report = JSON.parse(output) as typeof report;
  } catch {
    // As without an answer.
  }
  const { vulnerabilities, statusCode } = report;
  if (vulnerabilities === undefined) {
    const why = statusCode === undefined ? "no answer" : `it says ${statusCode}`;
    return {
      text: `audit of the dependencies: skipped, the registry does not tell of known holes (${why})`,
      failed: false,
    };
  }
  const lines = Object.entries(vulnerabilities).map(([name, { severity = "unknown", range = "", via = [] }]) => {
    const titles = via.map((one) => (typeof one === "string" ? `by ${one}` : `${one.title ?? ""} ${one.url ?? ""}`));
    return `  ${name} ${range}: ${severity}: ${titles.join("; ")}`;
  });
  if (lines.length === 0) return { text: "audit of the dependencies: no known holes", failed: false };
  return { text: ["audit of the dependencies: known holes", ...lines].join("\n"), failed: true };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const args = ["audit", "--json", "--fetch-retries=0", `--fetch-timeout=${TIMEOUT_MS / 2}`];
  const { stdout } = spawnSync("npm", args, {
    encoding: "utf8",
    timeout: TIMEOUT_MS,
    stdio: ["ignore", "pipe", "ignore"],
  });
  const { text, failed } = auditVerdict(stdout ?? "");
  process.stdout.write(`${text}\n`);
  process.exitCode = failed ? 1 : 0;
}
