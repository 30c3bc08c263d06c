/**
 * Version 2 of the stream's format, which no product writes or reads. It has the envelope of every version, and other
 * keys for everything else, so a reader of version 1 that did not look at `v` would find empty messages.
 */
import {
  FORMAT_1,
  type Formats,
  type FormatVersion,
  type MessageMap,
  readVersion,
} from "../../src/stream/format/versions.js";

/** Keys of version 1, and those of version 2 in their place. */
const RENAMED: Readonly<Record<string, string>> = {
  n4: "N4",
  n6: "N6",
  u: "U",
  d: "D",
  mv: "V",
  mo: "O",
  r: "R",
  x: "X",
  a: "A",
  b: "B",
  m: "M",
  s: "S",
};
const NAMED_BACK = Object.fromEntries(Object.entries(RENAMED).map(([one, two]) => [two, one]));

function renamed(map: MessageMap, names: Readonly<Record<string, string>>): MessageMap {
  return Object.fromEntries(Object.entries(map).map(([key, value]) => [names[key] ?? key, value]));
}

/** The version itself. */
export const FORMAT_2: FormatVersion = {
  version: 2,
  toWire: (map) => renamed(map, RENAMED),
  fromWire: (map) => (Object.keys(map).some((key) => Object.hasOwn(RENAMED, key)) ? null : renamed(map, NAMED_BACK)),
};

/** A build that writes and reads both versions. */
export const FORMATS_2: Formats = { writes: [FORMAT_1, FORMAT_2], reads: [FORMAT_1, FORMAT_2] };

/** The version of a list with this number. */
export function formatOf(version: number, formats = FORMATS_2): FormatVersion {
  const found = readVersion(formats, version);
  if (found === undefined) throw new Error(`no format ${version}`);
  return found;
}
