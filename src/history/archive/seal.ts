/**
 * What makes an archive evidence: each file names the hash of the one before it, so nothing can be changed, taken out or
 * put in between without a trace, and a seal beside each file, made with the node's key, says who wrote it.
 *
 *   conntrail-<n>.parquet          key `conntrail_previous` of its metadata: `<number> <sha256>` of the file before it
 *   conntrail-<n>.parquet.seal     JSON: file, sha256, previous, signature (base64), certificate (PEM)
 */
import { createHash, createPrivateKey, X509Certificate } from "node:crypto";
import { createReadStream } from "node:fs";
import { readFile } from "node:fs/promises";
import { isIssuedBy, isSignedBy, signBytes } from "../../keys/signature.js";

/** A file of the chain: its number, and the SHA-256 of its bytes in hexadecimal digits. */
export interface ChainLink {
  readonly number: number;
  readonly sha256: string;
}

/** The key of a file's metadata. */
export const PREVIOUS_KEY = "conntrail_previous";

/** The ending of a seal's name behind that of its file. */
export const SEAL_ENDING = ".seal";

/** Signs with a node's key. */
export interface Sealer {
  /** PEM. */
  readonly key: string;
  readonly certificate: string;
}

/** What is beside a file. */
export interface Seal {
  readonly file: string;
  readonly sha256: string;
  /** As in the file's metadata; "" for the first of a chain. */
  readonly previous: string;
  readonly signature: string;
  readonly certificate: string;
}

/** The SHA-256 of a file, in hexadecimal digits. */
export async function hashFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer);
  return hash.digest("hex");
}

/** As many digits as the number of a file has at the most. */
const NUMBER_DIGITS = 15;

/** `formatLink` with zeros before the number, so that it always has the same length, for a place that was kept free. */
export function formatPaddedLink({ number, sha256 }: ChainLink): string {
  return `${String(number).padStart(NUMBER_DIGITS, "0")} ${sha256}`;
}

/** `<number> <sha256>`; "" for none. */
export function formatLink(link: ChainLink | null): string {
  return link === null ? "" : `${link.number} ${link.sha256}`;
}

/** The inverse of `formatLink`; undefined for anything else. */
export function parseLink(text: string): ChainLink | null | undefined {
  if (text === "") return null;
  const match = /^(\d{1,15}) ([0-9a-f]{64})$/.exec(text);
  return match === null ? undefined : { number: Number(match[1]), sha256: match[2] ?? "" };
}

/** Reads key and certificate of a node. @throws the system's error when they cannot be read */
export async function readSealer(files: { readonly key: string; readonly cert: string }): Promise<Sealer> {
  return { key: await readFile(files.key, "utf8"), certificate: await readFile(files.cert, "utf8") };
}

/** The seal of a file. */
export function seal(sealed: Pick<Seal, "file" | "sha256" | "previous">, { key, certificate }: Sealer): Seal {
  const signature = signBytes(sealedBytes(sealed), createPrivateKey(key)).toString("base64");
  return { ...sealed, signature, certificate };
}

/** Who has sealed a file, or why the seal does not hold. `authority`: the PEM that the certificate must come from; null: any. */
export function openSeal(
  text: string,
  authority: string | null,
): { readonly seal: Seal; readonly by: string } | string {
  try {
    const { file, sha256, previous, signature, certificate } = JSON.parse(text) as Record<keyof Seal, unknown>;
    const fields = { file: String(file), sha256: String(sha256), previous: String(previous) };
    const opened = { ...fields, signature: String(signature), certificate: String(certificate) };
    const x509 = new X509Certificate(opened.certificate);
    if (authority !== null && !isIssuedBy(x509, new X509Certificate(authority)))
      return "its certificate is not of this authority";
    if (!isSignedBy(sealedBytes(fields), Buffer.from(opened.signature, "base64"), x509)) {
      return "its signature does not hold";
    }
    return { seal: opened, by: /^CN=(.*)$/m.exec(x509.subject)?.[1] ?? x509.subject };
  } catch {
    return "its seal is damaged";
  }
}

function sealedBytes({ file, sha256, previous }: Pick<Seal, "file" | "sha256" | "previous">): Buffer {
  return Buffer.from(`conntrail archive 1\n${file}\n${sha256}\n${previous}\n`);
}
