import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { describeMachine } from "./machine.js";

/** What is hoped for, of the figure itself or of its ratio to conntrackd's. */
export interface Goal {
  readonly of: "ratio" | "value";
  readonly at: "most" | "least";
  readonly limit: number;
}

/** One line of a part's table. The n-th samples of both columns were taken one right after the other. */
export interface Measure {
  readonly name: string;
  readonly unit: string;
  readonly conntrail: readonly number[];
  /** The other column: conntrackd, unless `beside` names something else. */
  readonly other?: readonly number[];
  readonly beside?: string;
  readonly goal?: Goal;
  readonly note?: string;
}

/** A measure with what follows from it, as it stands in the JSON file. */
interface Result extends Measure {
  readonly part: string;
  readonly median: number;
  readonly otherMedian: number | null;
  readonly ratio: Spread | null;
  readonly met: boolean | null;
}

interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

/** Others may take this share of the machine before a warning. */
const OTHERS_SHARE_MAX = 0.1;
/** A ratio whose samples lie further apart than this, relative to the median, tells little. */
const SPREAD_MAX = 0.5;

/** The middle of the samples. */
export function median(samples: readonly number[]): number {
  const sorted = [...samples].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** Gathers what the parts find, prints it, and writes it all to one file. */
export class Report {
  readonly #file: string;
  readonly #results: Result[] = [];
  readonly #noise: { part: string; others: number }[] = [];
  readonly #startedAt = new Date().toISOString();
  #part = "";

  constructor(file: string) {
    this.#file = file;
  }

  /** The measures from now on belong to this part. */
  begin(part: string): void {
    this.#part = part;
    console.log(`\n${part}`);
  }

  /** What a person may want to see while it takes its time. */
  say(text: string): void {
    console.log(`  ${text}`);
  }

  /** Share of the machine that others took while a sample was measured. */
  others(share: number): void {
    this.#noise.push({ part: this.#part, others: share });
  }

  /** Prints the table of a part and keeps it. */
  table(measures: readonly Measure[]): void {
    const results = measures.map((measure) => this.#result(measure));
    this.#results.push(...results);
    const rows = [["measure", "conntrail", "conntrackd", "ratio", "goal", ""], ...results.map(row)];
    const widths = rows[0]!.map((_, column) => Math.max(...rows.map((cells) => cells[column]!.length)));
    for (const cells of rows) {
      console.log(
        `  ${cells
          .map((cell, column) => cell.padEnd(widths[column]!))
          .join("  ")
          .trimEnd()}`,
      );
    }
    for (const { name, note } of results) if (note !== undefined) console.log(`  ${name}: ${note}`);
    this.#warn(results);
    this.write();
  }

  /** Writes what there is so far. */
  write(): void {
    mkdirSync(dirname(this.#file), { recursive: true });
    const { argv } = process;
    const content = {
      startedAt: this.#startedAt,
      machine: describeMachine(),
      arguments: argv.slice(2),
      others: this.#noise,
      measures: this.#results,
    };
    writeFileSync(this.#file, `${JSON.stringify(content, null, 2)}\n`);
  }

  #result(measure: Measure): Result {
    const { conntrail, other = [], goal } = measure;
    const ratios = conntrail.slice(0, other.length).map((value, index) => value / other[index]!);
    const ratio = ratios.length === 0 ? null : spread(ratios);
    const own = median(conntrail);
    const judged = goal?.of === "ratio" ? ratio?.median : own;
    const met = goal === undefined || judged === undefined ? null : isMet(judged, goal);
    const otherMedian = other.length === 0 ? null : median(other);
    return { part: this.#part, ...measure, median: own, otherMedian, ratio, met };
  }

  #warn(results: readonly Result[]): void {
    const shares = this.#noise.filter(({ part }) => part === this.#part).map(({ others }) => others);
    const share = shares.length === 0 ? 0 : median(shares);
    if (share > OTHERS_SHARE_MAX) {
      console.log(`  NOISY: others took ${percent(share)} of this machine (median of the samples); little can be told`);
    }
    for (const { name, ratio } of results) {
      if (ratio === null || ratio.max - ratio.min <= SPREAD_MAX * ratio.median) continue;
      console.log(`  NOISY: the ratios of "${name}" lie between ${number(ratio.min)} and ${number(ratio.max)}`);
    }
  }
}

function spread(samples: readonly number[]): Spread {
  return { median: median(samples), min: Math.min(...samples), max: Math.max(...samples) };
}

function isMet(value: number, { at, limit }: Goal): boolean {
  return at === "most" ? value <= limit : value >= limit;
}

function row({ name, unit, conntrail, other = [], beside, ratio, goal, met }: Result): string[] {
  const column = (samples: readonly number[]): string => {
    if (samples.length === 0) return "-";
    const { median: middle, min, max } = spread(samples);
    return samples.length === 1 ? number(middle) : `${number(middle)} (${number(min)}-${number(max)})`;
  };
  return [
    `${name}, ${unit}`,
    column(conntrail),
    `${column(other)}${beside === undefined ? "" : ` ${beside}`}`,
    ratio === null ? "-" : `${number(ratio.median)} (${number(ratio.min)}-${number(ratio.max)})`,
    goal === undefined ? "-" : `${goal.of} ${goal.at === "most" ? "<=" : ">="} ${number(goal.limit)}`,
    met === null ? "" : met ? "met" : "MISSED",
  ];
}

function number(value: number): string {
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
  return Number(value.toPrecision(3)).toString();
}

function percent(share: number): string {
  return `${Math.round(share * 100)} %`;
}
