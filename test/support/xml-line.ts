/** An element of a line of XML, without its attributes' order. */
export interface XmlElement {
  readonly name: string;
  readonly attributes: Readonly<Record<string, string>>;
  readonly children: readonly XmlElement[];
  readonly text: string;
}

/**
 * Reads one line as one XML element, as tools do that split conntrackd's XML at its line feeds. Throws where the line is anything
 * else: two elements, an open tag, text beside an element.
 */
export function parseXmlLine(line: string): XmlElement {
  const reader = new XmlReader(line);
  const element = reader.element();
  reader.end();
  return element;
}

/** The text at a path of element names, the first of each name; undefined when there is none. */
export function textAt(element: XmlElement | undefined, ...path: readonly string[]): string | undefined {
  let at = element;
  for (const name of path) at = at?.children.find((child) => child.name === name);
  return at?.text;
}

class XmlReader {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  element(): XmlElement {
    const [, name = "", attributes = "", empty] = this.#take(/<(\w[\w-]*)((?: \w[\w-]*="[^"<&]*")*)(\/)?>/y);
    const found = [...attributes.matchAll(/ (\w[\w-]*)="([^"]*)"/g)].map(([, key = "", value = ""]) => [key, value]);
    const element = { name, attributes: Object.fromEntries(found) as Record<string, string> };
    if (empty !== undefined) return { ...element, children: [], text: "" };
    const children: XmlElement[] = [];
    const [text] = this.#take(/(?:[^<>&]|&#\d+;|&(?:amp|lt|gt|quot|apos);)*/y);
    while (!this.#text.startsWith("</", this.#at)) children.push(this.element());
    const [, closed] = this.#take(/<\/(\w[\w-]*)>/y);
    if (closed !== name) throw new Error(`<${name}> is closed by </${closed}> in ${this.#text}`);
    return { ...element, children, text };
  }

  end(): void {
    if (this.#at !== this.#text.length) throw new Error(`more than one element in ${this.#text}`);
  }

  #take(pattern: RegExp): RegExpExecArray {
    pattern.lastIndex = this.#at;
    const match = pattern.exec(this.#text);
    if (match === null) throw new Error(`no XML at ${this.#text.slice(this.#at, this.#at + 40)}`);
    this.#at += match[0].length;
    return match;
  }
}
