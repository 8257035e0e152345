// The pattern of the UDP listener among the examples of Deno, made an echo.
const socket = Deno.listenDatagram({
  transport: "udp",
  port: Number(Deno.args[0]),
});
for await (const [datagram, from] of socket) {
  await socket.send(datagram, from);
}
