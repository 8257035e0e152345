// A web server to ask: each answer byte for byte, each with another way to say where its body ends. See http_get.md.
const page = Array.from(
  { length: 100 },
  (_, i) => `This is line ${i + 1} of 100.\n`,
).join("");
const answers: Record<string, string> = {
  "/": `HTTP/1.1 200 OK\r\nContent-Length: ${page.length}\r\n\r\n${page}`,
  "/chunked":
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nHello, \r\n7\r\nworld!\n\r\n0\r\n\r\n",
  "/close":
    "HTTP/1.0 200 OK\r\n\r\nHere the end of the connection is the end of the page.\n",
  "/moved":
    "HTTP/1.1 301 Moved Permanently\r\nLocation: /chunked\r\nContent-Length: 0\r\n\r\n",
};

async function serve(conn: Deno.Conn) {
  let request = "";
  for await (const text of conn.readable.pipeThrough(new TextDecoderStream())) {
    request += text;
    if (!request.includes("\r\n\r\n")) continue;
    const path = request.split(" ")[1];
    await conn.write(
      new TextEncoder().encode(
        answers[path] ?? "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
      ),
    );
    if (path === "/close" || /^connection: close/im.test(request)) return; // else the next request may follow
    request = "";
  }
}

const listener = Deno.listen({ hostname: "::", port: 8080 });
console.log("listening on http://localhost:8080");
for await (const conn of listener) serve(conn).catch(console.error);
