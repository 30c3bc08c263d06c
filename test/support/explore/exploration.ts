/** Explores scopes in processes of their own, as many at a time as there are processors. */
import { fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import type { Fault } from "./open-privates.js";

/** What was found of a scope. */
export interface Report {
  readonly name: string;
  readonly states: number;
  readonly transitions: number;
  readonly depth: number;
  /** States at rest, where everything was checked. */
  readonly atRest: number;
  /** True when the scope has no other states. */
  readonly complete: boolean;
  readonly seconds: number;
  /** Scenarios in which something does not hold. */
  readonly counterexamples: readonly string[];
}

const CHILD = fileURLToPath(new URL("./child.js", import.meta.url));
const PROCESSES = 2;
/** More than there are states. */
const FACTOR_MAX = 1e9;
/** New objects rarely live longer than a step, and collecting them is what costs most. */
const MEMORY = ["--max-semi-space-size=64", "--max-old-space-size=3000"];

/** How to explore. */
export interface ExploreOptions {
  readonly names: readonly string[];
  /** Multiplies the states of every scope; Infinity: all states. */
  readonly factor: number;
  /** Limit for each scope; null: none. */
  readonly seconds: number | null;
  readonly fault: Fault | null;
  readonly report: (report: Report) => void;
}

/** Explores the scopes with these names, shared among the processes. Rejects when a process fails. */
export async function exploreAll({ names, report, ...options }: ExploreOptions): Promise<void> {
  const factor = Math.min(options.factor, FACTOR_MAX);
  const work = async (share: readonly string[]): Promise<void> => {
    const child = fork(CHILD, [JSON.stringify({ ...options, factor, names: share })], { execArgv: MEMORY });
    child.on("message", (message) => report(message as Report));
    const [code] = (await once(child, "exit")) as [number | null];
    if (code !== 0) throw new Error(`the exploration of ${share.join(", ")} ended with ${code}`);
  };
  const shares = Array.from({ length: PROCESSES }, (_, process) =>
    names.filter((_name, index) => index % PROCESSES === process),
  );
  await Promise.all(shares.filter((share) => share.length > 0).map(work));
}
