// An echo server in ten lines. It serves one client at a time, and a reset
// kills it: see echo_tcp.md.
const listener = Deno.listen({ hostname: "::", port: 7777 });
console.log("listening on port 7777");

for await (const conn of listener) {
  const buffer = new Uint8Array(1500);
  for (;;) {
    const length = await conn.read(buffer);
    if (length === null) break;
    await conn.write(buffer.subarray(0, length));
  }
  conn.close();
}
