/** What the history test and its traffic client say to each other, over the IPC channel, one answer for each command. */

/** An address with a port, or with an ICMP id. */
export interface End {
  readonly address: string;
  readonly port: number;
}

/** How a connection is ended. */
export type TrafficKind = "fin" | "reset" | "udp" | "icmp";

/** One connection as its two ends know it: the truth. Times are milliseconds since the Unix epoch. */
export interface TrafficFlow {
  readonly number: number;
  readonly kind: TrafficKind;
  readonly protocol: "tcp" | "udp" | "icmp" | "icmpv6";
  /** Held over the failovers; else it is over within a second. */
  readonly long: boolean;
  inside: End;
  readonly remote: End;
  /** The server inside to which the firewall leads it; null: none, it goes from the inside to the outside. */
  readonly led: End | null;
  /** What the server saw; null: it saw nothing, or its answer was lost. */
  public: End | null;
  /** Just before the first packet. */
  readonly startMs: number;
  /** When the first answer was there; null: there was none. */
  firstMs: number | null;
  /** The last answer, of UDP. */
  answeredMs: number;
  /** Just before its last exchange: the FIN, the RST, the last datagram. Null: it is open. */
  closeMs: number | null;
  /** When the last packet was known to have gone. Null: it is open. */
  lastMs: number | null;
  /** Payload. */
  bytesSent: number;
  bytesReceived: number;
  /** Datagrams and echo requests; not of TCP. */
  packetsSent: number;
  packetsReceived: number;
  error: string | null;
}

export type TrafficCommand =
  /** Opens the long connections; answered when each has had an answer. */
  | { readonly type: "open"; readonly tcp: number; readonly udp: number }
  /** Begins the short ones, which come until `pause`. */
  | { readonly type: "begin" }
  /** Other ports from here on, so that no tuple is used on both sides of a failover. */
  | { readonly type: "phase" }
  /** No new short ones; answered when the last of them is over. */
  | { readonly type: "pause" }
  /** Ends all long connections but so many of TCP; answered when they are over. */
  | { readonly type: "close"; readonly keep: number }
  | { readonly type: "report" };

/** The flows are those so far. */
export interface TrafficAnswer {
  readonly flows: readonly TrafficFlow[];
  readonly error?: string;
}

/** Port of the server. */
export const TRAFFIC_PORT = 7010;
/** Port of the firewalls' virtual address that is led to the server inside. */
export const LED_PORT = 7080;
/** Payload of a datagram to the server, and of its answer. */
export const DATAGRAM_BYTES = 100;
export const DATAGRAM_ANSWER_BYTES = 64;
