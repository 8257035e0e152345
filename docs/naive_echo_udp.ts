// An echo server over UDP in ten lines. An empty datagram ends it, and it cuts at 1500 bytes: see echo_udp.md.
const socket = Deno.listenDatagram({
  transport: "udp",
  hostname: "::",
  port: 7777,
});
console.log("listening on port 7777");

for (;;) {
  const [data, from] = await socket.receive(new Uint8Array(1500));
  if (data.length === 0) break;
  await socket.send(data, from);
}
socket.close();
console.log("the end");
