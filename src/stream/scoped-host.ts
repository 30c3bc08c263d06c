/**
 * Link-local addresses with their interface (`fe80::1%eth2`). The client of the broker takes what it connects to for a
 * URL, in which those cannot be written: it gets a name in their place, which only this transport resolves.
 */
const SUFFIX = ".link-local";

/** The server as the broker's client takes it: `[fe80::1%eth2]:4222` becomes a name with the same port. */
export function clientServer(server: string): string {
  return server.replace(/\[([0-9a-f:]+)%([^\]]+)\]/i, (_, address: string, scope: string) => {
    return `${address.replaceAll(":", "-")}.${Buffer.from(scope, "utf8").toString("hex")}${SUFFIX}`;
  });
}

/** True for a name that `clientServer` made. */
export function isScopedHost(hostname: string): boolean {
  return hostname.endsWith(SUFFIX);
}

/** The address of such a name; any other host is returned as it is. */
export function dialledHost(hostname: string): string {
  if (!isScopedHost(hostname)) return hostname;
  const [address = "", scope = ""] = hostname.slice(0, -SUFFIX.length).split(".");
  return `${address.replaceAll("-", ":")}%${Buffer.from(scope, "hex").toString("utf8")}`;
}
