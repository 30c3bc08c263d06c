import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Namespace } from "../../../src/lab/namespace.js";
import { toolEnvironment } from "../../../src/lab/process.js";

/** A node process in a namespace that is asked one thing at a time over its IPC channel; `script` lies beside this file. */
export class Child<Request extends object, Response> implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #exited: Promise<void>;
  readonly #title: string;
  #take: ((response: Response) => void) | null = null;
  #fail: ((error: Error) => void) | null = null;
  #queue: Promise<unknown> = Promise.resolve();

  constructor(namespace: Namespace, script: string, args: readonly string[], logFile: string) {
    const file = fileURLToPath(new URL(script, import.meta.url));
    this.#title = `${script} in ${namespace.name}`;
    const log = openSync(logFile, "a");
    this.#child = spawn("ip", namespace.execArguments(process.execPath, [file, ...args]), {
      env: toolEnvironment(),
      serialization: "advanced",
      stdio: ["ignore", log, log, "ipc"],
    });
    closeSync(log);
    this.#exited = new Promise((resolve) => {
      this.#child.once("exit", () => {
        this.#fail?.(new Error(`${this.#title} ended; see ${logFile}`));
        resolve();
      });
    });
    this.#child.on("error", (error) => this.#fail?.(error));
    this.#child.on("message", (response) => this.#take?.(response as Response));
  }

  ask(request: Request, timeoutMs = 240_000): Promise<Response> {
    const turn = this.#queue.then(
      () =>
        new Promise<Response>((resolve, reject) => {
          const timer = setTimeout(() => reject(new Error(`${this.#title} did not answer in time`)), timeoutMs);
          this.#take = (response) => {
            clearTimeout(timer);
            resolve(response);
          };
          this.#fail = (error) => {
            clearTimeout(timer);
            reject(error);
          };
          this.#child.send(request);
        }),
    );
    this.#queue = turn.catch(() => undefined);
    return turn;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.connected) this.#child.disconnect();
    await this.#exited;
  }
}
