/** The steps of the explorer, as numbers and as words. */

/** Packets begin a flow on a machine, change it, or end it there. */
export const BEGIN = 0;
export const CHANGE = 1;
export const END = 2;
/** The daemon reads an event of its kernel, publishes, and reads a message of a peer. */
export const EVENT = 3;
export const PUBLISH = 4;
export const READ = 5;
/** A dump begins and ends. */
export const DUMP = 6;
export const DUMPED = 7;
/** The daemon dies and another one starts; the machine boots. */
export const CRASH = 8;
export const START = 9;
export const REBOOT = 10;
/** Keepalived calls, and what follows a step down. */
export const PRIMARY = 11;
export const BACKUP = 12;
export const PURGE = 13;
export const OVERRUN = 14;
export const SNAPSHOT = 15;
/** The daemon dies, and its broker loses the end of its stream. */
export const LOSE = 16;
/** A reader finds the stream shorter than it was. */
export const RESET = 17;
/** A reader asks for a snapshot. */
export const ASK = 18;
/** Mode `inject`: the daemon writes peers' flows into its kernel. */
export const WRITE = 19;
/** Packets close a connection, or change something of a flow whose event does not name TCP's state. */
export const CLOSE = 20;
export const TOUCH = 21;
/** Mode `ahead`: the flows that are too young to be written are old enough. */
export const DUE = 22;

/** Steps by their number, as scenarios name them. */
const NAMES = [
  "begin",
  "change",
  "end",
  "event",
  "publish",
  "read",
  "dump",
  "dumped",
  "crash",
  "start",
  "reboot",
  "primary",
  "backup",
  "purge",
  "overrun",
  "snapshot",
  "lose",
  "reset",
  "ask",
  "write",
  "close",
  "touch",
  "due",
] as const;

/** What the argument of a step is: a flow, a peer, or a count of messages. */
export const FLOW_STEPS: readonly number[] = [BEGIN, CHANGE, END, CLOSE, TOUCH];
const PEER_STEPS: readonly number[] = [READ, RESET, ASK];

/** A step of a machine. */
export interface Step {
  readonly type: number;
  readonly machine: number;
  /** A flow, the index of another machine, or a count; 0 where there is none. */
  readonly arg: number;
}

/** A step, and another one of the same machine that happens before its request number `gap` to the kernel. */
export interface Action extends Step {
  readonly gap: number;
  readonly within: Step | null;
}

/** A step with nothing in its middle. */
export function action(type: number, machine: number, arg = 0): Action {
  return { type, machine, arg, gap: 0, within: null };
}

const STEP_BITS = 11;

function packStep({ type, machine, arg }: Step): number {
  return type | (machine << 5) | (arg << 7);
}

function unpackStep(bits: number): Step {
  return { type: bits & 31, machine: (bits >> 5) & 3, arg: (bits >> 7) & 15 };
}

/** An action as a number of 26 bits. */
export function packAction(one: Action): number {
  const within = one.within === null ? 0 : (1 << (STEP_BITS * 2)) | (packStep(one.within) << STEP_BITS);
  return packStep(one) | within | (one.gap << (STEP_BITS * 2 + 1));
}

/** The pair of packAction. */
export function unpackAction(bits: number): Action {
  const hasWithin = (bits & (1 << (STEP_BITS * 2))) !== 0;
  return {
    ...unpackStep(bits & ((1 << STEP_BITS) - 1)),
    gap: bits >>> (STEP_BITS * 2 + 1),
    within: hasWithin ? unpackStep((bits >> STEP_BITS) & ((1 << STEP_BITS) - 1)) : null,
  };
}

function stepText({ type, machine, arg }: Step): string {
  const text = `fw${machine + 1} ${NAMES[type]}`;
  if (FLOW_STEPS.includes(type)) return `${text} flow${arg + 1}`;
  if (PEER_STEPS.includes(type)) return `${text} fw${arg + 1}`;
  return type === LOSE ? `${text} ${arg}` : text;
}

/** An action as a line of a scenario. */
export function actionText(one: Action): string {
  if (one.within === null) return stepText(one);
  return `${stepText(one)}, before request ${one.gap + 1}: ${stepText(one.within)}`;
}

function parseStep(text: string): Step {
  const match = /^fw(\d) (\w+)(?: (?:fw|flow)?(\d+))?$/.exec(text.trim());
  const type = (NAMES as readonly string[]).indexOf(match?.[2] ?? "");
  if (match === null || type < 0) throw new Error(`not a step: ${text}`);
  const isCount = type === LOSE;
  return {
    type,
    machine: Number(match[1]) - 1,
    arg: match[3] === undefined ? 0 : Number(match[3]) - (isCount ? 0 : 1),
  };
}

/** The pair of actionText. */
export function parseAction(line: string): Action {
  const match = /^(.*), before request (\d+): (.*)$/.exec(line);
  if (match === null) return { ...parseStep(line), gap: 0, within: null };
  return { ...parseStep(match[1]!), gap: Number(match[2]) - 1, within: parseStep(match[3]!) };
}
