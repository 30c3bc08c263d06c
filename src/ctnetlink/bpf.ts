/**
 * Classic BPF programs, linux/filter.h: one accumulator A, one index register X, jumps forward only. An instruction:
 *
 *     struct sock_filter    0        2     3     4
 *                           | code   | jt  | jf  | k (32 bit) |      all in host order
 *
 * A condition jumps up to 255 instructions ahead; for targets beyond that, a BPF_JA is placed behind it.
 */

/** BPF_MAXINSNS: the kernel takes no longer program. */
export const BPF_MAXINSNS = 4096;

/** Bytes of an instruction. */
export const BPF_INSTRUCTION_BYTES = 8;

/** A ← the constant. */
export const BPF_LD_IMM = 0x00;
/** A ← word or byte of the packet at k; from SKF_AD_OFF on, the result of one of the kernel's own functions. */
export const BPF_LD_W_ABS = 0x20;
export const BPF_LD_B_ABS = 0x30;
/** A ← word or byte of the packet at X + k. */
export const BPF_LD_W_IND = 0x40;
export const BPF_LD_B_IND = 0x50;
/** X ← the constant. */
export const BPF_LDX_IMM = 0x01;
/** X ← A. */
export const BPF_TAX = 0x07;
/** Ends the program: k bytes of the packet are kept, 0 drops it. */
export const BPF_RET_K = 0x06;
/** Conditions: A equal to k, greater, greater or equal; unsigned. */
export const BPF_JEQ_K = 0x15;
export const BPF_JGT_K = 0x25;
export const BPF_JGE_K = 0x35;

/**
 * Addresses of BPF_LD_W_ABS: A ← where in the packet the netlink attribute of type X is, from the attribute at A on or
 * within the attribute at A; 0 when there is none.
 */
export const SKF_AD_NLATTR = 0xfffff000 + 12;
export const SKF_AD_NLATTR_NEST = 0xfffff000 + 16;

const BPF_JA = 0x05;
const JUMP_MAX = 255;

/** A jump target in a program. */
export type Label = number;

interface Statement {
  readonly code: number;
  readonly k: number;
  /** Of conditions and BPF_JA. */
  readonly yes: Label;
  readonly no: Label;
}

const NOWHERE: Label = -1;

/** Writes a program with labels for jumps. */
export class BpfProgram {
  readonly #statements: Statement[] = [];
  /** By label: the statement that it is placed before. */
  readonly #places: number[] = [];

  /** A new label, to be placed later. */
  label(): Label {
    return this.#places.push(NOWHERE) - 1;
  }

  /** Places a label before the next statement. */
  place(label: Label): void {
    this.#places[label] = this.#statements.length;
  }

  statement(code: number, k = 0): void {
    this.#statements.push({ code, k, yes: NOWHERE, no: NOWHERE });
  }

  /** Goes to one of two labels, which are placed later. */
  branch(code: number, k: number, yes: Label, no: Label): void {
    this.#statements.push({ code, k, yes, no });
  }

  /** Goes to a label, which is placed later. */
  jump(to: Label): void {
    this.#statements.push({ code: BPF_JA, k: 0, yes: to, no: to });
  }

  /** The instructions; null when there are more than BPF_MAXINSNS of them. */
  assemble(): Uint8Array<ArrayBuffer> | null {
    const starts = this.#layOut();
    const length = starts[this.#statements.length]!;
    if (length > BPF_MAXINSNS) return null;
    const view = new DataView(new ArrayBuffer(length * BPF_INSTRUCTION_BYTES));
    for (const [i, statement] of this.#statements.entries()) this.#write(view, starts, i, statement);
    return new Uint8Array(view.buffer);
  }

  /** Where each statement starts, and last where the program ends. Statements only grow, so what is far stays far. */
  #layOut(): readonly number[] {
    const statements = this.#statements;
    const sizes = new Uint8Array(statements.length).fill(1);
    for (;;) {
      const starts = [0];
      for (const size of sizes) starts.push(starts.at(-1)! + size);
      let grown = false;
      for (const [i, { code, yes, no }] of statements.entries()) {
        if (yes === NOWHERE || code === BPF_JA) continue;
        const size = 1 + (this.#isFar(starts, i, yes) ? 1 : 0) + (this.#isFar(starts, i, no) ? 1 : 0);
        if (size <= sizes[i]!) continue;
        sizes[i] = size;
        grown = true;
      }
      if (!grown) return starts;
    }
  }

  #isFar(starts: readonly number[], at: number, label: Label): boolean {
    return starts[this.#places[label]!]! - starts[at]! - 1 > JUMP_MAX;
  }

  #write(view: DataView, starts: readonly number[], i: number, { code, k, yes, no }: Statement): void {
    const at = starts[i]!;
    if (yes === NOWHERE) {
      writeInstruction(view, at, code, 0, 0, k);
      return;
    }
    const to = starts[this.#places[yes]!]!;
    if (code === BPF_JA) {
      writeInstruction(view, at, BPF_JA, 0, 0, to - at - 1);
      return;
    }
    const otherwise = starts[this.#places[no]!]!;
    let next = at + 1;
    const reach = (target: number, far: boolean): number => {
      if (!far) return target - at - 1;
      writeInstruction(view, next, BPF_JA, 0, 0, target - next - 1);
      return next++ - at - 1;
    };
    const jt = reach(to, this.#isFar(starts, i, yes));
    const jf = reach(otherwise, this.#isFar(starts, i, no));
    writeInstruction(view, at, code, jt, jf, k);
  }
}

function writeInstruction(view: DataView, index: number, code: number, jt: number, jf: number, k: number): void {
  const at = index * BPF_INSTRUCTION_BYTES;
  view.setUint16(at, code, true);
  view.setUint8(at + 2, jt);
  view.setUint8(at + 3, jf);
  view.setUint32(at + 4, k, true);
}
