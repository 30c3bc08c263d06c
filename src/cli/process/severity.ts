import { SEVERITY } from "../../os/severity.js";

/** The priority of syslog(3) for a level of pino. */
export function severity(level: number): number {
  if (level >= 60) return SEVERITY.critical;
  if (level >= 50) return SEVERITY.error;
  if (level >= 40) return SEVERITY.warning;
  return level >= 30 ? SEVERITY.info : SEVERITY.debug;
}
