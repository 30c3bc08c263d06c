import { spawnSync } from "node:child_process";
import { chmodSync, cpSync, lstatSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { gzipSync } from "node:zlib";

/** The fields of a package's control file that differ between the packages. */
export interface ControlFields {
  readonly name: string;
  readonly version: string;
  readonly architecture: string;
  readonly depends?: string;
  readonly recommends?: string;
  readonly suggests?: string;
  /** One line. */
  readonly summary: string;
  /** Paragraphs of lines. */
  readonly description: readonly string[];
}

/** A package that is being put together in a directory of its own. */
export class DebianPackage {
  readonly root: string;
  readonly #fields: ControlFields;

  constructor(root: string, fields: ControlFields) {
    this.root = root;
    this.#fields = fields;
    mkdirSync(root, { recursive: true });
  }

  /** A path in the package, with its directory made. */
  path(file: string): string {
    const path = join(this.root, file);
    mkdirSync(dirname(path), { recursive: true });
    return path;
  }

  /** Adds a file. */
  write(file: string, text: string, mode = 0o644): void {
    writeFileSync(this.path(file), text);
    chmodSync(this.path(file), mode);
  }

  /** Adds a compressed file; the same text always gives the same bytes. */
  writeCompressed(file: string, text: string): void {
    writeFileSync(this.path(`${file}.gz`), gzipSync(text, { level: 9 }));
    chmodSync(this.path(`${file}.gz`), 0o644);
  }

  /** Adds a copy of a file or a directory. */
  copy(from: string, file: string): void {
    cpSync(from, this.path(file), { recursive: true });
  }

  /** Adds a maintainer script. */
  script(name: "postinst" | "prerm" | "postrm", text: string): void {
    this.write(`DEBIAN/${name}`, text, 0o755);
  }

  /** Builds the package in a directory, and returns its path. Times are those of the release, not of the build. */
  build({ out, compression, date }: { out: string; compression: string; date: string }): string {
    const { name, version, architecture } = this.#fields;
    settle(this.root);
    this.write("DEBIAN/control", this.#control());
    const file = join(out, `${name}_${version}_${architecture}.deb`);
    const args = ["--root-owner-group", `-Z${compression}`, "--build", this.root, file];
    const env = { ...process.env, SOURCE_DATE_EPOCH: String(Date.parse(`${date}T00:00:00Z`) / 1000) };
    const { status, stderr, error } = spawnSync("dpkg-deb", args, { encoding: "utf8", env });
    if (status !== 0) throw new Error(`dpkg-deb: ${error?.message ?? stderr.trim()}`);
    return file;
  }

  #control(): string {
    const { name, version, architecture, depends, recommends, suggests, summary, description } = this.#fields;
    const kilobytes = Math.ceil(sizeOf(this.root) / 1024);
    const optional = Object.entries({ Depends: depends, Recommends: recommends, Suggests: suggests });
    return [
      `Package: ${name}`,
      `Version: ${version}`,
      `Architecture: ${architecture}`,
      "Maintainer: conntrail <conntrail@localhost>",
      `Installed-Size: ${kilobytes}`,
      ...optional.flatMap(([field, value]) => (value === undefined ? [] : [`${field}: ${value}`])),
      "Section: net",
      "Priority: optional",
      `Description: ${summary}`,
      ...description.map((line) => ` ${line === "" ? "." : line}`),
      "",
    ].join("\n");
  }
}

/** The text of a file. */
export function text(path: string): string {
  return readFileSync(path, "utf8");
}

/** Everyone may read; only root, whom dpkg-deb makes the owner, may write. */
function settle(directory: string): void {
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isSymbolicLink()) continue;
    const runs = entry.isDirectory() || (lstatSync(path).mode & 0o100) !== 0;
    chmodSync(path, runs ? 0o755 : 0o644);
  }
  chmodSync(directory, 0o755);
}

/** The bytes of all files in a directory. */
export function sizeOf(directory: string): number {
  let bytes = 0;
  for (const entry of readdirSync(directory, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) bytes += lstatSync(join(entry.parentPath, entry.name)).size;
  }
  return bytes;
}
