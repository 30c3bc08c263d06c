/** Real keepalived and real daemons with nothing but a FIFO between them, while either is reloaded, restarted, or away. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { keepalivedSnippet } from "../../src/cli/keepalived-snippet.js";
import type { StatsReport, StatusReport } from "../../src/control/protocol.js";
import { failOver } from "../../src/lab/failover.js";
import type { Firewall } from "../../src/lab/firewall.js";
import { Lab, labObstacle } from "../../src/lab/lab.js";
import { signal } from "../../src/lab/leftover.js";
import { projectRoot, waitFor } from "../../src/lab/process.js";
import { echoTargets } from "../../src/lab/sessions.js";

const READY_MS = 30_000;
const WAIT_MS = 30_000;
const ALIVE_MS = 20_000;

describe("keepalived's FIFO", { skip: labObstacle() ?? false, timeout: 300_000 }, () => {
  it("gives the role through failovers, reloads and restarts of keepalived and of the daemon", async () => {
    await using lab = await Lab.create({ firewalls: 2, fifo: true });
    const [fw1, fw2] = lab.firewalls as unknown as [Firewall, Firewall];
    await lab.startDaemons(READY_MS);
    await lab.startKeepalived((firewall) => firewall.conntrailPaths());
    const sessions = await lab.openSessions(echoTargets({ nat4: 5, nat6: 5, routed4: 5, routed6: 5 }), { ssh: false });
    await role(fw1, "primary");
    await role(fw2, "backup");
    await priority(fw2, "0");
    const before = await changes(fw1);

    signal(fw1.keepalived?.pid ?? 0, "SIGHUP");
    await waitFor("the line of the reload", WAIT_MS, async () => (await changes(fw1)).repeated > before.repeated);
    assert.deepEqual(await changes(fw1), { ...before, repeated: before.repeated + 1 }, "a reload changes no role");
    assert.equal((await status(fw1)).role, "primary");

    fw1.daemon?.kill();
    await fw1.daemon?.exited;
    fw1.startDaemon();
    await fw1.waitReady(READY_MS);
    assert.equal((await status(fw1)).role, "primary", "a daemon that restarts knows its role");
    assert.equal((await changes(fw1)).roles, 0, "and takes none anew");
    await inSync(fw2);

    await fw1.daemon?.stop();
    await fw1.handOver();
    await role(fw2, "primary");
    await alive();
    fw1.startDaemon();
    await fw1.waitReady(READY_MS);
    // Nobody has seen keepalived end. It has closed the FIFO, which nobody opens again.
    await role(fw1, "fault");
    assert.match((await status(fw1)).warnings.join(), /keepalived does not write into/);
    fw1.startKeepalived(fw1.conntrailPaths());
    await role(fw1, "backup");
    assert.doesNotMatch((await status(fw1)).warnings.join(), /keepalived does not write into/);
    await inSync(fw1);

    await fw1.daemon?.stop();
    await fw2.handOver();
    await waitFor("the addresses at fw1", WAIT_MS, () => fw1.isPrimary());
    fw1.startDaemon();
    await fw1.waitReady(READY_MS);
    await role(fw1, "primary");
    await alive();
    assert.equal(fw1.commits().length, 1, "what keepalived said while no daemon ran is done by the one that starts");

    async function alive(): Promise<void> {
      const report = await sessions.settle(ALIVE_MS);
      assert.equal(report.answering, report.sessions, report.reasons.join());
    }
  });

  it("has examples that keepalived accepts", async () => {
    await using lab = await Lab.create({ firewalls: 2 });
    const [{ namespace }] = lab.firewalls as unknown as [Firewall];
    const example = readFileSync(join(projectRoot(), "deploy", "keepalived.conf.example"), "utf8");
    const instances = example.slice(example.indexOf("vrrp_instance lan"));
    const texts = { example, fifo: keepalivedSnippet(true) + instances, hooks: keepalivedSnippet(false) + instances };
    for (const [name, text] of Object.entries(texts)) {
      const file = join(lab.directory, `${name}.conf`);
      // The places of the program and of its runtime folder are not these.
      const here = text.replaceAll("/opt/conntrail", projectRoot()).replaceAll("/run/conntrail", lab.directory);
      writeFileSync(file, here, { mode: 0o600 });
      assert.equal(await namespace.exec("keepalived", ["--config-test", "--use-file", file]), "", name);
    }
  });

  it("gives each of two groups its role, and both to the one that is left", async () => {
    await using lab = await Lab.create({ firewalls: 2, fifo: true });
    const [fw1, fw2] = lab.firewalls as unknown as [Firewall, Firewall];
    await lab.startDaemons(READY_MS);
    for (const firewall of lab.firewalls) {
      firewall.startKeepalived(firewall.conntrailPaths(), { groups: 2, firewalls: 2 });
    }
    await groups(fw1, { firewall: "primary", firewall2: "backup" });
    await groups(fw2, { firewall: "backup", firewall2: "primary" });
    await fw1.handOver();
    await groups(fw1, { firewall: "fault", firewall2: "fault" });
    await groups(fw2, { firewall: "primary", firewall2: "primary" });
  });

  it("lowers a firewall that returns until it has what the primary has", async () => {
    await using lab = await Lab.create({ firewalls: 2, fifo: true });
    const [fw1, fw2] = lab.firewalls as unknown as [Firewall, Firewall];
    await lab.startDaemons(READY_MS);
    await lab.startKeepalived((firewall) => firewall.conntrailPaths());
    await lab.openSessions(echoTargets({ nat4: 5, nat6: 5, routed4: 5, routed6: 5 }), { ssh: false });
    await role(fw2, "backup");
    await priority(fw2, "0");
    await inSync(fw2);
    const { to, report } = await failOver(lab, fw1, "handOver", ALIVE_MS);
    assert.equal(to, fw2);
    assert.equal(report.answering, report.sessions, report.reasons.join());
    await fw1.daemon?.stop();
    await fw1.namespace.ip(["link set sync0 down"]);
    fw1.startDaemon();
    await waitFor("a lowered priority", WAIT_MS, () => readFileSync(fw1.conntrailPaths().trackFile, "utf8") === "1\n");
    fw1.startKeepalived(fw1.conntrailPaths());
    await fw1.keepalived?.waitForLine("a lower priority", WAIT_MS, (line) =>
      /effective priority .*(from 250 )?(to|=) 210/.test(line) ? true : undefined,
    );
    await fw1.namespace.ip(["link set sync0 up"]);
    await fw1.waitReady(READY_MS);
    await priority(fw1, "0");
    await inSync(fw1);
    await fw1.keepalived?.waitForLine("the full priority", WAIT_MS, (line) =>
      /effective priority from 210 to 250/.test(line) ? true : undefined,
    );
  });
});

async function status(firewall: Firewall): Promise<StatusReport> {
  return JSON.parse((await firewall.conntrail("status", "--json")).stdout) as StatusReport;
}

async function role(firewall: Firewall, expected: string): Promise<void> {
  await waitFor(`${firewall.name} is ${expected}`, WAIT_MS, async () => (await status(firewall)).role === expected);
}

async function groups(firewall: Firewall, expected: Record<string, string>): Promise<void> {
  await waitFor(`${firewall.name} has ${JSON.stringify(expected)}`, WAIT_MS, async () => {
    const { hooks = [] } = await status(firewall);
    const found = Object.fromEntries(hooks.map((hook) => [hook.group, hook.role]));
    return Object.entries(expected).every(([group, value]) => found[group] === value) && hooks.length === 2;
  });
}

async function priority(firewall: Firewall, value: string): Promise<void> {
  await waitFor(`${firewall.name} writes ${value}`, WAIT_MS, () => {
    return readFileSync(firewall.conntrailPaths().trackFile, "utf8") === `${value}\n`;
  });
}

async function inSync(firewall: Firewall): Promise<void> {
  await waitFor(`${firewall.name} is in sync`, WAIT_MS, async () => (await status(firewall)).inSync);
}

async function changes(firewall: Firewall): Promise<{ roles: number; repeated: number }> {
  const { stdout } = await firewall.conntrail("stats", "--json");
  const { keepalived } = JSON.parse(stdout) as StatsReport & { keepalived: { roles: number; repeated: number } };
  return { roles: keepalived.roles, repeated: keepalived.repeated };
}
