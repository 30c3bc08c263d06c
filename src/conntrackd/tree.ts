import { ConntrailError } from "../errors.js";

/** A place in the file; line and column count from 1. */
export interface ConfPlace {
  readonly line: number;
  readonly column: number;
}

/** A word of the file: a directive's name or one of its values. */
export interface ConfWord extends ConfPlace {
  readonly text: string;
}

/** A directive with its values and, if it has braces, their content. */
export interface ConfNode {
  readonly name: ConfWord;
  /** What follows the name before the brace or the next directive: `FTFW` of `Mode FTFW {`. */
  readonly values: readonly ConfWord[];
  /** Null: no braces. The words of a list are directives without values. */
  readonly block: readonly ConfNode[] | null;
}

/** All directives at a path of block names, in the order of the file: `["General", "UNIX", "Path"]`. */
export function directivesAt(nodes: readonly ConfNode[], path: readonly string[]): ConfNode[] {
  const [name, ...rest] = path;
  const found = nodes.filter((node) => node.name.text === name);
  return rest.length === 0 ? found : found.flatMap((node) => directivesAt(node.block ?? [], rest));
}

/** A ConntrailError CONFIG: `path:line:column: text`. */
export function errorAt(path: string, { line, column }: ConfPlace, text: string): ConntrailError {
  return new ConntrailError("CONFIG", `${path}:${line}:${column}: ${text}`);
}
