/**
 * The stable name of each kind of line in the log (`event`), by its text. Texts may be worded anew, names stay: alerts and
 * searches use them. test/unit/cli-log-events.test.ts holds that every text of the program has a name.
 */
const EVENTS: Readonly<Record<string, string>> = {
  ready: "daemon.ready",
  ending: "daemon.ending",
  ended: "daemon.ended",
  crashed: "daemon.crashed",
  reloaded: "daemon.reloaded",
  "reload failed, the configuration stays as it was": "daemon.reload-failed",
  "reload failed, a part stays as it was": "daemon.reload-partial",
  "not ended in time, ending the process": "daemon.end-late",
  "a part did not end cleanly": "daemon.end-unclean",
  "no lock file: another user's file of that name is there": "daemon.lock-foreign",
  "took over the lock file of a daemon that did not end cleanly": "daemon.lock-taken-over",
  "the scheduling priority could not be set": "daemon.nice-refused",
  "directive not supported": "config.directive-unsupported",
  "systemd cannot be told anything": "systemd.unreachable",
  "systemd could not be told": "systemd.refused",
  "control socket": "control.socket-failed",
  "control connection": "control.connection-failed",
  "control request failed": "control.request-failed",
  "metrics are not served; it is tried again": "metrics.not-served",

  role: "role.changed",
  "hook ignored: keepalived started a later one": "hook.ignored",
  "takes up a hook that failed": "hook.taken-up",
  "the hook failed again": "hook.failed",
  "the hook's trace cannot be written: a restart will not know the role": "hook.trace-unwritable",
  "hooks' traces are not watched": "hook.traces-unwatched",
  "the hooks' traces cannot be read": "hook.traces-unreadable",
  commit: "commit.done",
  "commit of expectations": "commit.expectations",
  "what the commit wrote could not be read": "commit.unread",
  "purged flows that another node carries now": "purge.done",
  "nothing is purged: what another node claims passes here, as with a second sync group": "purge.nothing",
  "purge failed": "purge.failed",

  "nf_conntrack_events is 2: flows made while nobody listens stay silent; set it to 1 with sysctl":
    "kernel.events-on-demand",
  "filter.where kernelspace: the kernel has no room for all of the rules; the rest is applied in userspace":
    "kernel.filter-left-out",
  "kernel resync gave up: the table changes faster than it can be read": "kernel.resync-gave-up",
  "kernel resync: the dump failed; trying again": "kernel.dump-failed",
  "kernel resync: the dump of expectations failed": "kernel.expectations-dump-failed",
  "a flow with a helper could not be looked up": "kernel.lookup-failed",
  "flows of peers could not be written into the kernel: comparing with it": "kernel.write-failed",

  "broker started": "broker.started",
  "broker connected": "broker.connected",
  "broker connection lost": "broker.lost",
  "broker connection refused": "broker.refused",
  "the broker connection ended": "broker.connection-ended",
  "the broker did not confirm the last messages in time": "broker.unconfirmed-at-end",
  "a broker was left over by a killed daemon, stopping it": "broker.leftover",
  "the broker's supervisor ended": "broker.supervisor-ended",
  "the broker is started again": "broker.restarted",
  "the broker ended, it is started again": "broker.ended",
  "the broker crashed over what it has stored: its indexes are removed, it reads all of it anew":
    "broker.indexes-removed",
  "the store of this stream makes the broker crash: it is removed, and made anew": "broker.stream-removed",
  "JetStream of the broker does not answer, the broker is started again": "broker.jetstream-silent",

  "the streams may take more than the disk of broker.store holds: lower broker.max_bytes": "store.too-small",
  "the disk of broker.store has room again": "store.room-again",
  "the store has streams of nodes that the configuration does not name": "store.foreign-streams",

  "messages are not in the stream; a snapshot follows": "stream.messages-missing",
  "the settings of the stream were put right": "stream.settings-corrected",
  "publishing is held up": "publish.held-up",
  "publishing resumes": "publish.resumed",
  "messages are lost to the stream": "publish.lost",
  "another writer is in this node's stream": "publish.another-writer",
  "a message cannot be sent": "publish.unsendable",
  "the stream refused a message, reading what it holds": "publish.refused",
  "the stream is ahead of its writer": "publish.stream-ahead",
  "the stream does not have what it confirmed": "stream.confirmed-missing",
  "the store of the stream is damaged, it is made anew": "stream.damaged",
  "reading ended": "stream.reading-ended",
  "the stream has a hole in its middle": "stream.hole",
  "the copy of the peer's stream is damaged, it is made anew": "copy.damaged",
  "the copy of the peer's stream is damaged: reading what there is": "copy.damaged-read",
  "the copy of the peer's stream cannot be read": "copy.unreadable",
  "the copy of the peer's stream lacks a message in its middle": "copy.hole",
  "the copy of the peer's stream is open": "copy.opened",
  "the copy of the peer's stream cannot be opened; again": "copy.open-failed",
  "snapshot written": "snapshot.written",
  "snapshot abandoned: the broker did not take all of it": "snapshot.abandoned",
  "this node's own stream does not hold its whole table any more: beginning with a snapshot": "snapshot.needed",
  "this node writes another format version": "format.changed",

  "in sync": "peer.in-sync",
  "not in sync": "peer.not-in-sync",
  "in sync with the peer": "peer.caught-up",
  peer: "peer.mark",
  "starting without news of these peers": "peer.late-at-start",
  "a message of the peer was refused": "peer.message-refused",
  "messages of the peer are missing": "peer.messages-missing",
  "the peer may have missed events": "peer.gap",
  "reading the peer's stream failed; again": "peer.reading-failed",
  "the peer's stream was reset; reading it anew": "peer.stream-reset",
  "the peer's new epoch does not come; reading from its last snapshot": "peer.epoch-late",
  "the peer is put aside": "peer.put-aside",
  "the peer's stream is read again": "peer.read-again",
  "the peer's epochs begin anew; reading it anew": "peer.epochs-anew",
  "rebuilt the peer's flows from the own broker": "restore.peer",
  "rebuilt the peer's flows from the shared broker": "restore.peer-shared",
  "rebuilt this node's own flows from its stream": "restore.own",
  replaying: "restore.progress",

  "keys read again": "keys.read",
  "peers may not connect here: conntrail keys add-node, or remove them": "keys.peers-unlisted",

  "peer found": "discovery.found",
  "peers can be discovered again": "discovery.resumed",
  "peers cannot be discovered now; it is tried again": "discovery.failed",
  "an announcement was refused": "discovery.refused",
  "the peer that was found cannot be followed; restart to try again": "discovery.unfollowable",
  "the file of discovered peers is not one: it is made anew as they announce themselves": "discovery.file-damaged",
  "the file of discovered peers cannot be read": "discovery.file-unreadable",
  "the discovered peers could not be saved: a restart has to find them again": "discovery.unsaved",

  "the archiver cannot be started": "archive.start-failed",
  "the archiver ended; it is started again": "archive.ended",
  "a file of the archive cannot be read": "archive.file-unreadable",
  "the archive is behind; it is tried again": "archive.behind",
  "nothing is archived": "archive.failed",
};

/** The name of the kind of line with this text; undefined where the text is made up as it is written. */
export function eventOf(text: string): string | undefined {
  return Object.hasOwn(EVENTS, text) ? EVENTS[text] : undefined;
}

/** Every text that has a name. */
export function eventTexts(): readonly string[] {
  return Object.keys(EVENTS);
}
