// An echo server in ten lines. It serves one client at a time, and a reset kills it: see echo_tcp.md.
const listener = Deno.listen({ hostname: "::", port: 7777 });
console.log("listening on port 7777");

for await (const conn of listener) {
  const buffer = new Uint8Array(1500);
  for (let n; (n = await conn.read(buffer)) !== null;) {
    await conn.write(buffer.subarray(0, n));
  }
  conn.close();
}
