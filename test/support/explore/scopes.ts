/** The scopes that are explored, and how far in every run of the tests. */
import type { Budget, Scope } from "./world.js";

/** A scope and its number of states in a run of the tests. */
export interface Plan {
  readonly scope: Scope;
  /** Exploring ends with so many states, if there are that many. */
  readonly states: number;
}

const NONE: Budget = {
  packets: 0,
  hooks: 0,
  crashes: 0,
  reboots: 0,
  losses: 0,
  overruns: 0,
  dumps: 0,
  snapshots: 0,
};

function plan(name: string, states: number, budget: Partial<Budget>, more: Partial<Scope> = {}): Plan {
  return {
    states,
    scope: {
      name,
      nodes: 2,
      flows: 1,
      skewMs: [],
      begins: "primary",
      gaps: false,
      closes: false,
      traffic: "active",
      injects: false,
      ahead: false,
      ...more,
      budget: { ...NONE, ...budget },
    },
  };
}

const HOUR_MS = 3_600_000;

const INJECT: Partial<Scope> = { injects: true, traffic: "anywhere", begins: "unknown" };

/** All scopes. Their names are those of `npm run explore`. */
export const PLANS: readonly Plan[] = [
  plan("takeover", 25_000, { packets: 2, hooks: 2 }),
  plan("failover", 25_000, { packets: 3, hooks: 2 }),
  plan("inject", 25_000, { packets: 4, dumps: 1 }, INJECT),
  plan("crash", 25_000, { packets: 2, hooks: 1, crashes: 1 }),
  plan("inject-crash", 15_000, { packets: 3, crashes: 1 }, INJECT),
  plan("reboot", 25_000, { packets: 2, hooks: 1, reboots: 1 }),
  plan("inject-reboot", 15_000, { packets: 3, reboots: 1 }, INJECT),
  plan("overrun", 25_000, { packets: 3, hooks: 1, overruns: 1, dumps: 1 }),
  plan("inject-overrun", 20_000, { packets: 3, overruns: 1, dumps: 1 }, INJECT),
  plan("commit", 7_000, { packets: 2, hooks: 2 }, { gaps: true }),
  plan("commit-close", 30_000, { packets: 4, hooks: 1 }, { closes: true }),
  plan("inject-write", 6_000, { packets: 3 }, { ...INJECT, gaps: true }),
  plan("clock-ahead", 25_000, { packets: 3, hooks: 2 }, { skewMs: [0, HOUR_MS] }),
  plan("clock-behind", 10_000, { packets: 3, hooks: 2 }, { skewMs: [HOUR_MS, 0] }),
  plan("two-flows", 25_000, { packets: 3, hooks: 1 }, { flows: 2 }),
  plan("inject-two-flows", 20_000, { packets: 3 }, { ...INJECT, flows: 2 }),
  plan("three-nodes", 20_000, { packets: 2, hooks: 2 }, { nodes: 3 }),
  plan("inject-takeover", 8_000, { packets: 2, hooks: 2 }, { injects: true }),
  plan("ahead-takeover", 8_000, { packets: 2, hooks: 2 }, { injects: true, ahead: true }),
  plan("ahead", 8_000, { packets: 3, dumps: 1 }, { ...INJECT, ahead: true }),
  plan("inject-three-nodes", 15_000, { packets: 3 }, { ...INJECT, nodes: 3 }),
];
