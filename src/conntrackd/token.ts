import type { ConfPlace } from "./tree.js";

/** A piece of a conntrackd.conf. `end` comes once, last, at the end of the text. */
export interface Token extends ConfPlace {
  readonly kind: "word" | "open" | "close" | "end";
  /** A word as it stands; `{`, `}` or nothing for the others. */
  readonly text: string;
}

/**
 * Words and braces, without comments. White space parts words, and so do braces, also without any around them; a line's
 * end means no more than a space. `#` begins a comment, but not within a path, where conntrackd takes it as it stands.
 */
export function* tokensOf(text: string): Generator<Token> {
  const pattern = /\n|#[^\n]*|([{}])|(\/[^\s{}"]+|[^\s{}#]+)/g;
  pattern.lastIndex = text.startsWith("\uFEFF") ? 1 : 0;
  let line = 1;
  let lineStart = pattern.lastIndex;
  for (let match = pattern.exec(text); match !== null; match = pattern.exec(text)) {
    const [all, brace, word] = match;
    const column = match.index - lineStart + 1;
    if (all === "\n") {
      line++;
      lineStart = pattern.lastIndex;
    } else if (brace !== undefined) {
      yield { kind: brace === "{" ? "open" : "close", text: brace, line, column };
    } else if (word !== undefined) {
      yield { kind: "word", text: word, line, column };
    }
  }
  yield { kind: "end", text: "", line, column: Math.max(1, text.length - lineStart + 1) };
}
