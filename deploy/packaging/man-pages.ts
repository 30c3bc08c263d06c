import { REFERENCE } from "../../src/config/reference.js";
import { allowedBy, defaultOf } from "./config-reference.js";
import { type CommandNode, leaves, type OptionNode } from "./program-tree.js";

/** What a man page says at its head and foot. */
export interface Edition {
  readonly version: string;
  /** The day of the release: `2026-01-31`. */
  readonly date: string;
}

/** conntrail(8), from the program's own help. */
export function conntrailPage(root: CommandNode, edition: Edition): string {
  const commands = leaves(root).flatMap((node) => [
    `.SS ${escaped(usage(node))}`,
    escaped(sentence(node.description)),
    ...node.arguments
      .filter((one) => one.description !== "")
      .flatMap((one) => [
        ".TP",
        `.I ${escaped(one.name)}`,
        escaped(spoken(withChoices(one.description, one.choices), one.choices)),
      ]),
    ...node.options.flatMap(optionText),
  ]);
  return page("conntrail", 8, edition, "replicates the connection tracking table between firewalls", [
    ".SH SYNOPSIS",
    ".B conntrail",
    ".RB [ \\-c\\ \\fIFILE\\fR ]\\ [ \\-\\-json ]",
    ".I COMMAND",
    ".SH DESCRIPTION",
    "conntrail reads the connection tracking events of this firewall's kernel, publishes them to a stream of its own in",
    "NATS JetStream, and follows the streams of the other firewalls. When keepalived makes this firewall primary, it",
    "writes the connections of the others into the kernel, and they go on.",
    ".PP",
    "Most commands ask the running daemon over its control socket, which only root and the daemon's user may open.",
    ".SH OPTIONS",
    ...root.options.flatMap(optionText),
    ".SH COMMANDS",
    ...commands,
    ".SH EXIT STATUS",
    ...definitions([
      ["0", "Done. For status: a failover now would lose nothing. For doctor: nothing would break a failover."],
      ["1", "Failed; one line on standard error says why."],
      ["2", "Wrong usage or configuration."],
    ]),
    ".SH FILES",
    ...definitions([
      ["/etc/conntrail/conntrail.yaml", "The configuration, see conntrail.yaml(5)."],
      ["/etc/conntrail/keys", "The keys of the link."],
      ["/var/lib/conntrail", "The streams."],
      ["/run/conntrail/control.sock", "The control socket."],
      ["/usr/share/doc/conntrail", "Guides, and examples of a ruleset and of keepalived's configuration."],
    ]),
    ".SH SEE ALSO",
    ".BR conntrail.yaml (5),",
    ".BR conntrail-conntrackd (8),",
    ".BR keepalived (8),",
    ".BR conntrack (8)",
  ]);
}

/** conntrail.yaml(5), from the configuration's schema. */
export function configurationManPage(edition: Edition): string {
  const groups = REFERENCE.flatMap(({ title, entries }) => [
    `.SH ${title.toUpperCase()}`,
    ...entries.flatMap((entry) => [
      ".TP",
      `.B ${escaped(entry.key)}`,
      escaped(plain(entry.text)),
      ".br",
      escaped(`Allowed: ${ended(plain(allowedBy(entry.key)))}`),
      ".br",
      escaped(`Default: ${ended(plain(defaultOf(entry)))}`),
    ]),
  ]);
  return page("conntrail.yaml", 5, edition, "configuration of conntrail", [
    ".SH DESCRIPTION",
    "The file is YAML. An unknown key or a bad value is refused. A key with a dot is in a map:",
    ".B broker.max_age",
    "is",
    ".BR \\(dqbroker:\\ {\\ max_age:\\ 7d\\ }\\(dq .",
    "Durations and sizes carry units: 5ms 10s 3m 2h 7d, 64KiB 2GiB.",
    ...groups,
    ".SH SEE ALSO",
    ".BR conntrail (8)",
  ]);
}

/** conntrail-conntrackd(8): conntrackd's command line on conntrail. */
export function conntrackdPage(edition: Edition): string {
  const rows: readonly (readonly [string, string])[] = [
    ["-d", "Run the daemon in the background. Returns when it is ready."],
    ["-k", "End the daemon. Returns when it is gone."],
    ["-C FILE", "An unchanged conntrackd.conf, or conntrail's YAML. Default: /etc/conntrackd/conntrackd.conf."],
    ["-i [expect], -e [expect]", "Print the internal or the external cache. With -x as XML."],
    ["-c [ct|expect]", "Commit the external cache to the kernel."],
    ["-f [internal|external]", "Flush the caches."],
    ["-F [ct|expect]", "Flush the kernel's table."],
    ["-R [ct|expect]", "Read the kernel's table again."],
    ["-n, -B", "Ask the peers for their state; send all of this node's state."],
    ["-t", "After purge.after, remove what another node carries now."],
    ["-s [topic]", "Print statistics, in conntrackd's words."],
    ["-v, -h", "Print the version; print help."],
  ];
  return page("conntrail-conntrackd", 8, edition, "conntrackd's command line on conntrail", [
    ".SH SYNOPSIS",
    ".B conntrail-conntrackd",
    ".RI [ options ]",
    ".SH DESCRIPTION",
    "Takes conntrackd's complete command line, with its exit codes and output, so that scripts and units that call",
    "conntrackd need another path only:",
    ".PP",
    ".B CONNTRACKD_BIN=/usr/sbin/conntrail-conntrackd",
    ".SH OPTIONS",
    ...definitions(rows),
    ".SH SEE ALSO",
    ".BR conntrail (8),",
    ".BR conntrackd.conf (5)",
  ]);
}

function page(name: string, section: number, edition: Edition, what: string, body: readonly string[]): string {
  const head = [
    '.\\" Made from the program: changes belong there.',
    `.TH ${name.toUpperCase()} ${section} ${edition.date} "conntrail ${edition.version}" "conntrail"`,
    ".SH NAME",
    `${name} \\- ${escaped(what)}`,
  ];
  return `${[...head, ...body].join("\n")}\n`;
}

function usage(node: CommandNode): string {
  const words = node.arguments.map(({ name, isRequired, isVariadic }) => {
    const word = isVariadic ? `${name}...` : name;
    return isRequired ? word : `[${word}]`;
  });
  return [...node.path, ...words, ...(node.options.length > 0 ? ["[options]"] : [])].join(" ");
}

function optionText(option: OptionNode): readonly string[] {
  const byDefault = option.defaultText === undefined ? "" : ` (default: ${option.defaultText})`;
  const text = `${withChoices(option.description, option.choices)}${byDefault}`;
  return [".TP", `.B ${escaped(option.flags)}`, escaped(spoken(text, option.choices))];
}

function withChoices(text: string, choices: readonly string[]): string {
  return choices.length === 0 || choices.every((one) => text.includes(one)) ? text : `${text}: ${choices.join(", ")}`;
}

function definitions(rows: readonly (readonly [string, string])[]): readonly string[] {
  return rows.flatMap(([term, text]) => [".TP", `.B ${escaped(term)}`, escaped(text)]);
}

/** With a capital letter and a full stop. */
function sentence(text: string): string {
  return ended(text.charAt(0).toUpperCase() + text.slice(1));
}

/** As a sentence, unless it begins with a word that is to be typed. */
function spoken(text: string, choices: readonly string[]): string {
  return choices.some((choice) => text.startsWith(choice)) ? ended(text) : sentence(text);
}

function ended(text: string): string {
  return /[.!?]$/.test(text) || text === "" ? text : `${text}.`;
}

/** Markdown's code without its quotes. */
function plain(text: string): string {
  return text.replaceAll("`", "");
}

/** A line of text in roff: no character of it is a request. */
function escaped(text: string): string {
  return text
    .replaceAll("\\", "\\e")
    .replaceAll("-", "\\-")
    .replace(/^(['.])/, "\\&$1");
}
