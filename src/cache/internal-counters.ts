/** The counters of an internal cache; the group `internal` of `stats`. */
export interface InternalCounters {
  created: number;
  createFailedFull: number;
  updated: number;
  destroyed: number;
  destroyUnknown: number;
  /** Destroys that came after a newer flow had taken the tuple. */
  destroyStale: number;
  /** New flows that met the row of one whose end was never reported. */
  replaced: number;
  /** Rows that a dump no longer found. */
  sweptByDump: number;
}
