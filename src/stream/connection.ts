import { readFileSync, statSync } from "node:fs";
import { isIP } from "node:net";
import { checkServerIdentity, type PeerCertificate } from "node:tls";
import {
  type Authenticator,
  credsAuthenticator,
  Events,
  type JetStreamManager,
  type Msg,
  type NatsConnection,
  nkeyAuthenticator,
  type Subscription,
  type TlsOptions,
  tokenAuthenticator,
  usernamePasswordAuthenticator,
} from "nats";
import type { Logger } from "pino";
import { ConntrailError, errorText } from "../errors.js";
import { plainText } from "../flow/plain-text.js";
import { Backoff } from "../os/backoff.js";
import { pause } from "../os/pause.js";
import { brokerName, inboxPrefix, nodeOfStream } from "./format/subjects.js";
import { watchLiveness } from "./liveness.js";
import { clientServer } from "./scoped-host.js";
import { connectGuarded, type GuardedOptions } from "./transport.js";

/** Paths of PEM files. They are read at each connect, so a renewed certificate needs no restart. */
export interface TlsFiles {
  ca: string;
  cert: string;
  key: string;
}

/** How to log in. The secret is read from its file at each connect. */
export type BrokerLogin =
  | { readonly kind: "creds" | "nkey" | "token"; readonly file: string }
  | { readonly kind: "user"; readonly user: string; readonly file: string };

/** Where to connect, as whom, and what for. */
export interface BrokerConnectionOptions {
  /** `host:port` or `[host]:port`; more than one only for a shared cluster. */
  servers: readonly string[];
  /** The local node: it names the connection and the inbox. */
  node: string;
  /** The cluster, on a broker that all nodes share: their names there have it in them. Null: a node's own broker. */
  cluster?: string | null;
  /** What the connection is for, for the broker's logs: `publisher`, `peer fw2`. */
  purpose: string;
  /** With TLS: a name that the broker's certificate may have instead of its address. Usually the peer's node name. */
  serverName?: string;
  tls?: TlsFiles;
  /** With TLS: the broker's certificate must have `serverName`; its address is not enough. */
  onlyByName?: boolean;
  /** Null: by the certificate, or not at all. */
  login?: BrokerLogin | null;
  /** With TLS: asked at each connect whether the node at the other end may still be trusted. */
  trusts?: () => boolean;
  /**
   * The broker lets this node request messages of a peer's stream, and nothing else of it: what it may not do itself, it
   * asks the peer's daemon for.
   */
  asksDaemon?: boolean;
  /** After how long a silence the broker is pinged, by default a second. */
  quietMs?: number;
  /** How soon the first attempt is repeated, by default 100 ms; later attempts wait longer and longer. */
  retryMs?: number;
  log: Logger;
}

/** The way to the broker that holds a node's stream, in plain values: they may go to another process. */
export type OwnBrokerAccess = Pick<
  BrokerConnectionOptions,
  "servers" | "node" | "serverName" | "tls" | "login" | "cluster" | "asksDaemon"
>;

/** Called with true when the connection is up (again) and with false when it is lost. Must not throw. */
export type ConnectionListener = (connected: boolean) => void;

/** How long JetStream's API may take to answer, where nothing else is said. */
export const API_TIMEOUT_MS = 2000;

/** JetStream's API through a client; does not ask first whether it is there. */
export function jetStreamOf(client: NatsConnection, timeoutMs = API_TIMEOUT_MS): Promise<JetStreamManager> {
  return client.jetstreamManager({ checkAPI: false, timeout: timeoutMs });
}

/** For the broker on this machine: missing confirmations show that it hangs. */
export const OWN_QUIET_MS = 10_000;
const QUIET_MS = 1000;
/** The client's own pings would come however much the broker sends. */
const CLIENT_PING_MS = 86_400_000;
const VERSION = /^[\w.+-]{1,64}$/;
const CONNECT_TIMEOUT_MS = 2000;
const RETRY_MS_MIN = 100;
const RETRY_MS_MAX = 1000;
const CLOSE_TIMEOUT_MS = 1000;
const ERROR_CHARS_MAX = 500;

/** Starts a connection. Returns at once: an absent broker is no error, it is tried again until `close`. */
export function connectBroker(options: BrokerConnectionOptions): BrokerConnection {
  return new BrokerConnection(options);
}

/**
 * One connection to one broker, for as long as the daemon lives. A dead link is noticed some 3 seconds after the last
 * message, a broker that closes the connection at once; both are retried until `close`.
 */
export class BrokerConnection {
  readonly node: string;
  readonly #options: BrokerConnectionOptions;
  readonly #log: Logger;
  readonly #listeners = new Set<ConnectionListener>();
  /** Those that wait for the next change, or for the end. */
  readonly #waiters = new Set<() => void>();
  readonly #stop = new AbortController();
  readonly #done: Promise<void>;
  #client: NatsConnection | null = null;
  #connected = false;
  #lastError = "";
  /** How often the connection was lost after it had been up. */
  disconnects = 0;

  constructor(options: BrokerConnectionOptions) {
    this.node = options.node;
    this.#options = options;
    this.#log = options.log;
    this.#done = this.#run().catch((error: unknown) => {
      this.#log.error({ err: error }, "the broker connection ended");
    });
  }

  /** The client while the connection is up, else null. It may be another object after a reconnect. */
  get client(): NatsConnection | null {
    return this.#connected ? this.#client : null;
  }

  /** The version that the broker says it has; null while there is no connection, and for anything else. */
  get version(): string | null {
    const version: unknown = this.#client?.info?.version;
    return typeof version === "string" && VERSION.test(version) ? version : null;
  }

  get connected(): boolean {
    return this.#connected;
  }

  get closed(): boolean {
    return this.#stop.signal.aborted;
  }

  /** Why the last attempt to connect failed; empty while connected. */
  get lastError(): string {
    return this.#lastError;
  }

  /** True for the stream of a peer whose daemon is asked for what this node may not do itself. */
  asksDaemonOf(node: string): boolean {
    return this.#options.asksDaemon === true && node !== this.node;
  }

  /** True for a broker that all nodes share: a stream can be read there when its node is dead. */
  get isShared(): boolean {
    return (this.#options.cluster ?? null) !== null;
  }

  /** What a node is called on this broker. */
  nameOf(node: string): string {
    return brokerName(node, this.#options.cluster ?? null);
  }

  /** The node of a stream on this broker; null when the stream is none of this cluster's. */
  nodeOf(stream: string): string | null {
    return nodeOfStream(stream, this.#options.cluster ?? null);
  }

  /**
   * Calls `heard` for each message on a subject, also after reconnects, until the returned function is called. Must not
   * throw.
   */
  subscribe(subject: string, heard: (client: NatsConnection, message: Msg) => void): () => void {
    let subscription: Subscription | null = null;
    const follow = (connected: boolean): void => {
      subscription?.unsubscribe();
      const { client } = this;
      subscription =
        connected && client !== null
          ? client.subscribe(subject, {
              callback: (error, message) => {
                if (error === null) heard(client, message);
              },
            })
          : null;
    };
    const unwatch = this.watch(follow);
    if (this.connected) follow(true);
    return () => {
      unwatch();
      subscription?.unsubscribe();
    };
  }

  /** Calls `listener` at every change from now on, until the function that is returned is called. */
  watch(listener: ConnectionListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** The client as soon as there is one. @throws ConntrailError BROKER after `timeoutMs`, or when closed. */
  async ready(timeoutMs: number): Promise<NatsConnection> {
    const deadlineMs = performance.now() + timeoutMs;
    while (this.client === null) {
      const leftMs = deadlineMs - performance.now();
      if (this.closed || leftMs <= 0) {
        const why = this.#lastError === "" ? "no answer" : this.#lastError;
        throw new ConntrailError(
          "BROKER",
          `no connection to the broker at ${this.#options.servers.join(", ")}: ${why}`,
        );
      }
      await this.#change(leftMs);
    }
    return this.client;
  }

  /** Connects again, and so asks again whether the other end may be trusted. */
  async renew(): Promise<void> {
    await this.client?.reconnect().catch((error: unknown) => this.#noteError(errorText(error)));
  }

  /** Closes for good. Returns within about a second, whatever the network does. */
  async close(): Promise<void> {
    if (this.closed) return;
    this.#stop.abort();
    this.#wake();
    const client = this.#client;
    const closing = client === null ? this.#done : client.close().then(() => this.#done);
    await Promise.race([closing.catch(() => undefined), pause(CLOSE_TIMEOUT_MS, undefined, { ref: false })]);
    this.#set(false);
    this.#listeners.clear();
  }

  async #run(): Promise<void> {
    const backoff = new Backoff({ minMs: this.#options.retryMs ?? RETRY_MS_MIN, maxMs: RETRY_MS_MAX });
    while (!this.closed) {
      try {
        const client = await connectGuarded(this.#clientOptions());
        backoff.reset();
        await this.#follow(client);
      } catch (error) {
        this.#noteError(errorText(error));
      }
      await pause(backoff.nextMs(), this.#stop.signal, { ref: false });
    }
  }

  /** Returns when the client is closed for good. */
  async #follow(client: NatsConnection): Promise<void> {
    if (this.closed) return client.close();
    this.#client = client;
    this.#set(true);
    const over = new AbortController();
    void watchLiveness({
      client,
      quietMs: this.#options.quietMs ?? QUIET_MS,
      connected: () => this.#connected,
      dead: () => void client.reconnect(),
      signal: over.signal,
    });
    // The iterator of a closed client never ends: `closed` ends the wait, and the iterator is collected.
    const changes = this.#noteChanges(client).catch((error: unknown) => this.#noteError(errorText(error)));
    await Promise.race([client.closed(), changes]);
    over.abort();
    this.#set(false);
    this.#client = null;
  }

  async #noteChanges(client: NatsConnection): Promise<void> {
    for await (const { type, data } of client.status()) {
      if (client !== this.#client) return;
      if (type === Events.Disconnect) this.#set(false);
      else if (type === Events.Reconnect) this.#set(true);
      else if (type === Events.Error) this.#noteError(String(data));
    }
  }

  #set(connected: boolean): void {
    if (this.#connected === connected) return;
    this.#connected = connected;
    const servers = this.#options.servers.join(",");
    if (connected) {
      this.#lastError = "";
      this.#log.info({ broker: servers, version: this.version }, "broker connected");
    } else {
      this.disconnects++;
      if (!this.closed) this.#log.warn({ broker: servers }, "broker connection lost");
    }
    for (const listener of [...this.#listeners]) listener(connected);
    this.#wake();
  }

  #wake(): void {
    for (const wake of [...this.#waiters]) wake();
  }

  /** The text may be a server's. */
  #noteError(said: string): void {
    const text = plainText(said.slice(0, ERROR_CHARS_MAX));
    if (text === this.#lastError || this.closed) return;
    this.#lastError = text;
    this.#log.warn({ broker: this.#options.servers.join(","), error: text }, "broker connection refused");
  }

  #change(timeoutMs: number): Promise<void> {
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(timer);
        this.#waiters.delete(end);
        resolve();
      };
      const timer = setTimeout(end, timeoutMs);
      this.#waiters.add(end);
    });
  }

  #clientOptions(): GuardedOptions {
    const { servers, node, purpose, tls, login } = this.#options;
    return {
      servers: servers.map(clientServer),
      name: `conntrail ${node} ${purpose}`,
      inboxPrefix: inboxPrefix(this.nameOf(node)),
      timeout: CONNECT_TIMEOUT_MS,
      pingInterval: CLIENT_PING_MS,
      maxReconnectAttempts: -1,
      reconnectTimeWait: 100,
      reconnectJitter: 50,
      reconnectJitterTLS: 100,
      ignoreAuthErrorAbort: true,
      // A shared cluster announces its members; a standalone broker only itself, by an address that may not be ours.
      ignoreClusterUpdates: servers.length === 1,
      noAsyncTraces: true,
      onRefused: (reason) => this.#noteError(reason),
      ...(login === undefined || login === null ? {} : { authenticator: authenticatorOf(login) }),
      ...(tls === undefined ? {} : { tls: tlsOptions(tls, servers[0] ?? "", this.#options) }),
    };
  }
}

/** @throws when the secret cannot be read, or others can read it */
function authenticatorOf(login: BrokerLogin): Authenticator {
  const secret = readSecret(login.file);
  switch (login.kind) {
    case "creds":
      // The client looks for the line feed behind the last line.
      return credsAuthenticator(new TextEncoder().encode(`${secret}\n`));
    case "nkey":
      return nkeyAuthenticator(new TextEncoder().encode(secret));
    case "token":
      return tokenAuthenticator(secret);
    case "user":
      return usernamePasswordAuthenticator(login.user, secret);
    default:
      return login satisfies never;
  }
}

/** A secret in a file, without the line feed at its end. @throws Error in one line when others can read it too */
export function readSecret(path: string): string {
  if ((statSync(path).mode & 0o027) !== 0)
    throw new Error(`${path}: can be read or written by others: chmod 600 ${path}`);
  return readFileSync(path, "utf8").trimEnd();
}

/**
 * The certificate may be for the address or for the node's name. When the server is an address there is no name to
 * send, and the client would compare with "localhost": so the names are given and compared here.
 */
function tlsOptions(
  tls: TlsFiles,
  server: string,
  { serverName, onlyByName = false, trusts = () => true }: BrokerConnectionOptions,
): TlsOptions {
  const host = hostOf(server);
  const sent = serverName ?? (isIP(host) === 0 ? host : "");
  const options = {
    caFile: tls.ca,
    certFile: tls.cert,
    keyFile: tls.key,
    servername: sent,
    checkServerIdentity: (name: string, certificate: PeerCertificate) => {
      if (!trusts()) return new Error(`${serverName ?? name} was revoked, or is not among the nodes`);
      // In a shared cluster the client may be connected to another member than the first one.
      const candidates = [...(onlyByName ? [] : [host]), serverName ?? name];
      let failure: Error | undefined;
      for (const candidate of candidates) {
        failure = checkServerIdentity(candidate, certificate);
        if (failure === undefined) return undefined;
      }
      return failure;
    },
  };
  return options;
}

function hostOf(server: string): string {
  const match = /^\[(.+)\](?::\d+)?$/.exec(server) ?? /^([^:]+)(?::\d+)?$/.exec(server);
  return match?.[1] ?? server;
}
