/** What `doctor` says of rulesets as nft itself prints them. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { parseConfig } from "../../src/config/config.js";
import { judge, parseRuleset } from "../../src/doctor/ruleset.js";
import { projectRoot } from "../../src/lab/process.js";
import { KernelNamespace, kernelAvailable } from "../support/kernel-namespace.js";
import { temporaryDirectory } from "../support/nats-server.js";

const CONFIG = parseConfig("cluster: edge\nnode: fw1\nlisten: 10.77.0.1\ntls: false\n", "doctor");
const EXAMPLE = readFileSync(join(projectRoot(), "deploy/nftables.conf.example"), "utf8");

/** The findings that are not "ok" for a ruleset that the kernel has loaded. */
async function found(...commands: readonly (string | readonly string[])[]): Promise<string[]> {
  await using namespace = await KernelNamespace.create();
  await using directory = await temporaryDirectory();
  for (const command of commands) {
    if (typeof command === "string") {
      const file = join(directory.path, "ruleset");
      writeFileSync(file, command);
      await namespace.exec("nft", ["-f", file]);
    } else await namespace.exec(command[0]!, command.slice(1));
  }
  const { stdout } = await namespace.exec("nft", ["-j", "list", "ruleset"]);
  return judge(parseRuleset(stdout), CONFIG, { interfaceOf: () => "sync0" })
    .filter(({ severity }) => severity !== "ok")
    .map(({ id, severity }) => `${severity} ${id}`);
}

describe("doctor: the ruleset", { skip: kernelAvailable() ?? false }, () => {
  it("nothing is wrong with the example", async () => assert.deepEqual(await found(EXAMPLE), []));

  it("no ruleset at all lets everything pass", async () => {
    assert.deepEqual(await found(), [
      "breaks ruleset.forward",
      "breaks ruleset.input",
      "warning ruleset.invalid",
      "warning ruleset.vrrp-untracked",
      "warning ruleset.link-untracked",
    ]);
  });

  it("a closed loopback, a reject, a masquerade, and lines that are left out", async () => {
    const without = (line: RegExp): string => {
      assert.match(EXAMPLE, new RegExp(line, "m"));
      return EXAMPLE.replaceAll(new RegExp(line, "gm"), "");
    };
    assert.deepEqual(await found(without(/^ *iifname "lo" accept$/)), ["breaks ruleset.loopback"]);
    assert.deepEqual(await found(without(/^ *meta l4proto 112 notrack$/)), ["warning ruleset.vrrp-untracked"]);
    assert.deepEqual(await found(without(/^ *meta l4proto 112 accept$/)), ["warning ruleset.vrrp"]);
    assert.deepEqual(await found(without(/^ *.*fname \$LINK notrack$/)), ["warning ruleset.link-untracked"]);
    assert.deepEqual(await found(without(/^.*4222 accept$/)), ["warning ruleset.broker"]);
    assert.deepEqual(await found(without(/^ *ct state invalid counter drop$/)), ["warning ruleset.invalid"]);
    assert.deepEqual(await found(EXAMPLE.replace("    counter drop", "    counter reject")), ["breaks ruleset.reject"]);
    assert.deepEqual(await found(EXAMPLE.replace("snat ip to $WAN_VIP", "masquerade")), ["breaks ruleset.nat"]);
  });

  it("iptables' rules are understood where nft prints them", async () => {
    const iptables = (...args: string[]) => ["iptables-nft", "-w", ...args];
    try {
      await found(["iptables-nft", "--version"]);
    } catch {
      return;
    }
    const rules = [
      iptables("-P", "FORWARD", "DROP"),
      iptables("-A", "INPUT", "-i", "lo", "-j", "ACCEPT"),
      iptables("-A", "INPUT", "-p", "112", "-j", "ACCEPT"),
      iptables("-A", "INPUT", "-i", "sync0", "-j", "ACCEPT"),
      iptables("-A", "INPUT", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP"),
      iptables("-A", "INPUT", "-j", "DROP"),
      iptables("-t", "raw", "-A", "PREROUTING", "-p", "112", "-j", "CT", "--notrack"),
      iptables("-t", "raw", "-A", "PREROUTING", "-i", "sync0", "-j", "CT", "--notrack"),
    ];
    assert.deepEqual(await found(...rules), []);
    assert.deepEqual(await found(...rules, iptables("-t", "nat", "-A", "POSTROUTING", "-j", "MASQUERADE")), [
      "breaks ruleset.nat",
    ]);
  });
});
