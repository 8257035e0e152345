// A web client in ten lines. It fails when the page is longer than one read:
// see http_get.md.
const [hostname, port, path] = Deno.args;

const conn = await Deno.connect({ hostname, port: Number(port) });
const request = `GET ${path} HTTP/1.1\r\nHost: ${hostname}:${port}\r\n\r\n`;
await conn.write(new TextEncoder().encode(request));
const buffer = new Uint8Array(1024);
const length = await conn.read(buffer);
await Deno.stdout.write(buffer.subarray(0, length ?? 0));
conn.close();
