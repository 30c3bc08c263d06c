import { type Document, isAlias, isMap, isPair, isScalar, isSeq, LineCounter, type Node, parseDocument } from "yaml";
import type { z } from "zod";
import { shown } from "./config-text.js";
import { nearest } from "./nearest.js";
import { keysAllowed } from "./schema.js";

/** One problem of a configuration file. */
export interface ConfigProblem {
  /** Its line, from 1. */
  readonly line: number;
  /** The key's path, `broker.max_age`; empty for the file as a whole. */
  readonly key: string;
  /** What was found and what is allowed. */
  readonly text: string;
}

/** A path into the file. */
export type KeyPath = readonly (string | number)[];

/** A YAML file that knows the line of each of its keys. */
export class SourceFile {
  /** The content as plain values; null when the file is not YAML. */
  readonly value: unknown;
  /** Problems of the YAML itself: syntax, duplicate keys. */
  readonly problems: readonly ConfigProblem[];
  readonly #document: Document;
  readonly #lines = new LineCounter();

  constructor(text: string) {
    // Duplicate keys are found here: the parser's own message has no path.
    this.#document = parseDocument(text, { lineCounter: this.#lines, prettyErrors: false, uniqueKeys: false });
    const problems: ConfigProblem[] = [];
    for (const error of this.#document.errors) {
      const said = error.message.replace(/\s+/g, " ");
      problems.push({ line: this.#lineAt(error.pos[0]), key: "", text: `not valid YAML: ${said}` });
    }
    let value: unknown = null;
    if (problems.length === 0) {
      this.#checkKeys(this.#document.contents, [], problems);
    }
    if (problems.length === 0) {
      try {
        value = this.#document.toJS({ maxAliasCount: 100 });
      } catch (error) {
        problems.push({ line: 1, key: "", text: `not usable YAML: ${error instanceof Error ? error.message : error}` });
      }
    }
    this.value = value;
    this.problems = problems;
  }

  /** True when the file has this key at its top. */
  has(key: string): boolean {
    return this.value !== null && typeof this.value === "object" && key in this.value;
  }

  /** The line of the key at `path`; if it is missing, that of the nearest map around it. */
  lineOf(path: KeyPath): number {
    let node: unknown = this.#document.contents;
    let line = 1;
    for (const step of path) {
      if (isAlias(node)) node = node.resolve(this.#document);
      if (isMap(node)) {
        const pair = node.items.find((item) => keyText(item.key) === String(step));
        if (pair === undefined) return line;
        line = this.#lineAt((pair.key as Node | null)?.range?.[0] ?? 0);
        node = pair.value;
      } else if (isSeq(node)) {
        node = node.items[Number(step)];
        line = this.#lineAt((node as Node | undefined)?.range?.[0] ?? 0);
      } else {
        return line;
      }
    }
    return line;
  }

  #lineAt(offset: number): number {
    return Math.max(1, this.#lines.linePos(offset).line);
  }

  #checkKeys(node: unknown, path: KeyPath, problems: ConfigProblem[]): void {
    if (isSeq(node)) {
      node.items.forEach((item, index) => {
        this.#checkKeys(item, [...path, index], problems);
      });
    }
    if (!isMap(node)) return;
    const lines = new Map<string, number>();
    for (const item of node.items) {
      if (!isPair(item)) continue;
      const key = keyText(item.key);
      const line = this.#lineAt((item.key as Node | null)?.range?.[0] ?? node.range?.[0] ?? 0);
      if (!isScalar(item.key)) {
        problems.push({
          line,
          key: pathText(path),
          text: "found a key that is a map, a list or empty, allowed is a word",
        });
        continue;
      }
      const earlier = lines.get(key);
      if (earlier !== undefined) {
        problems.push({ line, key: pathText([...path, key]), text: `stands in line ${earlier} already, allowed once` });
      }
      lines.set(key, line);
      this.#checkKeys(item.value, [...path, key], problems);
    }
  }
}

/** The issues of a failed check as problems with their lines, in the order of the file. */
export function problemsOf(error: z.ZodError, file: SourceFile): ConfigProblem[] {
  const problems: ConfigProblem[] = [];
  for (const issue of error.issues) {
    const path = issue.path.map((step) => (typeof step === "number" ? step : String(step)));
    if (issue.code === "unrecognized_keys") {
      for (const key of issue.keys) problems.push(unknownKey(path, key, file));
      continue;
    }
    const found = issue.code === "custom" && issue.params?.found !== undefined ? issue.params.found : at(file, path);
    const text = found === undefined ? `is missing, allowed is ${issue.message}` : refusal(found, issue.message);
    problems.push({ line: file.lineOf(path), key: pathText(path), text });
  }
  return problems.sort((a, b) => a.line - b.line);
}

/** `found X, allowed is Y`. */
export function refusal(found: unknown, allowed: string): string {
  return `found ${show(found)}, allowed is ${allowed}`;
}

function unknownKey(path: KeyPath, key: string, file: SourceFile): ConfigProblem {
  const allowed = keysAllowed(pathText(path));
  const near = nearest(key, allowed);
  const hint = near === undefined ? "" : ` (did you mean ${near}?)`;
  return {
    line: file.lineOf([...path, key]),
    key: pathText([...path, key]),
    text: `unknown key${hint}, allowed is ${allowed.join(" ")}`,
  };
}

/** A path as text, on one line whatever the keys contain. */
function pathText(path: KeyPath): string {
  const text = path.map((step, i) => (typeof step === "number" ? `[${step}]` : i === 0 ? step : `.${step}`)).join("");
  return text.replace(/\s+/g, " ");
}

function keyText(key: unknown): string {
  return isScalar(key) ? String(key.value) : String(key);
}

function at(file: SourceFile, path: KeyPath): unknown {
  let value = file.value;
  for (const step of path) {
    if (value === null || typeof value !== "object") return undefined;
    value = (value as Record<string, unknown>)[step];
  }
  return value;
}

function show(value: unknown): string {
  if (value === null || value === undefined) return "nothing";
  if (Array.isArray(value)) return "a list";
  if (typeof value === "object") return "a map";
  if (typeof value !== "string") return String(value);
  return shown(value);
}
