import type { Config } from "../config/config.js";
import { breaks, type Finding, note, ok, warning } from "./finding.js";
import type { Machine } from "./machine.js";

/** A statement of a rule as `nft -j` prints it: one key that names it. */
type Statement = Readonly<Record<string, unknown>>;

interface Chain {
  readonly family: string;
  readonly table: string;
  readonly name: string;
  readonly type?: string;
  readonly hook?: string;
  readonly policy?: string;
}

interface Rule {
  readonly family: string;
  readonly table: string;
  readonly chain: string;
  readonly expr: readonly Statement[];
}

/** The ruleset of the kernel, from `nft -j list ruleset`; iptables' rules are among them, but for iptables-legacy. */
export interface Ruleset {
  readonly chains: readonly Chain[];
  readonly rules: readonly Rule[];
}

/** nft prints the name where /etc/protocols has it. */
const VRRP: readonly unknown[] = [112, "112", "vrrp"];
/** Families whose chains see IPv4. */
const FAMILIES = new Set(["ip", "inet"]);

/** Reads what nft printed. Throws SyntaxError if it is no JSON. */
export function parseRuleset(json: string): Ruleset {
  const { nftables = [] } = JSON.parse(json) as { nftables?: { chain?: Chain; rule?: Rule }[] };
  const isOurs = ({ family }: { family: string }): boolean => FAMILIES.has(family);
  return {
    chains: nftables.flatMap(({ chain }) => (chain !== undefined && isOurs(chain) ? [chain] : [])),
    rules: nftables.flatMap(({ rule }) => (rule !== undefined && isOurs(rule) ? [rule] : [])),
  };
}

/** What the ruleset does to packets without state during a takeover, to VRRP and to the dedicated link. */
export async function checkRuleset(config: Config, machine: Machine): Promise<Finding[]> {
  const listed = await machine.run("nft", ["-j", "list", "ruleset"]);
  if (listed === null)
    return [warning("ruleset.nft", "nft is not installed: the ruleset was not looked at", "apt-get install nftables")];
  if (listed.code !== 0) {
    const [why = "nft failed"] = listed.stderr.trim().split("\n", 1);
    return [warning("ruleset.nft", `the ruleset cannot be read: ${why}`, "run it as root")];
  }
  const legacy = machine.read("/proc/net/ip_tables_names")?.trim() ?? "";
  if (legacy !== "") {
    const text = "rules of iptables-legacy were not looked at";
    return [
      note("ruleset.legacy", text, "move them to nftables, or to iptables-nft"),
      ...judge(parseRuleset(listed.stdout), config, machine),
    ];
  }
  return judge(parseRuleset(listed.stdout), config, machine);
}

/** The findings for a ruleset. */
export function judge(ruleset: Ruleset, config: Config, machine: Pick<Machine, "interfaceOf">): Finding[] {
  const link = machine.interfaceOf(config.listen);
  return [
    dropsUnknown(ruleset, "forward"),
    dropsUnknown(ruleset, "input"),
    ...rejects(ruleset),
    invalid(ruleset),
    loopback(ruleset),
    ...vrrp(ruleset),
    ...linkFindings(ruleset, config, link),
    translation(ruleset),
  ];
}

/** Packets of a session that come before its state must neither pass nor be answered. */
function dropsUnknown(ruleset: Ruleset, hook: "forward" | "input"): Finding {
  const id = `ruleset.${hook}`;
  const chains = filters(ruleset, hook);
  if (chains.some((chain) => isClosed(ruleset, chain))) return ok(id, `${hook} drops what it does not know`);
  const why =
    hook === "input"
      ? "during a takeover this machine answers packets to the virtual address with a RST, which ends the sessions"
      : "during a takeover packets pass without their translation, and the other end answers with a RST";
  return breaks(
    id,
    `${hook} accepts what it does not know: ${why}`,
    `policy drop in the chain with hook ${hook}, as in the example`,
  );
}

/** The chains that filter at a hook. */
function filters({ chains }: Ruleset, hook: string): readonly Chain[] {
  return chains.filter((chain) => chain.hook === hook && chain.type === "filter");
}

function isClosed(ruleset: Ruleset, chain: Chain): boolean {
  return chain.policy === "drop" || rulesOf(ruleset, chain).some((rule) => isUnconditional(rule) && has(rule, "drop"));
}

function rulesOf({ rules }: Ruleset, chain: Chain): readonly Rule[] {
  return rules.filter(
    (rule) => rule.table === chain.table && rule.family === chain.family && rule.chain === chain.name,
  );
}

function rejects(ruleset: Ruleset): Finding[] {
  const rejecting = ruleset.rules.filter((rule) => has(rule, "reject") || hasTarget(rule, "REJECT"));
  if (rejecting.length === 0) return [ok("ruleset.reject", "no rule rejects")];
  const cure = "drop in place of reject: during a takeover the address moves before the state does";
  const [first] = rejecting.filter((rule) => isUnconditional(rule) && isReached(ruleset, rule));
  if (first !== undefined) {
    const text = `${first.table} ${first.chain} rejects what no rule accepts: during a takeover that ends sessions`;
    return [breaks("ruleset.reject", text, cure)];
  }
  return [warning("ruleset.reject", `${rejecting.length} rules reject`, cure)];
}

/** True if the rule is in a chain that packets reach by a hook, or that another chain jumps to. */
function isReached({ chains, rules }: Ruleset, rule: Rule): boolean {
  const isBase = chains.some(
    (chain) => chain.name === rule.chain && chain.table === rule.table && chain.hook !== undefined,
  );
  return isBase || rules.some(({ expr }) => expr.some((one) => targetOf(one) === rule.chain));
}

function targetOf(statement: Statement): string | undefined {
  const jump = (statement.jump ?? statement.goto) as { target?: string } | undefined;
  return jump?.target;
}

function invalid(ruleset: Ruleset): Finding {
  const drops = ruleset.rules.some(
    (rule) =>
      has(rule, "drop") &&
      (matches(rule, "ct state", "invalid") || hasTarget(rule, "conntrack") || hasTarget(rule, "state")),
  );
  if (drops) return ok("ruleset.invalid", "packets that conntrack calls invalid are dropped");
  const text = "packets that conntrack calls invalid are not dropped: they pass without their translation";
  return warning("ruleset.invalid", text, "ct state invalid drop, before ct state established,related accept");
}

/** The daemon reaches its broker over the loopback interface. */
function loopback(ruleset: Ruleset): Finding {
  const id = "ruleset.loopback";
  const isClosedAtAll = filters(ruleset, "input").some((chain) => isClosed(ruleset, chain));
  const accepts = ruleset.rules.some((rule) => has(rule, "accept") && matchesInterface(rule, "lo"));
  if (!isClosedAtAll || accepts) return ok(id, "the loopback interface is open");
  const text = "input does not accept the loopback interface: the daemon cannot reach its broker";
  return breaks(id, text, 'iifname "lo" accept, as the first rule of input');
}

function vrrp(ruleset: Ruleset): Finding[] {
  const isVrrp = (rule: Rule): boolean =>
    VRRP.some((name) => matches(rule, "meta l4proto", name) || matches(rule, "ip protocol", name));
  const untracked = ruleset.rules.some((rule) => isUntracking(rule) && (isVrrp(rule) || isUnconditional(rule)));
  const tracking = untracked
    ? ok("ruleset.vrrp-untracked", "VRRP is not tracked")
    : warning(
        "ruleset.vrrp-untracked",
        "VRRP is tracked: it concerns one node only",
        "meta l4proto 112 notrack, at priority raw in prerouting and output",
      );
  const isClosedAtAll = filters(ruleset, "input").some((chain) => isClosed(ruleset, chain));
  if (!isClosedAtAll || ruleset.rules.some((rule) => has(rule, "accept") && isVrrp(rule))) {
    return [tracking, ok("ruleset.vrrp", "VRRP is accepted")];
  }
  const text = "no rule of input accepts VRRP by its name: if none does, both nodes become primary";
  return [tracking, warning("ruleset.vrrp", text, "meta l4proto 112 accept, in input")];
}

function linkFindings(ruleset: Ruleset, { broker }: Config, link: string | null): Finding[] {
  if (link === null || link === "lo") return [];
  const untracked = ruleset.rules.some(
    (rule) => isUntracking(rule) && (matchesInterface(rule, link) || isUnconditional(rule)),
  );
  const tracking = untracked
    ? ok("ruleset.link-untracked", `${link} is not tracked`)
    : warning(
        "ruleset.link-untracked",
        `the dedicated link ${link} is tracked: its connections concern one node only`,
        `iifname ${link} notrack and oifname ${link} notrack, at priority raw`,
      );
  const isClosedAtAll = filters(ruleset, "input").some((chain) => isClosed(ruleset, chain));
  const accepts = ruleset.rules.some(
    (rule) =>
      has(rule, "accept") &&
      (matches(rule, "tcp dport", broker.port) || (matchesInterface(rule, link) && !names(rule, "dport"))),
  );
  if (!isClosedAtAll || accepts) return [tracking, ok("ruleset.broker", `the peers reach port ${broker.port}`)];
  const text = `no rule of input accepts port ${broker.port} by its number: if none does, nothing is replicated`;
  return [tracking, warning("ruleset.broker", text, `iifname ${link} tcp dport ${broker.port} accept, and tcp sport`)];
}

/** A session that is translated to a node's own address stays with that node. */
function translation(ruleset: Ruleset): Finding {
  const id = "ruleset.nat";
  const masks = ruleset.rules.some((rule) => has(rule, "masquerade") || hasTarget(rule, "MASQUERADE"));
  if (!masks) return ok(id, "nothing is translated to a node's own address (masquerade)");
  const text = "masquerade translates to this node's own address: such sessions do not move";
  return breaks(id, text, "snat to the virtual address");
}

function isUntracking(rule: Rule): boolean {
  return has(rule, "notrack") || hasTarget(rule, "CT") || hasTarget(rule, "NOTRACK");
}

function has(rule: Rule, statement: string): boolean {
  return rule.expr.some((one) => statement in one);
}

/** A match or a target of iptables. */
function hasTarget(rule: Rule, name: string): boolean {
  return rule.expr.some(({ xt }) => (xt as { name?: string } | null | undefined)?.name === name);
}

/** True if nothing is matched: only a verdict, a counter, a log. */
function isUnconditional(rule: Rule): boolean {
  const isCondition = (one: Statement): boolean =>
    "match" in one ||
    "limit" in one ||
    "vmap" in one ||
    (one.xt as { type?: string } | null | undefined)?.type === "match";
  return !rule.expr.some(isCondition);
}

/** What is matched on the left: `meta l4proto`, `tcp dport`, `ct state`. */
function leftOf(left: unknown): string {
  const { meta, payload, ct } = (left ?? {}) as {
    meta?: { key: string };
    payload?: { protocol: string; field: string };
    ct?: { key: string };
  };
  if (meta !== undefined) return `meta ${meta.key}`;
  if (payload !== undefined) return `${payload.protocol} ${payload.field}`;
  return ct === undefined ? "" : `ct ${ct.key}`;
}

interface Match {
  readonly op: string;
  readonly left: unknown;
  readonly right: unknown;
}

function matchesOf(rule: Rule): readonly Match[] {
  return rule.expr.flatMap(({ match }) => (match === undefined ? [] : [match as Match]));
}

/** True if the rule matches this value, alone or in a set. */
function matches(rule: Rule, left: string, value: unknown): boolean {
  return matchesOf(rule).some(
    (match) => leftOf(match.left) === left && match.op !== "!=" && values(match.right).includes(value),
  );
}

function matchesInterface(rule: Rule, name: string): boolean {
  return ["meta iifname", "meta iif", "meta oifname", "meta oif"].some((left) => matches(rule, left, name));
}

function names(rule: Rule, field: string): boolean {
  return matchesOf(rule).some((match) => leftOf(match.left).endsWith(` ${field}`));
}

/** The values of a match: one, a list, or a set with ranges left out. */
function values(right: unknown): readonly unknown[] {
  if (Array.isArray(right)) return right;
  const { set } = Object(right) as { set?: unknown[] };
  return set ?? [right];
}
