/** Reads IPFIX messages (RFC 7011) by their templates, independently of what writes them. */

/** A data record: values by element number; addresses as hexadecimal, numbers as bigint. */
export type IpfixRecord = ReadonlyMap<number, bigint>;

export interface IpfixMessage {
  readonly exportSeconds: number;
  readonly sequence: number;
  readonly domain: number;
  /** Ids of the templates that it states. */
  readonly templates: readonly number[];
  readonly records: readonly IpfixRecord[];
}

/** A collecting process: knows the templates of the messages before. Throws where the format is broken. */
export class IpfixReader {
  readonly #templates = new Map<number, readonly (readonly [element: number, bytes: number])[]>();

  read(message: Uint8Array): IpfixMessage {
    const bytes = Buffer.from(message);
    if (bytes.readUInt16BE(0) !== 10) throw new Error("not IPFIX");
    if (bytes.readUInt16BE(2) !== bytes.length) throw new Error("the length is not that of the message");
    const templates: number[] = [];
    const records: IpfixRecord[] = [];
    for (let at = 16; at < bytes.length; ) {
      const id = bytes.readUInt16BE(at);
      const set = bytes.subarray(at + 4, at + bytes.readUInt16BE(at + 2));
      if (id === 2) templates.push(...this.#readTemplates(set));
      else records.push(...this.#readRecords(id, set));
      at += 4 + set.length;
    }
    const [exportSeconds, sequence, domain] = [4, 8, 12].map((at) => bytes.readUInt32BE(at));
    return { exportSeconds: exportSeconds!, sequence: sequence!, domain: domain!, templates, records };
  }

  #readTemplates(set: Buffer): number[] {
    const ids: number[] = [];
    for (let at = 0; at < set.length; ) {
      const id = set.readUInt16BE(at);
      const count = set.readUInt16BE(at + 2);
      at += 4;
      const fields = Array.from({ length: count }, (_, i) => {
        return [set.readUInt16BE(at + 4 * i), set.readUInt16BE(at + 4 * i + 2)] as const;
      });
      at += 4 * count;
      this.#templates.set(id, fields);
      ids.push(id);
    }
    return ids;
  }

  #readRecords(id: number, set: Buffer): IpfixRecord[] {
    const fields = this.#templates.get(id);
    if (fields === undefined) throw new Error(`template ${id} is not known`);
    const size = fields.reduce((sum, [, bytes]) => sum + bytes, 0);
    if (set.length === 0 || set.length % size !== 0)
      throw new Error(`a set of ${set.length} bytes, records of ${size}`);
    return Array.from({ length: set.length / size }, (_, i) => {
      let at = i * size;
      return new Map(
        fields.map(([element, bytes]) => {
          const value = BigInt(`0x${set.subarray(at, at + bytes).toString("hex")}`);
          at += bytes;
          return [element, value] as const;
        }),
      );
    });
  }
}

/** The messages of a file, one after the other. */
export function splitMessages(file: Buffer): Buffer[] {
  const messages: Buffer[] = [];
  for (let at = 0; at < file.length; at += messages.at(-1)!.length) {
    messages.push(file.subarray(at, at + file.readUInt16BE(at + 2)));
  }
  return messages;
}
