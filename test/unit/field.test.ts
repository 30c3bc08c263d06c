/**
 * What configurations and situations from public sources showed, row by row, with the test that holds it. Each test is
 * looked for in its file, so that none is renamed or removed without its row.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

/** What was tried; the file below test/, and a part of the test's name there. */
const ROWS: readonly (readonly [what: string, file: string, name: string])[] = [
  // Where conntrail and conntrackd differed.
  ["Stats alone runs, logs and answers as conntrackd", "cluster/conntrackd-stats", "log and answers are conntrackd's"],
  ["a filter and syslog beside Stats", "cluster/conntrackd-stats", "syslog gets the lines too"],
  ["Stats beside Sync", "cluster/conntrackd-stats", "beside Sync, which conntrackd refuses"],
  ["conntrack-tools' nine tests", "cluster/conntrack-tools", "all pass"],
  ["two daemons on a host", "cluster/conntrackd-cli", "daemons in two network namespaces of a host"],
  ["their stores", "unit/conntrackd-translate", "daemons that have files of their own have a store of their own"],
  ["-t beside connections of the machine itself", "cluster/field", "Pacemaker's agent starts"],
  ["-t: what proves a second sync group", "unit/sync-passing", "is not seen in connections of this machine itself"],
  ["-s in each mode, with each choice of caches", "golden/conntrackd-modes", "-s of "],
  ["-i and -e likewise, ALARM's expiry", "golden/conntrackd-modes", "-i and -e of each"],
  ["-i and -e by the file's mode", "integration/cli-conntrackd", "dumps follow the mode of the file"],
  ["releases 1.4.8 and 1.4.9", "unit/cli-conntrackd-options", " refuses are refused, with the same words"],
  ["pgrep, pidof and ps find the process", "cluster/conntrackd-cli", "-d returns when the daemon is ready"],
  ["an interface with several addresses", "cluster/conntrackd-cli", "links of the field"],
  ["which of its addresses", "unit/conntrackd-translate", "of several addresses of an interface"],
  ["TCP on lo, as Debian's package tests itself", "cluster/conntrackd-cli", "links of the field"],
  ["the test of Debian's package itself", "cluster/field", "the test of Debian's package"],
  ["link-local addresses", "cluster/conntrackd-cli", "links of the field"],
  ["several dedicated links", "unit/conntrackd-translate", "the link that says Default is used"],
  ["HUP after a change of peer, timeout, limit, filter", "cluster/conntrackd-cli", "HUP applies what it can"],
  ["no change goes unnamed", "unit/daemon-reload", "every key of a configuration is compared"],
  ["an unreplied entry holds the reply tuple", "kernel/commit", "entries without a reply that hold the flows' reply"],
  ["hooks in the same moment, cores busy or not", "cluster/hooks", " pairs that keepalived starts in one moment"],
  ["a filter in the kernel is the one in user space", "kernel/socket-filter", ": what the kernel lets through"],
  ["Scheduler", "unit/conntrackd-translate", "a scheduler's type and priority"],
  ["Helper", "unit/conntrackd-translate", "helpers that the kernel has"],
  ["both side by side during the move", "cluster/field", "both side by side"],
  // What worked, and is to stay so.
  ["Pacemaker's resource agent", "cluster/field", "Pacemaker's agent starts"],
  ["VyOS' transitions and commands", "cluster/field", "VyOS' file, transitions and commands"],
  ["primary-backup.sh", "cluster/conntrackd-cli", "the distribution's primary-backup.sh"],
  ["hooks in keepalived's environment", "integration/hook", "without PATH it does its work"],
  ["a link that is open in one direction", "cluster/conntrackd-cli", "a link that is open in one direction"],
  ["repeated restarts", "cluster/crash", "two nodes: daemon, broker, both"],
  ["links that come and go", "cluster/discover", "peers are found when the link was down"],
  ["addresses that come and go", "kernel/local-addresses", "addresses are listed, and added and removed ones"],
  ["DNAT, SNAT, both, zones, SCTP, GRE, others", "cluster/oracle", "real traffic: caches, kernel table"],
  ["every protocol, state and translation", "cluster/oracle", "generated entries of every protocol"],
  ["who, with ports used again within seconds", "cluster/history-truth", "tells who had each public address and port"],
  ["who, behind a hairpin", "unit/history-who", "whose address and port it was"],
];

test("each row has its test", () => {
  for (const [what, file, name] of ROWS) {
    const text = readFileSync(`test/${file}.test.ts`, "utf8");
    const titles = [...text.matchAll(/\b(?:test|it)\(\s*(["`])([^\n]*?)\1,/g)].map(([, , title]) => title ?? "");
    assert.ok(
      titles.some((title) => title.includes(name)),
      `${what}: no test "${name}" in ${file}`,
    );
  }
});
