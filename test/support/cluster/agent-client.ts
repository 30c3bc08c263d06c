import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Namespace } from "../../../src/lab/namespace.js";
import { toolEnvironment } from "../../../src/lab/process.js";
import type { ChildAnswer } from "../child-answers.js";
import type { AgentQuestion, AgentQuestions } from "./agent-protocol.js";

const AGENT = fileURLToPath(new URL("agent.js", import.meta.url));
const ANSWER_TIMEOUT_MS = 60_000;

interface Waiting {
  resolve: (answer: unknown) => void;
  reject: (error: Error) => void;
}

/** The agent in one network namespace: see `agent-protocol.ts` for what it can be asked. */
export class Agent {
  readonly exited: Promise<void>;
  readonly #child: ChildProcess;
  readonly #name: string;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 1;

  constructor(namespace: Namespace, logFile: string) {
    this.#name = namespace.name;
    const log = openSync(logFile, "a");
    this.#child = spawn("ip", namespace.execArguments(process.execPath, [AGENT]), {
      env: toolEnvironment(),
      serialization: "advanced",
      stdio: ["ignore", log, log, "ipc"],
    });
    closeSync(log);
    this.exited = new Promise((resolve) => {
      this.#child.once("exit", () => {
        this.#fail(`the agent in ${this.#name} ended; see ${logFile}`);
        resolve();
      });
    });
    this.#child.on("error", (error) => this.#fail(`the agent in ${this.#name}: ${error.message}`));
    this.#child.on("message", (response) => this.#take(response as ChildAnswer));
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Asks; rejects when the agent cannot answer, has ended or takes longer than a minute. */
  ask<Q extends AgentQuestion>(question: Q, args: AgentQuestions[Q]["args"]): Promise<AgentQuestions[Q]["answer"]> {
    const id = this.#nextId++;
    return new Promise<unknown>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(id);
        reject(new Error(`the agent in ${this.#name} did not answer ${question} in time`));
      }, ANSWER_TIMEOUT_MS);
      const settle = (use: () => void): void => {
        clearTimeout(timer);
        use();
      };
      this.#waiting.set(id, {
        resolve: (answer) => settle(() => resolve(answer)),
        reject: (error) => settle(() => reject(error)),
      });
      this.#child.send({ id, question, args }, (error) => {
        if (error !== null) this.#fail(`the agent in ${this.#name}: ${error.message}`);
      });
    }) as Promise<AgentQuestions[Q]["answer"]>;
  }

  async stop(): Promise<void> {
    if (this.#child.connected) this.#child.disconnect();
    await this.exited;
  }

  #take({ id, answer, error }: ChildAnswer): void {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (error === undefined) waiting?.resolve(answer);
    else waiting?.reject(new Error(`the agent in ${this.#name}: ${error}`));
  }

  #fail(reason: string): void {
    for (const waiting of this.#waiting.values()) waiting.reject(new Error(reason));
    this.#waiting.clear();
  }
}
