/** Runs classic BPF as the kernel does (net/core/filter.c), as far as socket filters of netlink use it. */

const SKF_AD_NLATTR = 0xfffff00c;
const SKF_AD_NLATTR_NEST = 0xfffff010;

/** How many bytes of the packet the program keeps; 0: none. Throws for what bpf_check_classic() refuses. */
export function runBpf(program: Uint8Array, packet: Buffer): number {
  const view = new DataView(program.buffer, program.byteOffset, program.length);
  const count = program.length / 8;
  if (count === 0 || count > 4096 || view.getUint16((count - 1) * 8, true) !== 0x06) throw new Error("refused");
  let a = 0;
  let x = 0;
  for (let pc = 0; pc < count; ) {
    const code = view.getUint16(pc * 8, true);
    const jt = view.getUint8(pc * 8 + 2);
    const jf = view.getUint8(pc * 8 + 3);
    const k = view.getUint32(pc * 8 + 4, true);
    pc++;
    if (pc + Math.max(jt, jf) >= count && (code & 7) === 5 && code !== 5) throw new Error("a jump out of the program");
    switch (code) {
      case 0x06:
        return k;
      case 0x00:
        a = k;
        break;
      case 0x01:
        x = k;
        break;
      case 0x07:
        x = a;
        break;
      case 0x05:
        pc += k;
        break;
      case 0x15:
        pc += a === k ? jt : jf;
        break;
      case 0x25:
        pc += a > k ? jt : jf;
        break;
      case 0x35:
        pc += a >= k ? jt : jf;
        break;
      case 0x20:
      case 0x40: {
        if (k === SKF_AD_NLATTR) a = findAttribute(packet, a, packet.length, x);
        else if (k === SKF_AD_NLATTR_NEST) a = findNested(packet, a, x);
        else {
          const at = code === 0x40 ? x + k : k;
          if (at + 4 > packet.length) return 0;
          a = packet.readUInt32BE(at);
        }
        break;
      }
      case 0x30:
      case 0x50: {
        const at = code === 0x50 ? x + k : k;
        if (at >= packet.length) return 0;
        a = packet[at]!;
        break;
      }
      default:
        throw new Error(`instruction 0x${code.toString(16)}`);
    }
  }
  throw new Error("ran off the end");
}

function findAttribute(packet: Buffer, at: number, end: number, type: number): number {
  while (end - at >= 4) {
    const length = packet.readUInt16LE(at);
    if (length < 4 || length > end - at) return 0;
    if ((packet.readUInt16LE(at + 2) & 0x3fff) === type) return at;
    at += (length + 3) & ~3;
  }
  return 0;
}

function findNested(packet: Buffer, at: number, type: number): number {
  if (packet.length < 4 || at > packet.length - 4) return 0;
  const length = packet.readUInt16LE(at);
  return length > packet.length - at ? 0 : findAttribute(packet, at + 4, at + length, type);
}
