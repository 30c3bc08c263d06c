/** Where a new node has the FIFO, and the file by which it lowers its priority. */
export const FIFO_PATH = "/run/conntrail/keepalived.fifo";
/** See FIFO_PATH. */
export const TRACK_FILE_PATH = "/run/conntrail/behind";

const FIFO_WAY = `# keepalived writes its changes of state into a FIFO, which the daemon makes and reads.
global_defs {
  vrrp_version 3
  vrrp_notify_fifo ${FIFO_PATH}
  fifo_write_vrrp_states_on_reload
}

# The daemon writes 1 while this node lacks what the primary has. The weight is more than the priorities of two nodes
# differ, and never 0, with which keepalived would not let the node become primary at all.
track_file conntrail {
  file ${TRACK_FILE_PATH}
  weight -50
  init_file 0
}

vrrp_sync_group firewall {
  group {
    lan
    wan
  }
  track_file {
    conntrail
  }
}
`;

const HOOKS_WAY = `# keepalived starts a script for each change of state.
global_defs {
  vrrp_version 3
  script_user root
  enable_script_security
}

vrrp_sync_group firewall {
  group {
    lan
    wan
  }
  notify_master "/opt/conntrail/bin/conntrail hook primary"
  notify_backup "/opt/conntrail/bin/conntrail hook backup"
  notify_fault  "/opt/conntrail/bin/conntrail hook fault"
  # Without it, a daemon still believes it is primary after keepalived stops.
  notify_stop   "/opt/conntrail/bin/conntrail hook fault"
}
`;

/**
 * conntrail's part of a keepalived.conf, for a sync group of the instances lan and wan: the way that the node's
 * configuration has, and the other one as comments.
 */
export function keepalivedSnippet(usesFifo: boolean): string {
  const [way, other] = usesFifo ? [FIFO_WAY, HOOKS_WAY] : [HOOKS_WAY, FIFO_WAY];
  const keys = usesFifo
    ? "without the key keepalived in conntrail.yaml"
    : `with "keepalived: { fifo: ${FIFO_PATH}, track_file: ${TRACK_FILE_PATH} }" in conntrail.yaml`;
  return `# conntrail's part of /etc/keepalived/keepalived.conf; deploy/keepalived.conf.example is a complete one.

${way}
# The other way, ${keys}:
#
${other.replace(/^/gm, "# ").replace(/ +$/gm, "").replace(/\n#$/, "\n")}`;
}

/** The lines of conntrail.yaml. */
export function keepalivedLines(usesFifo: boolean): string {
  const lines = `keepalived:
  fifo: ${FIFO_PATH}
  track_file: ${TRACK_FILE_PATH}
`;
  const head = `# keepalived gives this node its role through a FIFO. While the node lacks what the primary has, track_file lowers its
# priority. keepalived-snippet.conf beside this file has keepalived's side. Without these keys, keepalived calls hooks.
`;
  return head + (usesFifo ? lines : lines.replace(/^/gm, "#").replace(/#$/, ""));
}
