/**
 * The versions of the stream's format that this build writes and reads, and the choice of the one that a node writes.
 * Whoever writes or reads messages is given `Formats`, so a later version is added here and nowhere else.
 */

/** A message as a map, with the keys of FORMAT.md. */
export type MessageMap = Record<string, unknown>;

/**
 * One version. Encoders and decoders know the newest version's maps. An older one says how its maps differ. What every
 * version has in common is the envelope, so that any reader knows the place of any message.
 */
export interface FormatVersion {
  /** `v` of its messages. */
  readonly version: number;
  /** Makes this version's map from the encoders' one; null: they are the same. */
  readonly toWire: ((map: MessageMap) => MessageMap) | null;
  /** Makes the decoders' map from this version's one, or null if it is malformed. Never throws. Null: they are the same. */
  readonly fromWire: ((map: MessageMap) => MessageMap | null) | null;
}

/** The versions that a build writes and reads, each list in ascending order. Every node reads what it writes. */
export interface Formats {
  readonly writes: readonly FormatVersion[];
  readonly reads: readonly FormatVersion[];
}

/** Version 1, which FORMAT.md describes. */
export const FORMAT_1: FormatVersion = { version: 1, toWire: null, fromWire: null };

/** The versions of this build. */
export const FORMATS: Formats = { writes: [FORMAT_1], reads: [FORMAT_1] };

/** The version numbers of a list. */
export function versionNumbers(versions: readonly FormatVersion[]): number[] {
  return versions.map(({ version }) => version);
}

/** The version with the number `version`, if it is among those that are read. */
export function readVersion({ reads }: Formats, version: unknown): FormatVersion | undefined {
  for (const known of reads) if (known.version === version) return known;
  return undefined;
}

/** A node that reads this node's stream. */
export interface FormatReader {
  readonly node: string;
  /** The versions that it reads; null while that is not known. */
  readonly reads: readonly number[] | null;
}

/** The version that a node writes. */
export interface FormatChoice {
  readonly format: FormatVersion;
  /** Why it is not the highest that the node can write, in words; null when it is. */
  readonly reason: string | null;
}

/** A reason names this many nodes at most. */
const NAMES_MAX = 3;

/**
 * The highest version of `writes` that every reader is known to read. A reader of which nothing is known counts as one
 * that reads only the lowest. If no version suits all readers, it is the lowest as well.
 */
export function chooseFormat(writes: readonly FormatVersion[], readers: readonly FormatReader[]): FormatChoice {
  const [lowest] = writes;
  if (lowest === undefined) throw new RangeError("a node writes one version at least");
  const highest = writes.at(-1) ?? lowest;
  const suits = ({ version }: FormatVersion): boolean =>
    readers.every(({ reads }) => reads?.includes(version) === true);
  const format = writes.findLast(suits) ?? lowest;
  if (format === highest) return { format, reason: null };
  const against = readers.filter(({ reads }) => reads?.includes(highest.version) !== true);
  return { format, reason: reasonOf(against) };
}

function reasonOf(against: readonly FormatReader[]): string {
  const named = against.slice(0, NAMES_MAX).map(({ node, reads }) => {
    if (reads === null) return `${node} has not been heard`;
    return reads.length === 0 ? `${node} reads none` : `${node} reads only ${reads.join(" and ")}`;
  });
  const more = against.length - named.length;
  return [...named, ...(more === 0 ? [] : [`${more} more`])].join(", ");
}
