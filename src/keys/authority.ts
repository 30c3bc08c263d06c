/**
 * Makes the cluster's authority and the certificates of its nodes. Keys come from node:crypto. Certificates are signed
 * by the program openssl, which every firewall has, so that nothing here encodes or signs one by itself.
 */
import { execFileSync } from "node:child_process";
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ConntrailError, errorText } from "../errors.js";

/** A certificate and its private key, both in PEM. */
export interface KeyPair {
  readonly cert: string;
  readonly key: string;
}

/** How long certificates are valid. */
export const NODE_DAYS = 730;
const AUTHORITY_DAYS = 20 * 365;
/** A machine whose clock is behind must be able to use its key at once. */
const BACK_DAYS = 2;
const DAY_MS = 86_400_000;
const OPENSSL_TIMEOUT_MS = 30_000;

/** A new authority for a cluster. Throws ConntrailError CONTROL when openssl is missing or fails. */
export function makeAuthority(cluster: string, nowMs: number): KeyPair {
  const name = `conntrail ${cluster} ${randomBytes(4).toString("hex")}`;
  return sign({ name, days: AUTHORITY_DAYS, nowMs, authority: null, extensions: AUTHORITY_EXTENSIONS });
}

/** A new key and certificate for a node, for both sides of a connection. Throws as `makeAuthority`. */
export function issueCertificate(authority: KeyPair, node: string, nowMs: number, days = NODE_DAYS): KeyPair {
  return sign({ name: node, days, nowMs, authority, extensions: `${NODE_EXTENSIONS}subjectAltName=DNS:${node}\n` });
}

const AUTHORITY_EXTENSIONS = `basicConstraints=critical,CA:TRUE,pathlen:0
keyUsage=critical,keyCertSign,cRLSign
subjectKeyIdentifier=hash
`;
const NODE_EXTENSIONS = `basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth,clientAuth
`;

interface Order {
  readonly name: string;
  readonly days: number;
  readonly nowMs: number;
  /** Null: the certificate signs itself. */
  readonly authority: KeyPair | null;
  readonly extensions: string;
}

function sign({ name, days, nowMs, authority, extensions }: Order): KeyPair {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const key = privateKey.export({ type: "pkcs8", format: "pem" }).toString();
  const directory = mkdtempSync(join(tmpdir(), "conntrail-keys-"));
  const file = (of: string, text: string): string => {
    const path = join(directory, of);
    writeFileSync(path, text, { mode: 0o600 });
    return path;
  };
  try {
    const keyFile = file("key.pem", key);
    const config = file("openssl.cnf", opensslConfig(directory));
    file("index.txt", "");
    const extensionFile = file("extensions", extensions);
    const requestFile = join(directory, "request.pem");
    openssl("req", "-new", "-config", config, "-key", keyFile, "-subj", `/CN=${name}`, "-out", requestFile);
    const signer =
      authority === null
        ? ["-selfsign", "-keyfile", keyFile]
        : ["-cert", file("ca.pem", authority.cert), "-keyfile", file("ca.key", authority.key)];
    const from = opensslTime(nowMs - BACK_DAYS * DAY_MS);
    const until = opensslTime(nowMs + days * DAY_MS);
    const dates = ["-startdate", from, "-enddate", until];
    const files = ["-in", requestFile, "-out", join(directory, "cert.pem"), "-extfile", extensionFile];
    openssl("ca", "-batch", "-notext", "-config", config, ...signer, ...dates, ...files);
    return { cert: readFileSync(join(directory, "cert.pem"), "utf8"), key };
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Nothing of the machine's own configuration of openssl is used. */
function opensslConfig(directory: string): string {
  return `[req]
distinguished_name=name
prompt=no
[name]
CN=unused
[ca]
default_ca=here
[here]
database=${directory}/index.txt
new_certs_dir=${directory}
rand_serial=yes
default_md=sha256
unique_subject=no
email_in_dn=no
policy=policy
[policy]
commonName=supplied
`;
}

/** YYYYMMDDHHMMSSZ. */
function opensslTime(ms: number): string {
  return `${new Date(ms).toISOString().replace(/[-:T]/g, "").slice(0, 14)}Z`;
}

function openssl(...args: string[]): void {
  try {
    execFileSync("openssl", args, {
      stdio: ["ignore", "ignore", "pipe"],
      timeout: OPENSSL_TIMEOUT_MS,
      env: { PATH: `${process.env.PATH ?? ""}:/usr/local/bin:/usr/bin:/bin`, LC_ALL: "C" },
    });
  } catch (error) {
    const { code, stderr } = error as NodeJS.ErrnoException & { stderr?: Buffer };
    const said = stderr?.toString().trim().split("\n").at(-1) ?? errorText(error);
    const why = code === "ENOENT" ? "openssl is not installed: apt-get install openssl" : `openssl ${args[0]}: ${said}`;
    throw new ConntrailError("CONTROL", `no certificate could be made: ${why}`, { cause: error });
  }
}
