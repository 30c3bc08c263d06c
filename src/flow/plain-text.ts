/** Text that comes from outside, from a peer or a server, on its way to a terminal, a log or a table. */

/** Node names, as configuration, streams and announcements have them. */
const NODE_NAME = /^[A-Za-z0-9_-]{1,32}$/;
const PRINTABLE_ASCII = /^[ -~]*$/;
/**
 * What is not shown as itself: control characters (C0, DEL, C1), format characters, among them those that change the
 * direction of what follows, line and paragraph separators, halves of surrogate pairs.
 */
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;
/** The same, but for the end of a line and the tabulator. CR is part of a line's end before LF only. */
const HIDDEN_IN_LINES = /\r(?!\n)|[^\P{Cc}\r\n\t]|[\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u;
/** Each of them, with what follows where that may make a colour of a table's out of it. */
const HIDDEN_OR_COLOUR = /\r(?!\n)|[^\P{Cc}\r\n\t](?:\[(?:0|1|32|33)m)?|[\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;
/** Bold, green, yellow, and their end: they leave the text visible. */
const COLOURS: readonly string[] = ["0", "1", "32", "33"].map((code) => `\u001b[${code}m`);

/** True for the name of a node. */
export function isNodeName(value: unknown): value is string {
  return typeof value === "string" && NODE_NAME.test(value);
}

/** True for printable ASCII without line ends, which names and contexts of the kernel consist of. */
export function isPrintable(text: string): boolean {
  return PRINTABLE_ASCII.test(text);
}

/** The text as one visible line: every hidden character as `\u` and its four hexadecimal digits, as JSON has it. */
export function plainText(text: string): string {
  return text.replace(HIDDEN, escaped);
}

/**
 * The text of several lines without hidden characters, but for the ends of lines and tabulators. JSON stays the same
 * JSON. With `colours`, those of a table pass.
 */
export function plainLines(text: string, colours = false): string {
  if (!HIDDEN_IN_LINES.test(text)) return text;
  return text.replace(HIDDEN_OR_COLOUR, (found) => {
    if (colours && COLOURS.includes(found)) return found;
    const end = found.indexOf("[");
    return end < 0 ? escaped(found) : escaped(found.slice(0, end)) + found.slice(end);
  });
}

function escaped(found: string): string {
  let text = "";
  for (let i = 0; i < found.length; i++) text += `\\u${found.charCodeAt(i).toString(16).padStart(4, "0")}`;
  return text;
}
