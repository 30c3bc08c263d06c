import { isIP } from "node:net";

/** An address and a port on which something listens. */
export interface Endpoint {
  readonly host: string;
  readonly port: number;
}

/**
 * An IPv4 or IPv6 address in its canonical spelling, so that spellings compare equal; undefined for anything else.
 * Scopes (`%eth1`) are refused.
 */
export function canonicalAddress(value: unknown): string | undefined {
  if (typeof value !== "string" || value.includes("%")) return undefined;
  const family = isIP(value);
  if (family === 4) return value;
  if (family !== 6) return undefined;
  return new URL(`http://[${value}]`).hostname.slice(1, -1);
}

/** The address of a single host, neither a wildcard nor multicast; undefined for anything else. */
export function hostAddress(value: unknown): string | undefined {
  const address = canonicalAddress(value);
  if (address === undefined || address === "::") return undefined;
  if (address.includes(":")) return address.startsWith("ff") ? undefined : address;
  const first = Number(address.split(".")[0]);
  return first === 0 || first >= 224 ? undefined : address;
}

/** fe80::/10, which means nothing without its interface. */
const LINK_LOCAL = /^fe[89ab]/;

/** The interface of a link-local address: `fe80::1%eth2`. */
const SCOPE = /^([^%]+)%([^\s%/\]]{1,15})$/;

/**
 * The address of a node on the dedicated link: that of a single host, if it is link-local with its interface; undefined
 * for anything else.
 */
export function nodeAddress(value: unknown): string | undefined {
  const [, text, scope] = typeof value === "string" ? (SCOPE.exec(value) ?? []) : [];
  const address = hostAddress(text ?? value);
  if (address === undefined || LINK_LOCAL.test(address) !== (scope !== undefined)) return undefined;
  return scope === undefined ? address : `${address}%${scope}`;
}

/** True for a link-local address, with an interface or without. */
export function isLinkLocal(address: string): boolean {
  return LINK_LOCAL.test(address);
}

/** The address of a multicast group; undefined for anything else. */
export function multicastGroup(value: unknown): string | undefined {
  const address = canonicalAddress(value);
  if (address?.includes(":")) return address.startsWith("ff") ? address : undefined;
  const first = Number(address?.split(".")[0]);
  return first >= 224 && first <= 239 ? address : undefined;
}

/** `192.0.2.0/24`, `2001:db8::/32` or a single address, in canonical spelling; undefined for anything else. */
export function canonicalNetwork(value: unknown): string | undefined {
  if (typeof value !== "string") return undefined;
  const [text, prefix, more] = value.split("/");
  const address = canonicalAddress(text);
  if (address === undefined || more !== undefined) return undefined;
  if (prefix === undefined) return address;
  if (!/^\d{1,3}$/.test(prefix)) return undefined;
  return Number(prefix) <= (address.includes(":") ? 128 : 32) ? `${address}/${Number(prefix)}` : undefined;
}

/** `127.0.0.1:9469` or `[::1]:9469`; undefined for anything else. */
export function parseEndpoint(value: unknown): Endpoint | undefined {
  if (typeof value !== "string") return undefined;
  const match = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(value);
  const host = canonicalAddress(match?.[1] ?? match?.[2]);
  const port = Number(match?.[3]);
  if (host === undefined || host.includes(":") !== (match?.[1] !== undefined)) return undefined;
  return port >= 1 && port <= 65535 ? { host, port } : undefined;
}

/**
 * `nats://host:port`, `tls://host:port` or `host:port`, as the broker's client accepts it; undefined for anything
 * else.
 */
export function parseServer(value: unknown): string | undefined {
  if (typeof value !== "string") return undefined;
  const match = /^(?:(?:nats|tls):\/\/)?(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})$/.exec(value);
  if (match === null || (match[1] !== undefined && isIP(match[1]) !== 6)) return undefined;
  const port = Number(match[3]);
  return port >= 1 && port <= 65535 ? value : undefined;
}
