import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { TlsFiles } from "../../src/stream/connection.js";

function openssl(...args: string[]): void {
  execFileSync("openssl", args, { stdio: "ignore" });
}

/** Why no certificates can be made here, or false. */
export function opensslMissing(): string | false {
  try {
    openssl("version");
    return false;
  } catch {
    return "openssl is not installed";
  }
}

/** A certificate for `name`, signed by the authority of that name in this directory, which is made when it is new. */
export function makeCertificate(directory: string, authority: string, name: string, alternative: string): TlsFiles {
  const file = (ending: string) => join(directory, ending);
  const ca = file(`${authority}.pem`);
  const caKey = file(`${authority}.key`);
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  if (!existsSync(ca)) {
    openssl("req", "-x509", ...curve, "-keyout", caKey, "-out", ca, "-subj", `/CN=${authority}`, "-days", "2");
  }
  const cert = file(`${name}.pem`);
  const key = file(`${name}.key`);
  const signed = ["-CA", ca, "-CAkey", caKey, "-addext", `subjectAltName=${alternative}`, "-days", "2"];
  openssl("req", "-x509", ...curve, "-keyout", key, "-out", cert, "-subj", `/CN=${name}`, ...signed);
  return { ca, cert, key };
}
