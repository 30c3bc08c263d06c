/**
 * Runs as a child of the bench and ends with it: makes load in the kernel's namespaces, and looks at them. Its calls block,
 * for nothing else is to be done here meanwhile.
 */
import koffi from "koffi";
import { NETLINK_NETFILTER, NFNLGRP_CONNTRACK_NEW } from "../../../src/ctnetlink/constants.js";
import { RequestSocket } from "../../../src/ctnetlink/request-socket.js";
import { AF_INET, W_ORIG_L4, W_ORIG_SRC, W_PROTO } from "../../../src/flow/record.js";
import * as libc from "../../../src/os/libc.js";
import { answerQuestions } from "../../support/child-answers.js";
import { inNamespace } from "../../support/kernel-namespace.js";
import { churn, Ring, sleepUntil } from "./churn.js";
import type { LoadQuestion, LoadQuestions } from "./protocol.js";
import { encodeRequests, Requester } from "./requester.js";

/** As many as a commit puts into one send. */
const BATCH = 256;
const CHUNK = 65_536;
const FIRST_TIMEOUT_MS = 10_000;
const POLL = koffi.load(null).func("int poll(void *fds, unsigned long count, int timeoutMs)") as (
  fds: Uint8Array,
  count: number,
  timeoutMs: number,
) => number;

type Answers = {
  [Q in LoadQuestion]: (
    args: LoadQuestions[Q]["args"],
  ) => LoadQuestions[Q]["answer"] | Promise<LoadQuestions[Q]["answer"]>;
};

const requesters = new Map<string, Requester>();
const rings = new Map<string, Ring>();
let listener = -1;

function requesterIn(namespace: string): Requester {
  const requester = requesters.get(namespace) ?? new Requester(namespace);
  requesters.set(namespace, requester);
  return requester;
}

function ringOf(namespace: string, range: number, live: number): Ring {
  const key = `${namespace} ${range} ${live}`;
  const ring = rings.get(key) ?? new Ring(requesterIn(namespace), range, live);
  rings.set(key, ring);
  return ring;
}

function fill(args: LoadQuestions["fill"]["args"]): LoadQuestions["fill"]["answer"] {
  const { namespace, range, from, count, flowsPerSecond = Number.POSITIVE_INFINITY } = args;
  const requester = requesterIn(namespace);
  let milliseconds = 0;
  for (let done = 0; done < count; done += CHUNK) {
    const size = Math.min(CHUNK, count - done);
    const requests = encodeRequests("create", range, from + done, size);
    const start = performance.now();
    for (let first = 0; first < size; first += BATCH) {
      requester.send(requests, first, Math.min(size, first + BATCH));
      sleepUntil(start + (first * 1000) / flowsPerSecond);
    }
    milliseconds += performance.now() - start;
    requester.drain();
  }
  return { seconds: milliseconds / 1000, refused: requester.takeRefused() };
}

async function starts(namespace: string): Promise<Map<string, number>> {
  const socket = inNamespace(namespace, () => new RequestSocket());
  const found = new Map<string, number>();
  await socket.dump({}, ({ words, timesMicros }) => {
    const host = words[W_PROTO]! >>> 8 === AF_INET ? words[W_ORIG_SRC]! : words[W_ORIG_SRC + 3]!;
    found.set(`${words[W_PROTO]} ${host} ${words[W_ORIG_L4]}`, timesMicros[0]!);
  });
  socket.close();
  return found;
}

function listen(namespace: string): void {
  if (listener >= 0) libc.close(listener);
  listener = inNamespace(namespace, () => libc.socket(libc.AF_NETLINK, libc.SOCK_RAW, NETLINK_NETFILTER));
  // The kernel leaves a socket without an address out of broadcasts.
  if (libc.bind(listener, Uint32Array.of(libc.AF_NETLINK, 0, 0), 12) !== 0)
    throw new Error(`bind: errno ${libc.errno()}`);
  libc.setIntOption(listener, libc.SOL_NETLINK, libc.NETLINK_ADD_MEMBERSHIP, NFNLGRP_CONNTRACK_NEW);
}

function first(): number | null {
  const fds = new Uint8Array(8);
  const view = new DataView(fds.buffer);
  view.setInt32(0, listener, true);
  view.setInt16(4, libc.POLLIN, true);
  const ready = POLL(fds, 1, FIRST_TIMEOUT_MS);
  const now = Number(process.hrtime.bigint()) / 1e6;
  libc.close(listener);
  listener = -1;
  return ready > 0 ? now : null;
}

const answers: Answers = {
  fill,
  flush: async ({ namespace }) => {
    const socket = inNamespace(namespace, () => new RequestSocket({ timeoutMs: 60_000 }));
    await socket.flush();
    socket.close();
    for (const key of rings.keys()) if (key.startsWith(`${namespace} `)) rings.delete(key);
    return null;
  },
  prepare: ({ namespace, range, live }) => {
    ringOf(namespace, range, live);
    return null;
  },
  churn: (args) => churn([ringOf(args.namespace, args.range, args.live)], args),
  churnAll: ({ namespaces, range, live, ...pace }) => {
    const all = namespaces.map((namespace) => ringOf(namespace, range, live));
    return churn(all, pace);
  },
  alive: ({ namespace, range, live }) => ringOf(namespace, range, live).alive(),
  starts: ({ namespace }) => starts(namespace),
  listen: ({ namespace }) => {
    listen(namespace);
    return null;
  },
  first,
};

answerQuestions(answers);
