/** A node's own certificate: whether it can be used, and until when. */
import { createPrivateKey, createPublicKey, X509Certificate } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import { isIP } from "node:net";
import type { TlsConfig } from "../config/config.js";
import { ConntrailError, errorText } from "../errors.js";

/** What a certificate says. */
export interface CertificateFacts {
  /** The names that it is for, each the name of a node. */
  readonly names: readonly string[];
  /** Milliseconds since the Unix epoch. */
  readonly fromMs: number;
  readonly untilMs: number;
  /** SHA-256 of the certificate, in hexadecimal. */
  readonly fingerprint: string;
}

/** Whose certificate it must be. */
export interface CertificateOwner {
  readonly node: string;
  /** A certificate that was made elsewhere may name the address instead. */
  readonly address: string;
}

/** How long before its end a certificate is reported. */
export const EXPIRY_WARN_MS = 30 * 86_400_000;

const OTHERS = 0o007;
const GROUP_WRITES = 0o020;

/**
 * Reads a node's own key, certificate and authority, and checks that they fit each other, the node and the time.
 * @throws ConntrailError CONFIG in one line: which file, what is wrong with it, and what to do
 */
export function checkOwnCertificate(files: TlsConfig, owner: CertificateOwner, nowMs: number): CertificateFacts {
  const key = privateKeyIn(files.key);
  const certificate = certificateIn(files.cert);
  const authority = certificateIn(files.ca);
  const facts = factsOf(certificate);
  if (!certificate.checkPrivateKey(key)) throw refused(files.cert, `is not the certificate of the key ${files.key}`);
  if (!certificate.checkIssued(authority) || !certificate.verify(authority.publicKey)) {
    throw refused(files.cert, `is not signed by the authority ${files.ca}`);
  }
  for (const [file, { fromMs, untilMs }] of [
    [files.cert, facts],
    [files.ca, factsOf(authority)],
  ] as const) {
    if (nowMs < fromMs) throw refused(file, `is valid from ${day(fromMs)} only: set this machine's clock`);
    if (nowMs > untilMs) throw refused(file, `has expired on ${day(untilMs)}: conntrail keys renew`);
  }
  const { node, address } = owner;
  const isNode = facts.names.includes(node);
  if (!isNode && (files.nodes !== null || certificate.checkIP(address) === undefined)) {
    throw refused(files.cert, `is for ${facts.names.join(", ") || "nobody"}, and this node is ${node}`);
  }
  return facts;
}

/** What the certificate in a file says. Throws ConntrailError CONFIG when there is none. */
export function readCertificate(path: string): CertificateFacts {
  return factsOf(certificateIn(path));
}

/** What a certificate in PEM says. Throws when it is none. */
export function certificateFacts(pem: string): CertificateFacts {
  return factsOf(new X509Certificate(pem));
}

/** Throws when a key does not belong to a certificate, or an authority did not sign it. All in PEM. */
export function assertBelongTogether(pem: { ca: string; cert: string; key: string }): void {
  const certificate = new X509Certificate(pem.cert);
  const authority = new X509Certificate(pem.ca);
  if (!certificate.checkPrivateKey(createPrivateKey(pem.key)))
    throw new Error("key and certificate do not belong together");
  if (!certificate.verify(createPublicKey(authority.publicKey.export({ type: "spki", format: "pem" })))) {
    throw new Error("the certificate is not signed by the authority");
  }
}

/** The day of a time, in UTC. */
export function day(ms: number): string {
  return new Date(ms).toISOString().slice(0, 10);
}

function factsOf(certificate: X509Certificate): CertificateFacts {
  const alternatives = (certificate.subjectAltName ?? "").split(", ");
  const names = alternatives.filter((name) => name.startsWith("DNS:")).map((name) => name.slice("DNS:".length));
  const common = /^CN=(.+)$/m.exec(certificate.subject)?.[1];
  const none = names.length === 0 && common !== undefined && isIP(common) === 0;
  return {
    names: none ? [common] : names,
    fromMs: Date.parse(certificate.validFrom),
    untilMs: Date.parse(certificate.validTo),
    fingerprint: certificate.fingerprint256.replaceAll(":", "").toLowerCase(),
  };
}

function certificateIn(path: string): X509Certificate {
  const text = readChecked(path, GROUP_WRITES | 0o002, "can be written by others");
  try {
    return new X509Certificate(text);
  } catch (error) {
    throw refused(path, `is no certificate (${errorText(error)})`, error);
  }
}

function privateKeyIn(path: string) {
  const text = readChecked(path, OTHERS | GROUP_WRITES, "can be read or written by others");
  try {
    return createPrivateKey(text);
  } catch (error) {
    throw refused(path, `is no private key (${errorText(error)})`, error);
  }
}

function readChecked(path: string, forbidden: number, why: string): string {
  let text: string;
  let mode: number;
  try {
    mode = statSync(path).mode;
    text = readFileSync(path, "utf8");
  } catch (error) {
    throw refused(path, `cannot be read (${errorText(error)})`, error);
  }
  if ((mode & forbidden) !== 0) throw refused(path, `${why}: chmod ${why.includes("read") ? "600" : "644"} ${path}`);
  return text;
}

function refused(path: string, why: string, cause?: unknown): ConntrailError {
  return new ConntrailError("CONFIG", `${path}: ${why}`, cause === undefined ? {} : { cause });
}
