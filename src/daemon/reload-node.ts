import type { InternalCache } from "../cache/internal.js";
import type { Config } from "../config/config.js";
import type { FirewallNode } from "../sync/node.js";
import type { KernelSide } from "./kernel-side.js";
import type { Reload } from "./reload.js";

/** The internal cache, and the limit of its rows with which the node was started. */
interface Limits {
  readonly internal: InternalCache;
  readonly flowsMax: number;
}

/** Applies to a running node what may change while it runs. */
export function reloadNode(
  { config, controls }: { readonly config: Config; readonly controls: { readonly reload: Pick<Reload, "onReload"> } },
  node: FirewallNode,
  kernelSide: KernelSide,
  limits: Limits,
): void {
  const { reload } = controls;
  reload.onReload(["filter.protocols", "filter.addresses", "filter.states", "filter.where"], async ({ filter }) => {
    // Its addresses are read at the start only.
    node.replicator.setFilter(kernelSide.setFilter({ ...filter, local: config.filter.local }));
    await node.replicator.resyncKernel();
    return [];
  });
  reload.onReload(["cache.limit"], async ({ cacheLimit }) => {
    // The limit of the kernel is read at the start only.
    if (cacheLimit === null) return ["cache.limit"];
    const { internal, flowsMax } = limits;
    internal.table.flowsMax = Math.max(flowsMax, 2 * cacheLimit);
    internal.limit = cacheLimit;
    node.external.setLimit(cacheLimit);
    await node.replicator.resyncKernel();
    return [];
  });
  reload.onReload(["peer_timeout"], ({ peerTimeoutMs }) => {
    node.peers.setSilence(peerTimeoutMs);
    return [];
  });
  // The injector writes with those of the start.
  if (node.injects) return;
  reload.onReload(["commit.timeout", "commit.window_tracking", "purge.after"], (next) => {
    node.roles.set(next);
    return [];
  });
  // Mode `stats` has none.
  if (config.mode !== "cache") return;
  reload.onReload(["expectations"], async ({ expectations }) => {
    const helpers = expectations === false ? null : expectations;
    kernelSide.setHelpers(helpers);
    node.replicator.setHelpers(helpers);
    await node.replicator.resyncKernel();
    return [];
  });
}
