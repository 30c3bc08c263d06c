/** Checks of flows: a node asks a peer, over the peer's broker, what the peer would have of them after a takeover. */
import { ErrorCode, type Msg, NatsError } from "nats";
import { ConntrailError, errorText } from "../errors.js";
import type { BrokerConnection } from "./connection.js";
import { checkSubject } from "./format/subjects.js";

/** Reading a thousand rows takes a millisecond; a kernel that loads a helper's module takes longer. */
const ANSWER_TIMEOUT_MS = 10_000;
/** A thousand flows take 60 to 200 KiB. */
const CHECK_BYTES_MAX = 512 * 1024;
/** Checks that wait at a time, of all nodes together. Who checks waits for each answer. */
const CHECKS_MAX = 16;

/** Asks `node`. Resolves with the answer's text; rejects with ConntrailError BROKER or TIMEOUT. */
export async function askCheck(connection: BrokerConnection, node: string, payload: Uint8Array): Promise<string> {
  const { client } = connection;
  if (client === null) throw new ConntrailError("BROKER", "its broker is away");
  try {
    const subject = checkSubject(connection.nameOf(node), connection.node);
    const message = await client.request(subject, payload, { timeout: ANSWER_TIMEOUT_MS });
    return message.string();
  } catch (error) {
    const isSilent =
      error instanceof NatsError && (error.code === ErrorCode.NoResponders || error.code === ErrorCode.Timeout);
    if (!isSilent) throw new ConntrailError("BROKER", errorText(error), { cause: error });
    const why = "its daemon does not answer checks: does it run, and is it of this release?";
    throw new ConntrailError("TIMEOUT", why, { cause: error });
  }
}

/**
 * Answers the checks of others, one at a time, also after reconnects, until the returned function is called. `answer`
 * returns null for what is no check, and that is not answered.
 */
export function serveChecks(
  connection: BrokerConnection,
  node: string,
  answer: (payload: Uint8Array) => Promise<string | null>,
): () => void {
  let tail: Promise<void> = Promise.resolve();
  let waiting = 0;
  const serve = async (message: Msg): Promise<void> => {
    const text = await answer(message.data).catch(() => null);
    waiting--;
    if (text !== null) message.respond(text);
  };
  return connection.subscribe(checkSubject(connection.nameOf(node), "*"), (client, message) => {
    if (waiting >= CHECKS_MAX || message.data.length > CHECK_BYTES_MAX) return;
    waiting++;
    tail = tail.then(() => (client.isClosed() ? void waiting-- : serve(message)));
  });
}
