// A daytime client in ten lines. It fails when the line does not arrive all at
// once: see daytime.md.
const [hostname, port] = Deno.args;

const conn = await Deno.connect({ hostname, port: Number(port) });
const buffer = new Uint8Array(1024);
const length = await conn.read(buffer);
const answer = buffer.subarray(0, length ?? 0);
console.log(new TextDecoder().decode(answer).trim());
conn.close();
