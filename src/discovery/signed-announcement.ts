/** With keys, an announcement is believed only when the key of the node that it names has signed it. */
import { createPrivateKey, type KeyObject, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import type { TlsConfig } from "../config/config.js";
import { certificateFacts } from "../keys/certificate.js";
import { signBytes, signerOf } from "../keys/signature.js";
import type { Announcement, Signed } from "./announcement.js";

/** How far the clocks of two nodes may be apart. A recorded announcement is worth nothing after that. */
const APART_MS_MAX = 10 * 60_000;

/** What a node signs with and checks by, read once: it announces itself every second. */
interface OwnKeys {
  readonly key: KeyObject;
  /** DER, in base64. */
  readonly certificate: string;
  readonly authority: X509Certificate;
}

/** Signs a node's announcements, and checks those of others. */
export class AnnouncementKeys {
  readonly #files: TlsConfig;
  readonly #knows: (node: string) => boolean;
  #own: OwnKeys;

  /** `knows`: whether a node may connect here. @throws the system's error when a file cannot be read */
  constructor(files: TlsConfig, knows: (node: string) => boolean) {
    this.#files = files;
    this.#knows = knows;
    this.#own = readKeys(files);
  }

  /** Reads the keys again. @throws the system's error, and then all stays as it was */
  reload(): void {
    this.#own = readKeys(this.#files);
  }

  /** Signs this node's announcement. */
  sign(announcement: Announcement, nowMs: number): Signed {
    const { key, certificate } = this.#own;
    const signature = signBytes(signedBytes(announcement, nowMs), key).toString("base64");
    return { timeMs: nowMs, certificate, signature };
  }

  /** Why an announcement is not believed; null when it is. */
  doubt(heard: Announcement, signed: Signed | null, nowMs: number): string | null {
    if (signed === null) return "it is not signed";
    const bytes = signedBytes(heard, signed.timeMs);
    const signer = signerOf(bytes, signed, { authority: this.#own.authority, nowMs });
    if (typeof signer === "string") return signer;
    const { names } = certificateFacts(signer.toString());
    const isAddress = this.#files.nodes === null && signer.checkIP(heard.address) !== undefined;
    if (!names.includes(heard.node) && !isAddress) return `it is signed by ${names.join(", ") || "nobody"}`;
    if (!this.#knows(heard.node)) return `${heard.node} was revoked, or is not among the nodes`;
    const apartMs = Math.abs(nowMs - signed.timeMs);
    return apartMs > APART_MS_MAX ? `it is ${Math.round(apartMs / 60_000)} minutes old or early: set the clocks` : null;
  }
}

function readKeys({ ca, cert, key }: TlsConfig): OwnKeys {
  return {
    key: createPrivateKey(readFileSync(key)),
    certificate: new X509Certificate(readFileSync(cert)).raw.toString("base64"),
    authority: new X509Certificate(readFileSync(ca)),
  };
}

/** What is signed: all that the announcement says, in this order. */
function signedBytes({ cluster, node, address, port }: Announcement, timeMs: number): Buffer {
  return Buffer.from(`conntrail announcement ${JSON.stringify([cluster, node, address, port, timeMs])}`);
}
