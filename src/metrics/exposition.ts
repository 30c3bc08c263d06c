/** A metric's kind, as Prometheus knows it. */
export type MetricType = "gauge" | "counter";

/** The labels of a sample. */
export type Labels = Readonly<Record<string, string>>;

/** Collects metrics for one scrape, and writes them in Prometheus' text format (version 0.0.4). */
export class Exposition {
  readonly #families = new Map<string, string[]>();

  /** Adds a sample; null adds none. `name` is complete: a counter's ends with `_total`. The first one's help counts. */
  add(type: MetricType, name: string, help: string, value: number | null, labels: Labels = {}): void {
    if (value === null) return;
    let lines = this.#families.get(name);
    if (lines === undefined) {
      lines = [`# HELP ${name} ${escapeHelp(help)}`, `# TYPE ${name} ${type}`];
      this.#families.set(name, lines);
    }
    lines.push(`${name}${labelText(labels)} ${value}`);
  }

  gauge(name: string, help: string, value: number | null, labels?: Labels): void {
    this.add("gauge", name, help, value, labels);
  }

  counter(name: string, help: string, value: number | null, labels?: Labels): void {
    this.add("counter", name, help, value, labels);
  }

  /** Everything that was added, a family after the other. */
  text(): string {
    return [...this.#families.values()].map((lines) => `${lines.join("\n")}\n`).join("");
  }
}

function labelText(labels: Labels): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escapeLabel(value)}"`);
  return pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
}

function escapeHelp(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n");
}

function escapeLabel(text: string): string {
  return escapeHelp(text).replaceAll('"', '\\"');
}
