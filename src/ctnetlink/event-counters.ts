/** What the socket has counted since it was opened. */
export interface EventCounters {
  /** Of flows and of expectations. */
  eventsReceived: number;
  datagrams: number;
  overruns: number;
  malformed: number;
  unknownType: number;
  /** Failures of recvmmsg other than ENOBUFS; each is reported as an overrun too. */
  receiveErrors: number;
  /** The receive buffer as SO_RCVBUF reads now. */
  bufferBytes: number;
  /** Times the waiting thread came back with something to read. */
  wakeups: number;
  /** Length of the filter program in the kernel; 0: there is none. */
  filterInstructions: number;
  /** Kinds of rules (protocols, addresses, states) that it was to hold and does not. */
  filterLeftOut: number;
}

/** All at zero. */
export function newEventCounters(): EventCounters {
  return {
    eventsReceived: 0,
    datagrams: 0,
    overruns: 0,
    malformed: 0,
    unknownType: 0,
    receiveErrors: 0,
    bufferBytes: 0,
    wakeups: 0,
    filterInstructions: 0,
    filterLeftOut: 0,
  };
}
