/**
 * A bundle is all that another node needs: its own key and certificate, the authority's certificate, and where the other
 * nodes are. It is one text file, readable for its owner only, and whoever has it is that node. It is not encrypted: it
 * travels over the ssh by which the machine is administered, and a passphrase would travel the same way.
 */
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { z } from "zod";
import { hostAddress } from "../config/address.js";
import { parseName } from "../config/schema.js";
import { ConntrailError, errorText } from "../errors.js";
import { assertBelongTogether, certificateFacts } from "./certificate.js";

/** What a bundle says about the node that it is for. */
export interface BundleFacts {
  readonly cluster: string;
  readonly node: string;
  readonly listen: string;
  readonly mode: "cache" | "inject" | "observer";
  readonly port: number;
  /** The nodes that it follows, with their addresses. */
  readonly peers: Readonly<Record<string, string>>;
  /** The nodes that may connect to it. */
  readonly nodes: readonly string[];
}

/** A bundle's content: facts, and three PEM blocks. */
export interface Bundle extends BundleFacts {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

const BYTES_MAX = 64 * 1024;
const MARK = "conntrail bundle 1: ";

const name = z.string().refine((text) => parseName(text) !== undefined);
const address = z.string().refine((text) => hostAddress(text) !== undefined);
const schema = z.strictObject({
  cluster: name,
  node: name,
  listen: address,
  mode: z.enum(["cache", "inject", "observer"]),
  port: z.int().min(1).max(65_535),
  peers: z.record(name, address),
  nodes: z.array(name).max(256),
});

/** Writes a bundle to a new file that only its owner can read. Throws ConntrailError CONTROL when it exists. */
export function writeBundle(path: string, bundle: Bundle, force: boolean): void {
  const { ca, cert, key, ...facts } = bundle;
  const text = `${MARK}${JSON.stringify(facts)}
Whoever has this file is ${bundle.node} of cluster ${bundle.cluster}. Copy it there over ssh, and keep no copy.
${[cert, ca, key].map((block) => `${block.trim()}\n`).join("")}`;
  try {
    writeFileSync(path, text, { flag: force ? "w" : "wx", mode: 0o600 });
  } catch (error) {
    const exists = (error as NodeJS.ErrnoException).code === "EEXIST";
    const why = exists ? "exists already: remove it, or replace it with --force" : errorText(error);
    throw new ConntrailError("CONTROL", `${path}: ${why}`, { cause: error });
  }
}

/** Reads a bundle. Throws ConntrailError CONFIG in one line when it is none, or when others can read it. */
export function readBundle(path: string): Bundle {
  try {
    const { mode, size } = statSync(path);
    if ((mode & 0o077) !== 0) throw new Error(`can be read by others: chmod 600 ${path}`);
    if (size > BYTES_MAX) throw new Error("is too long for a bundle");
    return parseBundle(readFileSync(path, "utf8"));
  } catch (error) {
    throw new ConntrailError("CONFIG", `${path}: ${errorText(error)}`, { cause: error });
  }
}

function parseBundle(text: string): Bundle {
  const [head = ""] = text.split("\n", 1);
  const [cert, ca] = blocks(text, "CERTIFICATE");
  const [key] = blocks(text, "PRIVATE KEY");
  if (!head.startsWith(MARK) || cert === undefined || ca === undefined || key === undefined) {
    throw new Error("is no bundle of conntrail's, or not a whole one");
  }
  const parsed = schema.safeParse(JSON.parse(head.slice(MARK.length)));
  if (!parsed.success) throw new Error("is a bundle of another version");
  assertBelongTogether({ ca, cert, key });
  if (!certificateFacts(cert).names.includes(parsed.data.node)) throw new Error("its certificate is another node's");
  return { ...parsed.data, ca, cert, key };
}

function blocks(text: string, kind: string): string[] {
  const pattern = new RegExp(`-----BEGIN ${kind}-----[A-Za-z0-9+/=\\s]+-----END ${kind}-----`, "g");
  return [...text.matchAll(pattern)].map(([block]) => `${block}\n`);
}
