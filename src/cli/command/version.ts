import { existsSync, readFileSync } from "node:fs";

/** The release, from the package.json of this build; the build may be at any depth below it. */
export function packageVersion(): string {
  let directory = new URL(".", import.meta.url);
  while (!existsSync(new URL("package.json", directory)) && directory.pathname !== "/") {
    directory = new URL("..", directory);
  }
  const text = readFileSync(new URL("package.json", directory), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}
