/**
 * The one error class for conditions that a person can act on.
 * `code` is stable and may be tested for; `message` is one line: what, where, what to do.
 * Expected outcomes (EEXIST, a lost peer, an overrun) are values, not errors.
 */
export class ConntrailError extends Error {
  override readonly name = "ConntrailError";
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
  }
}

/**
 * Stable codes. `CONFIG` and `USAGE` end a command with exit code 2, all others with 1. `AGAIN`: the daemon starts or
 * ends just now, and may take the same request in a moment.
 */
export type ErrorCode =
  | "CONFIG"
  | "USAGE"
  | "PERMISSION"
  | "KERNEL"
  | "BROKER_MISSING"
  | "BROKER"
  | "PORT_TAKEN"
  | "STORE"
  | "CONTROL"
  | "ALREADY_RUNNING"
  | "AGAIN"
  | "MALFORMED"
  | "TIMEOUT";

/** The one-line text of anything that was thrown. */
export function errorText(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
