// A web client in ten lines. It fails when the page is longer than one read: see http_get.md.
const [hostname, port, path] = Deno.args;

const conn = await Deno.connect({ hostname, port: Number(port) });
await conn.write(
  new TextEncoder().encode(
    `GET ${path} HTTP/1.1\r\nHost: ${hostname}:${port}\r\n\r\n`,
  ),
);
const buffer = new Uint8Array(1024);
const n = await conn.read(buffer);
await Deno.stdout.write(buffer.subarray(0, n ?? 0));
conn.close();
