/** What a test asks of the history that a node's broker holds, over the IPC channel to a process in the node's namespace. */
import type { HistoryQuery, WhoQuestion } from "../../../src/history/connection.js";
import type { ConnectionJson, GapJson } from "../../../src/history/format/connection-json.js";

export interface Answer {
  readonly connections: readonly ConnectionJson[];
  readonly gaps: readonly GapJson[];
}

/** What `who` says, short. */
export interface WhoReply {
  readonly inside: readonly string[];
  readonly uids: readonly string[];
  readonly gaps: number;
}

export interface AskerQuestions {
  readonly history: { readonly args: HistoryQuery; readonly answer: Answer };
  /** How late, at the most, an event was in the streams after the kernel's own time of it, milliseconds. */
  readonly lag: { readonly args: null; readonly answer: number };
  /** Takes what is older than a time out of the streams, as retention does. */
  readonly cut: { readonly args: number; readonly answer: null };
  readonly at: { readonly args: readonly number[]; readonly answer: readonly Answer[] };
  /** Each asks the broker. */
  readonly who: { readonly args: readonly WhoQuestion[]; readonly answer: readonly WhoReply[] };
  /** The same from one copy of what the broker holds: thousands of questions in seconds. */
  readonly whoCached: { readonly args: readonly WhoQuestion[]; readonly answer: readonly WhoReply[] };
}

export type AskerQuestion = keyof AskerQuestions;

export interface AskerRequest {
  readonly question: AskerQuestion;
  readonly args: unknown;
}

export interface AskerResponse {
  readonly answer?: unknown;
  readonly error?: string;
}
