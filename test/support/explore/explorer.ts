/** Explores a scope: all states that can be reached, breadth first, each once. */
import { type Action, actionText, packAction, unpackAction } from "./actions.js";
import { Violation } from "./truth.js";
import { type Scope, type State, World } from "./world.js";

/** How far to explore. */
export interface Limits {
  readonly statesMax: number;
  readonly secondsMax: number;
  /** Every state of which the number is divisible by this is brought to rest and checked there, too. 0: none. */
  readonly restEvery: number;
  /** Ends with so many counterexamples, each to another rule. */
  readonly counterexamplesMax: number;
}

/** What was explored. */
export interface Exploration {
  readonly states: number;
  readonly transitions: number;
  /** Steps from the first state to the last one that was found. */
  readonly depth: number;
  readonly atRest: number;
  /** True when no state is left. */
  readonly complete: boolean;
  readonly seconds: number;
  /** Empty when everything held. */
  readonly counterexamples: readonly Counterexample[];
}

/** A shortest way to a state in which something does not hold. */
export interface Counterexample {
  readonly scope: Scope;
  readonly actions: readonly Action[];
  readonly violation: string;
  /** The last state, in words. */
  readonly state: readonly string[];
}

/** States by their digest, with the way to each. */
class Visited {
  #a = new Int32Array(1 << 16);
  #b = new Int32Array(1 << 16);
  #numbers = new Int32Array(1 << 16);
  #parents = new Int32Array(1 << 16);
  #actions = new Int32Array(1 << 16);
  count = 0;

  /** Adds a state; its number, or -1 when it is known. */
  add(a: number, b: number, parent: number, packed: number): number {
    if (this.count * 2 >= this.#numbers.length) this.#grow();
    const mask = this.#numbers.length - 1;
    let at = a & mask;
    for (; this.#numbers[at] !== 0; at = (at + 1) & mask) if (this.#a[at] === a && this.#b[at] === b) return -1;
    this.#a[at] = a;
    this.#b[at] = b;
    this.#numbers[at] = ++this.count;
    if (this.count >= this.#parents.length) {
      this.#parents = larger(this.#parents);
      this.#actions = larger(this.#actions);
    }
    this.#parents[this.count] = parent;
    this.#actions[this.count] = packed;
    return this.count;
  }

  /** The actions from the first state to this one. */
  way(number: number): Action[] {
    const actions: Action[] = [];
    for (let at = number; this.#parents[at]! > 0; at = this.#parents[at]!)
      actions.push(unpackAction(this.#actions[at]!));
    return actions.reverse();
  }

  #grow(): void {
    const [a, b, numbers] = [this.#a, this.#b, this.#numbers];
    const size = numbers.length * 2;
    this.#a = new Int32Array(size);
    this.#b = new Int32Array(size);
    this.#numbers = new Int32Array(size);
    for (let i = 0; i < numbers.length; i++) {
      if (numbers[i] === 0) continue;
      let at = a[i]! & (size - 1);
      while (this.#numbers[at] !== 0) at = (at + 1) & (size - 1);
      this.#a[at] = a[i]!;
      this.#b[at] = b[i]!;
      this.#numbers[at] = numbers[i]!;
    }
  }
}

function larger(array: Int32Array): Int32Array<ArrayBuffer> {
  const copy = new Int32Array(array.length * 2);
  copy.set(array);
  return copy;
}

interface Found {
  readonly state: State;
  readonly number: number;
}

/** Seconds that pass in the real world: the nodes have a clock of their own, which stands still. */
function realSeconds(): number {
  return Number(process.hrtime.bigint()) / 1e9;
}

/** Explores a scope until something does not hold, nothing is left, or a limit is reached. */
export async function explore(scope: Scope, limits: Limits, world = new World(scope)): Promise<Exploration> {
  const started = realSeconds();
  const visited = new Visited();
  const first = await world.begin();
  const root = world.digest(first);
  let level: (Found | null)[] = [{ state: first, number: visited.add(root.a, root.b, 0, 0) }];
  let [depth, transitions, atRest] = [0, 0, 0];
  const found = new Map<string, Counterexample>();
  const result = (complete: boolean): Exploration => {
    const seconds = realSeconds() - started;
    return {
      states: visited.count,
      transitions,
      depth,
      atRest,
      complete,
      seconds,
      counterexamples: [...found.values()],
    };
  };
  const isOver = (): boolean => visited.count >= limits.statesMax || realSeconds() - started > limits.secondsMax;
  for (; level.length > 0; depth++) {
    const next: Found[] = [];
    for (let index = 0; index < level.length; index++) {
      const { state, number } = level[index]!;
      // What is explored is let go.
      level[index] = null;
      if (isOver()) return result(false);
      world.load(state);
      for (const one of [...world.actions()]) {
        world.load(state);
        const toRest: Action[] = [];
        try {
          transitions++;
          if (!(await world.run(one))) continue;
          if (world.isAtRest) {
            world.truth.check();
            atRest++;
          }
          const reached = world.save();
          const { a, b } = world.digest(reached);
          const known = visited.add(a, b, number, packAction(one));
          if (known < 0) continue;
          next.push({ state: reached, number: known });
          if (limits.restEvery === 0 || known % limits.restEvery !== 0) continue;
          await world.rest((step) => toRest.push(step));
          world.truth.check();
        } catch (error) {
          if (!(error instanceof Violation)) throw describe(error, [...visited.way(number), one, ...toRest]);
          const actions = [...visited.way(number), one, ...toRest];
          const violation = error.message;
          if (!found.has(violation)) found.set(violation, { scope, actions, violation, state: world.truth.describe() });
          if (found.size >= limits.counterexamplesMax) return result(false);
        }
      }
    }
    level = next;
  }
  return result(true);
}

function describe(error: unknown, actions: readonly Action[]): Error {
  return new Error(`after ${actions.map(actionText).join("; ")}`, { cause: error });
}
