import assert from "node:assert/strict";
import { RequestBatch } from "../../ctnetlink/encode.js";
import type { DecodedFlow, RareAttributes } from "../../flow/record.js";
import type { InjectorKernel } from "../ports/kernel.js";

/**
 * A copy of a flow that is being written into the kernel, because its row may change or be removed meanwhile. The slot
 * is that of the external cache.
 */
export interface InjectorItem {
  readonly slot: number;
  readonly words: Uint32Array;
  readonly rare: RareAttributes | null;
  readonly timeoutSeconds: number;
  /** True when the entry that this daemon wrote belongs to another connection with that tuple. */
  readonly isAnother: boolean;
}

/** Reads and writes flows of the kernel, a batch at a time. Only one call runs at a time. */
export class InjectorRequests {
  readonly #kernel: InjectorKernel;
  readonly #liberal: boolean;
  readonly #batch = new RequestBatch();

  /** `liberal`: sets BE_LIBERAL on TCP flows. */
  constructor(kernel: InjectorKernel, liberal: boolean) {
    this.#kernel = kernel;
    this.#liberal = liberal;
  }

  /** Looks up at most 1,024 flows, which fit into a batch. */
  async read<T extends { readonly words: Uint32Array }>(items: readonly T[]): Promise<Map<T, DecodedFlow>> {
    const found = new Map<T, DecodedFlow>();
    if (items.length === 0) return found;
    this.#batch.reset();
    for (const { words } of items) assert.ok(this.#batch.get(words, 0), "the lookups fit into a batch");
    await this.#kernel.getAll(this.#batch, (index, flow) => {
      const item = items[index];
      if (item !== undefined) found.set(item, flow);
    });
    return found;
  }

  /** Sends one kind of request for these flows, in as many batches as they need. Returns those that the kernel refused, with the reason. */
  async send<T extends { readonly words: Uint32Array } & Partial<InjectorItem>>(
    request: "create" | "update" | "delete",
    items: readonly T[],
  ): Promise<Map<T, number>> {
    const refused = new Map<T, number>();
    let sent = 0;
    while (sent < items.length) {
      this.#batch.reset();
      const first = sent;
      for (const item of items.slice(first)) {
        if (!this.#add(request, item)) break;
        sent++;
      }
      const { errors } = await this.#kernel.send(this.#batch);
      for (const { index, errno } of errors) {
        const item = items[first + index];
        if (item !== undefined) refused.set(item, errno);
      }
    }
    return refused;
  }

  /** False when the batch is full. */
  #add(
    request: "create" | "update" | "delete",
    item: { readonly words: Uint32Array } & Partial<InjectorItem>,
  ): boolean {
    const { words, rare = null, timeoutSeconds = 0 } = item;
    const options = { timeoutSeconds, liberal: this.#liberal };
    switch (request) {
      case "create":
        return this.#batch.create(words, 0, rare, options);
      case "update":
        return this.#batch.update(words, 0, rare, options);
      case "delete":
        return this.#batch.delete(words, 0);
    }
  }
}
