/** What an internal cache counts; the group `internal` of `stats`. */
export interface InternalCounters {
  created: number;
  createFailedFull: number;
  updated: number;
  destroyed: number;
  destroyUnknown: number;
  /** A destroy that came after its tuple had been taken by a newer flow. */
  destroyStale: number;
  /** A new flow met the record of one whose end was never reported. */
  replaced: number;
  /** Rows that a dump no longer found. */
  sweptByDump: number;
}

/** All at zero. */
export function newInternalCounters(): InternalCounters {
  return {
    created: 0,
    createFailedFull: 0,
    updated: 0,
    destroyed: 0,
    destroyUnknown: 0,
    destroyStale: 0,
    replaced: 0,
    sweptByDump: 0,
  };
}
