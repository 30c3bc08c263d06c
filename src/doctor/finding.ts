/** What a finding means for a failover. */
export type Severity = "ok" | "note" | "warning" | "breaks";

/** One thing that `doctor` looked at. */
export interface Finding {
  /** A stable name: `kernel.events`. */
  readonly id: string;
  readonly severity: Severity;
  /** What was found, in a line. */
  readonly text: string;
  /** What to do; null where nothing is to be done. */
  readonly cure: string | null;
}

/** All is well here. */
export function ok(id: string, text: string): Finding {
  return { id, severity: "ok", text, cure: null };
}

/** It costs a feature, not a failover. */
export function note(id: string, text: string, cure: string): Finding {
  return { id, severity: "note", text, cure };
}

/** A failover works now, and might not under load, after a reboot, or later. */
export function warning(id: string, text: string, cure: string): Finding {
  return { id, severity: "warning", text, cure };
}

/** A failover would lose connections. */
export function breaks(id: string, text: string, cure: string): Finding {
  return { id, severity: "breaks", text, cure };
}
