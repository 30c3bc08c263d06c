import { checkConfig } from "../../src/config/config.js";
import { REFERENCE, type ReferenceEntry } from "../../src/config/reference.js";

/** The keys without which a file is refused, as YAML. */
export const REQUIRED = "cluster: edge\nnode: fw1\nlisten: 10.77.0.1\ntls: false\n";

/** A file with only what is required and this key, as YAML. */
export function fileWith(key: string, value: string): string {
  const [top = "", name] = key.split(".");
  const others = REQUIRED.split("\n").filter((line) => line !== "" && !line.startsWith(`${top}:`));
  return `${others.join("\n")}\n${top}: ${name === undefined ? value : `{ ${name}: ${value} }`}\n`;
}

/** What a key allows, in the words in which the program refuses anything else. */
export function allowedBy(key: string): string {
  const wrong = key === "peers" ? '"?"' : '{ "?": 1 }';
  const check = checkConfig(fileWith(key, wrong), "reference");
  const text = check.ok ? undefined : check.problems.find((problem) => problem.key === key)?.text;
  const allowed = text?.split("allowed is ")[1];
  if (allowed === undefined) throw new Error(`${key} refuses nothing: ${text}`);
  return allowed;
}

/** The default of a key in words. */
export function defaultOf(entry: ReferenceEntry): string {
  return entry.default === null ? (entry.without ?? "none") : `\`${entry.default}\``;
}

/** docs/configuration.md. */
export function configurationPage(): string {
  const groups = REFERENCE.map(({ title, entries }) => {
    const rows = entries.map((entry) => {
      const cells = [`\`${entry.key}\``, defaultOf(entry), cell(allowedBy(entry.key)), cell(entry.text)];
      return `| ${cells.join(" | ")} |`;
    });
    return `## ${title}\n\n| key | default | allowed | |\n|---|---|---|---|\n${rows.join("\n")}\n`;
  });
  return `# Configuration

The file is YAML: \`/etc/conntrail/conntrail.yaml\`, unless \`-c\` names another one. \`conntrail init\` writes it, with
comments. An unknown key or a bad value is refused, and the message says which key, what was found and what is allowed.
Durations and sizes carry units: \`5ms\`, \`10s\`, \`3m\`, \`2h\`, \`7d\`; \`64KiB\`, \`2GiB\`.

    cluster: edge
    node: fw1
    listen: 10.77.0.1
    peers: { fw2: 10.77.0.2 }
    tls: { ca: keys/ca.pem, cert: keys/node.pem, key: keys/node.key, nodes: keys/nodes.json }

A key with a dot is in a map: \`broker.max_age\` is \`broker: { max_age: 7d }\`. This page is made from the program
(\`npm run docs\`), and a test holds that it is current.

${groups.join("\n")}`;
}

function cell(text: string): string {
  return text.replaceAll("|", "\\|");
}
