/** What somebody with a key tries at a broker, and what comes of it. */
import { headers, type Msg, type NatsConnection } from "nats";

/** One attempt: resolves with what it got out of the broker, null for nothing. */
export type Attempt = (peer: NatsConnection) => Promise<Msg | null>;

const ANSWER_MS = 150;

/** A message without a request for an answer. */
export function publish(to: string, payload = "", more: { reply?: string; expects?: number } = {}): Attempt {
  return async (peer) => {
    const { reply, expects } = more;
    const head = headers();
    if (expects !== undefined) head.set("Nats-Expected-Last-Sequence", String(expects));
    peer.publish(to, payload, { ...(reply === undefined ? {} : { reply }), headers: head });
    await peer.flush();
    return null;
  };
}

/** A request; an answer that is an error got nothing. */
export function request(to: string, body: unknown = null): Attempt {
  return async (peer) => {
    const payload = body === null ? "" : JSON.stringify(body);
    const answer = await peer.request(to, payload, { timeout: ANSWER_MS }).catch(() => null);
    return answer === null || /"error"|"released":false/.test(answer.string()) ? null : answer;
  };
}

/** A subscription, while the servers are busy; anything that comes is a gain, unless everybody may hear it. */
export function listen(
  to: string,
  busy: () => Promise<void>,
  mayHear: (subject: string) => boolean = () => false,
): Attempt {
  return async (peer) => {
    let heard: Msg | null = null;
    const subscription = peer.subscribe(to, {
      callback: (error, message) => {
        if (error === null && !mayHear(message.subject)) heard = message;
      },
    });
    await peer.flush();
    await busy();
    await peer.flush();
    subscription.unsubscribe();
    return heard;
  };
}
