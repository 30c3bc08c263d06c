/** What a test asks of the agent in a node's network namespace, over node's own channel between parent and child. */

/** A load that goes on until it is stopped. The same seed makes the same choices, whatever the pace. */
export interface LoadOptions {
  readonly seed: number;
  /** Which flows: see `writeTestFlow`. */
  readonly range: number;
  /** Flows that it chooses from; about half of them live at a time. */
  readonly flowsMax: number;
  readonly operationsPerSecond: number;
  /** Requests in one send to the kernel, 256 unless said; fewer make more events of their own. */
  readonly batchMax?: number;
  /** What is there already of the range. */
  readonly goesOnFrom?: LoadTruth;
}

/** What the kernel must hold of a load's range: the flows alive, and their marks in the same order. */
export interface LoadTruth {
  readonly operations: number;
  /** Requests that the kernel refused, by errno's name; none, unless something else touches the range. */
  readonly refused: Readonly<Record<string, number>>;
  readonly alive: Uint32Array;
  readonly marks: Uint32Array;
  /** The flows that it created or changed, some of which have ended since. */
  readonly touched: Uint32Array;
}

/** The same request for the flows `from` … `from + count - 1` of a range. */
export interface BulkOperation {
  readonly type: "create" | "update" | "destroy";
  readonly range: number;
  readonly from: number;
  readonly count: number;
  /** Mark of created and updated flows. */
  readonly mark?: number;
}

/** A stream as its broker describes it. */
export interface StreamView {
  readonly name: string;
  readonly messages: number;
  readonly firstSequence: number;
  readonly lastSequence: number;
  readonly consumers: readonly string[];
  readonly replicas: number;
  /** Name of the server that leads it in a cluster of servers, else empty. */
  readonly leader: string;
}

/** A mark as it stands in a stream. */
export interface MarkView {
  readonly sequence: number;
  readonly epoch: number;
  readonly number: number;
  readonly type: string;
  readonly reason: string;
  /** The writer's role. */
  readonly role: string;
}

/** Each question with its arguments and its answer. */
export interface AgentQuestions {
  startLoad: { args: LoadOptions; answer: null };
  progress: { args: null; answer: number };
  stopLoad: { args: null; answer: LoadTruth };
  /** Works through the operations as fast as the kernel takes them. Answers with what was refused. */
  apply: { args: readonly BulkOperation[]; answer: Readonly<Record<string, number>> };
  /** The kernel's table, 32 words a flow. */
  dump: { args: null; answer: Uint32Array };
  streams: { args: { server: string }; answer: readonly StreamView[] };
  marks: { args: { server: string; node: string }; answer: readonly MarkView[] };
  /**
   * The format versions of the last messages of a node's stream, `count` at most, the last one last; read as the node itself,
   * with the keys beside its configuration (null: there are none).
   */
  versions: {
    args: { server: string; node: string; configFile: string | null; count: number };
    answer: readonly unknown[];
  };
  deleteStream: { args: { server: string; name: string }; answer: null };
  /** `payload` in base64. */
  storeMessage: { args: { server: string; node: string; kind: string; payload: string }; answer: null };
}

/** The name of a question. */
export type AgentQuestion = keyof AgentQuestions;
