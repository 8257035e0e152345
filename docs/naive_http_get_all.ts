// The same, reading until the server closes. It fails when the server does not: see http_get.md.
const [hostname, port, path] = Deno.args;

const conn = await Deno.connect({ hostname, port: Number(port) });
await conn.write(
  new TextEncoder().encode(
    `GET ${path} HTTP/1.1\r\nHost: ${hostname}:${port}\r\n\r\n`,
  ),
);
const buffer = new Uint8Array(1024);
for (let n; (n = await conn.read(buffer)) !== null;) {
  await Deno.stdout.write(buffer.subarray(0, n));
}
conn.close();
