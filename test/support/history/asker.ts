/** Runs in a namespace, as a child of the test, and asks the broker whose address is its argument, as `history`, `at` and `who` do. */
import { pino } from "pino";
import type { HistoryAnswer, HistoryQuery, WhoQuestion } from "../../../src/history/connection.js";
import { connectionToJson, gapToJson } from "../../../src/history/format/connection-json.js";
import { History } from "../../../src/history/scan/history.js";
import { brokerStreams, type HistoryStreams } from "../../../src/history/scan/streams.js";
import { whoAnswer } from "../../../src/history/who-answer.js";
import { keyFolderOf } from "../../../src/keys/key-folder.js";
import { connectBroker } from "../../../src/stream/connection.js";
import { BatchDecoder } from "../../../src/stream/format/batch.js";
import { MEASURED_TIMES } from "../../../src/stream/format/columns.js";
import { streamName } from "../../../src/stream/format/subjects.js";
import { StreamIndex } from "../../../src/stream/stream-index.js";
import type { Answer, AskerRequest, AskerResponse, WhoReply } from "./asker-protocol.js";
import { cachedStreams } from "./cached-streams.js";

/** Questions under way at a time. */
const CONCURRENT = 4;
const NODES = ["fw1", "fw2", "fw3"];
const NO_FILTER = { sinceMs: null, untilMs: null, filter: {}, nodes: null, limit: null };

const log = pino({ level: "silent" });
const connection = connectBroker({
  servers: [process.argv[2] ?? ""],
  node: process.argv[3] ?? "",
  purpose: "history",
  serverName: process.argv[3] ?? "",
  tls: keyFolderOf(process.argv[4] ?? ""),
  log,
});
const signal = new AbortController().signal;

async function read(answer: HistoryAnswer): Promise<Answer> {
  const connections = [];
  for await (const batch of answer.connections) for (const found of batch) connections.push(connectionToJson(found));
  return { connections, gaps: answer.gaps().map(gapToJson) };
}

async function who(history: History, question: WhoQuestion): Promise<WhoReply> {
  const answer = history.who(question, signal);
  const inside: string[] = [];
  const uids: string[] = [];
  for await (const batch of answer.connections) {
    for (const found of batch) {
      const end = whoAnswer(found, question.address, question.port).inside;
      inside.push(`${end.address} ${end.port}`);
      uids.push(found.uid);
    }
  }
  return { inside, uids, gaps: answer.gaps().length };
}

async function all<Q, A>(questions: readonly Q[], ask: (question: Q) => Promise<A>): Promise<A[]> {
  const answers: A[] = [];
  let next = 0;
  const work = async (): Promise<void> => {
    while (next < questions.length) {
      const at = next++;
      answers[at] = await ask(questions[at]!);
    }
  };
  await Promise.all(Array.from({ length: CONCURRENT }, work));
  return answers;
}

/** Ends that the kernel has timed tell how late their node was. */
async function lag(streams: HistoryStreams): Promise<number> {
  const cached = await cachedStreams(streams);
  const decoder = new BatchDecoder();
  let most = 0;
  for (const node of await cached.nodes()) {
    for await (const items of cached.read(node, 1, 1, signal)) {
      for (const item of items) {
        const envelope = item.type === "message" && item.kind === "ev" ? decoder.decode(item.payload) : null;
        const { rows, measured, stopMicros } = decoder.destroys;
        for (let row = 0; envelope !== null && row < rows; row++) {
          if ((measured[row]! & MEASURED_TIMES) === 0) continue;
          most = Math.max(most, envelope.wallMs - stopMicros[row]! / 1000);
        }
      }
    }
  }
  return most;
}

async function cut(streams: HistoryStreams, timeMs: number): Promise<null> {
  const jsm = await (await connection.ready(5000)).jetstreamManager();
  for (const node of await streams.nodes()) {
    const index = new StreamIndex(streams.lookup(node), node);
    const bounds = await index.bounds();
    if (bounds !== null) await jsm.streams.purge(streamName(node), { seq: await index.findTime(timeMs, bounds) });
  }
  return null;
}

async function answerTo({ question, args }: AskerRequest): Promise<unknown> {
  const streams = brokerStreams(connection, log);
  const history = await History.open({
    streams: question === "whoCached" ? await cachedStreams(streams) : streams,
    nodes: NODES,
  });
  switch (question) {
    case "lag":
      return lag(streams);
    case "cut":
      return cut(streams, args as number);
    case "history":
      return read(history.connections(args as HistoryQuery, signal));
    case "at":
      return all(args as readonly number[], (timeMs) => read(history.at(timeMs, NO_FILTER, signal)));
    case "who":
    case "whoCached":
      return all(args as readonly WhoQuestion[], (asked) => who(history, asked));
  }
}

process.on("message", (request: AskerRequest) => {
  answerTo(request).then(
    (answer) => respond({ answer }),
    (error: unknown) => respond({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
  );
});
process.on("disconnect", () => process.exit(0));

function respond(response: AskerResponse): void {
  process.send?.(response);
}
