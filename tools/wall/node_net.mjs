// The pattern of createServer in the documentation of Node's net.
import { createServer } from "node:net";

const server = createServer((socket) => {
  socket.pipe(socket);
});
server.listen(Number(process.argv[2]));
