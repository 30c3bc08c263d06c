import type { Machine } from "./machine.js";

/** A statement of keepalived.conf with its words, and its block if it has one. */
export interface Statement {
  readonly words: readonly string[];
  readonly block: readonly Statement[] | null;
}

const INCLUDES_MAX = 64;

/**
 * Parses keepalived.conf with the files that it includes. Comments begin with # or !, a block is in braces, and a line is
 * a statement. Conditional lines (`@node …`) are read as if the condition held.
 */
export function parseKeepalived(path: string, machine: Pick<Machine, "read" | "list">): readonly Statement[] | null {
  const text = machine.read(path);
  if (text === null) return null;
  const budget = { left: INCLUDES_MAX };
  return parseLines(expanded(text, path, machine, budget));
}

function expanded(
  text: string,
  path: string,
  machine: Pick<Machine, "read" | "list">,
  budget: { left: number },
): string[] {
  return text.split("\n").flatMap((line) => {
    const included = /^\s*include\s+(\S+)/.exec(line)?.[1];
    if (included === undefined) return [line];
    const pattern = included.startsWith("/") ? included : `${path.slice(0, path.lastIndexOf("/"))}/${included}`;
    return filesOf(pattern, machine).flatMap((file) => {
      if (budget.left-- <= 0) return [];
      return expanded(machine.read(file) ?? "", file, machine, budget);
    });
  });
}

/** The files of a pattern with * in its last part. */
function filesOf(pattern: string, machine: Pick<Machine, "list">): readonly string[] {
  if (!pattern.includes("*")) return [pattern];
  const directory = pattern.slice(0, pattern.lastIndexOf("/"));
  const name = pattern.slice(directory.length + 1).replace(/[.+?^${}()|[\]\\]/g, "\\$&");
  const shape = new RegExp(`^${name.replaceAll("*", ".*")}$`);
  return [...machine.list(directory)]
    .filter((one) => shape.test(one))
    .sort()
    .map((one) => `${directory}/${one}`);
}

function parseLines(lines: readonly string[]): readonly Statement[] {
  const root: Statement[] = [];
  const open: Statement[][] = [root];
  let words: string[] = [];
  const end = (): void => {
    if (words.length > 0) open.at(-1)?.push({ words, block: null });
    words = [];
  };
  for (const line of lines) {
    for (const word of wordsOf(line)) {
      if (word === "{") {
        // The name of a block may be on the line before its brace.
        const head = words.length > 0 ? words : (open.at(-1)?.pop()?.words ?? []);
        const block: Statement[] = [];
        open.at(-1)?.push({ words: head, block });
        open.push(block);
        words = [];
      } else if (word === "}") {
        end();
        if (open.length > 1) open.pop();
      } else words.push(word.replace(/^(["'])(.*)\1$/, "$2"));
    }
    end();
  }
  return root;
}

function wordsOf(line: string): string[] {
  const text = line.replace(/^((?:[^"'#!]|"[^"]*"|'[^']*')*)[#!].*$/, "$1");
  return text.match(/"[^"]*"|'[^']*'|[{}]|[^\s{}"']+/g) ?? [];
}
