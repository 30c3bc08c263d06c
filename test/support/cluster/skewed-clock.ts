/**
 * Loaded into a daemon before all else (`node --import`): its wall clock is off by CLOCK_OFFSET_MS from then on. The broker
 * beside it keeps the machine's time, which only the age of messages depends on.
 */
const offsetMs = Number(process.env.CLOCK_OFFSET_MS ?? 0);
const now = Date.now.bind(Date);
Date.now = () => now() + offsetMs;
