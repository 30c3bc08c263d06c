/** What printf made of every number, with the blanks before it, as so many marks; times of unlike length as one word. */
export function printfForm(printed: string): string {
  return printed.replace(/(\d+ (day|h|min)s? ?)+|(?<=[=:])\d+| *\b\d+\b/g, (number) =>
    / (day|h|min)/.test(number) ? "TIME" : "#".repeat(number.startsWith(" ") ? number.length : 1),
  );
}
