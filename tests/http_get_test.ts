import {
  assert,
  assertEquals,
  assertLess,
  assertMatch,
  assertStringIncludes,
  assertThrows,
} from "jsr:@std/assert@^1";
import {
  main,
  type Options,
  parseField,
  parseURL,
  progress,
  redirect,
  request,
} from "../http_get.ts";
import { Failure, Trace } from "../utils.ts";
import {
  bytes,
  checksum,
  collect,
  compress,
  folder,
  hold,
  random,
  RawServer,
  text,
  write,
} from "./http_servers.ts";
import { test } from "./helpers.ts";

const OK = "HTTP/1.1 200 OK\r\n",
  HI = `${OK}Content-Length: 2\r\n\r\nhi`,
  NOWHERE = new URL("http://localhost/");

/** Runs a command line in this process; returns its status and what it complains about. */
async function complain(
  ...args: string[]
): Promise<{ code: number; stderr: string }> {
  const { error } = console, lines: unknown[] = [];
  console.error = (...line) => void lines.push(line.at(-1));
  try {
    return { code: await main(args), stderr: lines.join("\n") };
  } finally {
    console.error = error;
  }
}

/** The status with which something fails. */
const status = (act: () => unknown) => assertThrows(act, Failure).status;

// The request

const lines = (url: string, options: Partial<Options> = {}) =>
  text(request(new URL(url), { url: new URL(url), ...options })).split("\r\n");

test("http_get sends a request line, and four headers", async () => {
  await using server = new RawServer(HI);
  assertEquals(await collect({ url: server.url("/a?b=c") }), {
    body: "hi",
    code: 0,
    message: "",
  });
  assertEquals(server.requests, [
    `GET /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:${server.port}\r\nUser-Agent: http_get/1.0.0\r\nAccept: */*\r\n` +
    "Connection: close\r\n\r\n",
  ]);
});

test("http_get asks for the headers only, in HTTP/1.0, or for something compressed, if told to", () => {
  assertEquals(lines("http://a/b", { head: true })[0], "HEAD /b HTTP/1.1");
  assertEquals(lines("http://a/b", { http1: true })[0], "GET /b HTTP/1.0");
  assert(lines("http://a/b", { http1: true }).includes("Host: a"));
  assert(
    lines("http://a/b", { compressed: true }).includes(
      "Accept-Encoding: gzip, deflate",
    ),
  );
  assert(
    !lines("http://a/b").some((line) => line.startsWith("Accept-Encoding")),
  );
});

test("http_get names the host with its port where that is not the usual one, and IPv6 in brackets", () => {
  const hosts = {
    "http://example.com/": "example.com",
    "http://example.com:80/": "example.com",
    "https://example.com:443/": "example.com",
    "http://example.com:443/": "example.com:443",
    "https://example.com:80/": "example.com:80",
    "http://[::1]/": "[::1]",
    "http://[2001:DB8:0::1]:8080/": "[2001:db8::1]:8080",
    "http://bücher.example/": "xn--bcher-kva.example",
    "http://EXAMPLE.com/": "example.com",
    "http://user:secret@example.com/": "example.com",
  };
  for (const [url, host] of Object.entries(hosts)) {
    assertEquals(lines(url)[1], `Host: ${host}`);
  }
});

test("http_get keeps the fragment to itself, and the rest of the target as it is", () => {
  const targets = {
    "http://a": "/",
    "http://a#b": "/",
    "http://a/b#c?d": "/b",
    "http://a?b": "/?b",
    "http://a/b?#c": "/b?",
    "http://a/b?c=d&e=%20": "/b?c=d&e=%20",
    "http://a/%0d%0aHost:%20b": "/%0d%0aHost:%20b",
    "http://a/%00": "/%00",
    "http://a/b c?d e": "/b%20c?d%20e",
    "http://a/bücher": "/b%C3%BCcher",
    "http://a/b/../c/./d": "/c/d",
    "http://u:p@a/@b": "/@b",
  };
  for (const [url, target] of Object.entries(targets)) {
    assertEquals(lines(url)[0], `GET ${target} HTTP/1.1`);
  }
});

test("http_get turns a user and a password in the URL into Basic authentication, byte for byte", () => {
  const credentials = {
    "http://Aladdin:open%20sesame@a/": "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", // RFC 7617's own example
    "http://user@a/": `Basic ${btoa("user:")}`,
    "http://:key@a/": `Basic ${btoa(":key")}`,
    "http://u%3A:p%40%ff@a/": `Basic ${btoa("u::p@\xff")}`,
    "http://ü:p@a/": `Basic ${btoa("\xc3\xbc:p")}`,
  };
  for (const [url, value] of Object.entries(credentials)) {
    assert(lines(url).includes(`Authorization: ${value}`), url);
  }
  assert(!lines("http://a/").some((line) => line.startsWith("Authorization")));
});

test("http_get lets -H replace, remove and add headers", () => {
  const given = (...headers: string[]) =>
    lines("http://u:p@a/", { headers: headers.map(parseField) }).slice(1, -2);
  assert(
    given("Host: b").includes("Host: b") &&
      !given("Host: b").includes("Host: a"),
  );
  assertEquals(
    given("host:", "USER-AGENT:", "accept: ", "connection:", "authorization:"),
    [],
  );
  assertEquals(
    given("User-agent: x").filter((line) => /^user-agent/i.test(line)),
    ["User-agent: x"],
  );
  assertEquals(given("X: 1", "x:2", "Y:  3 ").slice(-3), [
    "X: 1",
    "x: 2",
    "Y: 3",
  ]);
  assert(given("Authorization: Bearer z").includes("Authorization: Bearer z"));
  assertEquals(
    given("Authorization: Bearer z").filter((line) => /^auth/i.test(line))
      .length,
    1,
  );
});

test("http_get says which client it is, as -A or -H tell it to", () => {
  const agent = (options: Partial<Options>) =>
    lines("http://a/", options).filter((line) => /^user/i.test(line));
  assertEquals(agent({ "user-agent": "me" }), ["User-Agent: me"]);
  assertEquals(
    agent({ "user-agent": "me", headers: [["User-Agent", "you"]] }),
    ["User-Agent: you"],
  );
});

test("http_get refuses CR, LF and NUL in a URL", () => {
  for (
    const bad of [
      "http://a/\r\nHost: b",
      "http://a/\n",
      "http://a\0/",
      "http://a/\t",
      "\nhttp://a/",
    ]
  ) {
    assertEquals(status(() => parseURL(bad)), 3, JSON.stringify(bad));
  }
});

test("http_get refuses headers that are none, or that smuggle", () => {
  for (
    const bad of [
      "A: b\r\nC: d",
      "A: b\nC: d",
      "A: b\rC",
      "A: b\0",
      "A\r\n: b",
      "A",
      ": b",
      "A b: c",
      "A : b",
      "ä: b",
    ]
  ) {
    assertEquals(status(() => parseField(bad)), 2, JSON.stringify(bad));
  }
  assertEquals(parseField("A:\tb\tc: d "), ["A", "b\tc: d"]);
  assertEquals(parseField("A: bücher"), ["A", "bücher"]);
});

test("http_get takes a URL without http://, and refuses what is none", () => {
  const good = {
    "localhost:8080/a": "http://localhost:8080/a",
    "example.com": "http://example.com/",
    "[::1]:80/": "http://[::1]/",
    "user:key@a": "http://user:key@a/",
    "HTTP://A/": "http://a/",
    "http://127.1/": "http://127.0.0.1/",
  };
  for (const [given, url] of Object.entries(good)) {
    assertEquals(parseURL(given).href, url);
  }
  const bad = [
    "http://",
    "http:///a",
    "http://a b/",
    "http://a:99999/",
    "http://a:b/",
    "http://[::1/",
    "/a",
    "//a",
    "?",
    "http:/a",
    "https:/user:key@a/b",
    "HTTP:\\\\a",
  ];
  for (const each of bad) assertEquals(status(() => parseURL(each)), 3, each);
  for (const each of ["ftp://a/", "file:///etc/passwd", "javascript://a"]) {
    assertEquals(status(() => parseURL(each)), 1, each);
  }
});

// Redirects

/** A server that answers `/` with a redirect, and everything else with "hi". */
const redirecting = (location: string, code = 302, more = "") =>
  new RawServer((conn, request) =>
    write(
      conn,
      /^\w+ \/ /.test(request)
        ? `HTTP/1.1 ${code} Moved\r\n${more}Location: ${location}\r\n\r\nmoved`
        : HI,
    )
  );
const targets = (server: RawServer) =>
  server.requests.map((request) => request.split(" ")[1]);

test("http_get follows 301, 302, 303, 307 and 308 with -L, and nothing else", async () => {
  for (const code of [301, 302, 303, 307, 308]) {
    await using server = redirecting("/b", code);
    assertEquals((await collect({ url: server.url() })).body, "moved");
    assertEquals(await collect({ url: server.url(), location: true }), {
      body: "hi",
      code: 0,
      message: "",
    });
    assertEquals(targets(server), ["/", "/", "/b"]);
  }
  for (const code of [200, 201, 300, 305, 306, 400]) {
    await using server = redirecting("/b", code);
    assertEquals(
      (await collect({ url: server.url(), location: true })).body,
      "moved",
      `${code}`,
    );
  }
});

test("http_get finds where relative redirects lead", () => {
  const leads = (location: string) =>
    redirect(new URL("http://h:8080/a/b/c?d#e"), location).href;
  assertEquals(leads("http://g:81/x"), "http://g:81/x");
  assertEquals(leads("/x"), "http://h:8080/x");
  assertEquals(leads("x"), "http://h:8080/a/b/x");
  assertEquals(leads("../x"), "http://h:8080/a/x");
  assertEquals(leads("../../../../x"), "http://h:8080/x");
  assertEquals(leads("?x"), "http://h:8080/a/b/c?x");
  assertEquals(leads("//g/x"), "http://g/x");
  assertEquals(leads("https://g"), "https://g/");
  assertEquals(leads("#x"), "http://h:8080/a/b/c?d#x");
  assertEquals(leads("/b\xc3\xbc\xff x"), "http://h:8080/b%c3%bc%ff%20x");
  assertEquals(
    leads("http://b\xc3\xbccher.example/"),
    "http://xn--bcher-kva.example/",
  );
});

test("http_get asks for the place that a redirect leads to, without its fragment", async () => {
  for (
    const [location, target] of [
      ["/a/../b?c#d", "/b?c"],
      ["?x", "/?x"],
      ["b\xe9", "/b%e9"],
      ["/\xc3\xa0", "/%c3%a0"],
      [
        "/a b",
        "/a%20b",
      ],
    ]
  ) {
    await using server = redirecting(location);
    await collect({ url: server.url(), location: true });
    assertEquals(targets(server).at(-1), target);
  }
});

test("http_get takes a redirect that leads nowhere for the answer", async () => {
  for (
    const answer of [
      "HTTP/1.1 302 Found\r\n\r\nx",
      "HTTP/1.1 302 Found\r\nLocation: \r\n\r\nx",
    ]
  ) {
    await using server = new RawServer(answer);
    assertEquals(
      (await collect({ url: server.url(), location: true })).body,
      "x",
    );
  }
});

test("http_get does not read, nor wait for, the body of a redirect", async () => {
  await using server = new RawServer(async (conn, request) => {
    if (!request.startsWith("GET / ")) return await write(conn, HI);
    await write(
      conn,
      "HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 999999\r\n\r\n",
    );
    await hold(conn);
  });
  assertEquals(
    (await collect({ url: server.url(), location: true, "max-filesize": 2 }))
      .body,
    "hi",
  );
});

test("http_get ends a loop of redirects after 20, or as many as --max-redirs says", async () => {
  await using server = new RawServer(
    "HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n",
  );
  const { code, message } = await collect({
    url: server.url(),
    location: true,
  });
  assertEquals([code, server.requests.length], [47, 21], message);
  assertEquals(
    (await collect({ url: server.url(), location: true, "max-redirs": 3 }))
      .code,
    47,
  );
  assertEquals(server.requests.length, 25);
  assertEquals(
    (await collect({ url: server.url(), location: true, "max-redirs": 0 }))
      .code,
    47,
  );
  assertEquals(server.requests.length, 26);
  await using chain = new RawServer((conn, request) => {
    const n = Number(request.match(/^GET \/(\d*)/)![1]);
    return write(
      conn,
      n < 3 ? `HTTP/1.1 301 Moved\r\nLocation: /${n + 1}\r\n\r\n` : HI,
    );
  });
  assertEquals(
    (await collect({ url: chain.url(), location: true, "max-redirs": 3 })).body,
    "hi",
  );
});

test("http_get does not follow a redirect to another scheme, to what is no URL, or from https to http", () => {
  const from = new URL("https://a/b");
  for (
    const bad of [
      "ftp://a/",
      "file:///etc/passwd",
      "javascript:alert(1)",
      "data:,x",
      "http://a/b",
    ]
  ) {
    assertEquals(status(() => redirect(from, bad)), 1, bad);
  }
  assertEquals(redirect(from, "//a/c").protocol, "https:");
  assertEquals(
    redirect(new URL("https://user:secret@a/b"), "c").href,
    "https://a/c",
    "what -v shows",
  );
  for (
    const bad of [
      `http://a:9999${"9".repeat(100_000)}/`,
      "ftp://a/".padEnd(100_000, "x"),
    ]
  ) {
    assertLess(
      assertThrows(() => redirect(from, bad), Failure).message.length,
      300,
    );
  }
  for (
    const bad of ["http://a:99999/", "https://a:0/", "https://[", "http:///"]
  ) {
    assertEquals(status(() => redirect(from, bad)), 3, bad);
  }
});

test("http_get keeps Authorization, Cookie and a Host of its own from another origin", async () => {
  await using other = new RawServer(HI);
  await using server = redirecting(other.url("/b").href);
  const headers = [
    "Cookie: crumb",
    "Proxy-Authorization: x",
    "Host: mine",
    "X: 1",
  ].map(parseField);
  const url = server.url();
  [url.username, url.password] = ["user", "secret"];
  assertEquals((await collect({ url, location: true, headers })).body, "hi");
  const secret = btoa("user:secret");
  assertMatch(
    server.requests[0],
    new RegExp(
      `Authorization: Basic ${secret}\r\nCookie: crumb\r\n.*\r\nHost: mine\r\n`,
    ),
  );
  assertMatch(other.requests[0], /\r\nX: 1\r\n/);
  for (
    const word of ["Cookie", "crumb", "Authorization", secret, "secret", "mine"]
  ) {
    assert(!other.requests[0].includes(word), word);
  }
  assertStringIncludes(
    other.requests[0],
    `\r\nHost: 127.0.0.1:${other.port}\r\n`,
  );
  await collect({
    url: server.url(),
    location: true,
    headers: [["AUTHORIZATION", "Bearer x"], ["cookie", "y"]],
  });
  assert(!/Bearer|cookie/i.test(other.requests[1]));
});

test("http_get takes the same host with TLS, or by another name, for another origin", () => {
  const options = {
    url: new URL("http://u:p@a/"),
    headers: [["Cookie", "c"]] as [string, string][],
  };
  const secrets = (url: string) =>
    text(request(new URL(url), options)).match(/^(Cookie|Authorization)/gm)
      ?.length ?? 0;
  assertEquals(secrets("http://a/b"), 2);
  assertEquals(secrets("http://a:80/"), 2);
  for (
    const url of ["https://a/", "http://a:81/", "http://a.b/", "http://A.:80/"]
  ) assertEquals(secrets(url), 0, url);
});

test("http_get gives its secrets to the same origin again, and none that a redirect invents", async () => {
  await using server = redirecting("/b");
  const url = server.url();
  url.username = "me";
  await collect({ url, location: true, headers: [["Cookie", "c"]] });
  assertMatch(
    server.requests[1],
    /^GET \/b [^]*Authorization: Basic bWU6[^]*Cookie: c/,
  );
  await using other = new RawServer(HI);
  await using inventive = redirecting(
    `http://evil:word@127.0.0.1:${other.port}/`,
  );
  await collect({ url: inventive.url(), location: true });
  assert(!other.requests[0].includes("Authorization"));
});

test("http_get stays with HEAD along redirects", async () => {
  await using server = redirecting("/b", 303);
  const { body } = await collect({
    url: server.url(),
    location: true,
    head: true,
  });
  assertEquals(server.requests.map((each) => each.slice(0, 6)), [
    "HEAD /",
    "HEAD /",
  ]);
  assertMatch(
    body,
    /^HTTP\/1.1 303 Moved\r\n[^]*\r\n\r\nHTTP\/1.1 200 OK\r\nContent-Length: 2\r\n\r\n$/,
  );
});

// The answer

test("http_get returns when the answer is whole, though the server keeps the connection open", async () => {
  const chunked = `${OK}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n`;
  for (
    const answer of [
      HI,
      chunked,
      "HTTP/1.1 204 No\r\n\r\n",
      "HTTP/1.1 304 No\r\nContent-Length: 3\r\n\r\n",
    ]
  ) {
    await using server = new RawServer((conn) =>
      write(conn, answer).then(() => hold(conn))
    );
    assertEquals((await collect({ url: server.url() })).code, 0);
    assertEquals(await collect({ url: server.url(), head: true }), {
      body: answer.slice(0, answer.indexOf("\r\n\r\n") + 4),
      code: 0,
      message: "",
    });
  }
});

test("http_get prints the headers of all answers with -i, as they came", async () => {
  const heads =
    "HTTP/1.1 100 Go on\r\nA: b\r\n\r\nHTTP/1.1 200 \xe9\nB:\xff\n c\r\nContent-Length: 1\r\n\r\n";
  await using server = new RawServer(`${heads}xyz`);
  assertEquals(
    (await collect({ url: server.url(), include: true })).body,
    `${heads}x`,
  );
});

test("http_get prints the body of an error, and with -f only says which error", async () => {
  await using server = new RawServer(
    "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\noops",
  );
  assertEquals(await collect({ url: server.url() }), {
    body: "oops",
    code: 0,
    message: "",
  });
  const message = "the server answers 404 Not Found";
  assertEquals(await collect({ url: server.url(), fail: true }), {
    body: "",
    code: 22,
    message,
  });
  assertMatch(
    (await collect({ url: server.url(), fail: true, include: true })).body,
    /^HTTP[^]*\r\n\r\n$/,
  );
  await using fine = new RawServer(
    "HTTP/1.1 399 Fine\r\nContent-Length: 4\r\n\r\nfine",
  );
  assertEquals((await collect({ url: fine.url(), fail: true })).body, "fine");
});

test("http_get gives the same answer whether it comes at once or byte by byte", async () => {
  const answer =
    `${OK}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n`;
  await using server = new RawServer(async (conn) => {
    (conn as Deno.TcpConn).setNoDelay(true);
    for (const c of answer) await write(conn, c);
  });
  assertEquals((await collect({ url: server.url() })).body, "hello");
});

/** Downloads many bytes; each write takes its time, and looks at its bytes again at the end of it. */
async function large(options: Omit<Options, "write">): Promise<string> {
  const all: Uint8Array[] = [];
  const write = async (bytes: Uint8Array) => {
    const before = bytes.slice();
    await new Promise((resolve) => setTimeout(resolve, all.length % 3));
    assertEquals(bytes.length, before.length);
    assert(
      bytes.every((byte, i) => byte === before[i]),
      "the bytes changed while they were written",
    );
    all.push(before);
  };
  const { code } = await collect({ ...options, write });
  assertEquals(code, 0);
  return await checksum(...all);
}

test("http_get passes on a large body unharmed, while the next piece is received", async () => {
  const body = random(8 << 20);
  await using server = new RawServer(async (conn, request) => {
    const sized = request.startsWith("GET /sized ");
    await write(
      conn,
      `${OK}${sized ? `Content-Length: ${body.length}` : "A: b"}\r\n\r\n`,
    );
    await write(conn, body);
  });
  for (const path of ["/sized", "/to_the_close"]) {
    assertEquals(await large({ url: server.url(path) }), await checksum(body));
  }
});

test("http_get passes on a large body in chunks of all sizes unharmed", async () => {
  const body = random(3 << 20);
  await using server = new RawServer(async (conn) => {
    await write(conn, `${OK}Transfer-Encoding: chunked\r\n\r\n`);
    for (
      let i = 0, size = 1;
      i < body.length;
      i += size, size = size * 3 % 70_001
    ) {
      const chunk = body.subarray(i, i + size);
      await write(conn, `${chunk.length.toString(16)}\r\n`);
      await write(conn, chunk);
      await write(conn, "\r\n");
    }
    await write(conn, "0\r\n\r\n");
  });
  assertEquals(await large({ url: server.url() }), await checksum(body));
});

test("http_get passes on a body as it arrives, and reads no more than it can pass on", async () => {
  const turn = Promise.withResolvers<void>();
  await using server = new RawServer(async (conn) => {
    await write(conn, `${OK}Content-Length: 10\r\n\r\nhello`);
    await turn.promise; // the rest comes after the first part was written
    await write(conn, "world");
  });
  let body = "";
  const take = (bytes: Uint8Array) => {
    body += text(bytes);
    if (body === "hello") turn.resolve();
    return Promise.resolve();
  };
  await collect({ url: server.url(), write: take });
  assertEquals(body, "helloworld");

  let sent = 0;
  const stuck = Promise.withResolvers<void>();
  await using endless = new RawServer(async (conn) => {
    await write(conn, `${OK}\r\n`);
    for (const piece = new Uint8Array(1 << 20);; sent += piece.length) {
      const idle = setTimeout(() => stuck.resolve(), 500); // nobody reads any more
      await write(conn, piece).finally(() => clearTimeout(idle));
    }
  });
  const stop = new AbortController();
  const never = () => new Promise<void>(() => {});
  const work = collect({
    url: endless.url(),
    write: never,
    signal: stop.signal,
  });
  await stuck.promise;
  assertLess(sent, 32 << 20);
  stop.abort(new Failure(28, "enough"));
  assertEquals((await work).code, 28, "though the write never ends");
});

test("http_get ends at once when its output fails, though the server is silent", async () => {
  await using server = new RawServer((conn) =>
    write(conn, `${OK}Content-Length: 10\r\n\r\nhello`).then(() => hold(conn))
  );
  const write23 = () => Promise.reject(new Failure(23, "full"));
  const { code, message } = await collect({
    url: server.url(),
    write: write23,
  });
  assertEquals([code, message], [23, "full"]);
});

test("http_get has written what came before it says that the end is missing", async () => {
  await using server = new RawServer(`${OK}Content-Length: 10\r\n\r\nhello`);
  let body = "";
  const write = async (bytes: Uint8Array) => {
    const written = text(bytes);
    await new Promise((resolve) => setTimeout(resolve, 50));
    body += written;
  };
  assertEquals((await collect({ url: server.url(), write })).code, 18);
  assertEquals(body, "hello");
});

test("http_get says what ended early, and that nothing came", async () => {
  await using empty = new RawServer("");
  assertEquals((await collect({ url: empty.url() })).code, 52);
  await using early = new RawServer(`${OK}Content-Length: 10\r\n\r\nhello`);
  assertEquals(await collect({ url: early.url() }), {
    body: "hello",
    code: 18,
    message: "the server closed with 5 of 10 bytes still to come",
  });
});

test("http_get takes no more than --max-filesize allows, and nothing where that is known before", async () => {
  await using sized = new RawServer(HI);
  assertEquals(
    (await collect({ url: sized.url(), "max-filesize": 2 })).body,
    "hi",
  );
  assertEquals(await collect({ url: sized.url(), "max-filesize": 1 }), {
    body: "",
    code: 63,
    message: "too large: 2 bytes",
  });
  await using endless = new RawServer(async (conn) => {
    await write(conn, `${OK}\r\n`);
    for (;;) await write(conn, "endless ");
  });
  const { body, code } = await collect({
    url: endless.url(),
    "max-filesize": 10,
  });
  assertEquals([body, code], ["endless en", 63]);
  const zeros = await compress("gzip", new Uint8Array(1e6));
  await using bomb = new RawServer(async (conn) => { // keeps the connection, and its last byte
    await write(
      conn,
      `${OK}Content-Encoding: gzip\r\nContent-Length: ${zeros.length}\r\n\r\n`,
    );
    await write(conn, zeros.subarray(0, -1)).then(() => hold(conn));
  });
  const most = await collect({
    url: bomb.url(),
    compressed: true,
    "max-filesize": 5000,
  });
  assertEquals([most.body.length, most.code], [5000, 63]);
});

test("http_get stops when its signal says so, connecting, waiting or receiving", async () => {
  for (const answer of ["", OK, `${OK}Content-Length: 9\r\n\r\nhello`]) {
    const stop = new AbortController();
    await using server = new RawServer(async (conn) => {
      await write(conn, answer);
      stop.abort(new Failure(28, "late"));
      await hold(conn);
    });
    assertEquals(
      (await collect({ url: server.url(), signal: stop.signal })).code,
      28,
    );
  }
  const signal = AbortSignal.abort(new Failure(28, "late"));
  assertEquals((await collect({ url: NOWHERE, signal })).code, 28);
});

// Codings

/** Serves a body with a header, and gets it. */
async function coded(
  headers: string,
  body: Uint8Array,
  options: Partial<Options> = { compressed: true },
) {
  await using server = new RawServer(async (conn) => {
    await write(
      conn,
      `${OK}${headers}\r\nContent-Length: ${body.length}\r\n\r\n`,
    );
    await write(conn, body);
  });
  return await collect({ url: server.url(), ...options });
}
const HELLO = bytes("hello, hello, hello"),
  PLAIN = { body: text(HELLO), code: 0, message: "" };
const gzip = await compress("gzip", HELLO),
  zlib = await compress("deflate", HELLO);
const raw = await compress("deflate-raw", HELLO);

test("http_get undoes gzip and deflate with --compressed, zlib's and the bare one", async () => {
  assertEquals(await coded("Content-Encoding: gzip", gzip), PLAIN);
  assertEquals(await coded("content-encoding: X-GZip", gzip), PLAIN);
  assertEquals(await coded("Content-Encoding: deflate", zlib), PLAIN);
  assertEquals(await coded("Content-Encoding: deflate", raw), PLAIN);
  assertEquals(await coded("Content-Encoding: identity", HELLO), PLAIN);
  const twice = await compress("deflate", gzip as Uint8Array<ArrayBuffer>);
  assertEquals(await coded("Content-Encoding: gzip, deflate", twice), PLAIN);
  assertEquals(
    await coded("Content-Encoding: gzip\r\nContent-Encoding: deflate", twice),
    PLAIN,
  );
  assertEquals(
    (await coded("Content-Encoding: gzip", gzip, {})).body,
    text(gzip),
  );
  assertEquals(await coded("Content-Encoding: gzip", bytes("")), {
    body: "",
    code: 0,
    message: "",
  });
});

test("http_get undoes a transfer coding, asked or not", async () => {
  const chunk = `${gzip.length.toString(16)}\r\n${text(gzip)}\r\n0\r\n\r\n`;
  await using chunked = new RawServer(
    `${OK}Transfer-Encoding: gzip, chunked\r\n\r\n${chunk}`,
  );
  assertEquals(await collect({ url: chunked.url() }), PLAIN);
  await using closed = new RawServer(
    `${OK}Transfer-Encoding: gzip\r\n\r\n${text(gzip)}`,
  );
  assertEquals(await collect({ url: closed.url() }), PLAIN);
  await using empty = new RawServer(
    `${OK}Transfer-Encoding: ,gzip,,chunked,\r\nTransfer-Encoding:\r\n\r\n${chunk}`,
  );
  assertEquals(await collect({ url: empty.url() }), PLAIN);
  await using mad = new RawServer(
    `${OK}Transfer-Encoding: chunked, gzip\r\n\r\n${text(gzip)}`,
  );
  assertEquals((await collect({ url: mad.url() })).code, 61);
});

test("http_get says 61 for a coding that is damaged, cut short, followed by more, or unknown", async () => {
  const damaged = gzip.slice(), crc = gzip.slice();
  damaged[12] ^= 0xff, crc[gzip.length - 6] ^= 1;
  const junk = bytes(text(gzip) + "junk");
  for (const body of [damaged, crc, gzip.subarray(0, -1), junk, HELLO]) {
    assertEquals((await coded("Content-Encoding: gzip", body)).code, 61);
  }
  assertEquals((await coded("Content-Encoding: deflate", HELLO)).code, 61);
  const noise = random(200_000);
  for (const format of ["deflate", "deflate-raw"] as const) {
    const whole = await compress(format, noise);
    assertEquals(
      (await coded("Content-Encoding: deflate", whole)).body.length,
      noise.length,
    );
    for (const cut of [1, 2, 5, whole.length >> 1]) {
      const { code } = await coded(
        "Content-Encoding: deflate",
        whole.subarray(0, -cut),
      );
      assertEquals(code, 61, `${format}, without its last ${cut} bytes`);
    }
  }
  assertEquals(await coded("Content-Encoding: br", HELLO), {
    body: "",
    code: 61,
    message: 'cannot undo the coding "br"',
  });
  let often = gzip;
  for (let i = 2; i <= 6; i++) {
    often = await compress("gzip", often as Uint8Array<ArrayBuffer>);
  }
  const { message } = await coded(
    `Content-Encoding: ${"gzip, ".repeat(5)}gzip`,
    often,
  );
  assertMatch(message, /^cannot undo the coding "gzip, gzip/);
  assertEquals(await coded("Content-Encoding: br", HELLO, {}), PLAIN);
});

test("http_get says 18, not 61, when a coded body ends early", async () => {
  await using server = new RawServer(
    `${OK}Content-Encoding: gzip\r\nContent-Length: 99\r\n\r\n${text(gzip)}`,
  );
  assertEquals(
    (await collect({ url: server.url(), compressed: true })).code,
    18,
  );
});

test("http_get expands what is highly compressed in small pieces", async () => {
  const zeros = await compress("gzip", new Uint8Array(100e6));
  let size = 0, largest = 0;
  const take = (bytes: Uint8Array) =>
    Promise.resolve(
      void (size += bytes.length, largest = Math.max(largest, bytes.length)),
    );
  assertEquals(
    (await coded("Content-Encoding: gzip", zeros, {
      compressed: true,
      write: take,
    })).code,
    0,
  );
  assertEquals(size, 100e6);
  assertLess(largest, 9e6);
});

// The command line

test("http_get refuses a bad command line before anything is sent", async () => {
  await using server = new RawServer(HI);
  const url = server.url().href;
  const bad: [status: number, says: RegExp, ...args: string[]][] = [
    [2, /a URL is missing/],
    [2, /too many words: "b"/, url, "b"],
    [2, /unknown option --locatoin.*--location/, "--locatoin", url],
    [2, /--output needs a value/, url, "-o"],
    [2, /--max-time wants seconds.*"x"/, "-m", "x", url],
    [
      2,
      /--max-redirs wants a whole number, not "1.5"/,
      "--max-redirs",
      "1.5",
      url,
    ],
    [2, /--max-filesize wants a whole number/, "--max-filesize", "1k", url],
    [2, /"A" is not a header/, "-H", "A", url],
    [2, /"A: b\\r\\nC: d" is not a header/, "-H", "A: b\r\nC: d", url],
    [
      2,
      /"User-Agent: x\\r\\nEvil: 1" is not a header/,
      "-A",
      "x\r\nEvil: 1",
      url,
    ],
    [2, /no certificate in README.md/, "--cacert", "README.md", url],
    [2, /-4 and -6 exclude/, "-4", "-6", url],
    [2, /cannot read \/nowhere/, "--cacert", "/nowhere", url],
    [3, /is not a URL/, `${url}\r\nX: y`],
    [3, /is not a URL/, "http://a b/"],
    [1, /ftp is not spoken here/, "ftp://a/"],
    [23, /cannot write \/nowhere\/x/, "-o", "/nowhere/x", url],
  ];
  for (const [status, says, ...args] of bad) {
    const { code, stderr } = await complain(...args);
    assertEquals([code, stderr.split("\n").length], [status, 1], stderr);
    assertMatch(stderr, says);
    assertMatch(stderr, /^http_get: /);
  }
  assertEquals(server.requests, []);
});

test("http_get understands curl's letters and long names alike", async () => {
  using dir = folder();
  await using server = new RawServer(HI);
  const url = server.url().href, file = `${dir.path}/a`;
  const both = [
    [
      "-i",
      "-L",
      "-o",
      file,
      "-H",
      "A: b",
      "-A",
      "me",
      "-f",
      "-m",
      "9",
      "-0",
      "-s",
      "-4",
    ],
    [
      "--include",
      "--location",
      "--output",
      file,
      "--header",
      "A: b",
      "--user-agent",
      "me",
      "--fail",
      "--max-time",
      "9",
    ]
      .concat("--http1.0", "--silent", "--ipv4"),
    [
      "-iLfs",
      "-0",
      `--output=${file}`,
      "--header=A: b",
      "--user-agent=me",
      "--max-time=9",
    ],
  ];
  for (const args of both) assertEquals((await complain(...args, url)).code, 0);
  assertEquals(new Set(server.requests).size, 1);
  assertMatch(
    server.requests[0],
    /^GET \/ HTTP\/1\.0\r\n[^]*User-Agent: me\r\n[^]*A: b\r\n/,
  );
  assertEquals(Deno.readTextFileSync(file), HI);
  await complain(
    "--head",
    "--compressed",
    "--max-redirs",
    "1",
    "--connect-timeout",
    "9",
    "-o",
    file,
    url,
  );
  assertMatch(
    server.requests.at(-1)!,
    /^HEAD \/ HTTP\/1\.1\r\n[^]*Accept-Encoding: gzip, deflate\r\n/,
  );
  assertEquals(Deno.readTextFileSync(file), `${OK}Content-Length: 2\r\n\r\n`);
});

test("http_get -o leaves a file when all of it came, and nothing otherwise", async () => {
  using dir = folder();
  const file = `${dir.path}/a`, seen: string[][] = [];
  await using server = new RawServer(async (conn, request) => {
    seen.push(dir.names());
    if (request.startsWith("GET /early")) {
      return await write(conn, `${OK}Content-Length: 9\r\n\r\nhello`);
    }
    if (request.startsWith("GET /404")) {
      return await write(conn, "HTTP/1.1 404 Not Found\r\n\r\noops");
    }
    await write(conn, HI);
  });
  for (const [path, status] of [["/early", 18], ["/404", 22]] as const) {
    assertEquals(
      (await complain("-f", "-o", file, server.url(path).href)).code,
      status,
    );
    assertEquals(dir.names(), []);
  }
  assertEquals((await complain("-o", file, server.url().href)).code, 0);
  assertEquals([dir.names(), Deno.readTextFileSync(file)], [["a"], "hi"]);
  assertEquals(
    (await complain("-o", file, server.url("/early").href)).code,
    18,
  );
  assertEquals(
    [dir.names(), Deno.readTextFileSync(file)],
    [["a"], "hi"],
    "the file of before stays",
  );
  for (const names of seen) {
    assertEquals(names.filter((name) => !/^a(\..*\.part)?$/.test(name)), []);
  }
  assert(seen.every((names) => names.some((name) => name.endsWith(".part"))));
});

test("http_get -o keeps a link and the mode of a file, and writes to what is no file", async () => {
  if (Deno.build.os === "windows") return;
  using dir = folder();
  await using server = new RawServer(HI);
  Deno.writeTextFileSync(`${dir.path}/real`, "before");
  Deno.chmodSync(`${dir.path}/real`, 0o666);
  Deno.symlinkSync(`${dir.path}/real`, `${dir.path}/link`);
  assertEquals(
    (await complain("-o", `${dir.path}/link`, server.url().href)).code,
    0,
  );
  assert(Deno.lstatSync(`${dir.path}/link`).isSymlink);
  assertEquals(Deno.readTextFileSync(`${dir.path}/real`), "hi");
  assertEquals(Deno.statSync(`${dir.path}/real`).mode! & 0o777, 0o666);
  Deno.chmodSync(`${dir.path}/real`, 0o600);
  assertEquals(
    (await complain("-o", `${dir.path}/real`, server.url().href)).code,
    0,
  );
  assertEquals(Deno.statSync(`${dir.path}/real`).mode! & 0o777, 0o600);
  assertEquals(dir.names(), ["link", "real"]);
  assertEquals((await complain("-o", "/dev/null", server.url().href)).code, 0);
  assert(Deno.statSync("/dev/null").isCharDevice);
  const { code, stderr } = await complain("-o", dir.path, server.url().href);
  assertEquals(code, 23);
  assertMatch(stderr, /cannot write .*is a directory/);
});

test("http_get escapes what a server says in its messages", async () => {
  await using server = new RawServer("HTTP/1.1 500 \x1b[31mred\x07\r\n\r\n");
  const { code, stderr } = await complain("-f", server.url().href);
  assertEquals([code, stderr], [
    22,
    "http_get: the server answers 500 \\x1b[31mred\\x07",
  ]);
});

test("http_get -m bounds the whole exchange, a stalled body too", async () => {
  await using server = new RawServer((conn) =>
    write(conn, `${OK}Content-Length: 9\r\n\r\n`).then(() => hold(conn))
  );
  const { code, stderr } = await complain("-m", "0.2", server.url().href);
  assertEquals([code, stderr], [28, "http_get: not done within 0.2 s"]);
});

test("http_get tells of hops, framing and chunks with -v, and draws them", async () => {
  await using server = redirecting("/b\x1b[31m");
  const { error } = console, lines: string[] = [];
  console.error = (...line) =>
    void lines.push(String(line.at(-1)).replace(/^[\d.]+ /, ""));
  const file = await Deno.makeTempFile(),
    trace = new Trace("http_get", true, file),
    url = server.url();
  try {
    await collect({ url, location: true, trace });
    await trace.write();
  } finally {
    console.error = error;
  }
  const expected = [
    /^\* connected to 127\.0\.0\.1:\d+$/,
    /^> \d+ bytes "GET \/ HTTP\/1\.1\\r\\n/,
    /^< \d+ bytes "HTTP\/1\.1 302 Moved\\r\\n/,
    /^\* closed$/,
    /^\* redirected to http:\/\/127\.0\.0\.1:\d+\/b%1b\[31m$/,
    /^\* connected to /,
    /^> /,
    /^< /,
    /^\* body: 2 bytes, by Content-Length \(RFC 9112 6\.3, rule 6\)$/,
    /^\* closed$/,
  ];
  assertEquals(lines.length, expected.length, lines.join("\n"));
  expected.forEach((pattern, i) => assertMatch(lines[i], pattern));
  const drawing = await Deno.readTextFile(file);
  assertMatch(drawing, /Note left of client: redirected to http/);
  assertMatch(
    drawing,
    /body: 2 bytes, by Content-Length \(RFC 9112 6\.3, rule 6\)/,
  );
  await Deno.remove(file);
});

test("http_get says how a download is getting on, with and without a known size", () => {
  assertEquals(
    progress({ done: 12e6, total: 48e6 }, 2000),
    "12.0 MB of 48.0 MB  25%  6.0 MB/s  00:00:06 left",
  );
  assertEquals(
    progress({ done: 999, total: Infinity }, 1000),
    "999 B  999 B/s",
  );
  assertEquals(progress({ done: 0, total: 5 }, 1000), "0 B of 5 B  0%  0 B/s");
  assertEquals(progress({ done: 0, total: 0 }, 1000), "0 B  0 B/s");
  assertEquals(
    progress({ done: 3e12, total: 9e15 }, 1e3),
    "3.0 TB of 9.0 PB  0%  3.0 TB/s  00:49:59 left",
  );
});
