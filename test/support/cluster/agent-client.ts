import { fileURLToPath } from "node:url";
import type { Namespace } from "../../../src/lab/namespace.js";
import { ChildClient } from "../child-client.js";
import type { AgentQuestions } from "./agent-protocol.js";

const AGENT = fileURLToPath(new URL("agent.js", import.meta.url));

/** The agent in one network namespace: see `agent-protocol.ts` for what it can be asked. */
export class Agent extends ChildClient<AgentQuestions> {
  constructor(namespace: Namespace, logFile: string) {
    super("agent", AGENT, namespace, logFile);
  }
}
