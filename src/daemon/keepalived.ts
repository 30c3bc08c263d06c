import type { Logger } from "pino";
import type { Config } from "../config/config.js";
import type { NodeHandlers } from "../control/server.js";
import { prepareFifo } from "../keepalived/fifo-reader.js";
import { NotifyFifo } from "../keepalived/notify-fifo.js";
import { type TrackedPeer, TrackFile } from "../keepalived/track-file.js";
import type { Peers } from "../sync/peers.js";
import type { TakeDown } from "../sync/take-down.js";
import type { Hooks } from "./hooks.js";

/** How often the daemon looks whether its priority is right. */
const LOOK_MS = 1000;

/** The node, as far as keepalived is concerned. */
interface KeepalivedNode {
  readonly peers: Peers;
  readonly roles: { readonly role: string };
}

/** What the daemon shares with keepalived: the FIFO from which it takes its roles, and the file that lowers its priority. */
export class KeepalivedLink {
  readonly #config: Config["keepalived"];
  readonly #log: Logger;
  readonly #trackFile: TrackFile | null;
  #fifo: NotifyFifo | null = null;

  /**
   * Makes both, before anything else is started: keepalived must find them. It reads nothing yet, so that keepalived's
   * lines wait until the node works. `wasPrimary`: the last role before this daemon.
   */
  constructor({ keepalived }: Config, wasPrimary: boolean, log: Logger) {
    this.#config = keepalived;
    this.#log = log;
    if (keepalived.fifo !== null) prepareFifo(keepalived.fifo);
    const { trackFile } = keepalived;
    this.#trackFile = trackFile === null ? null : new TrackFile(trackFile, wasPrimary, performance.now(), log);
  }

  /** Takes roles from now on, and keeps the priority right. */
  open(node: KeepalivedNode, hooks: Hooks, down: TakeDown): void {
    const { fifo, groups } = this.#config;
    if (fifo !== null) {
      const reader = new NotifyFifo({ path: fifo, groups, roles: hooks, log: this.#log });
      this.#fifo = reader;
      reader.open();
      down.push(() => reader.close());
    }
    const trackFile = this.#trackFile;
    if (trackFile === null) return;
    const look = (): void => trackFile.look(node.roles.role === "primary", trackedPeers(node.peers), performance.now());
    const timer = setInterval(look, LOOK_MS);
    down.push(() => clearInterval(timer));
  }

  /** Wraps a node's handlers so that `status` has the warnings. */
  around(handlers: NodeHandlers): NodeHandlers {
    const status = async () => {
      const report = await handlers.status();
      const warnings = this.#fifo?.warnings ?? [];
      return warnings.length === 0 ? report : { ...report, warnings: [...report.warnings, ...warnings] };
    };
    return { ...handlers, status };
  }

  /** The group `keepalived` of `stats`; null if nothing is shared. */
  get counters(): Readonly<Record<string, number>> | null {
    if (this.#config.fifo === null && this.#trackFile === null) return null;
    return { ...this.#fifo?.counters, ...this.#trackFile?.counters };
  }
}

function trackedPeers(peers: Peers): TrackedPeer[] {
  return peers.list.map(({ follower: { node }, watch }) => ({
    node,
    isHeard: peers.hears(node),
    isPrimary: watch.heartbeat?.role === "primary",
    reason: watch.reason,
  }));
}
