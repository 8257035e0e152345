// The pattern of the TCP echo server among the examples of Deno.
const listener = Deno.listen({ port: Number(Deno.args[0]) });
for await (const conn of listener) {
  conn.readable.pipeTo(conn.writable);
}
