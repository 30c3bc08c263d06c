/** A time as ctime(3) prints it, in this machine's zone, without the line feed: `Mon Nov 30 00:43:27 2026`. */
export function ctimeText(date: Date): string {
  const [weekday, month, day, year, clock] = date.toString().split(" ");
  return `${weekday} ${month} ${String(Number(day)).padStart(2)} ${clock} ${year}`;
}
