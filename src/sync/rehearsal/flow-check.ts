/** A node's answer to a peer that asks what it would have of the peer's flows after a takeover. */
import type { ExternalCache } from "../../cache/external.js";
import type { InternalCache } from "../../cache/internal.js";
import { RequestBatch } from "../../ctnetlink/encode.js";
import type { FlowTable } from "../../flow/flow-table.js";
import { type RareAttributes, RECORD_WORDS, W_MARK, W_STATUS } from "../../flow/record.js";
import { familyOf, protocolOf, protocolStateOf, sameReply } from "../../flow/record-fields.js";
import { IPS_ASSURED, IPS_SEEN_REPLY } from "../../flow/status.js";
import { EAGAIN, EOPNOTSUPP } from "../../os/errno.js";
import { BatchDecoder, readNewRow } from "../../stream/format/batch.js";
import type { NewSection } from "../../stream/format/columns.js";
import { CHECK_FLOWS_MAX, type CheckAnswer } from "../../stream/format/flow-check.js";
import type { Formats } from "../../stream/format/versions.js";
import type { KernelRequests } from "../ports/kernel.js";

/** How long an answer of the kernel about a helper is remembered, and how many are. */
const HELPER_MS = 10_000;
const HELPERS_MAX = 256;
const STATUS_COMPARED = IPS_SEEN_REPLY | IPS_ASSURED;

/** What the answer depends on. */
export interface FlowCheckParts {
  readonly internal: InternalCache;
  readonly external: ExternalCache;
  readonly kernel: KernelRequests;
  /** How many entries a takeover would create: none for flows that the kernel was given beforehand. */
  readonly needed: () => number;
  /** How many more entries this kernel takes; null: not known. */
  readonly room: () => number | null;
  readonly formats: Formats;
}

/** Answers checks. Nothing changes by them, neither here nor in the kernel. One runs at a time. */
export class FlowCheck {
  readonly #parts: FlowCheckParts;
  readonly #decoder: BatchDecoder;
  /** What the kernel said about a helper for a family and a protocol, and when. */
  readonly #helpers = new Map<string, { readonly known: boolean; readonly atMs: number }>();

  constructor(parts: FlowCheckParts) {
    this.#parts = parts;
    this.#decoder = new BatchDecoder(parts.formats);
  }

  /** Null for what is no check. */
  async answer(payload: Uint8Array): Promise<CheckAnswer | null> {
    const { room, needed } = this.#parts;
    const { new4, new6, rare } = this.#decoder;
    if (this.#decoder.decode(payload) === null || new4.rows + new6.rows > CHECK_FLOWS_MAX) return null;
    const answer = { missing: [] as number[], differing: [] as number[] };
    const helped: { readonly flowId: number; readonly words: Uint32Array; readonly helper: string }[] = [];
    for (const [section, attributes] of [
      [new4, rare[0]],
      [new6, rare[1]],
    ] as const) {
      for (let row = 0; row < section.rows; row++) {
        const flowId = section.flowId[row] ?? CHECK_FLOWS_MAX;
        if (flowId >= CHECK_FLOWS_MAX) return null;
        const words = rowOf(section, row);
        const state = this.#look(words);
        if (state !== "same") answer[state].push(flowId);
        const helper = attributes.get(row)?.helper;
        if (helper !== undefined && state === "same") helped.push({ flowId, words, helper });
      }
    }
    const withoutHelper: number[] = [];
    for (const { flowId, words, helper } of helped) {
      if (!(await this.#knowsHelper(words, helper))) withoutHelper.push(flowId);
    }
    return { ...answer, withoutHelper, room: room(), needed: needed() };
  }

  /** A flow that this node carries itself is in its kernel. */
  #look(words: Uint32Array): "missing" | "differing" | "same" {
    const { external, internal } = this.#parts;
    const theirs = compare(external.table, words);
    if (theirs !== "missing") return theirs;
    return internal.ownFlow(words, 0) === null ? "missing" : "same";
  }

  /**
   * Asks the kernel to create a flow with this helper, of a master that does not exist. The helper is looked up before the
   * master, so nothing is created either way.
   */
  async #knowsHelper(words: Uint32Array, helper: string): Promise<boolean> {
    const key = `${familyOf(words, 0)} ${protocolOf(words, 0)} ${helper}`;
    const nowMs = performance.now();
    const last = this.#helpers.get(key);
    if (last !== undefined && nowMs - last.atMs < HELPER_MS) return last.known;
    const batch = new RequestBatch(0);
    const rare: RareAttributes = { helper, master: nobody(words) };
    batch.create(words, 0, rare, { timeoutSeconds: 1, liberal: false });
    const { errors } = await this.#parts.kernel.send(batch);
    const errno = errors[0]?.errno;
    if (errno === EAGAIN) return true;
    const known = errno !== EOPNOTSUPP;
    if (this.#helpers.size >= HELPERS_MAX) this.#helpers.clear();
    this.#helpers.set(key, { known, atMs: nowMs });
    return known;
  }
}

function rowOf(section: NewSection, row: number): Uint32Array {
  const words = new Uint32Array(RECORD_WORDS);
  readNewRow(section, row, words);
  return words;
}

function compare(table: FlowTable, words: Uint32Array): "missing" | "differing" | "same" {
  const slot = table.size === 0 ? -1 : table.find(words, 0);
  if (slot < 0) return "missing";
  const slab = table.slab(slot);
  const base = table.base(slot);
  const word = (at: number): number => slab[base + at] ?? 0;
  const isSame =
    sameReply(slab, base, words, 0) &&
    protocolStateOf(slab, base) === protocolStateOf(words, 0) &&
    word(W_MARK) === words[W_MARK] &&
    ((word(W_STATUS) ^ (words[W_STATUS] ?? 0)) & STATUS_COMPARED) === 0;
  return isSame ? "same" : "differing";
}

/** The original tuple of a master that no kernel has: from 0.0.0.0 or :: to itself. */
function nobody(words: Uint32Array): Uint32Array {
  const master = words.slice();
  master.fill(0, 0, 16);
  return master;
}
