import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { keepalivedConfig } from "../../src/lab/keepalived.js";
import { firewallRuleset } from "../../src/lab/ruleset.js";
import { sessionTargets } from "../../src/lab/sessions.js";
import { cidr6, ipv4, ipv6, LAN, namespacesOf, planTopology, WAN } from "../../src/lab/topology.js";

describe("laboratory", () => {
  it("gives every namespace a name of its own that carries the run's id", () => {
    const names = namespacesOf(planTopology("42-beef", 3)).map((namespace) => namespace.name);
    assert.equal(new Set(names).size, 6);
    assert.ok(names.every((name) => name.startsWith("ctl42-beef-")));
  });

  it("writes addresses of both families", () => {
    assert.equal(ipv4(LAN, 11), "10.10.0.11");
    assert.equal(ipv6(WAN, 100), "fd00:20::100");
    assert.equal(cidr6(LAN), "fd00:10::/64");
  });

  it("ranks the firewalls by priority and calls the hooks on a change of state", () => {
    const hooks = { primary: "/p", backup: "/b", fault: "/f" };
    assert.match(keepalivedConfig(1, hooks), /priority 250[\s\S]*priority 250/);
    assert.match(keepalivedConfig(2, hooks), /priority 222/);
    assert.match(
      keepalivedConfig(1, hooks),
      /notify_master "\/p"\n {2}notify_backup "\/b"\n {2}notify_fault "\/f"\n {2}notify_stop "\/f"/,
    );
    assert.match(keepalivedConfig(9, hooks), /priority 26/);
    assert.doesNotMatch(keepalivedConfig(1, undefined), /notify/);
  });

  it("drops by default and rejects nothing", () => {
    assert.equal(firewallRuleset().match(/policy drop/g)?.length, 2);
    assert.doesNotMatch(firewallRuleset(), /reject/);
  });

  it("spreads the sessions over all ways and loses none", () => {
    for (const count of [0, 1, 9, 10, 199]) {
      assert.equal(
        sessionTargets(count).reduce((sum, target) => sum + target.count, 0),
        count,
      );
    }
    assert.ok(sessionTargets(199).every((target) => target.count >= 19 || target.local !== undefined));
  });
});
