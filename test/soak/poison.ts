import { stampOfMs } from "../../src/flow/clock.js";
import type { MessageKind } from "../../src/stream/format/subjects.js";
import { readPlain, writePlain } from "../support/msgpack.js";
import type { Random } from "../support/records.js";
import { tcpRecord } from "../support/records.js";
import { StreamWriter } from "../support/stream-writer.js";

/** What nobody should find in a node's stream. */
export const POISONS = [
  "a stamp in the future",
  "an epoch in the future",
  "another node",
  "an unknown version",
  "garbage",
] as const;

/** One of POISONS. */
export type Poison = (typeof POISONS)[number];

const GARBAGE_BYTES_MAX = 2000;
const FAR = 2 ** 50;

/** A poisoned message of the stream of `node`. */
export function poisonedMessage(
  poison: Poison,
  node: string,
  random: Random,
): { kind: MessageKind; payload: Uint8Array } {
  const writer = new StreamWriter(poison === "another node" ? "fw9" : node);
  writer.epoch = poison === "an epoch in the future" ? Number.MAX_SAFE_INTEGER - 1 : Date.now();
  writer.number = 1_000_000;
  writer.wallMs = Date.now();
  writer.stamp = stampOfMs(Date.now()) + (poison === "a stamp in the future" ? FAR : 0);
  const message = random.oneIn(2)
    ? writer.mark({ type: "gap", reason: "poison" })
    : writer.events((batch) => batch.addNew(77, tcpRecord(77), 0, null, null));
  if (poison === "garbage") {
    const payload = Uint8Array.from({ length: 1 + random.below(GARBAGE_BYTES_MAX) }, () => random.below(256));
    return { kind: message.kind, payload };
  }
  if (poison !== "an unknown version") return message;
  const envelope = readPlain(message.payload) as { [key: string]: never };
  return { kind: message.kind, payload: writePlain({ ...envelope, v: 99 }) };
}
