import {
  assert,
  assertEquals,
  assertLess,
  assertMatch,
  assertStringIncludes,
  assertThrows,
} from "jsr:@std/assert@^1";
import { main, type Options, parseHeader, parseURL } from "../http_get.ts";
import { redirect, request } from "../http_get.ts";
import { Trace } from "../trace.ts";
import { Failure } from "../utils.ts";
import { checksum, collect, compress } from "./http_servers.ts";
import {
  folder,
  hold,
  random,
  RawServer,
  text,
  write,
} from "./http_servers.ts";
import { captured, soon, test } from "./helpers.ts";

const OK = "HTTP/1.1 200 OK\r\n";
const HI = `${OK}Content-Length: 2\r\n\r\nhi`;
const GOT_HI = { body: "hi", code: 0, message: "" };

/** Runs a command line in this process. */
async function complain(...args: string[]) {
  const { value: code, err } = await captured(() => main(args));
  return { code, stderr: err.trimEnd() };
}

/** The status with which something fails. */
const status = (act: () => unknown) => assertThrows(act, Failure).status;

// The request

const lines = (url: string, options: Partial<Options> = {}) =>
  request(new URL(url), { url: new URL(url), ...options }).split("\r\n");

test("http_get sends a request line, and four headers", async () => {
  await using server = new RawServer(HI);
  assertEquals(await collect({ url: server.url("/a?b=c") }), GOT_HI);
  assertEquals(server.requests, [
    `GET /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:${server.port}\r\n` +
    "User-Agent: http_get/1.0.0\r\nAccept: */*\r\nConnection: close\r\n\r\n",
  ]);
});

test("http_get asks for headers, in HTTP/1.0, or for compression, if told to", () => {
  assertEquals(lines("http://a/b", { head: true })[0], "HEAD /b HTTP/1.1");
  assertEquals(lines("http://a/b", { http1: true })[0], "GET /b HTTP/1.0");
  assert(lines("http://a/b", { http1: true }).includes("Host: a"));
  const coding = "Accept-Encoding: gzip, deflate";
  assert(lines("http://a/b", { compressed: true }).includes(coding));
  assert(!lines("http://a/b").includes(coding));
});

test("http_get names the host, and the port where it is not the usual one", () => {
  const hosts = {
    "http://example.com/": "example.com",
    "http://example.com:80/": "example.com",
    "https://example.com:443/": "example.com",
    "http://example.com:443/": "example.com:443",
    "https://example.com:80/": "example.com:80",
    "http://[::1]/": "[::1]",
    "http://[2001:DB8:0::1]:8080/": "[2001:db8::1]:8080",
    "http://bücher.example/": "xn--bcher-kva.example",
    "http://user:secret@example.com/": "example.com",
  };
  for (const [url, host] of Object.entries(hosts)) {
    assertEquals(lines(url)[1], `Host: ${host}`);
  }
});

test("http_get keeps the fragment to itself, and the rest of the target", () => {
  const targets = {
    "http://a": "/",
    "http://a#b": "/",
    "http://a/b#c?d": "/b",
    "http://a?b": "/?b",
    "http://a/b?#c": "/b?",
    "http://a/%0d%0aHost:%20b": "/%0d%0aHost:%20b",
    "http://a/b c?d %00": "/b%20c?d%20%00",
    "http://a/bücher": "/b%C3%BCcher",
    "http://a/b/../c/./d": "/c/d",
    "http://u:p@a/@b": "/@b",
  };
  for (const [url, target] of Object.entries(targets)) {
    assertEquals(lines(url)[0], `GET ${target} HTTP/1.1`);
  }
});

test("http_get sends a user and a password of the URL, byte for byte", () => {
  const credentials = {
    // RFC 7617's own example
    "http://Aladdin:open%20sesame@a/": "QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
    "http://user@a/": btoa("user:"),
    "http://:key@a/": btoa(":key"),
    "http://u%3A:p%40%ff@a/": btoa("u::p@\xff"),
    "http://ü:p@a/": btoa("\xc3\xbc:p"),
  };
  for (const [url, value] of Object.entries(credentials)) {
    assert(lines(url).includes(`Authorization: Basic ${value}`), url);
  }
  assert(!lines("http://a/").some((line) => line.startsWith("Authorization")));
});

test("http_get lets -H replace, remove and add headers", () => {
  const given = (...headers: string[]) => {
    const options = { headers: headers.map(parseHeader) };
    return lines("http://u:p@a/", options).slice(1, -2);
  };
  assert(!given("Host: b").includes("Host: a"));
  const none = ["host:", "USER-AGENT:", "accept: ", "connection:"];
  assertEquals(given(...none, "authorization:"), []);
  const agent = given("User-agent: x").filter((line) => /^user/i.test(line));
  assertEquals(agent, ["User-agent: x"]);
  const three = given("X: 1", "x:2", "Y:  3 ").slice(-3);
  assertEquals(three, ["X: 1", "x: 2", "Y: 3"]);
  const auth = given("Authorization: Bearer z").filter((line) =>
    /^a/i.test(line)
  );
  assertEquals(auth, ["Accept: */*", "Authorization: Bearer z"]);
  assertEquals(given("Empty;", "Host;").slice(-2), ["Empty:", "Host:"]);
});

test("http_get sends one Host line, the first that is given", () => {
  const headers = ["Host: b", "X: 1", "HOST: c"].map(parseHeader);
  const hosts = lines("http://a/", { headers }).filter((line) =>
    /^host/i.test(line)
  );
  assertEquals(hosts, ["Host: b"]);
});

test("http_get refuses headers that are none, or that smuggle", () => {
  const bad = ["A: b\r\nC: d", "A: b\nC: d", "A: b\rC", "A: b\0", "A\r\n: b"];
  for (const each of [...bad, "A", ": b", "A b: c", "A : b", "ä: b", "A;b"]) {
    assertEquals(status(() => parseHeader(each)), 2, JSON.stringify(each));
  }
  assertEquals(parseHeader("A:\tb\tc: d "), ["A", "b\tc: d"]);
  assertEquals(parseHeader("A: bücher"), ["A", "bücher"]);
  assertEquals(parseHeader("A: b\u2028c"), ["A", "b\u2028c"]);
});

test("http_get takes a URL without http://, and refuses what is none", () => {
  const good = {
    "localhost:8080/a": "http://localhost:8080/a",
    "example.com": "http://example.com/",
    "[::1]:80/": "http://[::1]/",
    "user:key@a": "http://user:key@a/",
    "HTTP://A/": "http://a/",
    "http://127.1/": "http://127.0.0.1/",
    "5.example/5": "http://5.example/5",
  };
  for (const [given, url] of Object.entries(good)) {
    assertEquals(parseURL(given).href, url);
  }
  const bad = ["http://", "http:///a", "http://a b/", "http://a:99999/", "/a"];
  bad.push("http://a:b/", "http://[::1/", "//a", "?", "http:/a", "HTTP:\\\\a");
  bad.push(
    "https:/user:key@a/b",
    "5",
    "5.",
    "5\\a",
    "1313:80",
    "http://u:p@5/",
  );
  bad.push("http://a/\r\nHost: b", "http://a/\n", "http://a\0/", "\nhttp://a/");
  for (const each of bad) assertEquals(status(() => parseURL(each)), 3, each);
  for (const each of ["ftp://a/", "file:///etc/passwd", "javascript://a"]) {
    assertEquals(status(() => parseURL(each)), 1, each);
  }
});

// Redirects

/** Answers `/` with a redirect, and everything else with "hi". */
const redirecting = (location: string, code = 302, more = "") =>
  new RawServer((conn, request) => {
    const moved = `HTTP/1.1 ${code} Moved\r\n${more}Location: ${location}`;
    return write(conn, /^\w+ \/ /.test(request) ? `${moved}\r\n\r\nmoved` : HI);
  });
const targets = (server: RawServer) =>
  server.requests.map((request) => request.split(" ")[1]);

test("http_get -L follows 301, 302, 303, 307 and 308, and nothing else", async () => {
  for (const code of [301, 302, 303, 307, 308]) {
    await using server = redirecting("/b", code);
    assertEquals((await collect({ url: server.url() })).body, "moved");
    const followed = await collect({ url: server.url(), location: true });
    assertEquals(followed, GOT_HI);
    assertEquals(targets(server), ["/", "/", "/b"]);
  }
  for (const code of [200, 201, 300, 305, 306, 400]) {
    await using server = redirecting("/b", code);
    const { body } = await collect({ url: server.url(), location: true });
    assertEquals(body, "moved", `${code}`);
  }
});

test("http_get finds where relative redirects lead", () => {
  const leads = {
    "http://g:81/x": "http://g:81/x",
    "/x": "http://h:8080/x",
    "x": "http://h:8080/a/b/x",
    "../x": "http://h:8080/a/x",
    "../../../../x": "http://h:8080/x",
    "?x": "http://h:8080/a/b/c?x",
    "//g/x": "http://g/x",
    "https://g": "https://g/",
    "#x": "http://h:8080/a/b/c?d#x",
    "/b\xc3\xbc\xff x%c3": "http://h:8080/b%C3%BC%FF%20x%c3",
    "http://b\xc3\xbccher.example/": "http://xn--bcher-kva.example/",
  };
  const from = new URL("http://h:8080/a/b/c?d#e");
  for (const [location, to] of Object.entries(leads)) {
    assertEquals(redirect(from, location).href, to);
  }
});

test("http_get asks for the place that a redirect leads to", async () => {
  const leads = {
    "/a/../b?c#d": "/b?c",
    "?x": "/?x",
    "b\xe9": "/b%E9",
    "/a b": "/a%20b",
    "\r\n /land": "/land",
    "/land\r\n ": "/land",
    "\r\nLocation: /second": "/second",
  };
  for (const [location, target] of Object.entries(leads)) {
    await using server = redirecting(location);
    await collect({ url: server.url(), location: true });
    assertEquals(targets(server).at(-1), target);
  }
});

test("http_get takes a redirect that leads nowhere for the answer", async () => {
  for (const location of ["", "Location: \r\n"]) {
    await using server = new RawServer(
      `HTTP/1.1 302 Found\r\n${location}\r\nx`,
    );
    const { body } = await collect({ url: server.url(), location: true });
    assertEquals(body, "x");
  }
});

test("http_get does not wait for the body of a redirect", async () => {
  await using server = new RawServer(async (conn, request) => {
    if (!request.startsWith("GET / ")) return await write(conn, HI);
    await write(conn, "HTTP/1.1 302 Found\r\nLocation: /b\r\n");
    await write(conn, "Content-Length: 999999\r\n\r\n");
    await hold(conn);
  });
  const limit = { location: true, "max-filesize": 2 };
  assertEquals(await collect({ url: server.url(), ...limit }), GOT_HI);
});

test("http_get ends a loop of redirects after 20, or as --max-redirs says", async () => {
  await using server = new RawServer(
    "HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n",
  );
  const loop = { url: server.url(), location: true };
  for (const [most, count] of [[undefined, 21], [3, 4], [0, 1]] as const) {
    server.requests.length = 0;
    const { code } = await collect({ ...loop, "max-redirs": most });
    assertEquals([code, server.requests.length], [47, count]);
  }
  await using chain = new RawServer((conn, request) => {
    const n = Number(request.match(/^GET \/(\d*)/)![1]);
    const next = `HTTP/1.1 301 Moved\r\nLocation: /${n + 1}\r\n\r\n`;
    return write(conn, n < 3 ? next : HI);
  });
  const three = { url: chain.url(), location: true, "max-redirs": 3 };
  assertEquals(await collect(three), GOT_HI);
});

test("http_get is redirected neither to another scheme nor from https to http", () => {
  const from = new URL("https://user:secret@a/b");
  const bad = ["ftp://a/", "file:///etc/passwd", "javascript:alert(1)"];
  for (const each of [...bad, "data:,x", "http://a/b"]) {
    assertEquals(status(() => redirect(from, each)), 1, each);
  }
  assertEquals(redirect(from, "//a/c").protocol, "https:");
  assertEquals(redirect(from, "c").href, "https://a/c", "what -v shows");
  const none = ["http://a:99999/", "https://a:0/", "https://[", "http:///"];
  for (const each of none) {
    assertEquals(status(() => redirect(from, each)), 3, each);
  }
  const long = `http://a:9999${"9".repeat(100_000)}/`;
  const { message } = assertThrows(() => redirect(from, long), Failure);
  assertLess(message.length, 300);
});

test("http_get keeps Authorization, Cookie and Host from another origin", async () => {
  await using other = new RawServer(HI);
  await using server = redirecting(other.url("/b").href);
  const given = ["Cookie: crumb", "Proxy-Authorization: x", "Host: mine"];
  const headers = [...given, "X: 1"].map(parseHeader);
  const url = server.url();
  url.username = "user";
  url.password = "secret";
  assertEquals(await collect({ url, location: true, headers }), GOT_HI);
  const secret = btoa("user:secret");
  for (const word of [`Basic ${secret}`, "crumb", "Host: mine"]) {
    assertStringIncludes(server.requests[0], word);
  }
  const [sent] = other.requests;
  for (const word of ["ookie", "crumb", "uthorization", secret, "mine"]) {
    assert(!sent.includes(word), word);
  }
  assertMatch(sent, new RegExp(`Host: 127.0.0.1:${other.port}\r\n[^]*X: 1\r`));
});

test("http_get takes TLS, a port and a name for another origin each", () => {
  const url = new URL("http://u:p@a/");
  const secrets = (to: string) => {
    const sent = request(new URL(to), { url, headers: [["Cookie", "c"]] });
    return sent.match(/^(Cookie|Authorization)/gm)?.length ?? 0;
  };
  assertEquals(secrets("http://a/b"), 2);
  assertEquals(secrets("http://a:80/"), 2);
  const others = ["https://a/", "http://a:81/", "http://a.b/", "http://A.:80/"];
  for (const other of others) assertEquals(secrets(other), 0, other);
});

test("http_get gives its secrets to the same origin again, none that a redirect invents", async () => {
  await using server = redirecting("/b");
  const url = server.url();
  url.username = "me";
  await collect({ url, location: true, headers: [["Cookie", "c"]] });
  assertMatch(server.requests[1], /^GET \/b [^]*: Basic bWU6[^]*Cookie: c/);
  await using other = new RawServer(HI);
  const evil = `http://evil:word@127.0.0.1:${other.port}/`;
  await using inventive = redirecting(evil);
  await collect({ url: inventive.url(), location: true });
  assert(!other.requests[0].includes("Authorization"));
});

test("http_get stays with HEAD along redirects", async () => {
  await using server = redirecting("/b", 303);
  const asked = { url: server.url(), location: true, head: true };
  const { body } = await collect(asked);
  assert(server.requests.every((each) => each.startsWith("HEAD /")));
  assertMatch(
    body,
    /^HTTP\/1.1 303 [^]*\n\r\nHTTP\/1.1 200 OK\r\n[^]*\r\n\r\n$/,
  );
});

// The answer

test("http_get returns when the answer is whole, though the connection stays", async () => {
  const chunked = "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
  const none = ["204 No\r\n\r\n", "304 No\r\nContent-Length: 3\r\n\r\n"];
  const bodyless = none.map((each) => `HTTP/1.1 ${each}`);
  for (const answer of [HI, `${OK}${chunked}`, ...bodyless]) {
    await using server = new RawServer((conn) =>
      write(conn, answer).then(() => hold(conn))
    );
    assertEquals((await collect({ url: server.url() })).code, 0);
    const { body } = await collect({ url: server.url(), head: true });
    assertEquals(body, answer.slice(0, answer.indexOf("\r\n\r\n") + 4));
  }
});

test("http_get -i prints the headers of all answers, as they came", async () => {
  const heads = "HTTP/1.1 100 Go on\r\nA: b\r\n\r\n" +
    "HTTP/1.1 200 \xe9\nB:\xff\n c\r\nContent-Length: 1\r\n\n";
  await using server = new RawServer(`${heads}xyz`);
  const { body } = await collect({ url: server.url(), include: true });
  assertEquals(body, `${heads}x`);
});

test("http_get -f only says which error there is", async () => {
  await using server = new RawServer(
    "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\noops",
  );
  assertEquals((await collect({ url: server.url() })).body, "oops");
  const message = "the server answers 404 Not Found";
  const failed = await collect({ url: server.url(), fail: true });
  assertEquals(failed, { body: "", code: 22, message });
  const both = { url: server.url(), fail: true, include: true };
  assertMatch((await collect(both)).body, /^HTTP[^]*\r\n\r\n$/);
  await using fine = new RawServer("HTTP/1.1 399 Fine\r\n\r\nfine");
  assertEquals((await collect({ url: fine.url(), fail: true })).body, "fine");
});

/** Downloads much; each write looks at its bytes again when it ends. */
async function large(options: { url: URL }): Promise<string> {
  const all: Uint8Array[] = [];
  const write = async (bytes: Uint8Array) => {
    const before = bytes.slice();
    await new Promise((resolve) => setTimeout(resolve, all.length % 3));
    const isSame = bytes.every((byte, i) => byte === before[i]);
    assert(isSame, "the bytes changed while they were written");
    all.push(before);
  };
  assertEquals((await collect({ ...options, write })).code, 0);
  return await checksum(...all);
}

test("http_get passes on a large body unharmed", async () => {
  const body = random(8 << 20);
  await using server = new RawServer(async (conn, request) => {
    const isSized = request.startsWith("GET /sized ");
    const field = isSized ? `Content-Length: ${body.length}` : "A: b";
    await write(conn, `${OK}${field}\r\n\r\n`);
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
    let size = 1;
    for (let i = 0; i < body.length;) {
      const chunk = body.subarray(i, i + size);
      await write(conn, `${chunk.length.toString(16)}\r\n`);
      await write(conn, chunk);
      await write(conn, "\r\n");
      i += size;
      size = size * 3 % 70_001;
    }
    await write(conn, "0\r\n\r\n");
  });
  assertEquals(await large({ url: server.url() }), await checksum(body));
});

test("http_get passes on a body as it arrives", async () => {
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
  await soon(collect({ url: server.url(), write: take }), "all of the body");
  assertEquals(body, "helloworld");
});

test("http_get reads no more than it can pass on", async () => {
  let sent = 0;
  const stuck = Promise.withResolvers<void>();
  await using endless = new RawServer(async (conn) => {
    await write(conn, `${OK}\r\n`);
    for (const piece = new Uint8Array(1 << 20);; sent += piece.length) {
      const idle = setTimeout(() => stuck.resolve(), 500); // nobody reads it
      await write(conn, piece).finally(() => clearTimeout(idle));
    }
  });
  const { signal, ...stop } = controller();
  const never = () => new Promise<void>(() => {});
  const work = collect({ url: endless.url(), write: never, signal });
  await soon(stuck.promise, "the reading to stop");
  assertLess(sent, 32 << 20);
  stop.abort(new Failure(28, "enough"));
  assertEquals((await work).code, 28, "though the write never ends");
});

/** What aborts a signal. */
function controller() {
  const stop = new AbortController();
  return { signal: stop.signal, abort: (why: Error) => stop.abort(why) };
}

test("http_get ends at once when its output fails, though the server is silent", async () => {
  await using server = new RawServer((conn) =>
    write(conn, `${OK}Content-Length: 10\r\n\r\nhello`).then(() => hold(conn))
  );
  const write23 = () => Promise.reject(new Failure(23, "full"));
  const work = collect({ url: server.url(), write: write23 });
  const { code, message } = await soon(work, "the end");
  assertEquals([code, message], [23, "full"]);
});

test("http_get has written what came before it says that the end is missing", async () => {
  await using empty = new RawServer("");
  assertEquals((await collect({ url: empty.url() })).code, 52);
  await using server = new RawServer(`${OK}Content-Length: 10\r\n\r\nhello`);
  let body = "";
  const write = async (bytes: Uint8Array) => {
    const written = text(bytes);
    await new Promise((resolve) => setTimeout(resolve, 50));
    body += written;
  };
  const { code, message } = await collect({ url: server.url(), write });
  assertEquals([body, code], ["hello", 18]);
  assertEquals(message, "the server closed with 5 of 10 bytes still to come");
});

test("http_get takes no more than --max-filesize allows", async () => {
  await using sized = new RawServer(HI);
  const most = (url: URL, size: number) =>
    collect({ url, compressed: true, "max-filesize": size });
  assertEquals(await most(sized.url(), 2), GOT_HI);
  const message = "too large: 2 bytes";
  assertEquals(await most(sized.url(), 1), { body: "", code: 63, message });
  await using endless = new RawServer(async (conn) => {
    await write(conn, `${OK}\r\n`);
    for (;;) await write(conn, "endless ");
  });
  const { body, code } = await most(endless.url(), 10);
  assertEquals([body, code], ["endless en", 63]);
  const zeros = await compress("gzip", new Uint8Array(1e6));
  await using bomb = new RawServer(async (conn) => { // keeps its last byte
    const length = `Content-Length: ${zeros.length}\r\n\r\n`;
    await write(conn, `${OK}Content-Encoding: gzip\r\n${length}`);
    await write(conn, zeros.subarray(0, -1));
    await hold(conn);
  });
  const cut = await most(bomb.url(), 5000);
  assertEquals([cut.body.length, cut.code], [5000, 63]);
});

test("http_get stops when its signal says so, connecting, waiting or receiving", async () => {
  for (const answer of ["", OK, `${OK}Content-Length: 9\r\n\r\nhello`]) {
    const { signal, abort } = controller();
    await using server = new RawServer(async (conn) => {
      await write(conn, answer);
      abort(new Failure(28, "late"));
      await hold(conn);
    });
    assertEquals((await collect({ url: server.url(), signal })).code, 28);
  }
  const signal = AbortSignal.abort(new Failure(28, "late"));
  const nowhere = new URL("http://localhost/");
  assertEquals((await collect({ url: nowhere, signal })).code, 28);
});

test("http_get keeps nothing on the signal of its caller", async () => {
  await using server = new RawServer((conn, request) =>
    write(
      conn,
      request.includes("/cut") ? `${OK}Content-Length: 9\r\n\r\n` : HI,
    )
  );
  const { signal } = controller();
  const listeners = new Set<unknown>();
  const { addEventListener, removeEventListener } = signal;
  signal.addEventListener = function (...args: [string, EventListener]) {
    listeners.add(args[1]);
    addEventListener.apply(this, args);
  };
  signal.removeEventListener = function (...args: [string, EventListener]) {
    listeners.delete(args[1]);
    removeEventListener.apply(this, args);
  };
  const any = AbortSignal.any; // it keeps what it makes, too
  AbortSignal.any = (signals) => {
    assert(!signals.includes(signal), "AbortSignal.any was given the signal");
    return any(signals);
  };
  try {
    assertEquals((await collect({ url: server.url(), signal })).code, 0);
    assertEquals((await collect({ url: server.url("/cut"), signal })).code, 18);
  } finally {
    AbortSignal.any = any;
  }
  assertEquals(listeners.size, 0);
});

// The command line

test("http_get refuses a bad command line before anything is sent", async () => {
  using dir = folder();
  const pem = (name: string, text: string) => {
    const certificate = `-----BEGIN CERTIFICATE-----\n${text}\n`;
    Deno.writeTextFileSync(`${dir.path}/${name}`, certificate);
    return `${dir.path}/${name}`;
  };
  const end = "-----END CERTIFICATE-----";
  await using server = new RawServer(HI);
  const url = server.url().href;
  const bad: [status: number, says: RegExp, ...args: string[]][] = [
    [2, /missing URL \(example: http_get localhost:8080\)/],
    [2, /unexpected argument "b"/, url, "b"],
    [2, /unexpected argument ""/, url, ""],
    [2, /unknown option --locatoin/, "--locatoin", url],
    [2, /unknown option -A/, "-A", "x", url],
    [2, /--o(utput)? needs a value/, url, "-o"],
    [2, /--max-time must be 0 to .*"x"/, "-m", "x", url],
    [2, /--max-redirs must be .*"1.5"/, "--max-redirs", "1.5", url],
    [2, /--max-filesize must be/, "--max-filesize", "1k", url],
    [2, /"A" is not a header/, "-H", "A", url],
    [2, /"A: b\\r\\nC: d" is not a header/, "-H", "A: b\r\nC: d", url],
    [2, /no certificate in README.md/, "--cacert", "README.md", url],
    [2, /is damaged/, "--cacert", pem("a", `!!!!\n${end}`), url],
    [2, /is damaged/, "--cacert", pem("b", `AAAA\n${end}`), url],
    [2, /is damaged/, "--cacert", pem("c", "AAAA"), url],
    [2, /-4 and -6 cannot be combined/, "-4", "-6", url],
    [2, /cannot read \/nowhere/, "--cacert", "/nowhere", url],
    [3, /is not a URL/, `${url}\r\nX: y`],
    [3, /"1313" is not a URL/, "1313"],
    [1, /unsupported scheme ftp: use http or https/, "ftp://a/"],
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
  const url = server.url().href;
  const file = `${dir.path}/a`;
  const long = ["--include", "--location", "--header", "A: b", "--fail"];
  const both = [
    ["-i", "-L", "-H", "A: b", "-f", "-m", "9", "-0", "-s", "-4", "-o", file],
    [...long, "--max-time", "9", "--http1.0", "--silent", "--output", file],
    ["-iLfs", "-0", `--output=${file}`, "--header=A: b", "--max-time=9"],
  ];
  for (const args of both) assertEquals((await complain(...args, url)).code, 0);
  assertEquals(new Set(server.requests).size, 1);
  assertMatch(server.requests[0], /^GET \/ HTTP\/1\.0\r\n[^]*A: b\r\n/);
  assertEquals(Deno.readTextFileSync(file), HI);
  await complain("--head", "--compressed", "-o", file, url);
  const sent = server.requests.at(-1)!;
  assertMatch(sent, /^HEAD \/ HTTP\/1\.1\r\n[^]*Accept-Encoding: gzip, defl/);
  assertEquals(Deno.readTextFileSync(file), `${OK}Content-Length: 2\r\n\r\n`);
});

test("http_get escapes what a server says in its messages", async () => {
  await using server = new RawServer("HTTP/1.1 500 \x1b[31mred\x07\r\n\r\n");
  const { code, stderr } = await complain("-f", server.url().href);
  const message = "http_get: the server answers 500 \\x1b[31mred\\x07";
  assertEquals([code, stderr], [22, message]);
});

test("http_get -m bounds the whole exchange, a stalled body too", async () => {
  await using server = new RawServer((conn) =>
    write(conn, `${OK}Content-Length: 9\r\n\r\n`).then(() => hold(conn))
  );
  const { code, stderr } = await complain("-m", "0.2", server.url().href);
  assertEquals([code, stderr], [28, "http_get: timed out after 0.2 s"]);
});

test("http_get tells of hops and framing with -v, and draws them", async () => {
  using dir = folder();
  await using server = redirecting("/b\x1b[31m");
  const trace = new Trace("http_get", 1, `${dir.path}/drawing`);
  const { err } = await captured(async () => {
    await collect({ url: server.url(), location: true, trace });
    await trace.write();
  });
  const lines = err.trimEnd().replace(/^[\d.]+ /gm, "").split("\n");
  const expected = [
    /^\* connected to 127\.0\.0\.1:\d+$/,
    /^> \d+ bytes "GET \/ HTTP\/1\.1\\r\\n/,
    /^< \d+ bytes "HTTP\/1\.1 302 Moved\\r\\n/,
    /^\* closed$/,
    /^\* redirected to http:\/\/127\.0\.0\.1:\d+\/b%1B\[31m$/,
    /^\* connected to /,
    /^> /,
    /^< /,
    /^\* body: 2 bytes, by Content-Length \(RFC 9112 6\.3, rule 6\)$/,
    /^\* closed$/,
  ];
  assertEquals(lines.length, expected.length, lines.join("\n"));
  expected.forEach((pattern, i) => assertMatch(lines[i], pattern));
  const drawing = await Deno.readTextFile(`${dir.path}/drawing`);
  assertMatch(drawing, /Note left of p1: redirected to http/);
  assertMatch(drawing, /body: 2 bytes, by Content-Length \(RFC 9112 6\.3, /);
});
