import type { CommandNode, OptionNode } from "./program-tree.js";

/**
 * Completions for the three shells, made from the program's own commands. Each is a static file: no shell starts Node.js
 * while somebody types.
 */

const words = (node: CommandNode): string => node.path.join(" ");
const names = (node: CommandNode): readonly string[] => node.commands.map((child) => child.path.at(-1) ?? "");
const flagsOf = (option: OptionNode): readonly string[] =>
  option.short === undefined ? [option.long] : [option.short, option.long];

function all(root: CommandNode): readonly CommandNode[] {
  return [root, ...root.commands.flatMap(all)];
}

/** The first words of a command: its commands, and the choices of its first argument. */
function firstWords(node: CommandNode): readonly string[] {
  return [...names(node), ...(node.arguments[0]?.choices ?? [])];
}

/** The completion of bash. */
export function bashCompletion(root: CommandNode): string {
  const cases = all(root).map((node) => {
    const options = [...new Set([...node.options, ...root.options].flatMap(flagsOf))].filter((flag) =>
      flag.startsWith("--"),
    );
    return `    ${JSON.stringify(words(node))}) first=${quoted(firstWords(node))} options=${quoted(options)} ;;`;
  });
  const values = all(root).flatMap((node) =>
    node.options
      .filter((option) => option.choices.length > 0)
      .map((option) => `    ${JSON.stringify(`${words(node)} ${option.long}`)}) values=${quoted(option.choices)} ;;`),
  );
  const files = [...new Set(all(root).flatMap((node) => node.options.filter((one) => one.isFile).flatMap(flagsOf)))];
  const paths = all(root)
    .filter((node) => node.path.length > 0)
    .map((node) => JSON.stringify(words(node)));
  return `# bash completion for conntrail(8). Made from the program's own help.
_conntrail() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD - 1]}
  local path="" first="" options="" values="" word i
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=\${COMP_WORDS[i]}
    case "\${path:+$path }$word" in
      ${paths.join(" | ")}) path="\${path:+$path }$word" ;;
    esac
  done
  case "$prev" in
    ${files.join(" | ")}) COMPREPLY=($(compgen -f -- "$cur")); return ;;
  esac
  case "\${path:+$path }$prev" in
${values.join("\n")}
  esac
  if [ -n "$values" ]; then COMPREPLY=($(compgen -W "$values" -- "$cur")); return; fi
  case "$path" in
${cases.join("\n")}
  esac
  if [[ $cur == -* ]]; then COMPREPLY=($(compgen -W "$options" -- "$cur"))
  elif [ -n "$first" ]; then COMPREPLY=($(compgen -W "$first" -- "$cur"))
  else COMPREPLY=($(compgen -f -- "$cur")); fi
}
complete -o filenames -F _conntrail conntrail
`;
}

/** The completion of zsh. */
export function zshCompletion(root: CommandNode): string {
  const functions = all(root).map((node) => {
    const own = node.path.length === 0 ? root.options : [...node.options, ...root.options];
    const lines = own.map((option) => `    ${zshOption(option)}`);
    const first = node.commands.length > 0 ? commandsOfZsh(node) : argumentsOfZsh(node);
    return `${zshName(node)}() {\n  _arguments -C -s \\\n${[...lines, ...first].join(" \\\n")}\n}\n`;
  });
  return `#compdef conntrail
# zsh completion for conntrail(8). Made from the program's own help.
${functions.join("\n")}
_conntrail "$@"
`;
}

function zshName(node: CommandNode): string {
  return ["_conntrail", ...node.path].join("_").replaceAll("-", "_");
}

function zshOption(option: OptionNode): string {
  const text = zshText(option.description);
  const value = option.takesValue ? `:value:${zshValues(option.choices, option.isFile)}` : "";
  const [one = "", other] = flagsOf(option);
  if (other === undefined) return `'${one}[${text}]${value}'`;
  return `'(${one} ${other})'{${one},${other}}'[${text}]${value}'`;
}

function zshValues(choices: readonly string[], isFile: boolean): string {
  if (choices.length > 0) return `(${choices.join(" ")})`;
  return isFile ? "_files" : "";
}

function commandsOfZsh(node: CommandNode): readonly string[] {
  const list = node.commands.map((child) => `${child.path.at(-1)}\\:${zshWord(child.description)}`);
  const cases = node.commands.map((child) => `${child.path.at(-1)}) ${zshName(child)} ;;`);
  return [
    `    '1:command:((${list.join(" ")}))'`,
    `    '*::argument:->argument'\n  case "$state" in argument) case "$words[1]" in ${cases.join(" ")} esac ;; esac`,
  ];
}

function argumentsOfZsh(node: CommandNode): readonly string[] {
  return node.arguments.map((argument, i) => {
    const place = argument.isVariadic ? "*" : String(i + 1);
    return `    '${place}:${zshText(argument.name)}:${zshValues(argument.choices, argument.name === "file")}'`;
  });
}

/** The completion of fish. */
export function fishCompletion(root: CommandNode): string {
  const lines = all(root).flatMap((node) => {
    const when = node.path.length === 0 ? "" : ` -n ${fishText(seen(node))}`;
    const firsts = node.commands.map(
      (child) =>
        `complete -c conntrail -f -n ${fishText(at(node))} -a ${child.path.at(-1)} -d ${fishText(child.description)}`,
    );
    const choices = (node.arguments[0]?.choices ?? []).map((choice) => `complete -c conntrail -f${when} -a ${choice}`);
    return [
      ...firsts,
      ...choices,
      ...node.options.map((option) => `complete -c conntrail${when} ${fishOption(option)}`),
    ];
  });
  return `# fish completion for conntrail(8). Made from the program's own help.\n${lines.join("\n")}\n`;
}

/** True in the line of this command. */
function seen(node: CommandNode): string {
  return node.path.map((word) => `__fish_seen_subcommand_from ${word}`).join("; and ");
}

/** True where one of this command's commands comes next. */
function at(node: CommandNode): string {
  if (node.path.length === 0) return "__fish_use_subcommand";
  return `${seen(node)}; and not __fish_seen_subcommand_from ${names(node).join(" ")}`;
}

function fishOption(option: OptionNode): string {
  const short = option.short === undefined ? "" : `-s ${option.short.slice(1)} `;
  const value = option.takesValue ? `${option.isFile ? "-r" : "-x"} ` : "";
  const choices = option.choices.length > 0 ? `-a ${fishText(option.choices.join(" "))} ` : "";
  return `${short}-l ${option.long.replace(/^--/, "")} ${value}${choices}-d ${fishText(option.description)}`;
}

const quoted = (list: readonly string[]): string => `"${list.join(" ")}"`;
const zshText = (text: string): string => text.replaceAll("'", "'\\''").replace(/[[\]:]/g, "\\$&");
const zshWord = (text: string): string => text.replaceAll("'", "'\\''").replace(/[^A-Za-z0-9'\\]/g, "\\$&");
const fishText = (text: string): string => `'${text.replace(/[\\']/g, "\\$&")}'`;
