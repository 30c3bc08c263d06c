/**
 * The seeds of a run: the first `count` and those that ever failed. `SIM_SEEDS=5000`: so many; `SIM_SEEDS=731-731`: these.
 */
export function seedsOf(count: number, failed: readonly number[]): number[] {
  const text = process.env.SIM_SEEDS;
  if (text === undefined) return [...range(1, count), ...failed.filter((seed) => seed > count)];
  const [first, last] = text.includes("-") ? text.split("-").map(Number) : [1, Number(text)];
  return range(first!, last!);
}

function range(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}
