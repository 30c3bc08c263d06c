/** Packs rare attributes as a msgpack map (FORMAT.md), and unpacks them. */
import { isPrintable } from "../../flow/plain-text.js";
import { type RareAttributes, RECORD_WORDS, type SequenceAdjustment } from "../../flow/record.js";

/** [section, row, attributes]. */
export type RareRow = [section: 0 | 1 | 2, row: number, attributes: Record<string, unknown>];

/** The kernel's own limits: NF_CT_HELPER_NAME_LEN with its zero byte, NF_CT_LABELS_MAX_SIZE. */
const HELPER_CHARS_MAX = 15;
const LABEL_BYTES_MAX = 16;
/** The kernel has no limit but a netlink attribute's; contexts in use are shorter. A longer one is left out on both sides. */
const SECCTX_CHARS_MAX = 256;

/** The map of the attributes that are set. */
export function packRare(rare: RareAttributes): Record<string, unknown> {
  const map: Record<string, unknown> = {};
  if (rare.helper !== undefined) map.helper = rare.helper;
  if (rare.labels !== undefined) map.labels = rare.labels;
  if (rare.secctx !== undefined && isName(rare.secctx, SECCTX_CHARS_MAX)) map.secctx = rare.secctx;
  if (rare.seqadjOrig !== undefined) map.so = packAdjustment(rare.seqadjOrig);
  if (rare.seqadjReply !== undefined) map.sr = packAdjustment(rare.seqadjReply);
  if (rare.synproxy !== undefined) map.sp = [rare.synproxy.isn, rare.synproxy.its, rare.synproxy.tsoff];
  if (rare.master !== undefined) map.ma = Array.from(rare.master);
  return map;
}

/** The inverse of packRare; null when the map is malformed. Unknown keys of newer writers are ignored. */
export function unpackRare(value: unknown): RareAttributes | null {
  if (typeof value !== "object" || value === null || Array.isArray(value) || ArrayBuffer.isView(value)) return null;
  const map = value as Record<string, unknown>;
  const rare: RareAttributes = {};
  if (map.helper !== undefined) {
    if (!isName(map.helper, HELPER_CHARS_MAX)) return null;
    rare.helper = map.helper;
  }
  if (map.secctx !== undefined) {
    if (typeof map.secctx !== "string") return null;
    if (isName(map.secctx, SECCTX_CHARS_MAX)) rare.secctx = map.secctx;
  }
  if (map.labels !== undefined) {
    if (!(map.labels instanceof Uint8Array) || map.labels.length > LABEL_BYTES_MAX) return null;
    rare.labels = Uint8Array.from(map.labels);
  }
  const words: [unknown, number, (words: number[]) => void][] = [
    [map.so, 3, (w) => (rare.seqadjOrig = unpackAdjustment(w))],
    [map.sr, 3, (w) => (rare.seqadjReply = unpackAdjustment(w))],
    [map.sp, 3, ([isn = 0, its = 0, tsoff = 0]) => (rare.synproxy = { isn, its, tsoff })],
    [map.ma, RECORD_WORDS, (w) => (rare.master = Uint32Array.from(w))],
  ];
  for (const [list, length, take] of words) {
    if (list === undefined) continue;
    if (!Array.isArray(list) || list.length !== length || !list.every(isWord)) return null;
    take(list);
  }
  return rare;
}

function packAdjustment(adjustment: SequenceAdjustment): number[] {
  return [adjustment.correctionPos, adjustment.offsetBefore, adjustment.offsetAfter];
}

function unpackAdjustment([correctionPos = 0, offsetBefore = 0, offsetAfter = 0]: number[]): SequenceAdjustment {
  return { correctionPos, offsetBefore, offsetAfter };
}

function isName(value: unknown, charsMax: number): value is string {
  return typeof value === "string" && value.length <= charsMax && isPrintable(value);
}

function isWord(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= -0x80000000 && value <= 0xffffffff;
}
