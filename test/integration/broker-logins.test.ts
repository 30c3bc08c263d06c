/** Every kind of `broker.login` against a real nats-server that asks for it. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { nkeys } from "nats";
import { type BrokerLogin, connectBroker } from "../../src/stream/connection.js";
import { createJwtOperator } from "../support/jwt-operator.js";
import { natsServerMissing, silentLogger, startNatsServer, until } from "../support/nats-server.js";

interface Scene {
  /** Lines of the server's configuration. */
  readonly config: string;
  readonly right: string;
  readonly wrong: string;
  readonly login: (file: string) => BrokerLogin;
}

function seedOf(user: ReturnType<typeof nkeys.createUser>): string {
  return new TextDecoder().decode(user.getSeed());
}

const known = nkeys.createUser();
const operator = createJwtOperator();

const SCENES: Record<BrokerLogin["kind"], Scene> = {
  token: {
    config: 'authorization { token: "a secret" }',
    right: "a secret",
    wrong: "another",
    login: (file) => ({ kind: "token", file }),
  },
  user: {
    config: 'authorization { users: [ { user: "fw1", password: "a secret" } ] }',
    right: "a secret",
    wrong: "another",
    login: (file) => ({ kind: "user", user: "fw1", file }),
  },
  nkey: {
    config: `authorization { users: [ { nkey: "${known.getPublicKey()}" } ] }`,
    right: seedOf(known),
    wrong: seedOf(nkeys.createUser()),
    login: (file) => ({ kind: "nkey", file }),
  },
  creds: {
    config: operator.config,
    right: operator.creds,
    wrong: createJwtOperator().creds,
    login: (file) => ({ kind: "creds", file }),
  },
};

describe("a broker that asks who logs in", { skip: natsServerMissing() }, () => {
  for (const [kind, { config, right, wrong, login }] of Object.entries(SCENES)) {
    it(`lets in who has its ${kind}, and nobody else, and the secret may be exchanged while it is away`, async () => {
      await using server = await startNatsServer({ more: config, jetStream: kind !== "creds" });
      const connect = (secret: string | null, name: string) => {
        const file = join(server.directory, name);
        if (secret !== null) writeFileSync(file, `${secret}\n`, { mode: 0o600 });
        const more = secret === null ? {} : { login: login(file) };
        return connectBroker({ servers: [server.address], node: "fw1", purpose: "test", log: silentLogger(), ...more });
      };
      const trusted = connect(right, "right");
      const strangers = [connect(null, ""), connect(wrong, "wrong")];
      try {
        await trusted.ready(10_000);
        for (const stranger of strangers) {
          await until("the refusal", () => /authorization/i.test(stranger.lastError), 10_000);
          assert.equal(stranger.connected, false);
        }
        // A secret is read anew at each attempt.
        writeFileSync(join(server.directory, "wrong"), right);
        await until("the login with the new secret", () => strangers[1]!.connected, 10_000);
      } finally {
        await Promise.all([trusted, ...strangers].map((connection) => connection.close()));
      }
    });
  }
});
