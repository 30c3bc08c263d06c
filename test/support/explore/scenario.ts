/** Scenarios: ways to a state as people read them, kept in test/scenarios. */
import { actionText, parseAction } from "./actions.js";
import type { Counterexample } from "./explorer.js";
import { Violation } from "./truth.js";
import { type Budget, type Scope, World } from "./world.js";

/** Nothing limits what a scenario does. */
const UNLIMITED: Budget = {
  packets: 99,
  hooks: 99,
  crashes: 99,
  reboots: 99,
  losses: 99,
  overruns: 99,
  dumps: 99,
  snapshots: 99,
};

/** The file of a counterexample. The part after the steps is for the reader. */
export function scenarioText({ scope, actions, violation, state }: Counterexample): string {
  const lines = [
    `# ${violation}`,
    "",
    scopeText(scope),
    "",
    ...actions.map(actionText),
    "",
    "# At the end:",
    ...state.map((line) => `#   ${line}`),
  ];
  return `${lines.join("\n")}\n`;
}

function scopeText({ injects, ahead, nodes, flows, begins, traffic, skewMs }: Scope): string {
  const skew = skewMs.length === 0 ? "" : `, clocks ${skewMs.join(" ")}`;
  return `mode ${ahead ? "ahead" : injects ? "inject" : "cache"}, ${nodes} nodes, ${flows} flows, fw1 ${begins}, traffic ${traffic}${skew}`;
}

function parseScope(line: string): Scope {
  const match =
    /^mode (cache|inject|ahead), (\d) nodes, (\d) flows, fw1 (primary|unknown), traffic (active|anywhere)(?:, clocks ([\d -]+))?$/.exec(
      line,
    );
  if (match === null) throw new Error(`not the first line of a scenario: ${line}`);
  return {
    name: line,
    nodes: Number(match[2]),
    flows: Number(match[3]),
    budget: UNLIMITED,
    skewMs: match[6] === undefined ? [] : match[6].split(" ").map(Number),
    begins: match[4] as Scope["begins"],
    gaps: true,
    closes: true,
    traffic: match[5] as Scope["traffic"],
    injects: match[1] !== "cache",
    ahead: match[1] === "ahead",
  };
}

const END = "end: ";

/** A scenario that was carried out, step by step. */
export interface Replay {
  /** Each step, and the state after it. */
  readonly lines: readonly string[];
  /** What did not hold; null when all did. */
  readonly violation: string | null;
  /** The lines `end: …` of the text that are not true of the last state. */
  readonly missed: readonly string[];
}

/**
 * Carries a scenario out, lets everything come to rest, and checks what must hold, and that every line `end: …` of the
 * text is a line of the last state.
 * @throws Error when the text is malformed or a step is not possible
 */
export async function replay(text: string): Promise<Replay> {
  const [first = "", ...rest] = text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "" && !line.startsWith("#"));
  const ends = rest.filter((line) => line.startsWith(END)).map((line) => line.slice(END.length));
  const world = new World(parseScope(first));
  world.load(await world.begin());
  const lines: string[] = [];
  try {
    for (const line of rest.filter((one) => !one.startsWith(END))) {
      const one = parseAction(line);
      const isDone = world.isPossible(one) && (await world.run(one));
      if (!isDone) throw new Error(`not possible here: ${line}`);
      lines.push(line, ...world.truth.describe().map((part) => `    ${part}`));
      if (world.isAtRest) world.truth.check();
    }
    await world.rest((one) => lines.push(`${actionText(one)} (follows)`));
    world.truth.check();
  } catch (error) {
    if (!(error instanceof Violation)) throw error;
    return { lines, violation: error.message, missed: [] };
  }
  const state = world.truth.describe();
  return { lines, violation: null, missed: ends.filter((line) => !state.includes(line)) };
}
