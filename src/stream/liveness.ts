import { setImmediate as immediate } from "node:timers/promises";
import type { NatsConnection } from "nats";
import { pause } from "../os/pause.js";

/** How long a broker that was pinged may take to answer. */
const ANSWER_MS_MAX = 1500;

/**
 * Watches a client until the signal. Whatever the broker sends shows that the link lives. After `quietMs` in which
 * nothing came the broker is pinged, and `dead` is called when it does not answer.
 */
export async function watchLiveness(options: {
  client: Pick<NatsConnection, "stats" | "flush">;
  quietMs: number;
  /** False while the client is between two connections. */
  connected: () => boolean;
  dead: () => void;
  signal: AbortSignal;
}): Promise<void> {
  const { client, quietMs, connected, dead, signal } = options;
  let before = -1;
  while (!signal.aborted) {
    await pause(quietMs, signal, { ref: false });
    const { inMsgs } = client.stats();
    const came = inMsgs !== before;
    before = inMsgs;
    if (came || signal.aborted || !connected()) continue;
    if (!(await answers(client, signal)) && connected()) dead();
  }
}

/** True when the broker answers a ping, and when the connection ends meanwhile, which others notice. */
async function answers(client: Pick<NatsConnection, "flush">, signal: AbortSignal): Promise<boolean> {
  const over = new AbortController();
  let answered = false;
  const pong = (): void => {
    answered = true;
    over.abort();
  };
  const end = (): void => over.abort();
  signal.addEventListener("abort", end, { once: true });
  client.flush().then(pong, pong);
  await pause(ANSWER_MS_MAX, over.signal, { ref: false });
  // After a busy stretch the time limit comes up before the answer is read that came within it.
  if (!answered) await immediate();
  signal.removeEventListener("abort", end);
  return answered || signal.aborted;
}
