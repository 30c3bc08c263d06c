import type { Msg } from "nats";

/** What the stream said of a message that asked. */
export interface PublishAnswer {
  /** 0 when it was refused. */
  sequence: number;
  code: number;
  text: string;
}

/** Reads an answer; one that makes no sense counts as a refusal. Never throws. */
export function parseAnswer(msg: Msg): PublishAnswer {
  if (msg.headers?.code === 503) return { sequence: 0, code: 503, text: "no stream takes the subject" };
  try {
    const { seq, error } = msg.json<{ seq?: number; error?: { err_code?: number; description?: string } }>();
    if (error === undefined && typeof seq === "number" && seq > 0) return { sequence: seq, code: 0, text: "" };
    return { sequence: 0, code: error?.err_code ?? 0, text: error?.description ?? "no sequence in the answer" };
  } catch {
    return { sequence: 0, code: 0, text: "the answer is not JSON" };
  }
}
