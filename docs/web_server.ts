/**
 * A web server for the lesson http_get.md. Each of its answers has another way
 * to say where the body ends.
 *
 *     deno run -A docs/web_server.ts [--port 8080]
 *
 * @module
 */
import { parseArgs } from "jsr:@std/cli@^1/parse-args";
import { accept, Failure, listen, parsePort } from "../utils.ts";
import { reason, writeAll } from "../utils.ts";

const lines = Array.from({ length: 100 }, (_, i) => `This is line ${i + 1}`);
const page = lines.map((line) => `${line} of 100.\n`).join("");
const answers: Record<string, string> = {
  "/": `HTTP/1.1 200 OK\r\nContent-Length: ${page.length}\r\n\r\n${page}`,
  "/chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" +
    "7\r\nHello, \r\n7\r\nworld!\n\r\n0\r\n\r\n",
  "/close": "HTTP/1.0 200 OK\r\n\r\n" +
    "The end of the connection is the end of this page.\n",
  "/moved": "HTTP/1.1 301 Moved Permanently\r\n" +
    "Location: /chunked\r\nContent-Length: 0\r\n\r\n",
};
const missing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
const foreign = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" +
  "This is not HTTP. If it was TLS, use http instead of https.\n";

/** Serves a connection, one request after another, until it has to close. */
async function serve(conn: Deno.Conn): Promise<void> {
  const send = (text: string) => writeAll(conn, new TextEncoder().encode(text));
  let request = "";
  for await (const text of conn.readable.pipeThrough(new TextDecoderStream())) {
    request += text;
    if (!/^[A-Z]/.test(request)) return await send(foreign);
    if (!request.includes("\r\n\r\n")) continue;
    const [method, path] = request.split(" ");
    const answer = answers[path] ?? missing;
    const [head] = answer.split("\r\n\r\n");
    await send(method === "HEAD" ? `${head}\r\n\r\n` : answer);
    if (path === "/close" || /^connection: close/im.test(request)) return;
    request = ""; // the client may send another one
  }
}

function refuseOther(arg: string): never {
  throw new Failure(
    2,
    `unknown argument ${arg}: the only option is --port PORT`,
  );
}

function open(args: string[]): Deno.TcpListener {
  try {
    const { port } = parseArgs(args, {
      string: ["port"],
      unknown: refuseOther,
    });
    return listen((at) => Deno.listen(at), parsePort(port ?? "8080"));
  } catch (error) {
    console.error(`web_server: ${reason(error)}`);
    Deno.exit(error instanceof Failure ? error.status : 1);
  }
}

if (import.meta.main) {
  const listener = open(Deno.args);
  console.log(`listening on http://localhost:${listener.addr.port}`);
  for (;;) {
    const conn = await accept(listener, console.error);
    if (!conn) break;
    serve(conn).catch((error) => console.error(reason(error)));
  }
}
