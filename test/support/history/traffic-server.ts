/**
 * The server of the history test, on TCP and UDP, IPv4 and IPv6: tells each client the address and port that it saw, then echoes.
 * Run inside the server's namespace with the addresses for UDP as arguments; prints a line when it listens, ends with its input.
 */
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { createServer } from "node:net";
import { DATAGRAM_ANSWER_BYTES, TRAFFIC_PORT } from "./traffic-protocol.js";

const server = createServer((socket) => {
  socket.setNoDelay(true);
  socket.on("error", () => socket.destroy());
  socket.write(`${(socket.remoteAddress ?? "").replace("::ffff:", "")} ${socket.remotePort}\n`);
  socket.pipe(socket);
});
server.listen({ host: "::", port: TRAFFIC_PORT, backlog: 1024 });
await once(server, "listening");

// A socket for each address: one for all would answer from the address that the route suggests, not from the one asked.
for (const address of process.argv.slice(2)) {
  const socket = createSocket(address.includes(":") ? "udp6" : "udp4");
  socket.on("message", (_, peer) => {
    socket.send(`${peer.address} ${peer.port}`.padEnd(DATAGRAM_ANSWER_BYTES), peer.port, peer.address);
  });
  socket.bind(TRAFFIC_PORT, address);
  await once(socket, "listening");
}

process.stdout.write("listening\n");
process.stdin.resume().on("end", () => process.exit(0));
