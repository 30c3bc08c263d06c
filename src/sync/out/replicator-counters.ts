/** What a replicator counts; the group `replicator` of `stats`. */
export interface ReplicatorCounters {
  eventsNew: number;
  eventsUpdate: number;
  eventsDestroy: number;
  /** Events that our own requests (commit, purge) caused. */
  eventsOwn: number;
  filtered: number;
  /** Events and dumped entries of expectations that are replicated; those of other helpers, and those whose master is unknown or yet to come. */
  expectations: number;
  expectationsFiltered: number;
  malformed: number;
  overruns: number;
  kernelResyncs: number;
  /** Times that somebody had the kernel's table emptied. */
  kernelFlushes: number;
  kernelResyncsFailed: number;
  /** Dumps in place of events. */
  polls: number;
  pollsFailed: number;
}

/** All at zero. */
export function newReplicatorCounters(): ReplicatorCounters {
  return {
    eventsNew: 0,
    eventsUpdate: 0,
    eventsDestroy: 0,
    eventsOwn: 0,
    filtered: 0,
    expectations: 0,
    expectationsFiltered: 0,
    malformed: 0,
    overruns: 0,
    kernelResyncs: 0,
    kernelFlushes: 0,
    kernelResyncsFailed: 0,
    polls: 0,
    pollsFailed: 0,
  };
}
