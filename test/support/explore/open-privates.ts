/**
 * Turns the private names of src/ into plain ones (`#rows` becomes `_rows`) while its files are loaded, so that the
 * explorer can copy the state of a node and put it back. Everything else is the code that ships. Import it before
 * anything of src/ is loaded.
 */
import { register } from "node:module";

const HOOK = `
  const NAMES = /(?<![\\w"'\`])#([a-z]\\w*)/g;
  export async function load(url, context, next) {
    const loaded = await next(url, context);
    if (loaded.format !== "module" || !url.includes("/dist/src/")) return loaded;
    return { ...loaded, source: String(loaded.source).replace(NAMES, "_$1") };
  }
`;

register(`data:text/javascript,${encodeURIComponent(HOOK)}`);
