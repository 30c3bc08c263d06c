/** Writes the pages that are made from the program: `npm run docs`. */
import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { configurationPage } from "./config-reference.js";

writeFileSync(fileURLToPath(new URL("../../../docs/configuration.md", import.meta.url)), configurationPage());
