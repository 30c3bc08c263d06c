/** FTP through the kernel's own helper and source NAT: what was expected before a failover comes through after it. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, it } from "node:test";
import type { ExpectationView } from "../../src/control/protocol.js";
import type { Firewall } from "../../src/lab/firewall.js";
import { Lab, labObstacle } from "../../src/lab/lab.js";
import { waitFor } from "../../src/lab/process.js";
import { END_HOST, ipv4, ipv6, LAN, ROUTED, VIRTUAL_HOST, WAN } from "../../src/lab/topology.js";
import { type FtpClientProcess, openFtpClient, startFtpServer } from "../support/ftp-process.js";

const READY_TIMEOUT_MS = 30_000;
const SYNC_TIMEOUT_MS = 30_000;
const TAKEOVER_TIMEOUT_MS = 30_000;
const FTP_PORT = 21;
/** Its text is shorter than that of the virtual address: PORT grows on its way, and sequence numbers are adjusted. */
const SHORT_CLIENT = ipv4(LAN, 7);
const HELPER_RULES = `
table inet lab_ftp {
  ct helper ftp { type "ftp" protocol tcp; }
  chain forward {
    type filter hook forward priority filter - 5; policy accept;
    tcp dport ${FTP_PORT} ct helper set "ftp"
  }
}
`;

const obstacle = labObstacle();

describe("ftp", { skip: obstacle ?? false, timeout: 400_000 }, () => {
  it("opens what was expected and ends what was running when the primary is cut off", async () => {
    await using lab = await createLab();
    await lab.startDaemons(READY_TIMEOUT_MS);
    const first = await lab.startKeepalived((firewall) => firewall.conntrailHooks());
    await startServer(lab);
    const clients = {
      port: await openClient(lab, ipv4(WAN, END_HOST), SHORT_CLIENT),
      pasv: await openClient(lab, ipv4(WAN, END_HOST), SHORT_CLIENT),
      epsv6: await openClient(lab, ipv6(WAN, END_HOST), ipv6(LAN, END_HOST)),
      eprtRouted: await openClient(lab, ipv4(ROUTED, END_HOST), SHORT_CLIENT),
    };
    const running = await openClient(lab, ipv4(WAN, END_HOST), SHORT_CLIENT);
    assert.match((await clients.port.step("port")).reply, new RegExp(`^200 PORT ${commas(ipv4(WAN, VIRTUAL_HOST))},`));
    assert.match((await clients.pasv.step("pasv")).reply, /^227/);
    assert.match((await clients.epsv6.step("epsv")).reply, /^229/);
    assert.match((await clients.eprtRouted.step("eprt")).reply, new RegExp(`\\|${SHORT_CLIENT}\\|`));
    await running.step("port");
    const transfer = running.step("retr 12000000 1500000");

    let kernel: ExpectationView[] = [];
    await waitFor("the fifth to be used", SYNC_TIMEOUT_MS, async () => {
      kernel = await expectations(first, "kernel");
      return kernel.length === 4;
    });
    assert.equal(kernel.filter(({ nat }) => nat !== undefined).length >= 3, true);
    await waitFor("the expectations in the external cache", SYNC_TIMEOUT_MS, async () => {
      const [backup] = lab.backups(first);
      const cached = await expectations(backup!, "external");
      return cached.length === 4 && cached.every(({ node, helper }) => node === first.name && helper === "ftp");
    });
    await waitFor("the running transfer in the external cache", SYNC_TIMEOUT_MS, async () => {
      const { stdout } = await lab.backups(first)[0]!.conntrail("dump", "external", "--json");
      return (JSON.parse(stdout) as { master?: object }[]).some(({ master }) => master !== undefined);
    });

    await first.cut();
    const to = await lab.waitPrimary(TAKEOVER_TIMEOUT_MS, first);
    for (const [name, client] of Object.entries(clients)) {
      const answer = await client.step("retr 300000 10000000");
      assert.deepEqual([answer.reply, answer.bytes, answer.wrong], ["226 sent", 300_000, 0], name);
    }
    const whole = await transfer;
    assert.deepEqual([whole.reply, whole.bytes, whole.wrong], ["226 sent", 12_000_000, 0]);
    // The control connections carry on, and their helper reads on.
    for (const client of [...Object.values(clients), running])
      assert.equal((await client.step("noop")).reply, "200 ok");
    assert.match((await running.step("port")).reply, new RegExp(`^200 PORT ${commas(ipv4(WAN, VIRTUAL_HOST))},`));
    assert.equal((await running.step("retr 1000 1000000")).reply, "226 sent");

    const { stdout } = await to.run("conntrack", "-L", "--status", "EXPECTED");
    assert.ok(stdout.trim().split("\n").length >= 3, stdout);
    const stats = JSON.parse((await to.conntrail("stats", "--json")).stdout) as Record<string, Record<string, number>>;
    assert.deepEqual([stats.expectations!.committed, stats.expectations!.commitFailed], [4, 0]);
  });

  it("lets nothing through that is not expected", async () => {
    await using lab = await createLab();
    await lab.startDaemons(READY_TIMEOUT_MS);
    const first = await lab.startKeepalived((firewall) => firewall.conntrailHooks());
    await startServer(lab);
    const client = await openClient(lab, ipv4(WAN, END_HOST), SHORT_CLIENT);
    await client.step("port");
    const [backup] = lab.backups(first);
    await waitFor("the expectation in the external cache", SYNC_TIMEOUT_MS, async () => {
      return (await expectations(backup!, "external")).length === 1;
    });
    await first.cut();
    await lab.waitPrimary(TAKEOVER_TIMEOUT_MS, first);
    await waitFor("the commit", SYNC_TIMEOUT_MS, () => backup!.commits().length > 0);
    await backup!.run("conntrack", "-F", "expect");
    await waitFor("the external and the internal cache without it", SYNC_TIMEOUT_MS, async () => {
      const tables = [await expectations(backup!, "external"), await expectations(backup!, "internal")];
      return tables.flat().length === 0;
    });
    const before = await droppedAtDoor(backup!);
    client.process.send("retr 1000 1000000");
    await waitFor("the server's SYN and another at the new primary's door", SYNC_TIMEOUT_MS, async () => {
      return (await droppedAtDoor(backup!)) >= before + 2;
    });
    assert.equal(
      client.process.lines.some((line) => line.includes("226")),
      false,
    );
  });
});

/** Packets to the firewall itself that it dropped because no rule let them in. */
async function droppedAtDoor(firewall: Firewall): Promise<number> {
  const { stdout } = await firewall.run("nft", "list", "chain", "inet", "lab", "input");
  return Number(/counter packets (\d+) bytes \d+ drop\s*\}/.exec(stdout)?.[1] ?? assert.fail(stdout));
}

async function createLab(): Promise<Lab> {
  const lab = await Lab.create({ firewalls: 2, advertSeconds: 1, rules: HELPER_RULES });
  await lab.topology.client.ip([`addr add ${SHORT_CLIENT}/24 dev eth0`]);
  return lab;
}

function commas(address: string): string {
  return address.replaceAll(".", ",");
}

async function startServer(lab: Lab): Promise<void> {
  const hosts = [ipv4(WAN, END_HOST), ipv6(WAN, END_HOST), ipv4(ROUTED, END_HOST)];
  await startFtpServer(lab.topology.server, join(lab.directory, "ftp-server.log"), hosts, FTP_PORT);
}

function openClient(lab: Lab, host: string, source: string): Promise<FtpClientProcess> {
  const logFile = join(lab.directory, "ftp-client.log");
  return openFtpClient(lab.topology.client, logFile, { host, port: FTP_PORT, source });
}

async function expectations(firewall: Firewall, table: "kernel" | "internal" | "external"): Promise<ExpectationView[]> {
  const { code, stdout, stderr } = await firewall.conntrail("dump", table, "--expect", "--json");
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout) as ExpectationView[];
}
