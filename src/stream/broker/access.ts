/**
 * Who may do what on a node's broker, as accounts of nats-server. The node's own account has JetStream and all streams.
 * Each other node has an account of its own, into which only these requests are imported: single messages, messages of a
 * consumer, snapshots, heartbeats, and questions to the daemon (`stream-access.ts`, `flow-checks.ts`).
 *
 * Permissions alone would not do. JetStream sends its answers to whatever subject a request names for them, and with its
 * own power: who may ask for the state of a stream could have the answer sent to the purge of another. Across accounts
 * an answer stays with the one who asked.
 */
import {
  checkSubject,
  heartbeatSubject,
  inboxPrefix,
  readSubject,
  requestSubject,
  streamName,
} from "../format/subjects.js";

/** The account that has JetStream; its streams are in a folder of this name. */
export const OWN_ACCOUNT = "conntrail";

/** The account of everybody, on a broker without accounts. */
export const OPEN_ACCOUNT = "$G";

/** How long nothing may come for an open request of messages. A consumer without news sends a heartbeat each second. */
const RESPONSE_THRESHOLD = "15m";

/** What any reader may request of `node`. */
function requestsTo(node: string): readonly { subject: string; isStream?: true }[] {
  const stream = streamName(node);
  return [
    { subject: `$JS.API.DIRECT.GET.${stream}` },
    { subject: `$JS.API.DIRECT.GET.${stream}.>` },
    { subject: `$JS.API.CONSUMER.MSG.NEXT.${stream}.*`, isStream: true },
    { subject: requestSubject(node, "snapshot") },
    { subject: requestSubject(node, "heartbeat") },
  ];
}

/** What one reader may request of `node`: on its own subjects, so that the broker proves who asks. */
function requestsOf(reader: string, node: string): readonly string[] {
  return [readSubject(node, reader), checkSubject(node, reader)];
}

/** The account of another node. */
function accountOf(reader: string): string {
  return `peer_${reader}`;
}

/**
 * The accounts of a broker's configuration, in JSON, which the configuration's language includes: `node` owns the broker,
 * `readers` may read its stream. The name of a user is that of the certificate.
 */
export function brokerAccounts(node: string, readers: readonly string[]): string {
  const others = readers.filter((reader) => reader !== node);
  const accounts = Object.fromEntries(others.map((reader) => [accountOf(reader), readerAccount(node, reader)]));
  return JSON.stringify({ [OWN_ACCOUNT]: ownAccount(node, others), ...accounts }, null, 2);
}

function ownAccount(node: string, readers: readonly string[]) {
  const permissions = {
    publish: ["ct.*.*", "$JS.API.>", heartbeatSubject(node), requestSubject(node, "*")],
    subscribe: [
      `${inboxPrefix(node)}.>`,
      ...[requestSubject(node, "*"), readSubject(node, "*"), checkSubject(node, "*")],
    ],
    allow_responses: { max: 1, expires: "10s" },
  };
  const accounts = readers.map(accountOf);
  const services = requestsTo(node).map(({ subject, isStream }) => ({
    service: subject,
    accounts,
    ...(isStream === true ? { response_type: "stream", response_threshold: RESPONSE_THRESHOLD } : {}),
  }));
  const asked = readers.flatMap((reader) =>
    requestsOf(reader, node).map((service) => ({ service, accounts: [accountOf(reader)] })),
  );
  return {
    jetstream: "enabled",
    users: [{ user: node, permissions }],
    exports: readers.length === 0 ? [] : [{ stream: heartbeatSubject(node), accounts }, ...services, ...asked],
  };
}

function readerAccount(node: string, reader: string) {
  const requests = [...requestsTo(node).map(({ subject }) => subject), ...requestsOf(reader, node)];
  // A peer listens to all heartbeats of a broker, and hears those of its node.
  const permissions = { publish: requests, subscribe: [`${inboxPrefix(reader)}.>`, heartbeatSubject("*")] };
  return {
    users: [{ user: reader, permissions }],
    imports: [
      { stream: { account: OWN_ACCOUNT, subject: heartbeatSubject(node) } },
      ...requests.map((subject) => ({ service: { account: OWN_ACCOUNT, subject } })),
    ],
  };
}
