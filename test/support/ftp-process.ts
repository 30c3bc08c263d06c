/** The FTP server and clients of ftp.ts as processes in network namespaces. */
import type { Namespace } from "../../src/lab/namespace.js";
import { type LineProcess, waitFor } from "../../src/lab/process.js";
import { FTP_PROGRAM, type FtpAnswer } from "./ftp.js";

const LISTEN_TIMEOUT_MS = 30_000;
/** Long enough for TCP to have sent again several times. */
const STEP_TIMEOUT_MS = 40_000;

/** A client that runs, step by step. */
export interface FtpClientProcess {
  readonly process: LineProcess;
  step(step: string): Promise<FtpAnswer>;
}

/** Starts a server at each of the addresses; resolves when it listens. */
export async function startFtpServer(
  namespace: Namespace,
  logFile: string,
  hosts: readonly string[],
  port: number,
): Promise<LineProcess> {
  const [host = "", ...others] = hosts;
  const args = [FTP_PROGRAM, "server", host, String(port), ...others];
  const server = namespace.spawn("ftp server", process.execPath, args, logFile);
  await server.waitForLine("it listens", LISTEN_TIMEOUT_MS, (line) => (line === "listening" ? true : undefined));
  return server;
}

/** Connects a client from `source`; resolves when it has said USER. */
export async function openFtpClient(
  namespace: Namespace,
  logFile: string,
  target: { readonly host: string; readonly port: number; readonly source: string },
): Promise<FtpClientProcess> {
  const args = [FTP_PROGRAM, "client", target.host, String(target.port), target.source];
  const client = namespace.spawn("ftp client", process.execPath, args, logFile);
  const answerTo = (step: string): Promise<FtpAnswer> => {
    const from = client.lines.length;
    if (step !== "user") client.send(step);
    return waitFor(`an answer to "${step}"`, STEP_TIMEOUT_MS, () => {
      const line = client.lines.slice(step === "user" ? 0 : from).find((text) => text.includes(`"step":"${step}"`));
      return line === undefined ? undefined : (JSON.parse(line) as FtpAnswer);
    });
  };
  await answerTo("user");
  return { process: client, step: answerTo };
}
