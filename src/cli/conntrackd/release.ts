import { refusal } from "../../config/problem.js";
import { ConntrailError } from "../../errors.js";

/**
 * The releases of conntrackd whose command line can be had: of Debian 12, 13 and 14. All texts are the same but for the
 * number. Since 1.4.9 an option that it does not know, and `-C` without a file, end with 1.
 */
const RELEASES = ["1.4.7", "1.4.8", "1.4.9"] as const;

/** One of them. */
export type Release = (typeof RELEASES)[number];

/** The release that the environment asks for; the first without one. Throws ConntrailError CONFIG for another. */
export function requestedRelease(asked = process.env.CONNTRAIL_CONNTRACKD): Release {
  if (asked === undefined || asked === "") return RELEASES[0];
  const release = RELEASES.find((each) => each === asked);
  if (release !== undefined) return release;
  throw new ConntrailError("CONFIG", `CONNTRAIL_CONNTRACKD: ${refusal(asked, RELEASES.join(" or "))}`);
}

/** True for a release that ends with 1 where an earlier one went on, or ended with 0. */
export function isStrict(release: Release): boolean {
  return release === "1.4.9";
}
