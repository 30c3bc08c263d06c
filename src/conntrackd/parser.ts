import { shown } from "../config/config-text.js";
import { nearest } from "../config/nearest.js";
import { type BlockRule, type DirectiveRule, FILE_RULE, HOMES } from "./grammar.js";
import type { ConfNode, ConfPlace, ConfWord } from "./tree.js";
import type { ValueRule } from "./value.js";

/** One problem of a conntrackd.conf. */
export interface ConfProblem extends ConfPlace {
  /** What was found and what is allowed. */
  readonly text: string;
}

/** The directives that could be read, and the problems, in the order of the file. */
export interface ParsedConf {
  readonly nodes: readonly ConfNode[];
  readonly problems: readonly ConfProblem[];
}

/** More would help nobody. */
const PROBLEMS_MAX = 50;

/** Parses a conntrackd.conf. After a mistake it continues as if the file said what it seems to mean. */
export function parseConf(text: string): ParsedConf {
  const parser = new Parser(text);
  while (parser.step());
  return { nodes: parser.nodes, problems: parser.problems.slice(0, PROBLEMS_MAX) };
}

/** A token of a conntrackd.conf. The last one, and only that, is `end`. */
interface Token extends ConfPlace {
  readonly kind: "word" | "open" | "close" | "end";
  /** The word itself; `{`, `}` or nothing for the others. */
  readonly text: string;
}

/**
 * The words and braces of a text, without comments. White space and braces separate words; a line feed is like a
 * space. `#` begins a comment, but not within a path, where it is part of the word, as in conntrackd.
 */
function* tokensOf(text: string): Generator<Token> {
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

/** An open block. */
interface Frame {
  /** `Mode FTFW`; of the file: empty. */
  readonly label: string;
  readonly rule: BlockRule;
  readonly opened: number;
  readonly nodes: ConfNode[];
  /** The first word of a row that has not ended with `for TCP` yet. */
  row: ConfWord | null;
}

class Parser {
  readonly nodes: ConfNode[] = [];
  readonly problems: ConfProblem[] = [];
  readonly #tokens: Iterator<Token>;
  #next: Token;
  readonly #file: Frame = { label: "", rule: FILE_RULE, opened: 1, nodes: this.nodes, row: null };
  readonly #frames: Frame[] = [this.#file];
  /** The block that was closed last, and the line of its brace. */
  #closed: { readonly frame: Frame; readonly line: number } | null = null;
  /** Braces that were reported as missing: they may come later. */
  #owed = 0;
  /** The last directive, and the line where it ends. */
  #last: { readonly text: string; readonly line: number } | null = null;

  constructor(text: string) {
    this.#tokens = tokensOf(text);
    this.#next = this.#tokens.next().value as Token;
  }

  /** Reads a directive or a brace; false at the end. */
  step(): boolean {
    const token = this.#next;
    switch (token.kind) {
      case "end":
        this.#end(token);
        return false;
      case "close":
        this.#close(this.#take());
        break;
      case "open":
        this.#strayBlock(token);
        break;
      case "word":
        if (this.#frame.rule.kind === "list") this.#listWord(this.#frame, this.#frame.rule, token);
        else this.#directive(this.#frame.rule.directives.get(token.text), token);
    }
    return this.problems.length < PROBLEMS_MAX;
  }

  get #frame(): Frame {
    return this.#frames.at(-1) ?? this.#file;
  }

  #take(): Token {
    const token = this.#next;
    this.#next = this.#tokens.next().value as Token;
    return token;
  }

  #report({ line, column }: ConfPlace, text: string): void {
    this.problems.push({ line, column, text });
  }

  #end(token: Token): void {
    const open = this.#frames.slice(1).reverse();
    if (open.length === 0) return;
    const names = open.map((frame) => named(frame)).join(", inside ");
    const missing = open.length === 1 ? `the "}" that closes it is missing` : `${open.length} "}" are missing`;
    this.#report(token, `found the end of the file inside ${names}: ${missing}`);
  }

  #close(token: Token): void {
    const frame = this.#frame;
    this.#checkRow(frame);
    if (this.#frames.length > 1) {
      this.#frames.pop();
      this.#closed = { frame, line: token.line };
      this.#last = null;
      return;
    }
    if (this.#owed > 0) {
      this.#owed--;
      return;
    }
    const closed = this.#closed;
    const before = closed === null ? "" : `; ${named(closed.frame)} was the last, closed in line ${closed.line}`;
    this.#report(token, `found "}" where no block is open${before}`);
  }

  #strayBlock(token: Token): void {
    const last = this.#last?.line === token.line ? `, but ${this.#last.text} takes no block` : "";
    this.#report(token, `found "{", allowed is a directive${last}`);
    this.#skipBlock();
  }

  #skipBlock(): void {
    let depth = 0;
    do {
      const { kind } = this.#take();
      if (kind === "open") depth++;
      if (kind === "close") depth--;
    } while (depth > 0 && this.#next.kind !== "end");
  }

  /** Skips the rest of a line that is not understood, up to the next directive in it. */
  #skipLine(line: number): void {
    while (this.#next.kind === "word" && this.#next.line === line && !isDirective(this.#next.text)) this.#take();
  }

  #listWord(frame: Frame, rule: BlockRule & { kind: "list" }, token: Token): void {
    const { word, ending } = rule;
    if (ending !== undefined && token.text === ending[0]) {
      this.#take();
      this.#rowEnd(token, ending);
      frame.row = null;
    } else if (
      word.looks(token.text) &&
      !this.#belongsOutside(token) &&
      (isProtocol(token.text) || mayBe(word, token))
    ) {
      this.#take();
      if (!word.accepts(token.text)) this.#refuse(token, word);
      else frame.nodes.push({ name: wordOf(token), values: [], block: null });
      frame.row ??= token;
    } else if (this.#belongsOutside(token)) {
      this.#checkRow(frame);
      this.#unclosed(token);
    } else {
      this.#take();
      this.#refuse(token, word);
    }
  }

  /** True for a directive of a block around this one: then the closing brace of the list is missing. */
  #belongsOutside(token: Token): boolean {
    const outer = this.#frames.slice(0, -1).filter(({ label }) => label !== "Sync" || !isProtocol(token.text));
    return outer.some(({ rule }) => rule.kind === "directives" && rule.directives.has(token.text));
  }

  #rowEnd(token: Token, [first, second]: readonly [string, string]): void {
    if (this.#next.kind === "word" && this.#next.text === second) this.#take();
    else this.#report(token, `found "${first}" without ${second}, allowed is "${first} ${second}"`);
  }

  #checkRow(frame: Frame): void {
    if (frame.rule.kind !== "list" || frame.rule.ending === undefined || frame.row === null) return;
    this.#report(frame.row, `found no "${frame.rule.ending.join(" ")}" after the words of ${named(frame)}`);
    frame.row = null;
  }

  #directive(rule: DirectiveRule | undefined, token: Token): void {
    if (rule === undefined) {
      this.#unknown(token);
    } else {
      this.#take();
      this.#content(rule, token);
    }
  }

  /** Reads what follows the name of a directive. */
  #content(rule: DirectiveRule, token: Token): void {
    const values = rule.row === undefined ? this.#values(rule, token) : this.#row(rule.row, token);
    const label = [token.text, ...values.map(({ text }) => text)].join(" ");
    const instead = rule.blockOrValues === true && this.#next.kind !== "open";
    const wantsBlock = rule.block !== undefined && !instead;
    const block: ConfNode[] | null = wantsBlock ? [] : null;
    this.#frame.nodes.push({ name: wordOf(token), values, block });
    this.#last = { text: label, line: values.at(-1)?.line ?? token.line };
    if (block === null || rule.block === undefined) return;
    const blockRule = rule.block(values.map(({ text }) => text));
    if (this.#next.kind === "open") this.#take();
    else if (!this.#opensSilently(token, label, blockRule)) return;
    this.#frames.push({ label, rule: blockRule, opened: token.line, nodes: block, row: null });
    this.#last = null;
  }

  /** Reports a missing opening brace. True when the next word can only be the block's content. */
  #opensSilently(token: Token, label: string, rule: BlockRule): boolean {
    const { kind, text } = this.#next;
    this.#report(token, `found no "{" after ${label}, which begins a block`);
    if (kind === "word" && rule.kind === "list") this.#skipLine(token.line);
    return rule.kind === "directives" && kind === "word" && rule.directives.has(text);
  }

  #values(rule: DirectiveRule, name: Token): ConfWord[] {
    const values: ConfWord[] = [];
    for (const wanted of rule.values) {
      const token = this.#next;
      const isWord = token.kind === "word";
      if (isWord && wanted.looks(token.text) && mayBe(wanted, token)) {
        this.#take();
        if (wanted.accepts(token.text)) values.push(wordOf(token));
        else this.#refuse(token, wanted, name.text);
      } else if (token.kind === "open" && (rule.blockOrValues || (rule.optional && values.length === 0))) {
        break;
      } else if (isWord && token.line === name.line && !HOMES.has(token.text)) {
        this.#take();
        this.#refuse(token, wanted, name.text);
        this.#skipLine(token.line);
      } else {
        const found = values.length === 0 ? "nothing" : `"${values.map(({ text }) => text).join(" ")}" alone`;
        const list = rule.blockOrValues ? ", or a list of names in braces" : "";
        this.#report(name, `found ${found} after "${name.text}", allowed is ${wanted.allowed}${list}`);
        break;
      }
    }
    return values;
  }

  #row({ word, ending }: NonNullable<DirectiveRule["row"]>, name: Token): ConfWord[] {
    const values: ConfWord[] = [];
    while (this.#next.kind === "word" && word.looks(this.#next.text)) values.push(wordOf(this.#take()));
    if (this.#next.kind === "word" && this.#next.text === ending[0]) this.#rowEnd(this.#take(), ending);
    else this.#report(name, `found no "${ending.join(" ")}" after "${name.text}" and its words`);
    return values;
  }

  #refuse(token: ConfWord, { allowed }: ValueRule, directive?: string): void {
    const after = directive === undefined ? ` in ${named(this.#frame)}` : ` after "${directive}"`;
    const quoted = /["']/.test(token.text) ? "; quotes have no meaning here" : "";
    this.#report(token, `found ${shown(token.text)}${after}, allowed is ${allowed}${quoted}`);
  }

  #unknown(token: Token): void {
    const closed = this.#closed;
    if (this.#frames.slice(0, -1).some(({ rule }) => takes(rule, token.text))) {
      this.#unclosed(token);
      return;
    }
    if (closed !== null && this.#isChild(closed.frame) && takes(closed.frame.rule, token.text)) {
      const { frame, line } = closed;
      this.#report(
        token,
        `found "${token.text}" outside ${named(frame)}, to which it belongs: line ${line} closes that`,
      );
      this.#frames.push(frame);
      return;
    }
    this.#take();
    if (this.#last?.line === token.line && !HOMES.has(token.text)) {
      this.#report(token, `found ${shown(token.text)} after ${this.#last.text}, allowed is a directive: nothing more`);
      return;
    }
    const meant = this.#meant(token.text);
    this.#report(token, this.#strange(token.text, meant));
    const { rule } = this.#frame;
    const directive = meant === undefined || rule.kind === "list" ? undefined : rule.directives.get(meant);
    if (meant !== undefined && directive !== undefined) {
      this.#content(directive, { ...token, text: meant });
      return;
    }
    this.#skipLine(token.line);
    if (this.#next.kind === "open") this.#skipBlock();
  }

  #isChild(frame: Frame): boolean {
    return this.#frame.nodes.some(({ block }) => block === frame.nodes);
  }

  /** Reports the missing closing braces of one or more blocks before this word. */
  #unclosed(token: Token): void {
    const left: Frame[] = [];
    for (let frame = this.#frame; !takes(frame.rule, token.text); frame = this.#frame) {
      left.push(frame);
      this.#frames.pop();
    }
    this.#owed += left.length;
    const where = left.map((frame) => named(frame)).join(", inside ");
    const [inner, ...more] = left;
    const missing = more.length === 0 ? `the "}" of ${inner?.label} is missing` : `${left.length} "}" are missing`;
    this.#report(token, `found "${token.text}" inside ${where}: ${missing} before it`);
  }

  /** The directive of this block that the word is probably meant to be. */
  #meant(word: string): string | undefined {
    const { rule } = this.#frame;
    if (rule.kind === "list" || word.length > 40) return undefined;
    const lower = new Map([...rule.directives.keys()].map((name) => [name.toLowerCase(), name]));
    return lower.get(word.toLowerCase()) ?? lower.get(nearest(word, [...lower.keys()]) ?? "");
  }

  #strange(word: string, meant: string | undefined): string {
    const { rule, label, opened } = this.#frame;
    const where = label === "" ? "at the top of the file" : `in ${label} (line ${opened})`;
    const allowed = rule.kind === "list" ? rule.word.allowed : [...rule.directives.keys()].join(" ");
    const homes = HOMES.get(word);
    if (meant !== undefined) {
      const spelling = meant.toLowerCase() === word.toLowerCase() ? ": names are case-sensitive" : "";
      return `found ${shown(word)} ${where}, allowed is ${meant}${spelling}`;
    }
    const home = homes === undefined ? "" : `; it belongs to ${homes.join(", ")}`;
    return `found ${shown(word)} ${where}, allowed is ${allowed}${home}`;
  }
}

/** Words of conntrackd's scanner that are no directives. */
const OTHER_WORDS: ReadonlySet<string> = new Set(
  "Default From Userspace Kernelspace Accept Ignore for SYN_SENT SYN_RECV ESTABLISHED FIN_WAIT CLOSE_WAIT LAST_ACK \
TIME_WAIT CLOSE CLOSED LISTEN".split(" "),
);

/** False for a free name that is a word of conntrackd: then the value is missing. */
function mayBe(wanted: ValueRule, { text }: Token): boolean {
  return !wanted.free || !(HOMES.has(text) || OTHER_WORDS.has(text));
}

/** True for a directive, except the links that have the names of protocols. */
function isDirective(word: string): boolean {
  return HOMES.has(word) && !isProtocol(word);
}

/** True for the names that links and protocols share. */
function isProtocol(word: string): boolean {
  return word === "TCP" || word === "UDP";
}

function takes(rule: BlockRule, word: string): boolean {
  return rule.kind === "directives" && rule.directives.has(word);
}

function named({ label, opened }: Frame): string {
  return `${label} (opened in line ${opened})`;
}

function wordOf({ text, line, column }: Token): ConfWord {
  return { text, line, column };
}
