/** The severities of syslog(3) that are used here. */
export const SEVERITY = { critical: 2, error: 3, warning: 4, info: 6, debug: 7 } as const;
