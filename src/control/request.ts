import { z } from "zod";
import { ConntrailError } from "../errors.js";
import {
  type CommandArgs,
  type CommandName,
  FLOW_TABLES,
  FLUSH_TARGETS,
  GROUP_NAME,
  HOOK_ROLES,
  PROTOCOL_VERSION,
  RESYNC_SOURCES,
  ROW_KINDS,
} from "./protocol.js";

/** A request that has been checked. */
export type ControlRequest = { [C in CommandName]: { command: C; args: CommandArgs[C] } }[CommandName];

const none = z.strictObject({}).default({});

const expectationsArgs = z.strictObject({ table: z.enum(FLOW_TABLES), offset: z.int().min(0) });

const hookArgs = z.strictObject({ role: z.enum(HOOK_ROLES), group: z.string().regex(GROUP_NAME).optional() });

const only = z.enum(ROW_KINDS).optional();

const flushArgs = z.strictObject({ table: z.enum(FLUSH_TARGETS), only });

const wait = z.boolean().optional();

const resyncArgs = z.strictObject({ source: z.enum(RESYNC_SOURCES), wait });

const requestSchema = z.discriminatedUnion("command", [
  z.strictObject({ command: z.literal("status"), args: none }),
  z.strictObject({ command: z.literal("stats"), args: none }),
  z.strictObject({ command: z.literal("dump"), args: z.strictObject({ table: z.enum(FLOW_TABLES) }) }),
  z.strictObject({ command: z.literal("expectations"), args: expectationsArgs }),
  z.strictObject({ command: z.literal("commit"), args: z.strictObject({ only }).default({}) }),
  z.strictObject({ command: z.literal("flush"), args: flushArgs }),
  z.strictObject({ command: z.literal("resync"), args: resyncArgs }),
  z.strictObject({ command: z.literal("bulk"), args: z.strictObject({ wait }).default({}) }),
  z.strictObject({ command: z.literal("purge"), args: none }),
  z.strictObject({ command: z.literal("stop"), args: none }),
  z.strictObject({ command: z.literal("hook"), args: hookArgs }),
]);

const envelopeSchema = z.object({ version: z.number() });

/** The request in a line. Throws ConntrailError MALFORMED that says what is wrong with it. */
export function parseRequest(line: string): ControlRequest {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw new ConntrailError("MALFORMED", "request is not a line of JSON", { cause: error });
  }
  const envelope = envelopeSchema.safeParse(value);
  if (!envelope.success) throw new ConntrailError("MALFORMED", "request has no protocol version");
  if (envelope.data.version !== PROTOCOL_VERSION) {
    const versions = `daemon speaks control protocol ${PROTOCOL_VERSION}, the command line ${envelope.data.version}`;
    throw new ConntrailError(
      "MALFORMED",
      `${versions}: restart the daemon after an update, use the same release of both`,
    );
  }
  const { version: _, ...rest } = value as Record<string, unknown>;
  const request = requestSchema.safeParse(rest);
  if (request.success) return request.data;
  const issue = request.error.issues[0];
  throw new ConntrailError("MALFORMED", `request is not one: ${issue?.path.join(".") ?? ""}: ${issue?.message ?? ""}`);
}
