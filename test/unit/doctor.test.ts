/** What `doctor` finds, on machines that are made up. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { formatFindings } from "../../src/cli/doctor.js";
import { type Config, parseConfig } from "../../src/config/config.js";
import { checkCluster } from "../../src/doctor/cluster.js";
import type { Finding } from "../../src/doctor/finding.js";
import { judgeKeepalived } from "../../src/doctor/keepalived.js";
import { parseKeepalived } from "../../src/doctor/keepalived-conf.js";
import { checkKernelSide } from "../../src/doctor/kernel.js";
import { checkKeys } from "../../src/doctor/keys.js";
import { checkLink } from "../../src/doctor/link.js";
import type { Machine } from "../../src/doctor/machine.js";
import { projectRoot } from "../../src/lab/process.js";
import { STATUS } from "../support/control-handlers.js";

const CONFIG: Config = parseConfig(
  "cluster: edge\nnode: fw1\nlisten: 10.77.0.1\npeers: { fw2: 10.77.0.2 }\ntls: false\n",
  "/etc/conntrail/conntrail.yaml",
);

interface Made {
  links?: Readonly<Record<string, string>>;
  files?: Readonly<Record<string, string>>;
  programs?: Readonly<Record<string, string>>;
  interfaces?: Readonly<Record<string, string>>;
}

/** A machine with these files, these answers of programs (by command line), and these interfaces by address. */
function machine({ files = {}, programs = {}, interfaces = {}, links = {} }: Made): Machine {
  return {
    read: (path) => files[path] ?? null,
    list: (path) =>
      Object.keys(files)
        .filter((file) => file.startsWith(`${path}/`) && !file.slice(path.length + 1).includes("/"))
        .map((file) => file.slice(path.length + 1)),
    realPath: (path) => links[path] ?? path,
    isExecutable: (path) => path in files,
    run: async (program, args) => {
      const answer = programs[[program, ...args].join(" ")];
      return answer === undefined ? null : { code: 0, stdout: answer, stderr: "" };
    },
    disk: () => null,
    interfaceOf: (address) => interfaces[address] ?? null,
    accepts: async () => false,
  };
}

function found(findings: readonly Finding[]): string[] {
  return findings.filter(({ severity }) => severity !== "ok").map(({ id, severity }) => `${severity} ${id}`);
}

const SYSCTLS: Readonly<Record<string, string>> = Object.fromEntries(
  Object.entries({ max: 1000, count: 10, buckets: 250, events: 1, acct: 1, timestamp: 1, tcp_loose: 0 }).map(
    ([name, value]) => [`/proc/sys/net/netfilter/nf_conntrack_${name}`, `${value}\n`],
  ),
);
const FORWARDS = { "/proc/sys/net/ipv4/ip_forward": "1\n" };

describe("doctor: the kernel", () => {
  const kernel = (files: Record<string, string>, external = 0): string[] => {
    const made = machine({ files: { ...SYSCTLS, ...FORWARDS, ...files } });
    return found(
      checkKernelSide(CONFIG, made, { ...STATUS, external: { flows: external } }, { events: { overruns: 0 } }),
    );
  };
  const sysctl = (name: string, value: number) => ({ [`/proc/sys/net/netfilter/nf_conntrack_${name}`]: `${value}\n` });

  it("finds nothing wrong where all is set", () => assert.deepEqual(kernel({}), []));

  it("finds switches, a full table, few buckets and lost events", () => {
    assert.deepEqual(kernel(sysctl("events", 0)), ["breaks kernel.events"]);
    assert.deepEqual(kernel(sysctl("events", 2)), ["warning kernel.events"]);
    assert.deepEqual(kernel(sysctl("acct", 0)), ["note kernel.acct"]);
    assert.deepEqual(kernel(sysctl("tcp_loose", 1)), ["warning kernel.tcp-loose"]);
    assert.deepEqual(kernel(sysctl("buckets", 100)), ["warning kernel.buckets"]);
    assert.deepEqual(kernel(sysctl("count", 900)), ["warning kernel.table"]);
    assert.deepEqual(kernel(sysctl("count", 500), 600), ["breaks kernel.table"]);
    assert.deepEqual(kernel({ "/proc/sys/net/ipv4/ip_forward": "0\n" }), ["breaks kernel.forwarding"]);
    assert.deepEqual(found(checkKernelSide(CONFIG, machine({}), null, null)), ["breaks kernel.conntrack"]);
    const lost = checkKernelSide(CONFIG, machine({ files: { ...SYSCTLS, ...FORWARDS } }), null, {
      events: { overruns: 3 },
    });
    assert.deepEqual(found(lost), ["warning kernel.buffer"]);
  });
});

describe("doctor: the link", () => {
  const interfaces = { "127.0.0.1": "lo", "10.77.0.1": "sync0" };
  const file = "/etc/systemd/network/10-link.network";
  const linkFiles = {
    "/sys/class/net/sync0/carrier": "1\n",
    "/sys/class/net/sync0/ifindex": "7\n",
    "/run/systemd/netif/links/7": `ADMIN_STATE=configured\nNETWORK_FILE=${file}\n`,
  };
  const programs = { "systemctl is-active systemd-networkd": "active\n" };

  it("must be there, with a carrier, and so must the loopback interface", async () => {
    assert.deepEqual(found(await checkLink(CONFIG, machine({}))), ["breaks link.loopback", "breaks link.address"]);
    const files = { "/sys/class/net/sync0/carrier": "0\n" };
    assert.deepEqual(found(await checkLink(CONFIG, machine({ interfaces, files }))), ["breaks link.carrier"]);
    assert.deepEqual(found(await checkLink(CONFIG, machine({ interfaces }))), []);
  });

  it("loses its address to systemd-networkd, unless its file or an addition to it says otherwise", async () => {
    const plain = machine({
      interfaces,
      programs,
      files: { ...linkFiles, [file]: "[Network]\nAddress=10.77.0.1/24\n" },
    });
    assert.deepEqual(found(await checkLink(CONFIG, plain)), ["breaks link.networkd", "warning link.boot"]);
    const example = readFileSync(join(projectRoot(), "deploy/networkd-link.network.example"), "utf8");
    const right = machine({ interfaces, programs, files: { ...linkFiles, [file]: example } });
    assert.deepEqual(found(await checkLink(CONFIG, right)), []);
    const addition = {
      [`${file}.d/link.conf`]: "[Network]\nConfigureWithoutCarrier=yes\n[Link]\nRequiredForOnline=no\n",
    };
    const added = machine({ interfaces, programs, files: { ...linkFiles, [file]: "[Network]\n", ...addition } });
    assert.deepEqual(found(await checkLink(CONFIG, added)), []);
  });
});

describe("doctor: keepalived", () => {
  const hooks = (files: Record<string, string>, fifo: string | null = null): Finding[] => {
    const made = machine({ files: { "/usr/sbin/conntrail": "", "/opt/conntrail/bin/conntrail": "", ...files } });
    const conf = parseKeepalived("/etc/keepalived/keepalived.conf", made);
    assert.ok(conf !== null);
    return judgeKeepalived(conf, made, fifo);
  };
  const conf = (text: string) => ({ "/etc/keepalived/keepalived.conf": text });
  const example = `
global_defs {
  script_user root
}
# One group: LAN and WAN move together.
vrrp_sync_group firewall {
  group {
    lan
    wan
  }
  notify_master "/opt/conntrail/bin/conntrail hook primary"
  notify_backup "/opt/conntrail/bin/conntrail hook backup"
  notify_fault  "/opt/conntrail/bin/conntrail hook fault"
  notify_stop   "/opt/conntrail/bin/conntrail hook fault"
}
vrrp_instance lan {
  interface lan0
}
vrrp_instance wan {
  interface wan0
}
`;

  it("finds nothing wrong here, nor in the example that is shipped", () => {
    assert.deepEqual(found(hooks(conf(example))), []);
    const shipped = readFileSync(join(projectRoot(), "deploy/keepalived.conf.example"), "utf8");
    assert.deepEqual(found(hooks(conf(shipped), "/run/conntrail/keepalived.fifo")), []);
  });

  it("finds a hook that is missing, commented out, or not there to be run", () => {
    const without = (name: string) => example.replace(new RegExp(`^ *${name}.*$`, "m"), "# gone");
    assert.deepEqual(found(hooks(conf(without("notify_master")))), ["breaks keepalived.hooks.firewall"]);
    assert.deepEqual(found(hooks(conf(without("notify_stop")))), ["warning keepalived.hooks.firewall"]);
    const commented = example.replace("notify_backup", "! notify_backup");
    assert.deepEqual(found(hooks(conf(commented))), ["breaks keepalived.hooks.firewall"]);
    const misspelt = example.replace("/opt/conntrail/bin/conntrail hook primary", "/opt/conntrial hook primary");
    const [finding] = hooks(conf(misspelt)).filter(({ severity }) => severity === "breaks");
    assert.match(finding!.text, /\/opt\/conntrial is no program that can be run/);
  });

  it("finds a program that is a link: keepalived resolves it once", () => {
    const files = { "/usr/sbin/conntrail": "", "/opt/conntrail/bin/conntrail": "", ...conf(example) };
    const made = machine({ files, links: { "/opt/conntrail/bin/conntrail": "/opt/conntrail-1/bin/conntrail" } });
    const findings = found(judgeKeepalived(parseKeepalived("/etc/keepalived/keepalived.conf", made)!, made, null));
    assert.deepEqual(findings, Array(4).fill("warning keepalived.hooks.firewall"));
    const merged = machine({ files, links: { "/opt/conntrail/bin/conntrail": "/usr/opt/conntrail/bin/conntrail" } });
    assert.deepEqual(
      found(judgeKeepalived(parseKeepalived("/etc/keepalived/keepalived.conf", merged)!, merged, null)),
      [],
    );
  });

  it("wants keepalived to write into the FIFO that the daemon reads, and hooks where it reads none", () => {
    const fifo = "/run/conntrail/keepalived.fifo";
    const shipped = readFileSync(join(projectRoot(), "deploy/keepalived.conf.example"), "utf8");
    assert.deepEqual(found(hooks(conf(shipped), "/run/other.fifo")), ["breaks keepalived.fifo"]);
    assert.deepEqual(found(hooks(conf(example), fifo)), ["breaks keepalived.fifo"]);
    const unread = found(hooks(conf(shipped)));
    assert.ok(unread.includes("breaks keepalived.hooks.firewall"), unread.join());
  });

  it("follows includes and scripts, and takes notify for hooks", () => {
    const included = { ...conf("include conf.d/*.conf\n"), "/etc/keepalived/conf.d/all.conf": example };
    assert.deepEqual(found(hooks(included)), []);
    const instance = (line: string) => `global_defs {\n script_user root\n}\nvrrp_instance wan\n{\n${line}\n}\n`;
    const script = { "/etc/keepalived/hook.sh": "#!/bin/sh\nconntrail hook primary\n", "/bin/true": "" };
    assert.deepEqual(found(hooks({ ...conf(instance('notify "/etc/keepalived/hook.sh"')), ...script })), []);
    assert.equal(found(hooks({ ...conf(instance('notify "/bin/true"')), ...script })).length, 4);
  });

  it("wants a name from each of several groups, and one user", () => {
    const two = example.replace(/vrrp_sync_group firewall[\s\S]*?\n\}\n/, (group) => {
      const one = (name: string, member: string) =>
        group.replace("firewall", name).replace(/group \{[\s\S]*?\}/, `group {\n ${member}\n }`);
      return one("inside", "lan") + one("outside", "wan");
    });
    const breaksOf = found(hooks(conf(two)));
    assert.equal(breaksOf.filter((text) => text === "breaks keepalived.hooks.inside").length, 4);
    const named = two.replace(/(hook \w+)"/g, '$1 --group g"');
    assert.deepEqual(found(hooks(conf(named))), []);
    assert.deepEqual(found(hooks(conf(example.replace("script_user root", "script_user nobody")))), [
      "breaks keepalived.user",
    ]);
    const apart = example.replace(/vrrp_sync_group firewall[\s\S]*?\n\}\n/, "");
    assert.ok(found(hooks(conf(apart))).includes("warning keepalived.groups"));
  });
});

describe("doctor: daemon, peers, keys", () => {
  const healthy = {
    ...STATUS,
    role: "primary" as const,
    reason: null,
    inSync: true,
    warnings: [],
    format: { writes: 1, reads: [1], reason: null },
    peers: STATUS.peers.map((peer) => ({ ...peer, inSync: true, reason: null, clockOffsetMs: 3 })),
  };

  it("a daemon that does not answer, a peer that is away, a failed hook and a clock that is off", async () => {
    assert.deepEqual(found(await checkCluster(CONFIG, machine({}), healthy, "")), []);
    assert.deepEqual(found(await checkCluster(CONFIG, machine({}), null, "no daemon")), ["breaks daemon.runs"]);
    const [first, ...others] = healthy.peers;
    const away = {
      ...healthy,
      peers: [{ ...first!, inSync: false, reason: "its daemon has been silent for 12 s" }, ...others],
    };
    assert.deepEqual(found(await checkCluster(CONFIG, machine({}), away, "")), [`breaks peer.${first!.node}`]);
    const late = { ...healthy, peers: [{ ...first!, clockOffsetMs: -4000 }, ...others] };
    assert.deepEqual(found(await checkCluster(CONFIG, machine({}), late, "")), [`warning clock.${first!.node}`]);
    const hook = { group: "", role: "primary" as const, saidMs: 0, state: "failed" as const, error: "no daemon" };
    assert.deepEqual(found(await checkCluster(CONFIG, machine({}), { ...healthy, hooks: [hook] }, "")), [
      "breaks daemon.hook",
    ]);
  });

  it("a unit that does not start at boot, and a clock that follows nobody", async () => {
    const programs = {
      "systemctl is-enabled conntrail": "disabled\n",
      "timedatectl show -p NTPSynchronized --value": "no\n",
    };
    const findings = found(await checkCluster(CONFIG, machine({ programs }), healthy, ""));
    assert.deepEqual(findings, ["breaks boot.conntrail", "note clock.ntp"]);
  });

  it("a link without keys, and keys that are not there", () => {
    assert.deepEqual(found(checkKeys(CONFIG, Date.now())), ["warning keys.own"]);
    const tls = { ca: "/none/ca.pem", cert: "/none/node.pem", key: "/none/node.key", nodes: null };
    assert.deepEqual(found(checkKeys({ ...CONFIG, tls, isOpen: false }, Date.now())), ["breaks keys.own"]);
  });

  it("are printed with what to do, and counted", () => {
    const findings: Finding[] = [
      { id: "a", severity: "breaks", text: "it is broken", cure: "mend it" },
      { id: "b", severity: "ok", text: "it is well", cure: null },
    ];
    assert.equal(
      formatFindings(findings, findings),
      "BREAKS   it is broken\n         do: mend it\nok       it is well\n\n" +
        "a failover would lose connections: 1 break it, 0 warnings, 0 notes, 1 ok\n",
    );
  });
});
