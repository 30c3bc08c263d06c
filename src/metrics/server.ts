import { createServer, type ServerResponse } from "node:http";
import { ConntrailError, errorText } from "../errors.js";

/** Where metrics are served. */
export interface MetricsEndpoint {
  readonly host: string;
  readonly port: number;
}

/** What is served. Each is called once for a request, and nothing is computed between requests. */
export interface MetricsPages {
  /** Metrics in Prometheus' text format. */
  metrics(): Promise<string>;
  /** Whether this node works, and what it says about itself. */
  health(): { readonly ok: boolean; readonly body: object };
}

const CONNECTIONS_MAX = 16;
const REQUEST_TIMEOUT_MS = 5000;

/**
 * Serves `/metrics` and `/healthz` until the function that is returned is called.
 * Throws ConntrailError PORT_TAKEN or CONTROL when it cannot listen there.
 */
export async function serveMetrics(endpoint: MetricsEndpoint, pages: MetricsPages): Promise<() => Promise<void>> {
  const server = createServer((request, response) => {
    const path = request.url?.split("?", 1)[0];
    if (request.method !== "GET" && request.method !== "HEAD") answer(response, 405, "only GET is answered\n");
    else if (path === "/metrics") void serveText(response, pages);
    else if (path === "/healthz") {
      const { ok, body } = pages.health();
      answer(response, ok ? 200 : 503, `${JSON.stringify(body)}\n`, "application/json");
    } else answer(response, 404, "only /metrics and /healthz are here\n");
  });
  server.maxConnections = CONNECTIONS_MAX;
  server.requestTimeout = REQUEST_TIMEOUT_MS;
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => reject(refusal(endpoint, error)));
    server.listen(endpoint.port, endpoint.host, resolve);
  });
  return () =>
    new Promise((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
}

async function serveText(response: ServerResponse, pages: MetricsPages): Promise<void> {
  try {
    answer(response, 200, await pages.metrics(), "text/plain; version=0.0.4; charset=utf-8");
  } catch (error) {
    answer(response, 500, `${errorText(error)}\n`);
  }
}

function answer(response: ServerResponse, code: number, body: string, type = "text/plain"): void {
  response.writeHead(code, { "content-type": type, "content-length": Buffer.byteLength(body) }).end(body);
}

function refusal({ host, port }: MetricsEndpoint, error: NodeJS.ErrnoException): ConntrailError {
  const taken = error.code === "EADDRINUSE";
  const text = taken ? "is taken by another program" : `cannot be listened on (${errorText(error)})`;
  const code = taken ? "PORT_TAKEN" : "CONTROL";
  return new ConntrailError(code, `metrics.listen ${host}:${port} ${text}: set another address`, { cause: error });
}
