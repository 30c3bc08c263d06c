/** Operator, account and user as nats-server knows them by signed tokens (JWT), made without nsc. */
import { createHash } from "node:crypto";
import { nkeys } from "nats";

type KeyPair = ReturnType<typeof nkeys.createUser>;

const PADDING = /=+$/;

/** What a server must be told, and the credentials of a user of its only account. */
export interface JwtOperator {
  /** Lines of the server's configuration. */
  readonly config: string;
  /** The text of a .creds file. */
  readonly creds: string;
}

/** Makes an operator with one account and one user. */
export function createJwtOperator(): JwtOperator {
  const [operator, account, user] = [nkeys.createOperator(), nkeys.createAccount(), nkeys.createUser()];
  const everything = { subs: -1, data: -1, payload: -1 };
  const operatorJwt = sign(operator, operator, "operator", {});
  const limits = { ...everything, imports: -1, exports: -1, wildcards: true, conn: -1, leaf: -1 };
  const accountJwt = sign(operator, account, "account", { limits });
  const userJwt = sign(account, user, "user", { ...everything, pub: {}, sub: {} });
  const seed = new TextDecoder().decode(user.getSeed());
  return {
    config: [
      `operator: ${operatorJwt}`,
      "resolver: MEMORY",
      `resolver_preload: { ${account.getPublicKey()}: ${accountJwt} }`,
    ].join("\n"),
    creds: [
      "-----BEGIN NATS USER JWT-----",
      userJwt,
      "------END NATS USER JWT------",
      "",
      "-----BEGIN USER NKEY SEED-----",
      seed,
      "------END USER NKEY SEED------",
      "",
    ].join("\n"),
  };
}

function sign(issuer: KeyPair, subject: KeyPair, type: string, nats: object): string {
  const claims = {
    iat: Math.floor(Date.now() / 1000),
    iss: issuer.getPublicKey(),
    name: type,
    sub: subject.getPublicKey(),
    nats: { ...nats, type, version: 2 },
  };
  const jti = createHash("sha256").update(JSON.stringify(claims)).digest("base64url").replace(PADDING, "");
  const head = encode({ typ: "JWT", alg: "ed25519-nkey" });
  const body = `${head}.${encode({ ...claims, jti })}`;
  return `${body}.${Buffer.from(issuer.sign(Buffer.from(body))).toString("base64url")}`;
}

function encode(part: object): string {
  return Buffer.from(JSON.stringify(part)).toString("base64url");
}
