/** Holes of nats-server that count in conntrail's use of it: clients, users, TLS and JetStream of a standalone server. */
import { type BrokerVersion, versionAtLeast } from "./broker-config.js";

interface Advisory {
  readonly id: string;
  readonly what: string;
  /** The first version without it, for each line that has one. Later lines never had it. */
  readonly fixedIn: readonly BrokerVersion[];
}

/** From https://advisories.nats.io, as of 2026-06-29. Those of websockets, MQTT, leaf nodes and operators are left out. */
const ADVISORIES: readonly Advisory[] = [
  {
    id: "CVE-2023-47090",
    what: "clients without credentials may be let in",
    fixedIn: [
      [2, 9, 23],
      [2, 10, 2],
    ],
  },
  {
    id: "CVE-2025-30215",
    what: "JetStream's API misses checks of access",
    fixedIn: [
      [2, 10, 27],
      [2, 11, 1],
    ],
  },
  {
    id: "CVE-2026-33222",
    what: "a stream can be restored over another one",
    fixedIn: [
      [2, 11, 15],
      [2, 12, 6],
    ],
  },
  {
    id: "CVE-2026-33248",
    what: "some names in certificates are mapped to another user",
    fixedIn: [
      [2, 11, 15],
      [2, 12, 6],
    ],
  },
  {
    id: "GHSA-wh7g-5m82-pmhr",
    what: "subscriptions get around what is denied",
    fixedIn: [
      [2, 11, 16],
      [2, 12, 7],
      [2, 14, 0],
    ],
  },
];

/** The known holes of a nats-server: `CVE-2025-30215 (JetStream's API misses checks of access)`. */
export function knownHoles(version: BrokerVersion): string[] {
  return ADVISORIES.filter(({ fixedIn }) => !isFixed(version, fixedIn)).map(({ id, what }) => `${id} (${what})`);
}

function isFixed(version: BrokerVersion, fixedIn: readonly BrokerVersion[]): boolean {
  const [major, minor] = version;
  const ofLine = fixedIn.find((fixed) => fixed[0] === major && fixed[1] === minor);
  return ofLine === undefined
    ? fixedIn.every((fixed) => versionAtLeast(version, fixed))
    : versionAtLeast(version, ofLine);
}
