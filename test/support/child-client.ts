import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import type { Namespace } from "../../src/lab/namespace.js";
import { toolEnvironment } from "../../src/lab/process.js";
import type { ChildAnswer } from "./child-answers.js";

const ANSWER_TIMEOUT_MS = 60_000;

interface Waiting {
  resolve: (answer: unknown) => void;
  reject: (error: Error) => void;
}

/** Each question of a child with its arguments and its answer. */
type Questions<T> = { readonly [Q in keyof T]: { args: unknown; answer: unknown } };

/** The parent's side of a child in a network namespace, which answers questions (`child-answers.ts`). */
export class ChildClient<T extends Questions<T>> {
  readonly exited: Promise<void>;
  readonly #child: ChildProcess;
  readonly #name: string;
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 1;

  /** `title`: what the child is called in errors. */
  constructor(title: string, script: string, namespace: Namespace, logFile: string) {
    this.#name = `the ${title} in ${namespace.name}`;
    const log = openSync(logFile, "a");
    this.#child = spawn("ip", namespace.execArguments(process.execPath, [script]), {
      env: toolEnvironment(),
      serialization: "advanced",
      stdio: ["ignore", log, log, "ipc"],
    });
    closeSync(log);
    this.exited = new Promise((resolve) => {
      this.#child.once("exit", () => {
        this.#fail(`${this.#name} ended; see ${logFile}`);
        resolve();
      });
    });
    this.#child.on("error", (error) => this.#fail(`${this.#name}: ${error.message}`));
    this.#child.on("message", (response) => this.#take(response as ChildAnswer));
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Asks; rejects when the child cannot answer, has ended or takes longer than a minute. */
  ask<Q extends keyof T & string>(question: Q, args: T[Q]["args"]): Promise<T[Q]["answer"]> {
    const id = this.#nextId++;
    return new Promise<unknown>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(id);
        reject(new Error(`${this.#name} did not answer ${question} in time`));
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
        if (error !== null) this.#fail(`${this.#name}: ${error.message}`);
      });
    }) as Promise<T[Q]["answer"]>;
  }

  async stop(): Promise<void> {
    if (this.#child.connected) this.#child.disconnect();
    await this.exited;
  }

  #take({ id, answer, error }: ChildAnswer): void {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (error === undefined) waiting?.resolve(answer);
    else waiting?.reject(new Error(`${this.#name}: ${error}`));
  }

  #fail(reason: string): void {
    for (const waiting of this.#waiting.values()) waiting.reject(new Error(reason));
    this.#waiting.clear();
  }
}
