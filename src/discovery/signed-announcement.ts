/** With keys, an announcement is believed only when the key of the node that it names has signed it. */
import { readFileSync } from "node:fs";
import type { TlsConfig } from "../config/config.js";
import { certificateFacts } from "../keys/certificate.js";
import { signAs, signerOf } from "../keys/signature.js";
import type { Announcement, Signed } from "./announcement.js";

/** How far the clocks of two nodes may be apart. A recorded announcement is worth nothing after that. */
const APART_MS_MAX = 10 * 60_000;

/** Signs a node's announcements, and checks those of others. */
export class AnnouncementKeys {
  readonly #files: TlsConfig;
  readonly #knows: (node: string) => boolean;
  #key = "";
  #certificate = "";
  #authority = "";

  /** `knows`: whether a node may connect here. @throws the system's error when a file cannot be read */
  constructor(files: TlsConfig, knows: (node: string) => boolean) {
    this.#files = files;
    this.#knows = knows;
    this.reload();
  }

  /** Reads the keys again. @throws the system's error, and then all stays as it was */
  reload(): void {
    const { ca, cert, key } = this.#files;
    [this.#authority, this.#certificate, this.#key] = [ca, cert, key].map((path) => readFileSync(path, "utf8")) as [
      string,
      string,
      string,
    ];
  }

  /** Signs this node's announcement. */
  sign(announcement: Announcement, nowMs: number): Signed {
    return { timeMs: nowMs, ...signAs(signedBytes(announcement, nowMs), this.#key, this.#certificate) };
  }

  /** Why an announcement is not believed; null when it is. */
  doubt(heard: Announcement, signed: Signed | null, nowMs: number): string | null {
    if (signed === null) return "it is not signed";
    const bytes = signedBytes(heard, signed.timeMs);
    const signer = signerOf(bytes, signed, { authority: this.#authority, nowMs });
    if (typeof signer === "string") return signer;
    const { names } = certificateFacts(signer.toString());
    const isAddress = this.#files.nodes === null && signer.checkIP(heard.address) !== undefined;
    if (!names.includes(heard.node) && !isAddress) return `it is signed by ${names.join(", ") || "nobody"}`;
    if (!this.#knows(heard.node)) return `${heard.node} was revoked, or is not among the nodes`;
    const apartMs = Math.abs(nowMs - signed.timeMs);
    return apartMs > APART_MS_MAX ? `it is ${Math.round(apartMs / 60_000)} minutes old or early: set the clocks` : null;
  }
}

/** What is signed: all that the announcement says, in this order. */
function signedBytes({ cluster, node, address, port }: Announcement, timeMs: number): Buffer {
  return Buffer.from(`conntrail announcement ${JSON.stringify([cluster, node, address, port, timeMs])}`);
}
