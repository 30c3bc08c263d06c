/** The answer to a check of flows, as FORMAT.md has it: would they be there after a takeover? */
import { z } from "zod";

/** Limit of flows in one check. */
export const CHECK_FLOWS_MAX = 1024;

/** What a node says of the flows of a check, by their flow ids in it. */
export interface CheckAnswer {
  /** It does not have them. */
  readonly missing: readonly number[];
  /** It has them in another state, or translated differently. */
  readonly differing: readonly number[];
  /** Its kernel lacks their helper, so they would go in without it. */
  readonly withoutHelper: readonly number[];
  /** Entries that its kernel has room for, and flows that a takeover would create; null: not known. */
  readonly room: number | null;
  readonly needed: number;
}

const count = z.number().int().nonnegative();
const flowIds = z.array(count.max(CHECK_FLOWS_MAX - 1)).max(CHECK_FLOWS_MAX);
const answerSchema = z.object({
  conntrail: z.literal(1),
  ...{ missing: flowIds, differing: flowIds, withoutHelper: flowIds },
  ...{ room: count.nullable(), needed: count },
});

/** The answer as it is sent. */
export function encodeCheckAnswer(answer: CheckAnswer): string {
  return JSON.stringify({ conntrail: 1, ...answer });
}

/** Null when it is malformed, or of another version. Never throws. */
export function decodeCheckAnswer(text: string): CheckAnswer | null {
  try {
    const answer = answerSchema.safeParse(JSON.parse(text));
    return answer.success ? answer.data : null;
  } catch {
    return null;
  }
}
