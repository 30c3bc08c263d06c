/** Expectations that the kernel's own FTP helper makes of real dialogues: events, dumps, and what a commit does with them. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { RequestBatch } from "../../src/ctnetlink/encode.js";
import { EVENT_DESTROY, EVENT_NEW, type EventKind, EventSocket } from "../../src/ctnetlink/event-socket.js";
import { RequestSocket } from "../../src/ctnetlink/request-socket.js";
import {
  type Expectation,
  expectationKey,
  expectationToJson,
  formatExpectationTool,
  NF_CT_EXPECT_INACTIVE,
  NF_CT_EXPECT_PERMANENT,
  setExpectationZone,
} from "../../src/flow/expectation.js";
import { type DecodedFlow, W_HAS, W_ORIG_L4 } from "../../src/flow/record.js";
import { EEXIST, ENOENT } from "../../src/os/errno.js";
import { FTP_PROGRAM, type FtpAnswer } from "../support/ftp.js";
import { KernelNamespace, kernelAvailable, waitUntil } from "../support/kernel-namespace.js";

const skip = kernelAvailable() ?? false;
const PORT = 21;
const HELPER_RULES = `
add table inet ftp
add ct helper inet ftp ftp { type "ftp" protocol tcp; }
add chain inet ftp out { type filter hook output priority 0; }
add rule inet ftp out tcp dport ${PORT} ct helper set "ftp"
`;

interface Heard {
  kind: EventKind;
  expectation: Expectation;
  portId: number;
}

/** A namespace with the helper, an FTP server on loopback, both sockets, and clients as they are wanted. */
class Ftp implements AsyncDisposable {
  readonly namespace: KernelNamespace;
  readonly heard: Heard[] = [];
  readonly malformed: number[] = [];
  readonly requests: RequestSocket;
  readonly events: EventSocket;

  private constructor(namespace: KernelNamespace) {
    this.namespace = namespace;
    this.requests = namespace.run(() => new RequestSocket());
    const sink = {
      onEvent: () => undefined,
      onExpectation: (kind: EventKind, expectation: Expectation, portId: number) =>
        void this.heard.push({ kind, expectation, portId }),
      onMalformed: (code: number) => void this.malformed.push(code),
      onOverrun: () => undefined,
      onDrained: () => undefined,
    };
    this.events = namespace.run(() => new EventSocket({ expectations: true }));
    this.events.listen(sink);
  }

  static async create(): Promise<Ftp> {
    const namespace = await KernelNamespace.create();
    await namespace.nft(HELPER_RULES.trim().replaceAll("\n", "; "));
    const server = namespace.spawn(process.execPath, [FTP_PROGRAM, "server", "127.0.0.2", String(PORT), "::1"]);
    const said = collect(server.stdout!);
    await waitUntil(() => said.join("").includes("listening"), "the FTP server listens");
    return new Ftp(namespace);
  }

  async client(host: string, source: string): Promise<(step: string) => Promise<FtpAnswer>> {
    const child = this.namespace.spawn(process.execPath, [FTP_PROGRAM, "client", host, String(PORT), source]);
    const said = collect(child.stdout!);
    const lines = (): string[] => said.join("").split("\n").slice(0, -1);
    await waitUntil(() => lines().length === 1, "the FTP client has said USER");
    let steps = 1;
    return async (step) => {
      child.stdin!.write(`${step}\n`);
      steps++;
      await waitUntil(() => lines().length === steps, `an answer to "${step}"`);
      return JSON.parse(lines().at(-1)!) as FtpAnswer;
    };
  }

  /** A client of IPv4 whose first step makes the helper expect a connection. */
  async expect(step: "port" | "epsv") {
    const client = await this.client("127.0.0.2", "127.0.0.1");
    await client(step);
    const [expectation] = await this.dump();
    assert.ok(expectation !== undefined);
    return { client, expectation };
  }

  async dump(): Promise<Expectation[]> {
    const found: Expectation[] = [];
    const result = await this.requests.dumpExpectations({}, (expectation) => found.push(expectation));
    assert.deepEqual(result, { count: found.length, malformed: 0, interrupted: false });
    return found;
  }

  async send(fill: (batch: RequestBatch) => void): Promise<number[]> {
    const batch = new RequestBatch();
    fill(batch);
    return (await this.requests.send(batch)).errors.map(({ errno }) => errno);
  }

  async listed(family: string): Promise<string[]> {
    const text = await this.namespace.conntrack("-L", "expect", "-f", family);
    return text.split("\n").filter((line) => line.includes("proto="));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.requests.close();
    await this.events.close();
    await this.namespace[Symbol.asyncDispose]();
  }
}

function collect(stream: NodeJS.ReadableStream): string[] {
  const said: string[] = [];
  stream.on("data", (chunk: Buffer) => said.push(chunk.toString("latin1")));
  return said;
}

function withoutTimeout(line: string): string {
  return line.replace(/^\d+ /, "");
}

test("PORT, EPRT, PASV and EPSV: events, dump and conntrack(8) tell the same", { skip }, async () => {
  await using ftp = await Ftp.create();
  for (const [step, host, source, family] of [
    ["port", "127.0.0.2", "127.0.0.1", "ipv4"],
    ["pasv", "127.0.0.2", "127.0.0.1", "ipv4"],
    ["eprt", "::1", "::1", "ipv6"],
    ["epsv", "::1", "::1", "ipv6"],
  ] as const) {
    const client = await ftp.client(host, source);
    assert.match((await client(step)).reply, /^2/);
    const dumped = (await ftp.dump()).filter((expectation) => expectationToJson(expectation).family === family);
    const listed = await ftp.listed(family);
    assert.deepEqual(
      dumped.map((expectation) => withoutTimeout(formatExpectationTool(expectation))).sort(),
      listed.map(withoutTimeout).sort(),
    );
    const dumpedKeys = new Set(dumped.map(expectationKey));
    const isDumped = ({ expectation }: Heard): boolean => dumpedKeys.has(expectationKey(expectation));
    await waitUntil(() => ftp.heard.some(isDumped), "the event of what was dumped");
    const last = ftp.heard.at(-1)!;
    assert.deepEqual([last.kind, last.portId, isDumped(last)], [EVENT_NEW, 0, true]);
    assert.equal(last.expectation.helper, "ftp");
  }
  assert.deepEqual(ftp.malformed, []);
});

test("the connection that was expected ends its expectation, and so does the end of the master", { skip }, async () => {
  await using ftp = await Ftp.create();
  const { client, expectation: expected } = await ftp.expect("port");
  const got = await client("retr 100000 10000000");
  assert.deepEqual([got.reply, got.bytes, got.wrong], ["226 sent", 100_000, 0]);
  assert.deepEqual(await ftp.dump(), []);
  await waitUntil(() => ftp.heard.at(-1)?.kind === EVENT_DESTROY, "the event of its end");
  assert.equal(expectationKey(ftp.heard.at(-1)!.expectation), expectationKey(expected));
  await client("epsv");
  assert.equal((await ftp.dump()).length, 1);
  await ftp.requests.flush();
  assert.deepEqual(await ftp.dump(), []);
  await waitUntil(() => ftp.heard.at(-1)!.kind === EVENT_DESTROY, "the event of the last expectation");
});

test("an expectation is created again as it was, and the connection goes through it", { skip }, async () => {
  await using ftp = await Ftp.create();
  const { client, expectation } = await ftp.expect("port");
  assert.deepEqual(await ftp.send((batch) => batch.createExpectation(expectation)), [EEXIST]);
  assert.deepEqual(await ftp.send((batch) => batch.deleteExpectation({ ...expectation, id: 1 }, true)), [ENOENT]);
  assert.deepEqual(await ftp.send((batch) => batch.deleteExpectation(expectation, true)), []);
  assert.deepEqual(await ftp.send((batch) => batch.expectationTimeout(expectation, 9)), [ENOENT]);
  const created = await ftp.send((batch) => {
    batch.createExpectation(expectation);
    batch.expectationTimeout(expectation, 77);
  });
  assert.deepEqual(created, []);
  const [again] = await ftp.dump();
  const { id: _, timeoutSeconds, ...rest } = expectationToJson(again!);
  const { id: __, timeoutSeconds: ___, ...wanted } = expectationToJson(expectation);
  assert.deepEqual(rest, wanted);
  assert.ok(timeoutSeconds > 70 && timeoutSeconds <= 77, `${timeoutSeconds} s`);
  await waitUntil(() => ftp.heard.at(-1)!.portId === ftp.requests.portId, "the event of the request");
  assert.equal((await client("retr 5000 1000000")).bytes, 5000);
  assert.match(await ftp.namespace.conntrack("-L", "--status", "EXPECTED"), /dport=\d+ .*ASSURED/);
});

test("NAT, function and flags come back as they were sent", { skip }, async () => {
  await using ftp = await Ftp.create();
  const { expectation } = await ftp.expect("port");
  const nat = { direction: 1, tuple: expectation.master.slice() };
  nat.tuple.fill(0, 0, 8);
  nat.tuple[W_ORIG_L4] = 4242 << 16;
  const full: Expectation = {
    ...expectation,
    nat,
    fn: "nat-follow-master",
    flags: NF_CT_EXPECT_PERMANENT | NF_CT_EXPECT_INACTIVE,
  };
  assert.deepEqual(await ftp.send((batch) => void batch.deleteExpectation(full)), []);
  assert.deepEqual(await ftp.send((batch) => void batch.createExpectation(full)), []);
  const [again] = await ftp.dump();
  assert.deepEqual(
    expectationToJson({ ...again!, id: 1, timeoutSeconds: 1 }),
    expectationToJson({ ...full, id: 1, timeoutSeconds: 1 }),
  );
  assert.deepEqual((await ftp.listed("ipv4")).map(withoutTimeout), [withoutTimeout(formatExpectationTool(full))]);
});

test("the kernel wants the master, in its zone", { skip }, async () => {
  await using ftp = await Ftp.create();
  const { expectation } = await ftp.expect("epsv");
  assert.deepEqual(await ftp.send((batch) => void batch.deleteExpectation(expectation)), []);
  const master = expectation.master.slice();
  master[W_ORIG_L4]!++;
  assert.deepEqual(await ftp.send((batch) => void batch.createExpectation({ ...expectation, master })), [ENOENT]);
  setExpectationZone(expectation, 3);
  assert.deepEqual(await ftp.send((batch) => void batch.createExpectation(expectation)), [ENOENT]);
  setExpectationZone(expectation, 0);
  assert.deepEqual(await ftp.send((batch) => void batch.createExpectation(expectation)), []);
});

test("a socket hears of expectations while it is asked to, and dumps of both kinds go side by side", {
  skip,
}, async () => {
  await using ftp = await Ftp.create();
  let heard = 0;
  const sink = {
    onEvent: () => undefined,
    onExpectation: () => void heard++,
    onMalformed: () => undefined,
    onOverrun: () => undefined,
    onDrained: () => undefined,
  };
  const deaf = ftp.namespace.run(() => new EventSocket());
  deaf.listen(sink);
  const client = await ftp.client("127.0.0.2", "127.0.0.1");
  await client("port");
  await waitUntil(() => ftp.heard.length > 0, "the event");
  const flows: DecodedFlow["words"][] = [];
  const [expectations, result] = await Promise.all([
    ftp.dump(),
    ftp.requests.dump({}, (flow) => flows.push(flow.words.slice())),
  ]);
  assert.equal(expectations.length, 1);
  assert.equal(result.count, flows.length);
  assert.ok(flows.every((words) => words[W_HAS] !== 0));
  assert.equal(heard, 0);
  deaf.hearExpectations(true);
  await client("port");
  await waitUntil(() => heard > 0, "the event, now that it is asked for");
  deaf.hearExpectations(false);
  const [before, others] = [heard, ftp.heard.length];
  await client("port");
  await waitUntil(() => ftp.heard.length > others, "the event of those who still listen");
  await deaf.close();
  assert.equal(heard, before);
});
