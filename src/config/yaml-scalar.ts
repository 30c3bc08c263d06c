/** Words, IPv4 addresses and networks, plain paths, quantities with a unit: nothing that YAML takes for another thing. */
const PLAIN =
  /^[A-Za-z][A-Za-z0-9_-]*$|^\d+\.\d+\.\d+\.\d+(\/\d+)?$|^\/[A-Za-z0-9/._-]*[A-Za-z0-9._-]$|^\d+(m?s|[KMGT]?i?B)$/;

/** A text as a YAML scalar: plain where it cannot be taken for anything else, otherwise in quotes. */
export function yamlScalar(text: string): string {
  return PLAIN.test(text) && !/^(true|false|null|yes|no|on|off)$/i.test(text) ? text : JSON.stringify(text);
}
