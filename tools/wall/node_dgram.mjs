// The pattern of the server in the documentation of Node's dgram, made an echo.
import { createSocket } from "node:dgram";

const server = createSocket("udp4");
server.on("error", () => server.close());
server.on("message", (message, from) => {
  server.send(message, from.port, from.address);
});
server.bind(Number(process.argv[2]));
