/** What benchmarks write their streams with: a connection to a real nats-server, and the real publisher. */

import { pino } from "pino";
import { type BrokerConnection, connectBroker } from "../../src/stream/connection.js";
import { createEnvelopeReader } from "../../src/stream/format/mark.js";
import { Publisher } from "../../src/stream/publisher.js";
import type { TestNatsServer } from "../support/nats-server.js";

const log = pino({ level: "silent" });

/** A connection that says nothing in the log. */
export function connect(server: TestNatsServer, purpose: string): BrokerConnection {
  return connectBroker({ servers: [server.address], node: "bench", purpose, log });
}

/** Publishes a node's stream, which keeps all that fits into `bytesMax`, from its first epoch on. */
export async function startPublisher(connection: BrokerConnection, node: string, bytesMax: number): Promise<Publisher> {
  const readEnvelope = createEnvelopeReader();
  const publisher = new Publisher({
    node,
    epoch: 1,
    connection,
    retention: { maxAgeMs: 0, bytesMax },
    readNumber: (message) => readEnvelope(message.payload),
    log,
  });
  await publisher.start();
  return publisher;
}
