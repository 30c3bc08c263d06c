import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Lab } from "../../src/lab/lab.js";
import { waitFor } from "../../src/lab/process.js";
import { ECHO_PORT, echoTargets, startEchoServer } from "../../src/lab/sessions.js";
import { ChildClient } from "../support/child-client.js";
import type { SessionView, TrafficQuestions } from "./traffic-protocol.js";

const CHILD = fileURLToPath(new URL("traffic-child.js", import.meta.url));
const SESSIONS = 120;
const SHORT_PER_SECOND = 12;
const OPEN_MS_MAX = 30_000;

/** Real connections from the laboratory's client to its server, through whatever firewall is primary. */
export class Traffic {
  readonly #client: ChildClient<TrafficQuestions>;

  private constructor(client: ChildClient<TrafficQuestions>) {
    this.#client = client;
  }

  /** Starts server and client, and waits until all sessions have answered. */
  static async start(lab: Lab, seed: number): Promise<Traffic> {
    await startEchoServer(lab.topology.server, lab.directory);
    const log = join(lab.directory, "traffic.log");
    const client = new ChildClient<TrafficQuestions>("client", CHILD, lab.topology.client, log);
    const traffic = new Traffic(client);
    const hosts = echoTargets({ nat4: 1, nat6: 1, routed4: 1, routed6: 1 }).map(({ host }) => host);
    const options = { seed, hosts, port: ECHO_PORT, sessions: SESSIONS, shortPerSecond: SHORT_PER_SECOND };
    await client.ask("start", options);
    await waitFor(
      "the sessions to open",
      OPEN_MS_MAX,
      async () => (await traffic.sessions()).length >= SESSIONS || undefined,
    );
    return traffic;
  }

  /** The sessions that stay. */
  sessions(): Promise<readonly SessionView[]> {
    return this.#client.ask("sessions", null);
  }

  /** Gives sessions up, and opens others in their place. */
  async drop(ids: readonly number[]): Promise<void> {
    await this.#client.ask("drop", ids);
  }

  /** How many short connections and exchanges have succeeded. */
  short(): Promise<number> {
    return this.#client.ask("short", null);
  }
}
