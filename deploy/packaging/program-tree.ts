import type { Argument, Command, Option } from "commander";

/** A command of the program, as its help describes it. */
export interface CommandNode {
  /** The words after `conntrail`: `keys add-node`; empty for the program itself. */
  readonly path: readonly string[];
  readonly description: string;
  readonly arguments: readonly ArgumentNode[];
  readonly options: readonly OptionNode[];
  readonly commands: readonly CommandNode[];
}

/** An argument of a command. */
export interface ArgumentNode {
  readonly name: string;
  readonly description: string;
  readonly isRequired: boolean;
  readonly isVariadic: boolean;
  readonly choices: readonly string[];
}

/** An option of a command. */
export interface OptionNode {
  /** `-c`; undefined where it has only a long name. */
  readonly short: string | undefined;
  readonly long: string;
  readonly flags: string;
  readonly description: string;
  /** True if a value follows. */
  readonly takesValue: boolean;
  /** True if the value is a file. */
  readonly isFile: boolean;
  readonly choices: readonly string[];
  readonly defaultText: string | undefined;
}

/** The program and all of its commands as plain data, in the order of the help. */
export function commandTree(command: Command, path: readonly string[] = []): CommandNode {
  return {
    path,
    description: command.description(),
    arguments: command.registeredArguments.map(argumentNode),
    options: command.options.filter((option) => !option.hidden).map(optionNode),
    commands: command.commands.map((child) => commandTree(child, [...path, child.name()])),
  };
}

/** The commands that do something: those without commands of their own, and those that also work alone. */
export function leaves(node: CommandNode): readonly CommandNode[] {
  return node.commands.flatMap((child) => (child.commands.length === 0 ? [child] : [child, ...leaves(child)]));
}

function argumentNode(argument: Argument): ArgumentNode {
  return {
    name: argument.name(),
    description: argument.description,
    isRequired: argument.required,
    isVariadic: argument.variadic,
    choices: argument.argChoices ?? [],
  };
}

function optionNode(option: Option): OptionNode {
  const value = option.defaultValue;
  const isShown = typeof value === "string" || typeof value === "number";
  return {
    short: option.short,
    long: option.long ?? option.flags,
    flags: option.flags,
    description: option.description,
    takesValue: option.required || option.optional,
    isFile: /<(file|path|dir)/.test(option.flags),
    choices: option.argChoices ?? [],
    defaultText: isShown ? String(value) : undefined,
  };
}
