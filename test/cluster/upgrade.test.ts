/** Rolling upgrades over a version of the stream's format that only tests have: real firewalls, real TCP sessions. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { requestReport } from "../../src/control/client.js";
import type { FormatStatus, StatusReport } from "../../src/control/protocol.js";
import { failOver } from "../../src/lab/failover.js";
import type { Firewall } from "../../src/lab/firewall.js";
import { Lab, labObstacle } from "../../src/lab/lab.js";
import { waitFor } from "../../src/lab/process.js";
import { sessionTargets } from "../../src/lab/sessions.js";
import { ipv4, SYNC } from "../../src/lab/topology.js";
import { Agent } from "../support/cluster/agent-client.js";
import { Cluster, clusterObstacle } from "../support/cluster/cluster.js";
import { assertAgreement } from "../support/cluster/compare.js";
import type { ClusterNode } from "../support/cluster/node.js";

const BUILD_2 = [process.execPath, fileURLToPath(new URL("../support/daemon-format-2.js", import.meta.url))] as const;
const SESSIONS = 60;
const FLOWS = 200;
const WAIT_MS = 60_000;
/** Each takeover leaves so many messages at the least: the role marks of the two nodes. */
const LAST_MESSAGES = 2;
/** Long enough for TCP to have sent again several times. */
const ANSWER_MS = 30_000;
const ALL_ALIVE = { sessions: SESSIONS, answering: SESSIONS, broken: 0, silentByTarget: {} };

type Build = 1 | 2;

/** A laboratory whose firewalls run one of two builds each. */
class Upgrade implements AsyncDisposable {
  readonly lab: Lab;
  readonly #builds = new Map<Firewall, Build>();
  readonly #agents = new Map<Firewall, Agent>();

  private constructor(lab: Lab) {
    this.lab = lab;
    for (const firewall of lab.firewalls) {
      this.#builds.set(firewall, 1);
      this.#agents.set(firewall, new Agent(firewall.namespace, join(firewall.directory, "agent.log")));
    }
  }

  static async start(): Promise<Upgrade> {
    const lab = await Lab.create({ firewalls: 3, advertSeconds: 1 });
    try {
      await lab.startDaemons(WAIT_MS);
      await lab.startKeepalived((firewall) => firewall.conntrailHooks());
      await lab.openSessions(sessionTargets(SESSIONS), { ssh: false });
      return new Upgrade(lab);
    } catch (error) {
      await lab.close();
      throw error;
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.lab.close();
  }

  status(firewall: Firewall): Promise<StatusReport> {
    return requestReport(join(firewall.directory, "control.sock"), "status", {});
  }

  /** What `status` must say of a node's versions, given the builds of all. */
  #expected(firewall: Firewall): FormatStatus {
    if (this.#builds.get(firewall) === 1) return { writes: 1, reads: [1], reason: null };
    const old = this.lab.firewalls.filter((other) => this.#builds.get(other) === 1);
    const reason = old.length === 0 ? null : old.map(({ name }) => `${name} reads only 1`).join(", ");
    return { writes: old.length === 0 ? 2 : 1, reads: [1, 2], reason };
  }

  /** Resolves when every node says that it is in sync, and the truth about the versions. */
  async told(): Promise<void> {
    for (const firewall of this.lab.firewalls) {
      let seen = "";
      await waitFor(`${firewall.name} says how it is`, WAIT_MS, async () => {
        const { inSync, reason, format, peers } = await this.status(firewall);
        const told = peers.map(({ node, reason: why, formatVersion, formatsRead }) => {
          return { node, why, formatVersion, formatsRead };
        });
        seen = JSON.stringify({ inSync, reason, format, told });
        const expected = this.lab.firewalls
          .filter((other) => other !== firewall)
          .map((other) => {
            const { writes, reads } = this.#expected(other);
            return { node: other.name, why: null, formatVersion: writes, formatsRead: reads };
          });
        return (
          seen === JSON.stringify({ inSync: true, reason: null, format: this.#expected(firewall), told: expected })
        );
      }).catch((error: unknown) => {
        throw new Error(`it says ${seen}`, { cause: error });
      });
    }
  }

  /** Makes `to` primary, as soon as it says that it is in sync. Every session must live. */
  async takeOver(to: Firewall): Promise<void> {
    const from = await this.lab.waitPrimary(WAIT_MS);
    if (from === to) return;
    await waitFor(`${to.name} in sync`, WAIT_MS, async () => (await this.status(to)).inSync);
    const others = this.lab.firewalls.filter((firewall) => firewall !== from && firewall !== to);
    for (const other of others) await other.handOver();
    const { to: next, report } = await failOver(this.lab, from, "handOver", ANSWER_MS);
    const { sessions, answering, broken, silentByTarget } = report;
    assert.equal(next, to);
    assert.deepEqual({ sessions, answering, broken, silentByTarget }, ALL_ALIVE, `${from.name} to ${to.name}`);
    for (const other of [from, ...others]) {
      other.startKeepalived(other.conntrailHooks());
      await other.waitBackup(WAIT_MS);
    }
    assert.equal(await this.lab.waitPrimary(WAIT_MS), to);
  }

  /** Every node takes over in turn, and the one that was primary at first comes last. */
  async takeOverInTurn(): Promise<void> {
    const first = await this.lab.waitPrimary(WAIT_MS);
    for (const backup of this.lab.backups(first)) await this.takeOver(backup);
    await this.takeOver(first);
  }

  /** Every node has written since the last change: those messages are of this version. */
  async assertWritten(version: Build): Promise<void> {
    for (const [firewall, agent] of this.#agents) {
      const server = `${ipv4(SYNC, firewall.number)}:4222`;
      const { name: node, configFile } = firewall;
      const found = await agent.ask("versions", { server, node, configFile, count: LAST_MESSAGES });
      assert.deepEqual(found, Array(LAST_MESSAGES).fill(version), `the last messages of ${firewall.name}`);
    }
  }

  /**
   * Replaces the build of a backup. Returns why it said that it was not in sync until it was. When it first says that it is
   * in sync, it must hold every session.
   */
  async replace(firewall: Firewall, build: Build): Promise<ReadonlySet<string>> {
    assert.notEqual(await this.lab.waitPrimary(WAIT_MS), firewall, "a primary is not upgraded");
    await firewall.daemon?.stop(WAIT_MS);
    firewall.startDaemon(build === 1 ? undefined : [...BUILD_2]);
    this.#builds.set(firewall, build);
    await firewall.waitReady(WAIT_MS);
    const reasons = new Set<string>();
    await waitFor(
      `${firewall.name} in sync again`,
      WAIT_MS,
      async () => {
        const { inSync, external, peers } = await this.status(firewall);
        for (const { reason } of peers) if (reason !== null) reasons.add(reason);
        if (inSync) assert.ok(external.flows >= SESSIONS, `in sync with ${external.flows} of ${SESSIONS} sessions`);
        return inSync;
      },
      { intervalMs: 10 },
    );
    return reasons;
  }
}

const obstacle = labObstacle() ?? clusterObstacle();

describe("a rolling upgrade", { skip: obstacle, timeout: 900_000 }, () => {
  it("keeps every session through a takeover by any node in sync, and back", async (t) => {
    await using upgrade = await Upgrade.start();
    const [fw1, fw2, fw3] = upgrade.lab.firewalls as [Firewall, Firewall, Firewall];
    await upgrade.told();
    await upgrade.takeOverInTurn();
    await upgrade.assertWritten(1);

    for (const backup of [fw3, fw2]) {
      await upgrade.replace(backup, 2);
      await upgrade.told();
      await upgrade.takeOverInTurn();
      await upgrade.assertWritten(1);
    }
    await upgrade.takeOver(fw2);
    await upgrade.replace(fw1, 2);
    await upgrade.told();
    await upgrade.takeOverInTurn();
    await upgrade.assertWritten(2);
    assert.deepEqual(changes(fw2), ["1 to 2"]);

    // One node goes back, and the others with it. It meets messages that it cannot read, and is not in sync until it has
    // a snapshot that it can. It may have that before it answers for the first time.
    const reasons = await upgrade.replace(fw3, 1);
    t.diagnostic([...reasons].join("; "));
    assert.ok(fw3.daemon?.lines.some((line) => line.includes("a message is of format 2")));
    assert.deepEqual(changes(fw2), ["1 to 2", "2 to 1"]);
    await upgrade.takeOver(fw3);
    await upgrade.told();
    await upgrade.takeOverInTurn();
    await upgrade.assertWritten(1);

    await upgrade.takeOver(fw1);
    await upgrade.replace(fw3, 2);
    await upgrade.told();
    await upgrade.takeOverInTurn();
    await upgrade.assertWritten(2);
  });

  it("loses nothing of an observer's copies that is upgraded last, and tells it why it is not in sync", async () => {
    await using cluster = await Cluster.create({
      nodes: 3,
      configure: (number) => (number === 3 ? ["mode: observer"] : [`peers: { n${3 - number}: 10.77.0.${3 - number} }`]),
    });
    const [n1, n2, observer] = cluster.nodes as [ClusterNode, ClusterNode, ClusterNode];
    for (const node of [n1, n2]) node.start(BUILD_2);
    observer.start();
    for (const node of cluster.nodes) await node.ready();
    let seen = "";
    const says = (what: RegExp) =>
      waitFor(`the observer says ${what}`, WAIT_MS, async () => {
        seen = (await observer.conntrail("status")).stdout;
        return what.test(seen);
      }).catch((error: unknown) => {
        throw new Error(`it says ${seen}`, { cause: error });
      });
    await says(/not in sync with n1: speaks format 2, this node reads 1: upgrade this node first/);
    assert.match(seen, /^format +reads 1$/m);
    const asked = async (): Promise<unknown> => (await observer.stats())["reader.n1"]?.asked;
    const before = await asked();
    await n1.apply({ type: "create", range: 1, from: 0, count: FLOWS, mark: 1 });
    await assertAgreement([n1, n2]);
    assert.equal((await n1.versions(1))[0], 2);
    const messages = async (node: ClusterNode): Promise<number | undefined> =>
      (await node.streams()).find(({ name }) => name === "CT_n1")?.lastSequence;
    await waitFor("the observer's copy is whole", WAIT_MS, async () => {
      const [own, copy] = [await n1.versions(1000), await observer.versions(1000, "n1")];
      return JSON.stringify(own) === JSON.stringify(copy) && own.length === (await messages(n1));
    });
    assert.equal(await asked(), before, "a snapshot that it cannot read is of no use");
    await observer.stop();
    await n1.stop();
    observer.start(BUILD_2);
    await observer.ready();
    await waitFor("the observer rebuilds the flows from its copy", WAIT_MS, async () => {
      return (await observer.table("external")).size === FLOWS;
    });
    n1.start(BUILD_2);
    await n1.ready();
    await cluster.ready();
  });
});

/** The changes of the written version in a daemon's log. */
function changes({ daemon }: Firewall): string[] {
  return (daemon?.lines ?? [])
    .filter((line) => line.includes("writes another format version"))
    .map((line) => JSON.parse(line) as { from: number; to: number })
    .map(({ from, to }) => `${from} to ${to}`);
}
