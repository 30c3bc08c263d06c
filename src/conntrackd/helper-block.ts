import { notNeeded, notSupported, type Remark, remarkOn, replaced } from "./remark.js";
import type { ConfNode } from "./tree.js";

/** conntrackd's helpers in user space that the kernel has too, with the protocol that its own serves. */
const KERNEL_HELPERS: Readonly<Record<string, "tcp" | "udp">> = { amanda: "udp", ftp: "tcp", sane: "tcp", tftp: "udp" };

/** The outcome of each line of a Helper block: `Type ftp inet tcp { … }`, `Setup on`. */
export function helperRemarks(lines: readonly ConfNode[]): Remark[] {
  return lines.map((line) => {
    const [name, , protocol] = line.values.map(({ text }) => text);
    if (line.name.text !== "Type" || name === undefined)
      return remarkOn(line, notNeeded("the kernel's helpers are there when a rule names them"));
    if (KERNEL_HELPERS[name] === protocol)
      return remarkOn(line, replaced(`the kernel's helper ${name}, which the same rules name: load the ruleset again`));
    const instead = "conntrackd serves it beside this, with a file of General and Helper alone";
    return remarkOn(line, notSupported(`the kernel has no helper ${name} for ${protocol}: ${instead}`));
  });
}
