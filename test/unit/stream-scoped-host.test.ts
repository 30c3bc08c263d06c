/** Link-local addresses as the broker's client takes them. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { clientServer, dialledHost, isScopedHost } from "../../src/stream/scoped-host.js";

test("an address with its interface becomes a host name, and again itself", () => {
  for (const address of ["fe80::1%eth2", "fe80::a:b%br-LAN_1.5", "fe80:1::%0"]) {
    const server = clientServer(`[${address}]:4222`);
    const { hostname, port } = new URL(`http://${server}`);
    assert.equal(port, "4222");
    assert.ok(isScopedHost(hostname));
    assert.equal(dialledHost(hostname), address);
  }
});

test("everything else stays", () => {
  for (const server of ["[fd00::1]:4222", "10.0.0.1:4222", "nats://broker.example:4222"]) {
    assert.equal(clientServer(server), server);
  }
  assert.equal(dialledHost("broker.example"), "broker.example");
});
