/**
 * What the laboratory and its session client say to each other: JSON lines, commands on the client's standard input,
 * answers on its standard output, one answer for each command, in order.
 */

/** An echo service and how many sessions the client holds with it. */
export interface SessionTarget {
  readonly name: string;
  readonly host: string;
  readonly port: number;
  readonly count: number;
  /** Where the client's side is bound to; by default the kernel chooses. With a port the count must be 1. */
  readonly local?: { readonly address: string; readonly port: number };
}

/** The commands to the session client, JSON lines on its standard input. */
export type SessionCommand =
  /** Opens the sessions; answered by "open" when each has had its first echo. */
  | {
      readonly type: "open";
      readonly targets: readonly SessionTarget[];
      readonly sshArguments: readonly string[];
      readonly intervalMs: number;
    }
  /** Reports the window that ends now, and starts a new one. */
  | { readonly type: "mark" }
  /** Reports the window so far. */
  | { readonly type: "peek" }
  /** Stops sending, so that the connections fall silent; the window continues. */
  | { readonly type: "pause" }
  | { readonly type: "resume" }
  /** Closes the first `count` sessions in an orderly way; they count no longer. */
  | { readonly type: "close"; readonly count: number }
  /** Sends a datagram to each target from `count` new sockets; answered when all echoes are there. */
  | { readonly type: "datagrams"; readonly targets: readonly SessionTarget[] };

/** How the sessions fared in a window of time. */
export interface SessionReport {
  readonly windowMs: number;
  readonly sessions: number;
  /** Sessions that got an echo of a line they sent within the window, and are not broken. */
  readonly answering: number;
  /** Sessions that were reset, closed or answered out of order. */
  readonly broken: number;
  /** The longest time between two echoes of one session; an echo still missing counts up to now. */
  readonly longestGapMs: number;
  /** The median over the sessions of each one's longest gap. */
  readonly medianGapMs: number;
  /** Sessions that do not answer, by target. */
  readonly silentByTarget: Readonly<Record<string, number>>;
  /** What broke the first few broken sessions. */
  readonly reasons: readonly string[];
}

/** What the session client says on its standard output, a JSON line each. */
export type SessionAnswer =
  | { readonly type: "done" }
  | { readonly type: "report"; readonly report: SessionReport }
  | { readonly type: "error"; readonly message: string };
