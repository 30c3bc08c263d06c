const LOG_CRIT = 2;
const LOG_ERR = 3;
const LOG_WARNING = 4;
const LOG_INFO = 6;
const LOG_DEBUG = 7;

/** The priority of syslog(3) for a level of pino. */
export function severity(level: number): number {
  if (level >= 60) return LOG_CRIT;
  if (level >= 50) return LOG_ERR;
  if (level >= 40) return LOG_WARNING;
  return level >= 30 ? LOG_INFO : LOG_DEBUG;
}
