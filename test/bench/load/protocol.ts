/** What the bench asks of its load process, which works in any network namespace that it is told by name. */

/** Flows `from` … `from + count - 1` of a range of test flows (test/support/cluster/flows.ts). */
export interface FlowRange {
  readonly namespace: string;
  readonly range: number;
  readonly from: number;
  readonly count: number;
}

/** A steady load that ends the oldest flow and makes a new one in turn, so that `live` of them live. */
export interface Churn {
  readonly namespace: string;
  readonly range: number;
  readonly live: number;
  /** Ends and beginnings together: each is one event of the kernel. */
  readonly eventsPerSecond: number;
  readonly seconds: number;
}

/** What became of a churn. */
export interface Churned {
  readonly events: number;
  readonly seconds: number;
  /** Flows that live now: `live`, or one less. */
  readonly alive: number;
  /** Requests that the kernel refused. */
  readonly refused: number;
  /** Events that were due and not yet made, at the most. */
  readonly behindMax: number;
}

/** Every question with its arguments and its answer. */
export interface LoadQuestions {
  /** Makes flows, unless paced as fast as the kernel takes them; gives the seconds that it took without the encoding. */
  fill: { args: FlowRange & { readonly flowsPerSecond?: number }; answer: { seconds: number; refused: number } };
  /** Removes all flows of the namespace. */
  flush: { args: { namespace: string }; answer: null };
  /** Makes the flows that live when a churn begins; nothing when they live already. */
  prepare: { args: Omit<Churn, "eventsPerSecond" | "seconds">; answer: null };
  churn: { args: Churn; answer: Churned };
  /** The same in several namespaces at once, each at this rate. */
  churnAll: {
    args: Omit<Churn, "namespace"> & { readonly namespaces: readonly string[] };
    answer: Churned;
  };
  /** The flows alive after a churn, by number in their range. */
  alive: { args: { namespace: string; range: number; live: number }; answer: Uint32Array };
  /** When each flow of the namespace began, by the kernel's own note (nf_conntrack_timestamp): pairs of key and µs. */
  starts: { args: { namespace: string }; answer: ReadonlyMap<string, number> };
  /** Listens to the namespace's events from now on. */
  listen: { args: { namespace: string }; answer: null };
  /** Blocks until the first event since `listen`; CLOCK_MONOTONIC in ms, or null after 10 s. */
  first: { args: null; answer: number | null };
}

/** A name of LoadQuestions. */
export type LoadQuestion = keyof LoadQuestions;
