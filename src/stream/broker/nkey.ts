/** The keys by which the nodes log in at the servers of a shared NATS cluster. */
import { nkeys } from "nats";
import { ConntrailError, errorText } from "../../errors.js";
import { readSecret } from "../connection.js";

/** The seed of a new key: what the node has of it. */
export function newNkeySeed(): string {
  return new TextDecoder().decode(nkeys.createUser().getSeed());
}

/** The public key of the seed in a file: what the servers have of it. Throws ConntrailError CONFIG when there is no seed. */
export function publicNkey(path: string): string {
  try {
    return nkeys.fromSeed(new TextEncoder().encode(readSecret(path))).getPublicKey();
  } catch (error) {
    throw new ConntrailError("CONFIG", `${path}: is no seed of an nkey (${errorText(error)})`, { cause: error });
  }
}
