/** What a node signs with the key of its certificate, and what another may believe of it. */
import { type KeyObject, sign, verify, X509Certificate } from "node:crypto";

/** A signature over bytes, and the certificate of the key that made it. */
export interface Signature {
  /** DER, in base64. */
  readonly certificate: string;
  /** In base64. */
  readonly signature: string;
}

/** Whose signature is believed. */
export interface Trusted {
  /** The certificate must come from it. */
  readonly authority: X509Certificate;
  readonly nowMs: number;
}

/** Signs with a private key. */
export function signBytes(bytes: Buffer, key: KeyObject): Buffer {
  return sign(digestOf(key), bytes, key);
}

/** True when the key of a certificate has signed these bytes. */
export function isSignedBy(bytes: Buffer, signature: Buffer, { publicKey }: X509Certificate): boolean {
  return verify(digestOf(publicKey), bytes, publicKey, signature);
}

/** True when an authority has issued a certificate. */
export function isIssuedBy(certificate: X509Certificate, authority: X509Certificate): boolean {
  return certificate.checkIssued(authority) && certificate.verify(authority.publicKey);
}

/** The certificate of the node that signed, or why it is not believed. */
export function signerOf(bytes: Buffer, signed: Signature, { authority, nowMs }: Trusted): X509Certificate | string {
  try {
    const certificate = new X509Certificate(Buffer.from(signed.certificate, "base64"));
    if (!isIssuedBy(certificate, authority)) return "its certificate is not of this authority";
    if (nowMs < Date.parse(certificate.validFrom) || nowMs > Date.parse(certificate.validTo)) {
      return "its certificate is not valid now";
    }
    return isSignedBy(bytes, Buffer.from(signed.signature, "base64"), certificate)
      ? certificate
      : "its signature does not hold";
  } catch {
    return "its certificate is none";
  }
}

/** Some kinds of keys have a digest of their own. */
function digestOf({ asymmetricKeyType }: KeyObject): string | null {
  return asymmetricKeyType === "ed25519" || asymmetricKeyType === "ed448" ? null : "sha256";
}
