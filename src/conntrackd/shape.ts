import { isYes } from "./leaf.js";
import { type ConfNode, directivesAt } from "./tree.js";

/** What of a conntrackd.conf decides about conntrackd's answers. */
export interface Shape {
  /** `stats`: a Stats block and no Sync. */
  readonly mode: "ftfw" | "alarm" | "notrack" | "stats";
  /** False with DisableInternalCache. */
  readonly internal: boolean;
  /** False with DisableExternalCache. */
  readonly external: boolean;
  /** True with ExpectationSync. */
  readonly expectations: boolean;
}

/** The shape of a file that names neither a mode nor its caches. */
export const DEFAULT_SHAPE: Shape = { mode: "ftfw", internal: true, external: true, expectations: true };

/** True for a file with statistics alone. */
export function isStatsAlone(nodes: readonly ConfNode[]): boolean {
  return nodes.some(({ name }) => name.text === "Stats") && !nodes.some(({ name }) => name.text === "Sync");
}

/** The shape of a file, by the last of each directive, as in conntrackd. */
export function shapeOf(nodes: readonly ConfNode[]): Shape {
  if (isStatsAlone(nodes)) return { mode: "stats", internal: true, external: false, expectations: false };
  const modes = directivesAt(nodes, ["Sync", "Mode"]);
  const isOn = (name: string): boolean => {
    const last = modes.flatMap(({ block }) => directivesAt(block ?? [], [name])).at(-1);
    return isYes(last?.values[0]?.text ?? "");
  };
  const synced = directivesAt(nodes, ["Sync", "Options", "ExpectationSync"]).at(-1);
  return {
    mode: modeOf(modes.at(-1)?.values[0]?.text.toLowerCase()),
    internal: !isOn("DisableInternalCache"),
    external: !isOn("DisableExternalCache"),
    expectations: synced !== undefined && (synced.block !== null || isYes(synced.values[0]?.text ?? "")),
  };
}

/** Older names of a mode count as today's. */
function modeOf(name: string | undefined): Shape["mode"] {
  if (name === "notrack") return "notrack";
  return name === "alarm" || name === "persistent" ? "alarm" : "ftfw";
}
