/**
 * Turns the private names of src/ into plain ones (`#rows` becomes `_rows`) while its files are loaded, so that the
 * explorer can copy the state of a node and put it back. Everything else is the code that ships, unless a test asks for
 * a fault in it. Call it before anything of src/ is loaded.
 */
import { register } from "node:module";

/** A fault that is put into a file of src/: the test then expects a counterexample. */
export interface Fault {
  /** Relative to src/, as in "ownership/claim.js". */
  readonly file: string;
  /** Code as compiled, with plain names, and what replaces it. */
  readonly from: string;
  readonly to: string;
}

const HOOK = `
  const NAMES = /(?<![\\w"'\`])#([a-z]\\w*)/g;
  let fault = null;
  export function initialize(data) {
    fault = data;
  }
  export async function load(url, context, next) {
    const loaded = await next(url, context);
    if (loaded.format !== "module" || !url.includes("/dist/src/")) return loaded;
    const source = String(loaded.source).replace(NAMES, "_$1");
    if (fault === null || !url.endsWith("/dist/src/" + fault.file)) return { ...loaded, source };
    if (!source.includes(fault.from)) throw new Error(fault.file + " does not contain " + fault.from);
    return { ...loaded, source: source.replace(fault.from, fault.to) };
  }
`;

/** Opens the private names of all files of src/ that are loaded from here on. */
export function openPrivates(fault: Fault | null): void {
  register(`data:text/javascript,${encodeURIComponent(HOOK)}`, { data: fault });
}
