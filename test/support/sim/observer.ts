/** An observer of a simulated world: it follows all machines and has no kernel. */
import { pino } from "pino";
import { ExternalCache } from "../../../src/cache/external.js";
import { HybridClock } from "../../../src/flow/clock.js";
import { FORMATS } from "../../../src/stream/format/versions.js";
import { Peers } from "../../../src/sync/peers.js";
import { simPeer } from "../sim-node.js";
import type { World } from "./world.js";

/** It never ends before its world does. */
export class SimObserver {
  readonly external = new ExternalCache(10_000);
  readonly #peers: Peers;

  constructor(world: World) {
    const clock = { wallMs: () => world.wallMs() };
    this.#peers = new Peers({
      external: this.external,
      local: null,
      keepsAll: true,
      cluster: "test",
      node: "observer",
      silenceMsMax: 3000,
      formats: FORMATS,
      hybridClock: new HybridClock(clock),
      clock,
      log: pino({ level: "silent" }),
    });
    for (const machine of world.machines) {
      const link = world.observe(machine);
      this.#peers.add(
        simPeer(
          machine,
          link,
          () => link.up,
          null,
          (heard) => link.hear(heard),
        ),
      );
    }
  }

  /** Why the first machine that is not in sync is not; null when all are. */
  get outOfSync(): string | null {
    return this.#peers.list.map(({ watch }) => watch.reason).find((reason) => reason !== null) ?? null;
  }

  start(): void {
    this.#peers.run(new AbortController().signal);
  }
}
