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
  brokerName,
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

function subjectsTo(node: string): string[] {
  return requestsTo(node).map(({ subject }) => subject);
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
  return {
    jetstream: "enabled",
    users: [{ user: node, permissions }],
    exports: exportsOf(
      node,
      readers.map((reader) => ({ reader, account: accountOf(reader) })),
    ),
  };
}

/** What the account of a node gives to those of its readers. */
function exportsOf(name: string, readers: readonly { reader: string; account: string }[]) {
  if (readers.length === 0) return [];
  const accounts = readers.map(({ account }) => account);
  const services = requestsTo(name).map(({ subject, isStream }) => ({
    service: subject,
    accounts,
    ...(isStream === true ? { response_type: "stream", response_threshold: RESPONSE_THRESHOLD } : {}),
  }));
  const asked = readers.flatMap(({ reader, account }) =>
    requestsOf(reader, name).map((service) => ({ service, accounts: [account] })),
  );
  return [{ stream: heartbeatSubject(name), accounts }, ...services, ...asked];
}

function readerAccount(node: string, reader: string) {
  const requests = [...subjectsTo(node), ...requestsOf(reader, node)];
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

/** A node or observer of a cluster, as the servers of a shared NATS cluster know it. */
export interface SharedMember {
  readonly node: string;
  /** An observer has no stream. */
  readonly isObserver: boolean;
  /** The public key by which it logs in. */
  readonly nkey: string;
}

/** Copies of each stream that the servers of a shared cluster keep. */
export const SHARED_REPLICAS = 3;

/** What a node may keep on a shared NATS cluster. */
export interface SharedStore {
  readonly bytesMax: number;
  readonly replicas: number;
}

/**
 * The accounts of a shared NATS cluster: one for each node, with JetStream for its own stream, and one for each observer.
 * Into each, the same requests to every other node are imported as a reader's account has on a node's own broker. The text
 * goes between the braces of `accounts`, where other clusters' may be as well.
 */
export function sharedAccounts(cluster: string, members: readonly SharedMember[], store: SharedStore): string {
  return members
    .map((member) => {
      const account = sharedAccount(member, cluster, members, store);
      return `${JSON.stringify(sharedAccountOf(member, cluster))}: ${JSON.stringify(account, null, 2)}`;
    })
    .join("\n");
}

function sharedAccountOf({ node }: SharedMember, cluster: string): string {
  return `conntrail_${brokerName(node, cluster)}`;
}

/**
 * What a node asks of JetStream for its own stream. Not all of `$JS.API`: until 2.10.27, ACCOUNT.PURGE took any account's
 * name from everybody (CVE-2025-30215).
 */
function jetStreamOf(name: string): string[] {
  const stream = streamName(name);
  const actions = ["INFO", "CREATE", "UPDATE", "DELETE", "PURGE", "MSG.GET"].map(
    (action) => `STREAM.${action}.${stream}`,
  );
  const consumers = ["CREATE", "DURABLE.CREATE", "DELETE", "MSG.NEXT"].map(
    (action) => `CONSUMER.${action}.${stream}.>`,
  );
  const more = ["INFO", "STREAM.NAMES", "STREAM.LIST", `DIRECT.GET.${stream}`, `DIRECT.GET.${stream}.>`];
  return [...more, ...actions, ...consumers].map((request) => `$JS.API.${request}`);
}

function sharedAccount(
  member: SharedMember,
  cluster: string,
  members: readonly SharedMember[],
  { bytesMax, replicas }: SharedStore,
) {
  const { node, isObserver, nkey } = member;
  const name = brokerName(node, cluster);
  const others = members.filter((other) => other.node !== node);
  const writers = others.filter((other) => !other.isObserver);
  const requests = writers.map((writer) => {
    const to = brokerName(writer.node, cluster);
    return { account: sharedAccountOf(writer, cluster), to, subjects: [...subjectsTo(to), ...requestsOf(node, to)] };
  });
  const own = isObserver
    ? ["$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST"]
    : [`ct.${name}.*`, ...jetStreamOf(name), heartbeatSubject(name), requestSubject(name, "*")];
  const permissions = {
    publish: [...own, ...requests.flatMap(({ subjects }) => subjects)],
    subscribe: [
      `${inboxPrefix(name)}.>`,
      ...[requestSubject(name, "*"), readSubject(name, "*"), checkSubject(name, "*")],
      ...requests.map(({ to }) => heartbeatSubject(to)),
    ],
    allow_responses: { max: 1, expires: "10s" },
  };
  const readers = others.map((other) => ({ reader: other.node, account: sharedAccountOf(other, cluster) }));
  return {
    ...(isObserver ? {} : { jetstream: { max_file: bytesMax * replicas, max_streams: 1 } }),
    users: [{ nkey, permissions }],
    exports: isObserver ? [] : exportsOf(name, readers),
    imports: requests.flatMap(({ account, to, subjects }) => [
      { stream: { account, subject: heartbeatSubject(to) } },
      ...subjects.map((subject) => ({ service: { account, subject } })),
    ]),
  };
}
