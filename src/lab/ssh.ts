import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ConntrailError } from "../errors.js";
import type { Namespace } from "./namespace.js";
import { findTool, type LineProcess, runOrThrow } from "./process.js";

/** A running sshd and the arguments with which ssh runs `cat` through it. */
export interface SshService {
  readonly process: LineProcess;
  readonly clientArguments: readonly string[];
}

/** Port of the laboratory's sshd inside the server's namespace. */
export const SSH_PORT = 2222;

/** Starts a real sshd with new keys, which alone give access. It can be reached only from inside the laboratory. */
export async function startSsh(
  server: Namespace,
  address: string,
  directory: string,
  port = SSH_PORT,
): Promise<SshService> {
  const sshd = findTool("sshd");
  if (sshd === undefined) throw new ConntrailError("KERNEL", "sshd not found: apt-get install openssh-server");
  // sshd needs its privilege separation directory, which its service unit would make.
  mkdirSync("/run/sshd", { recursive: true, mode: 0o755 });
  const file = (name: string): string => join(directory, name);
  for (const key of ["host_key", "user_key"]) {
    await runOrThrow("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "", "-f", file(key)]);
  }
  writeFileSync(file("authorized_keys"), readFileSync(file("user_key.pub")), { mode: 0o600 });
  const [type, key] = readFileSync(file("host_key.pub"), "utf8").split(" ");
  writeFileSync(file("known_hosts"), `${port === 22 ? address : `[${address}]:${port}`} ${type} ${key?.trim()}\n`);
  writeFileSync(file("sshd_config"), sshdConfig(file, port, rootIsLocked()), { mode: 0o600 });
  // sshd executes itself again for each connection, and therefore requires its absolute path.
  const process = server.spawn("sshd", sshd, ["-D", "-e", "-f", file("sshd_config")], file("sshd.log"));
  await process.waitForLine("it listens", 5_000, (line) => (line.includes("Server listening on") ? true : undefined));
  return { process, clientArguments: sshArguments(file, address, port) };
}

function sshdConfig(file: (name: string) => string, port: number, locked: boolean): string {
  return `Port ${port}
ListenAddress 0.0.0.0
HostKey ${file("host_key")}
AuthorizedKeysFile ${file("authorized_keys")}
PidFile none
StrictModes no
# Without PAM sshd turns a locked account away even with the right key.
UsePAM ${locked ? "yes" : "no"}
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UseDNS no
PrintMotd no
LogLevel INFO
`;
}

function sshArguments(file: (name: string) => string, address: string, port: number): string[] {
  const options = [
    "BatchMode=yes",
    "IdentitiesOnly=yes",
    "StrictHostKeyChecking=yes",
    `UserKnownHostsFile=${file("known_hosts")}`,
    "GlobalKnownHostsFile=/dev/null",
    "ConnectTimeout=10",
    "LogLevel=ERROR",
  ];
  return [
    "-F",
    "/dev/null",
    "-T",
    "-i",
    file("user_key"),
    "-p",
    String(port),
    ...options.flatMap((option) => ["-o", option]),
    `root@${address}`,
    "exec cat",
  ];
}

function rootIsLocked(): boolean {
  try {
    return /^root:!/m.test(readFileSync("/etc/shadow", "utf8"));
  } catch {
    return false;
  }
}
