// A daytime client in ten lines. It fails when the line does not come all at once: see daytime.md.
const [hostname, port] = Deno.args;

const conn = await Deno.connect({ hostname, port: Number(port) });
const buffer = new Uint8Array(1024);
const n = await conn.read(buffer);
console.log(new TextDecoder().decode(buffer.subarray(0, n ?? 0)).trim());
conn.close();
