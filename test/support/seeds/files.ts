import { readFileSync } from "node:fs";
import { join } from "node:path";
import { projectRoot } from "../../../src/lab/process.js";

/** A file that was taken from a seed's text as it stands there: `seedFile("000/fw-1/keepalived.conf")`. */
export function seedFile(path: string): string {
  return readFileSync(join(projectRoot(), "test", "support", "seeds", path), "utf8");
}

/** Rules as `iptables -S` prints them, as commands of a shell; those of POSTROUTING belong to the table nat. */
export function ruleCommands(rules: string, program = "iptables"): string[] {
  return rules
    .split("\n")
    .filter((line) => line.startsWith("-"))
    .map((line) => `${program} -w ${/^-\S+ POSTROUTING\b/.test(line) ? "-t nat " : ""}${line}`);
}

/**
 * Matches lines that differ from `line` only where it has a word of `variable`, or in their age. A mark of 0 may be missing:
 * the kernel's events leave it out, its dumps do not, and conntrackd prints what it was told.
 */
export function lineLike(line: string, ...variable: readonly string[]): RegExp {
  const literal = line.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const pattern = variable.reduce((text, value) => text.replaceAll(new RegExp(`\\b${value}\\b`, "g"), "\\d+"), literal);
  const flexible = pattern.replace(" mark=0", "(?: mark=0)?").replace(/active since \d+s/, "active since \\d+s");
  return new RegExp(`^${flexible}$`);
}

/** A text with every number reduced to one sign and every run of blanks to one blank: what is left is its form. */
export function textForm(text: string): string[] {
  return text
    .trim()
    .split("\n")
    .map((line) =>
      line
        .replace(/\d+/g, "N")
        .replace(/[ \t]+/g, " ")
        .trim(),
    );
}
