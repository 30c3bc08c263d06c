/**
 * Runs in the network namespace of a node, as a child of the test, and ends with it: makes load in the kernel there, lists
 * its table, and looks at brokers as a client of the test's own.
 */
import { connect, type NatsConnection } from "nats";
import { pino } from "pino";
import { RequestSocket } from "../../../src/ctnetlink/request-socket.js";
import { RECORD_WORDS } from "../../../src/flow/record.js";
import { keyFolderOf } from "../../../src/keys/key-folder.js";
import { connectBroker } from "../../../src/stream/connection.js";
import { MarkCodec } from "../../../src/stream/format/mark.js";
import { streamName, subject } from "../../../src/stream/format/subjects.js";
import { answerQuestions } from "../child-answers.js";
import { readPlain } from "../msgpack.js";
import type { AgentQuestion, AgentQuestions, MarkView, StreamView } from "./agent-protocol.js";
import { applyBulk, Load } from "./load.js";

const CONNECT_TIMEOUT_MS = 5000;

type Answers = {
  [Q in AgentQuestion]: (
    args: AgentQuestions[Q]["args"],
  ) => AgentQuestions[Q]["answer"] | Promise<AgentQuestions[Q]["answer"]>;
};

function createAnswers(socket: RequestSocket): Answers {
  let load: Load | null = null;
  const running = (): Load => {
    if (load === null) throw new Error("no load is running");
    return load;
  };
  return {
    startLoad: (options) => {
      if (load !== null) throw new Error("a load is running already");
      load = new Load(socket, options);
      return null;
    },
    progress: () => running().operations,
    stopLoad: async () => {
      const stopped = running();
      load = null;
      return stopped.stop();
    },
    apply: (operations) => applyBulk(socket, operations),
    dump: () => dump(socket),
    streams: ({ server }) => withClient(server, streams),
    marks: ({ server, node }) => withClient(server, (client) => marks(client, node)),
    versions: ({ server, node, configFile, count }) =>
      asNode(server, node, configFile, (client) => versions(client, node, count)),
    storeMessage: ({ server, node, kind, payload }) =>
      withClient(server, async (client) => {
        await client.jetstream().publish(`ct.${node}.${kind}`, Buffer.from(payload, "base64"));
        return null;
      }),
    deleteStream: ({ server, name }) =>
      withClient(server, async (client) => {
        await (await client.jetstreamManager()).streams.delete(name);
        return null;
      }),
  };
}

async function dump(socket: RequestSocket): Promise<Uint32Array> {
  const flows: Uint32Array[] = [];
  let again = true;
  for (let attempt = 0; again && attempt < 5; attempt++) {
    flows.length = 0;
    again = (await socket.dump({}, (flow) => flows.push(flow.words.slice()))).interrupted;
  }
  const words = new Uint32Array(flows.length * RECORD_WORDS);
  for (const [index, flow] of flows.entries()) words.set(flow, index * RECORD_WORDS);
  return words;
}

/** `server` is `host:port`, or several with commas between; in front may be a user, whose password is the same: `n1/…`. */
async function withClient<T>(server: string, use: (client: NatsConnection) => Promise<T>): Promise<T> {
  const [hosts = "", user] = server.split("/").reverse();
  const login = user === undefined ? {} : { user, pass: user };
  const client = await connect({ servers: hosts.split(","), timeout: CONNECT_TIMEOUT_MS, reconnect: false, ...login });
  try {
    return await use(client);
  } finally {
    await client.close();
  }
}

async function asNode<T>(
  server: string,
  node: string,
  configFile: string | null,
  use: (client: NatsConnection) => Promise<T>,
): Promise<T> {
  const log = pino({ level: "silent" });
  const keys = configFile === null ? {} : { serverName: node, tls: keyFolderOf(configFile) };
  const connection = connectBroker({ servers: [server], node, purpose: "test", ...keys, log });
  try {
    return await use(await connection.ready(CONNECT_TIMEOUT_MS));
  } finally {
    await connection.close();
  }
}

async function streams(client: NatsConnection): Promise<StreamView[]> {
  const jsm = await client.jetstreamManager();
  const views: StreamView[] = [];
  for (const { config, state, cluster } of await jsm.streams.list().next()) {
    const consumers = await jsm.consumers.list(config.name).next();
    views.push({
      name: config.name,
      messages: state.messages,
      firstSequence: state.first_seq,
      lastSequence: state.last_seq,
      consumers: consumers.map((consumer) => consumer.name),
      replicas: config.num_replicas,
      leader: cluster?.leader ?? "",
    });
  }
  return views;
}

/** Every mark of a node's stream, read one by one, so that no consumer is left behind. */
async function marks(client: NatsConnection, node: string): Promise<MarkView[]> {
  const jsm = await client.jetstreamManager();
  const codec = new MarkCodec();
  const views: MarkView[] = [];
  for (let next = 1; ; ) {
    const query = { seq: next, next_by_subj: subject(node, "mark") };
    const message = await jsm.streams.getMessage(streamName(node), query).catch((error: unknown) => {
      if ((error as { api_error?: { err_code?: number } }).api_error?.err_code === ERR_NO_MESSAGE) return null;
      throw error;
    });
    if (message === null) return views;
    next = message.seq + 1;
    const decoded = codec.decode(message.data);
    if (decoded === null) throw new Error(`a mark of ${node} at ${message.seq} cannot be decoded`);
    const { envelope, mark, role } = decoded;
    const reason = "reason" in mark ? mark.reason : "";
    const { epoch, number } = envelope;
    views.push({ sequence: message.seq, epoch, number, type: mark.type, reason, role });
  }
}

async function versions(client: NatsConnection, node: string, count: number): Promise<unknown[]> {
  const jsm = await client.jetstreamManager();
  const { state } = await jsm.streams.info(streamName(node));
  const found: unknown[] = [];
  for (let seq = Math.max(state.first_seq, state.last_seq - count + 1); seq <= state.last_seq; seq++) {
    const message = await jsm.streams.getMessage(streamName(node), { seq });
    found.push((readPlain(message.data) as { v?: unknown }).v);
  }
  return found;
}

const ERR_NO_MESSAGE = 10037;

answerQuestions(createAnswers(new RequestSocket({ timeoutMs: 20_000 })));
