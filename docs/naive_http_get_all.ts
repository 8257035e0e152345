// A web client that reads until the server closes. It waits forever when the
// server does not close: see http_get.md.
const [hostname, port, path] = Deno.args;

const conn = await Deno.connect({ hostname, port: Number(port) });
const request = `GET ${path} HTTP/1.1\r\nHost: ${hostname}:${port}\r\n\r\n`;
await conn.write(new TextEncoder().encode(request));
const buffer = new Uint8Array(1024);
for (;;) {
  const length = await conn.read(buffer);
  if (length === null) break;
  await Deno.stdout.write(buffer.subarray(0, length));
}
conn.close();
