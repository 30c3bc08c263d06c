/**
 * The echo service of the laboratory: TCP and UDP, IPv4 and IPv6, one port. Run as a process inside the server's
 * namespace with the port and the addresses for UDP as arguments; prints one line when it listens and ends when its
 * standard input does.
 */
import { createSocket } from "node:dgram";
import { once } from "node:events";
import { createServer } from "node:net";

const port = Number(process.argv[2]);
const addresses = process.argv.slice(3);

const server = createServer((socket) => {
  socket.setNoDelay(true);
  socket.on("error", () => socket.destroy());
  socket.pipe(socket);
});
server.listen({ host: "::", port, backlog: 1024 });
await once(server, "listening");

// A socket for each address: one for all would answer from the address that the route suggests, not from the one
// asked.
for (const address of addresses) {
  const socket = createSocket(address.includes(":") ? "udp6" : "udp4");
  socket.on("message", (message, peer) => socket.send(message, peer.port, peer.address));
  socket.bind(port, address);
  await once(socket, "listening");
}

process.stdout.write(`${JSON.stringify({ type: "done" })}\n`);
process.stdin.resume().on("end", () => process.exit(0));
