// The same over UDP. It fails when a datagram gets lost: it waits for ever. See daytime.md.
const [hostname, port] = Deno.args;

const socket = Deno.listenDatagram({
  transport: "udp",
  hostname: "0.0.0.0",
  port: 0,
});
await socket.send(new Uint8Array(), {
  transport: "udp",
  hostname,
  port: Number(port),
});
const [answer] = await socket.receive();
console.log(new TextDecoder().decode(answer).trim());
socket.close();
