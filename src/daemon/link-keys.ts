/**
 * The keys of a node on its link: whether it may listen at all, who may connect, and how long its certificate is valid.
 * Keys and list are read again on request, while everything runs.
 */
import type { Logger } from "pino";
import type { Config } from "../config/config.js";
import type { KeysStatus } from "../control/protocol.js";
import { ConntrailError } from "../errors.js";
import type { Clock } from "../flow/clock.js";
import { checkOwnCertificate, day, EXPIRY_WARN_MS, readCertificate } from "../keys/certificate.js";
import { readersOf } from "../keys/key-folder.js";

/** How often the end of the certificate is looked at, and reported while it is near. */
const LOOK_MS = 86_400_000;

/** Called when the list of nodes has been read again. A rejection leaves the list as it was. */
export type ReadersListener = (readers: readonly string[]) => Promise<void> | void;

/** A node's keys while its daemon runs. */
export class LinkKeys {
  readonly #config: Config;
  readonly #log: Logger;
  readonly #clock: Clock;
  readonly #listeners: ReadersListener[] = [];
  readonly #timer: NodeJS.Timeout;
  #readers: readonly string[] | null = null;
  #status: KeysStatus | null = null;

  /**
   * @throws ConntrailError CONFIG in one line: there are no keys, and nobody has written that there shall be none; or the
   * node's own key, certificate or list is missing, wrong, expired, or open to others
   */
  constructor(config: Config, log: Logger, clock: Clock) {
    this.#config = config;
    this.#log = log;
    this.#clock = clock;
    assertKeys(config);
    this.#look();
    this.#complain();
    this.#timer = setInterval(() => this.#complain(), LOOK_MS);
    this.#timer.unref();
  }

  /** The other nodes that may connect to this node's broker; null: whoever reaches it may do everything. */
  get readers(): readonly string[] | null {
    return this.#readers;
  }

  /** True unless there is a list of nodes that this one is not in. */
  knows(node: string): boolean {
    return this.#readers === null || this.#readers.includes(node);
  }

  /** Until when the keys are valid; null: there are none. */
  get status(): KeysStatus | null {
    return this.#status;
  }

  /** What the node's operator should know. */
  get warnings(): string[] {
    const expiry = expiryWarning(this.#status, this.#clock.wallMs());
    return expiry === null ? [] : [expiry];
  }

  /** What it means that there are no keys, or no list of nodes; null: there are. */
  #openText(): string | null {
    const { path, listen, isOpen, tls, broker } = this.#config;
    if (broker.mode === "shared") return null;
    if (isOpen && broker.login !== null && !isLoopback(listen)) {
      return `the link has no keys (${path}): whoever listens on the link at ${listen} reads all connections and the token, and can then change the tables of all nodes`;
    }
    if (isOpen && !isLoopback(listen)) {
      return `the link has no keys (${path}): whoever reaches ${listen} port ${broker.port}, local users too, can read all connections and change the tables of all nodes`;
    }
    if (tls !== null && tls.nodes === null) {
      return "tls names no nodes: whoever has any certificate of its authority can read all connections and change the tables of all nodes";
    }
    return null;
  }

  /** Calls `listener`, for as long as the daemon lives, whenever the list of nodes was read again. */
  onReaders(listener: ReadersListener): void {
    this.#listeners.push(listener);
  }

  /**
   * Reads keys and list again: a renewed certificate is served, a new node may connect, a revoked one is disconnected.
   * @throws ConntrailError CONFIG when they cannot be used; then all stays as it was
   */
  async reload(): Promise<KeysStatus | null> {
    this.#look();
    this.#complain();
    for (const listener of this.#listeners) await listener(this.#readers ?? []);
    this.#log.info({ nodes: this.#readers, keys: this.#status }, "keys read again");
    return this.#status;
  }

  close(): void {
    clearInterval(this.#timer);
  }

  #look(): void {
    const { tls, node, listen, broker } = this.#config;
    if (tls === null) return;
    // The broker of a shared cluster has a certificate of its own, and knows this node by what it likes.
    if (broker.mode === "shared") return;
    const { untilMs } = checkOwnCertificate(tls, { node, address: listen }, this.#clock.wallMs());
    const status = { untilMs, authorityUntilMs: readCertificate(tls.ca).untilMs };
    this.#readers = readersOf(tls, node);
    this.#status = status;
  }

  #complain(): void {
    const open = this.#openText();
    if (open !== null) this.#log.warn({ event: "keys.none" }, open);
    for (const warning of this.warnings) this.#log.warn({ event: "keys.expiring" }, warning);
    const { peers, tls } = this.#config;
    const unknown = peers.map(({ node }) => node).filter((node) => !this.knows(node));
    if (unknown.length > 0) {
      this.#log.warn(
        { peers: unknown, list: tls?.nodes },
        "peers may not connect here: conntrail keys add-node, or remove them",
      );
    }
  }
}

/** What is said of a certificate that ends within 30 days, or has ended; null: nothing. */
export function expiryWarning(keys: KeysStatus | null, nowMs: number): string | null {
  if (keys === null) return null;
  const untilMs = Math.min(keys.untilMs, keys.authorityUntilMs);
  const leftMs = untilMs - nowMs;
  if (leftMs > EXPIRY_WARN_MS) return null;
  const what = untilMs === keys.untilMs ? "this node's certificate" : "the authority's certificate";
  const when = leftMs > 0 ? `ends on ${day(untilMs)}, in ${Math.floor(leftMs / 86_400_000)} days` : "has expired";
  return `${what} ${when}: conntrail keys renew`;
}

function assertKeys({ path, listen, isOpen, tls, broker }: Config): void {
  if (tls !== null || isOpen || broker.mode === "shared" || isLoopback(listen)) return;
  const what = `whoever reaches ${listen} could read all connections and change the tables of all nodes`;
  const how = "make keys with conntrail keys create, or write tls: false if that is meant";
  throw new ConntrailError("CONFIG", `${path}: tls: is missing, and ${what}: ${how}`);
}

/** True for an address that only this machine reaches. */
export function isLoopback(address: string): boolean {
  return address === "::1" || address.startsWith("127.");
}
