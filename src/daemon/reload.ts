import type { Logger } from "pino";
import { changedKeys, keyValues } from "../config/changes.js";
import type { Config } from "../config/config.js";
import type { ReloadReport } from "../control/protocol.js";
import { errorText } from "../errors.js";

/**
 * Applies what changed of some keys. Returns the keys that it could not apply while the daemon runs; throws when it
 * keeps all as it was.
 */
export type Applier = (next: Config, changed: readonly string[]) => readonly string[] | Promise<readonly string[]>;

interface Part {
  /** Keys, or the beginnings of keys that end with a dot. */
  readonly keys: readonly string[];
  readonly apply: Applier;
}

/** Applies a changed configuration to the parts that run, and names the keys that need a restart. */
export class Reload {
  readonly #log: Logger;
  readonly #parts: Part[] = [];
  /** What the parts run with. */
  readonly #running: Map<string, string>;
  #last: Config | null = null;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(config: Config, log: Logger) {
    this.#running = keyValues(config);
    this.#log = log;
  }

  /**
   * From now on, `apply` is called with each configuration in which one of these keys changed; with no keys, with each.
   * If there was one since the start, it is applied at once.
   */
  onReload(keys: readonly string[], apply: Applier): void {
    const part = { keys, apply };
    this.#parts.push(part);
    const last = this.#last;
    if (last !== null) this.#queue(() => this.#apply([part], last));
  }

  /** Applies a configuration. Reloads run one after the other. */
  reload(next: Config): Promise<ReloadReport> {
    return this.#queue(async () => {
      this.#last = next;
      const report = await this.#apply(this.#parts, next);
      if (report.restart.length + report.failed.length === 0) this.#log.info(report, "reloaded");
      else this.#log.warn(report, "reloaded in part: what is named restart needs a restart");
      return report;
    });
  }

  #queue<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(work);
    this.#turn = result.catch(() => undefined);
    return result;
  }

  async #apply(parts: readonly Part[], next: Config): Promise<ReloadReport> {
    const values = keyValues(next);
    const changed = changedKeys(this.#running, values);
    const applied: string[] = [];
    const failed: string[] = [];
    for (const { keys, apply } of parts) {
      const own = changed.filter((key) =>
        keys.some((each) => key === each || (each.endsWith(".") && key.startsWith(each))),
      );
      if (own.length === 0 && keys.length > 0) continue;
      try {
        const left = await apply(next, own);
        applied.push(...own.filter((key) => !left.includes(key)));
      } catch (error) {
        failed.push(errorText(error));
        this.#log.error({ error: errorText(error), keys: own }, "reload failed, a part stays as it was");
      }
    }
    for (const key of applied) {
      const value = values.get(key);
      if (value === undefined) this.#running.delete(key);
      else this.#running.set(key, value);
    }
    return { applied, restart: changedKeys(this.#running, values), failed };
  }
}
