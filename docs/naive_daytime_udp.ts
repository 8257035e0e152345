// A daytime client over UDP in ten lines. It waits forever when a datagram is
// lost: see daytime.md.
const [hostname, port] = Deno.args;

const any = { hostname: "0.0.0.0", port: 0 };
const server = { transport: "udp", hostname, port: Number(port) } as const;
const socket = Deno.listenDatagram({ transport: "udp", ...any });
await socket.send(new Uint8Array(), server);
const [answer] = await socket.receive();
console.log(new TextDecoder().decode(answer).trim());
socket.close();
