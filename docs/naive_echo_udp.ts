// An echo server over UDP in ten lines. An empty datagram ends it, and it cuts
// datagrams at 1500 bytes: see echo_udp.md.
const at = { hostname: "::", port: 7777 };
const socket = Deno.listenDatagram({ transport: "udp", ...at });
console.log("listening on port 7777");

for (;;) {
  const [data, from] = await socket.receive(new Uint8Array(1500));
  if (data.length === 0) break;
  await socket.send(data, from);
}
socket.close();
console.log("the end");
