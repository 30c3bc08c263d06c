import { spawn, spawnSync } from "node:child_process";
import type { Terminal } from "./terminal.js";

/** less: ends at once if all fits on the screen, keeps colours, and leaves the text there. */
const PAGER = "less";
const LESS = "FRX";

/**
 * Runs `use` with a long output in a pager, if standard output is a terminal: that of CONNTRAIL_PAGER or PAGER, or less. An empty
 * variable, `cat`, and a pager that is not installed mean none. Whoever leaves the pager ends the output.
 */
export async function paged<T>(terminal: Terminal, use: () => Promise<T>): Promise<T> {
  const command = process.env.CONNTRAIL_PAGER ?? process.env.PAGER ?? PAGER;
  if (!terminal.isTerminal || command === "" || command === "cat" || !isInstalled(command)) return use();
  // LESSSECURE: no shell and no other file out of less, since this often runs as root.
  const env = { LESS, LESSSECURE: "1", ...process.env };
  const child = spawn("/bin/sh", ["-c", `exec ${command}`], { stdio: ["pipe", "inherit", "inherit"], env });
  const ended = new Promise<void>((resolve) => {
    child.once("error", () => resolve());
    child.once("exit", () => resolve());
  });
  // An interrupt is for the pager, which goes on showing what has come.
  const ignore = (): void => undefined;
  process.on("SIGINT", ignore);
  terminal.page(child.stdin);
  try {
    return await use();
  } finally {
    await terminal.endPaging(ended);
    process.off("SIGINT", ignore);
  }
}

function isInstalled(command: string): boolean {
  const [program = ""] = command.trim().split(/\s/, 1);
  return spawnSync("/bin/sh", ["-c", 'command -v -- "$1"', "sh", program], { stdio: "ignore" }).status === 0;
}
