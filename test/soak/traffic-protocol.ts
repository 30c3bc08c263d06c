/** What the soak asks of its client, a child in the client's network namespace (`test/support/child-answers.ts`). */

/** The traffic that the client keeps up. */
export interface TrafficOptions {
  readonly seed: number;
  /** Where the echo service is: each path through the firewalls. */
  readonly hosts: readonly string[];
  readonly port: number;
  /** TCP sessions that stay; one that ends is replaced. */
  readonly sessions: number;
  /** Short TCP connections, and short exchanges of datagrams, that begin in a second. */
  readonly shortPerSecond: number;
}

/** One session that stays. Times are milliseconds since the Unix epoch. */
export interface SessionView {
  readonly id: number;
  /** For people: the addresses and ports of the client's side and of the server. */
  readonly name: string;
  /** When its first line came back. */
  readonly openedMs: number;
  /** When the last line that came back had been sent. */
  readonly answeredMs: number;
  /** Why it is broken; null while it is not. */
  readonly broken: string | null;
}

/** Each question with its arguments and its answer. */
export interface TrafficQuestions {
  start: { args: TrafficOptions; answer: null };
  /** The sessions that have answered at least once and have not been closed on purpose. */
  sessions: { args: null; answer: readonly SessionView[] };
  /** Gives sessions up, and opens others. */
  drop: { args: readonly number[]; answer: null };
  /** How many short connections and exchanges have succeeded. */
  short: { args: null; answer: number };
}
