/** Rehearsals of a takeover: this node answers the checks of its peers, and checks its own flows with them. */
import type { Config } from "../config/config.js";
import { checkKernel } from "../ctnetlink/sysctl.js";
import { serveChecks } from "../stream/flow-checks.js";
import { encodeCheckAnswer } from "../stream/format/flow-check.js";
import type { Formats } from "../stream/format/versions.js";
import type { FirewallNode } from "../sync/node.js";
import { FlowCheck } from "../sync/rehearsal/flow-check.js";
import { Rehearsal } from "../sync/rehearsal/rehearsal.js";
import type { TakeDown } from "../sync/take-down.js";
import type { OwnBroker } from "./streams.js";

/** What a rehearsal needs of the daemon. */
interface RehearsalGround {
  readonly config: Config;
  readonly formats: Formats;
  readonly broker: OwnBroker;
  readonly stopping: AbortSignal;
  readonly down: TakeDown;
}

/** Answers checks from now on. `polls`: the kernel is polled. */
export function openRehearsal(ground: RehearsalGround, node: FirewallNode, polls: boolean): Rehearsal {
  const { config, formats, broker, stopping, down } = ground;
  const { internal, external, kernel, replicator, journal, peers, injector } = node;
  const room = (): number => {
    const { max, count } = checkKernel(polls);
    return Math.max(0, max - count);
  };
  const needed = (): number => injector?.young ?? external.table.size;
  const check = new FlowCheck({ internal, external, kernel, needed, room, formats });
  const answer = async (payload: Uint8Array): Promise<string | null> => {
    const found = await check.answer(payload);
    return found === null ? null : encodeCheckAnswer(found);
  };
  down.push(serveChecks(broker.connection, config.node, answer));
  return new Rehearsal({
    node: config.node,
    ...{ internal, kernel },
    peers: () => peers.list.map(({ follower, check: ask }) => ({ node: follower.node, check: ask })),
    keeps: () => replicator.filter,
    catchUp: () => replicator.catchUp(),
    format: () => journal.format,
    envelope: () => journal.envelope,
    signal: stopping,
  });
}
