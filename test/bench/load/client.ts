import { type ChildProcess, spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { toolEnvironment } from "../../../src/lab/process.js";
import type { ChildAnswer } from "../../support/child-answers.js";
import type { LoadQuestion, LoadQuestions } from "./protocol.js";

const PROCESS = fileURLToPath(new URL("process.js", import.meta.url));

/** The load generator, in a process of its own: what it costs is not counted, and it waits for nobody. */
export class LoadProcess implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, { resolve: (answer: unknown) => void; reject: (error: Error) => void }>();
  #nextId = 1;

  constructor() {
    this.#child = spawn(process.execPath, [PROCESS], {
      env: toolEnvironment(),
      serialization: "advanced",
      stdio: ["ignore", "inherit", "inherit", "ipc"],
    });
    this.#child.on("message", (response) => this.#take(response as ChildAnswer));
    this.#child.once("exit", () => this.#fail(new Error("the load process ended")));
  }

  /** Its process id. */
  get pid(): number {
    return this.#child.pid!;
  }

  /** Asks; rejects when it cannot answer or has ended. */
  ask<Q extends LoadQuestion>(question: Q, args: LoadQuestions[Q]["args"]): Promise<LoadQuestions[Q]["answer"]> {
    const id = this.#nextId++;
    return new Promise<unknown>((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#child.send({ id, question, args });
    }) as Promise<LoadQuestions[Q]["answer"]>;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = new Promise((resolve) => this.#child.once("exit", resolve));
    // It may be in the middle of a blocking call.
    this.#child.kill("SIGKILL");
    await ended;
  }

  #take({ id, answer, error }: ChildAnswer): void {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (error === undefined) waiting?.resolve(answer);
    else waiting?.reject(new Error(error));
  }

  #fail(error: Error): void {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}
