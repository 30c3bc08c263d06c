/** The machine's own wall clock, milliseconds since the Unix epoch; a Clock of src/flow/clock.ts. */
export const systemClock = { wallMs: (): number => Date.now() };
