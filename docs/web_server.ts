// A web server to ask, for http_get.md: a page, the same in chunks, and a page that has moved.
const lines = Array.from({ length: 100 }, (_, i) => `This is line ${i + 1} of 100.\n`);

Deno.serve({ hostname: "127.0.0.1", port: 8080 }, (request) => {
  const { pathname } = new URL(request.url);
  if (pathname === "/old") return Response.redirect("http://localhost:8080/", 302);
  if (pathname !== "/chunked") return new Response(lines.join(""));
  // The length of a stream is not known beforehand: so it goes out in chunks.
  return new Response(ReadableStream.from(["Hello, ", "world!\n"]).pipeThrough(new TextEncoderStream()));
});
