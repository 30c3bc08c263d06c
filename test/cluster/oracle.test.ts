/**
 * The distribution's conntrackd as the oracle: both daemons listen to the same kernels, on the same traffic. What they say, what
 * they have from each other, and what they commit must be the same but for the differences of known-differences.ts.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { waitFor } from "../../src/lab/process.js";
import { clusterObstacle } from "../support/cluster/cluster.js";
import { openFtpClient, startFtpServer } from "../support/ftp-process.js";
import {
  commitDifference,
  externalDifference,
  externalDumps,
  idle,
  internalDifference,
  takeoverDifference,
} from "../support/oracle/agreement.js";
import { dumpLines, listDifference } from "../support/oracle/compare.js";
import { conntrackdMissing } from "../support/oracle/conntrackd.js";
import { missingKinds } from "../support/oracle/coverage.js";
import { createFlows, destroyFlows, generatedFlows, updateFlows } from "../support/oracle/generated.js";
import { COMMIT_DIFFERENCES, EXTERNAL_DIFFERENCES } from "../support/oracle/known-differences.js";
import { PORTS, serverAddress, sourceAddress } from "../support/oracle/network.js";
import { kernelTables, Oracle, type OracleNode } from "../support/oracle/oracle.js";

const AGREE_TIMEOUT_MS = 30_000;
const GENERATED = 2200;
const CHURN_ROUNDS = 3;

describe("oracle", { skip: clusterObstacle() || conntrackdMissing(), timeout: 400_000 }, () => {
  let oracle: Oracle;
  before(async () => {
    oracle = await Oracle.start();
    const logFile = join(oracle.directory, "ftp-server.log");
    await startFtpServer(oracle.server, logFile, [serverAddress(4), serverAddress(6)], PORTS.ftp);
  });
  after(() => oracle?.[Symbol.asyncDispose]());

  it("real traffic: caches, kernel table and the other node's view", async () => {
    oracle.traffic.all();
    await ftpDialogues(oracle);
    await assertAgreement(oracle);
    const { flows } = await kernelTables(oracle.a.node, oracle.a.kernel);
    assert.deepEqual(missingKinds(flows), []);
  });

  it("generated entries of every protocol, state and translation", async () => {
    const { taken, refused } = await createFlows(oracle.a.kernel, generatedFlows(GENERATED, 1));
    assert.deepEqual(refused, {});
    assert.ok(taken.length >= 2000);
    await assertAgreement(oracle);
    for (let round = 1; round <= CHURN_ROUNDS; round++) {
      await updateFlows(oracle.a.kernel, taken.slice(0, taken.length / 2), round);
      await destroyFlows(oracle.a.kernel, taken.splice(-200));
      const { taken: more } = await createFlows(oracle.a.kernel, generatedFlows(200, round + 1));
      taken.unshift(...more);
    }
    await assertAgreement(oracle);
  });

  it("each known difference is there", async () => {
    const dumps = await externalDumps(oracle.b);
    assert.deepEqual(
      idle(EXTERNAL_DIFFERENCES, (others) => externalDifference(dumps, others)),
      [],
    );
  });

  it("caches that were dumped anew, sent whole and asked for", async () => {
    const askBoth = async ({ conntrackd, dropIn }: OracleNode, ...request: string[]): Promise<void> => {
      await conntrackd.client.ask(...request);
      await dropIn.ask(...request);
    };
    oracle.traffic.tftp("plain", 1);
    await waitFor("conntrail has what a first packet made expect", AGREE_TIMEOUT_MS, async () => {
      const { expectations } = await kernelTables(oracle.a.node, oracle.a.kernel);
      return listDifference("", expectations, dumpLines(await oracle.a.dropIn.ask("-i", "exp"))) === null;
    });
    const theirs = dumpLines(await oracle.a.conntrackd.client.ask("-i", "exp"));
    assert.equal(dumpLines(await oracle.a.dropIn.ask("-i", "exp")).length, theirs.length + 1);
    await askBoth(oracle.a, "-R");
    await askBoth(oracle.a, "-R", "exp");
    await assertNone(() => internalDifference(oracle.a));
    await askBoth(oracle.b, "-f", "external");
    await askBoth(oracle.a, "-B");
    await assertAgreement(oracle);
    await askBoth(oracle.b, "-f", "external");
    await askBoth(oracle.b, "-n");
    await assertAgreement(oracle);
    // What the dump has told is no difference any more: make it one again.
    await ftpDialogues(oracle);
    await assertAgreement(oracle);
  });

  it("what a commit leaves in the other kernel", async () => {
    const owner = await kernelTables(oracle.a.node, oracle.a.kernel);
    const byConntrackd = await oracle.committedByConntrackd();
    const byConntrail = await oracle.committedByConntrail();
    none(takeoverDifference(owner, byConntrail));
    none(commitDifference(byConntrackd, byConntrail));
    assert.deepEqual(
      idle(COMMIT_DIFFERENCES, (others) => commitDifference(byConntrackd, byConntrail, others)),
      [],
    );
  });
});

describe("oracle with window tracking", { skip: clusterObstacle() || conntrackdMissing(), timeout: 400_000 }, () => {
  it("window scales are committed, and TCP is not made liberal", async () => {
    await using oracle = await Oracle.start({ windowTracking: true });
    oracle.traffic.all();
    await assertAgreement(oracle);
    const owner = await kernelTables(oracle.a.node, oracle.a.kernel);
    const byConntrackd = await oracle.committedByConntrackd();
    const byConntrail = await oracle.committedByConntrail();
    none(takeoverDifference(owner, byConntrail, { windowTracking: true }));
    none(commitDifference(byConntrackd, byConntrail));
  });
});

function none(difference: string | null): void {
  if (difference !== null) assert.fail(difference);
}

/** Expectations of each kind that wait, and data connections that came of one. */
async function ftpDialogues(oracle: Oracle): Promise<void> {
  const dialogues = [
    { family: 4, from: "plain", steps: ["pasv"] },
    { family: 6, from: "plain", steps: ["epsv"] },
    { family: 4, from: "masquerade", steps: ["port"] },
    { family: 6, from: "masquerade", steps: ["eprt"] },
    { family: 4, from: "snat", steps: ["port", "retr 1000 1000000"] },
    { family: 6, from: "plain", steps: ["epsv", "retr 1000 1000000"] },
  ] as const;
  await Promise.all(
    dialogues.map(async ({ family, from, steps }) => {
      const target = { host: serverAddress(family), port: PORTS.ftp, source: sourceAddress(from, family) };
      const client = await openFtpClient(oracle.client, join(oracle.directory, "ftp-client.log"), target);
      for (const step of steps) assert.match((await client.step(step)).reply, /^2/);
    }),
  );
}

/** Waits until nothing differs on either node. */
function assertAgreement(oracle: Oracle): Promise<void> {
  return assertNone(
    async () => (await internalDifference(oracle.a)) ?? externalDifference(await externalDumps(oracle.b)),
  );
}

/** Waits until there is no difference; fails with the one that stays. */
async function assertNone(look: () => Promise<string | null>): Promise<void> {
  let seen: string | null = "nothing was compared";
  await waitFor("both daemons agree", AGREE_TIMEOUT_MS, async () => {
    seen = await look();
    return seen === null;
  }).catch((error: unknown) => assert.fail(`${String(error)}\n${seen}`));
}
