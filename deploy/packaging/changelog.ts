/** The day of a release in a changelog by Keep a Changelog; of the newest release where this one has no heading yet. */
export function releaseDate(changelog: string, version: string): string {
  const days = [...changelog.matchAll(/^## \[([^\]]+)\] - (\d{4}-\d{2}-\d{2})$/gm)];
  const own = days.find((match) => match[1] === version) ?? days[0];
  const day = own?.[2];
  if (day === undefined) throw new Error(`CHANGELOG.md has no release with a day: add "## [${version}] - YYYY-MM-DD"`);
  return day;
}
