import { assertEquals, assertMatch } from "jsr:@std/assert@^1";
import type { Header, Options } from "../http_get.ts";
import { barred, missing, Running, test } from "./helpers.ts";
import {
  bytes,
  checksum,
  collect,
  compress,
  folder,
  random,
  RawServer,
  text,
  write,
} from "./http_servers.ts";

/** Collects the parts of a body, for its checksum. */
function parts() {
  const all: Uint8Array[] = [];
  return {
    all,
    write: (bytes: Uint8Array) => Promise.resolve(void all.push(bytes.slice())),
  };
}

/** nginx, with a large file, a page, redirects, and gzip where wanted. */
class Nginx implements AsyncDisposable {
  readonly large = random(10_000_000);
  readonly page = "hello, nginx\n".repeat(10_000);
  readonly #folder = folder();
  readonly #process: Running;
  readonly #ports: number[];

  constructor() {
    const dir = this.#folder.path;
    const listeners = ["127.0.0.1", "::1"].map((hostname) =>
      Deno.listen({ hostname, port: 0 })
    );
    // Free a moment ago, and nobody else is waiting for them.
    this.#ports = listeners.map(({ addr }) => addr.port);
    for (const listener of listeners) listener.close();
    Deno.mkdirSync(`${dir}/folder`);
    Deno.writeFileSync(`${dir}/large`, this.large);
    Deno.writeTextFileSync(`${dir}/folder/index.html`, this.page);
    Deno.writeTextFileSync(`${dir}/empty`, "");
    const names = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    const paths = names.map((name) => `${name}_temp_path ${dir};`).join(" ");
    const user = Deno.uid() ? "" : "user root;";
    Deno.writeTextFileSync(
      `${dir}/conf`,
      `daemon off; master_process off; pid ${dir}/pid; ${user}
      error_log stderr notice; events {} http {
        access_log off; ${paths} default_type text/plain;
        gzip on; gzip_types *; if_modified_since before;
        server {
          listen 127.0.0.1:${this.#ports[0]}; listen [::1]:${this.#ports[1]};
          root ${dir}; location = /old { return 301 /folder; }
          location = /loop { return 302 /loop; } } }`,
    );
    const args = ["-c", `${dir}/conf`, "-p", dir];
    this.#process = new Running("nginx", args);
  }

  /** Waits for its last word before it serves. */
  async start(): Promise<void> {
    await this.#process.until(/getrlimit/, "stderr");
  }

  /** Gets a path over IPv4, or 6. */
  get(path: string, options: Partial<Options> = {}, version: 4 | 6 = 4) {
    const [four, six] = this.#ports;
    const host = version === 4 ? `127.0.0.1:${four}` : `[::1]:${six}`;
    return collect({ url: new URL(path, `http://${host}`), ...options });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process[Symbol.asyncDispose]();
    this.#folder[Symbol.dispose]();
  }
}

const NGINX = { ignore: missing("nginx") };

test(
  "http_get gets 10 MB from nginx, and the same with gzip",
  NGINX,
  async () => {
    await using nginx = new Nginx();
    await nginx.start();
    for (const compressed of [false, true]) {
      const { all, write } = parts();
      const { code } = await nginx.get("/large", { write, compressed });
      assertEquals(code, 0);
      assertEquals(await checksum(...all), await checksum(nginx.large));
    }
  },
);

test(
  "http_get gets redirects, ranges and nothing new from nginx, over IPv6 too",
  NGINX,
  async () => {
    await using nginx = new Nginx();
    await nginx.start();
    const { page } = nginx;
    const all = { location: true, compressed: true, include: true };
    const { body } = await nginx.get("/old", all);
    assertEquals(body.slice(body.lastIndexOf("\r\n\r\n") + 4), page);
    const statuses = body.match(/^HTTP\/1\.1 \d+/gm)?.map((each) =>
      each.slice(9)
    );
    assertEquals(statuses, ["301", "301", "200"]);
    assertMatch(body, /Content-Encoding: gzip/);
    assertMatch(body, /Transfer-Encoding: chunked/);
    assertEquals((await nginx.get("/loop", { location: true })).code, 47);
    assertEquals((await nginx.get("/nowhere", { fail: true })).code, 22);
    const empty = { body: "", code: 0, message: "" };
    assertEquals(await nginx.get("/empty"), empty);
    const range: Header[] = [["Range", "bytes=0-4"]];
    const part = await nginx.get("/folder/index.html", { headers: range });
    assertEquals(part.body, "hello");
    const tomorrow = new Date(Date.now() + 864e5).toUTCString();
    const headers: Header[] = [["If-Modified-Since", tomorrow]];
    const unchanged = await nginx.get("/large", { headers, include: true });
    assertMatch(unchanged.body.slice(0, 100), /^HTTP\/1\.1 304 /);
    const head = await nginx.get("/large", { head: true });
    assertMatch(head.body, /Content-Length: 10000000/);
    assertEquals((await nginx.get("/folder/", { family: 6 }, 6)).body, page);
    assertEquals((await nginx.get("/folder/", { family: 4 }, 6)).code, 2);
  },
);

test("http_get gets what Python's http.server serves", {
  ignore: missing("python3"),
}, async () => {
  using dir = folder();
  const body = random(300_000);
  Deno.writeFileSync(`${dir.path}/a b`, body);
  await using python = new Running("python3", [
    "-u",
    "-m",
    "http.server",
    "0",
    "--bind",
    "127.0.0.1",
  ], {
    cwd: dir.path,
  });
  const port = (await python.until(/port (\d+)/))[1];
  const { all, write } = parts();
  assertEquals(
    (await collect({ url: new URL(`http://127.0.0.1:${port}/a b`), write }))
      .code,
    0,
  );
  assertEquals(await checksum(...all), await checksum(body));
  assertMatch(
    (await collect({ url: new URL(`http://127.0.0.1:${port}/`) })).body,
    /a%20b/,
  );
  assertEquals(
    (await collect({ url: new URL(`http://127.0.0.1:${port}/x`), fail: true }))
      .code,
    22,
  );
});

test(
  "http_get gets what Node's http serves: chunks, trailers, early hints, coded bodies",
  {
    ignore: missing("node"),
  },
  async () => {
    const script = `
    const zlib = require("node:zlib");
    require("node:http").createServer((request, response) => {
      const code = { "/gzip": ["gzip", zlib.gzipSync], "/deflate": ["deflate", zlib.deflateSync] }[request.url];
      if (code) return response.setHeader("Content-Encoding", code[0]).end(code[1]("hello"));
      if (request.url === "/host") return response.end(request.rawHeaders.join("|"));
      response.writeEarlyHints({ link: "</x>; rel=preload" });
      response.writeHead(200, { Trailer: "X" });
      response.write("hello, ");
      response.addTrailers({ X: "y" });
      response.end("node");
    }).listen(0, "127.0.0.1", function () { console.log("port", this.address().port); });`;
    await using node = new Running("node", ["-e", script]);
    const port = (await node.until(/port (\d+)/))[1];
    const url = (path: string) => new URL(path, `http://127.0.0.1:${port}`);
    const { body } = await collect({ url: url("/"), include: true });
    assertMatch(
      body,
      /^HTTP\/1\.1 103 [^]*\r\n\r\nHTTP\/1\.1 200 OK\r\n[^]*chunked\r\n\r\nhello, node$/,
    );
    for (const path of ["/gzip", "/deflate"]) {
      assertEquals(await collect({ url: url(path), compressed: true }), {
        body: "hello",
        code: 0,
        message: "",
      });
    }
    const sent =
      `Host|127.0.0.1:${port}|User-Agent|http_get/1.0.0|Accept|*/*|Connection|close`;
    assertEquals((await collect({ url: url("/host") })).body, sent);
  },
);

test(
  "http_get says 56 for a connection that is reset in the body, and keeps what came",
  {
    ignore: missing("python3"),
  },
  async () => {
    const script = `
import socket, struct
server = socket.create_server(("127.0.0.1", 0))
print("port", server.getsockname()[1], flush=True)
conn, _ = server.accept()
conn.recv(1000)
conn.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 10\\r\\n\\r\\nhello")
input()
conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
conn.close()`;
    await using python = new Running("python3", ["-c", script]);
    const port = (await python.until(/port (\d+)/))[1];
    let body = "";
    const write = async (bytes: Uint8Array) => {
      body += text(bytes);
      await python.type("reset\n");
    };
    const { code, message } = await collect({
      url: new URL(`http://127.0.0.1:${port}/`),
      write,
    });
    assertEquals([code, message, body], [
      56,
      "receiving failed: connection reset",
      "hello",
    ]);
  },
);

const OK = "HTTP/1.1 200 OK\r\n";
const CODED = "Transfer-Encoding: chunked\r\n\r\n";
const CHUNKED = `${OK}${CODED}`;
const gzip = text(await compress("gzip", bytes("hello, hello")));
const raw = text(await compress("deflate-raw", bytes("hello")));
const zlib = text(await compress("deflate", bytes("hello")));
const coded = (coding: string, body: string) =>
  `${OK}Content-Encoding: ${coding}\r\nContent-Length: ${body.length}\r\n\r\n${body}`;

/** Answers to which curl and http_get are to give the same bytes and the same status. */
const SAME: [answer: string, ...args: string[]][] = [
  [""],
  ["SSH-2.0-OpenSSH\r\n"],
  ["HTTP/1.1 99 OK\r\n\r\nx"],
  ["HTTP/1.1 OK\r\n\r\nx"],
  ["HTTP/1.1 200\r\n\r\nx"],
  ["HTTP/1.1 999 OK\r\n\r\nx"],
  ["HTTP/1.0 200 OK\r\n\r\nx"],
  ["HTTP/1.1 100 Continue\r\n\r\n"],
  [
    `HTTP/1.1 100 Continue\r\nA: b\r\n\r\nHTTP/1.1 103 Hints\r\n\r\n${OK}Content-Length: 1\r\n\r\nx`,
    "-i",
  ],
  ["HTTP/1.1 404 No\r\nContent-Length: 1\r\n\r\nx"],
  ["HTTP/1.1 404 No\r\nContent-Length: 1\r\n\r\nx", "-f"],
  ["HTTP/1.1 404 No\r\nContent-Length: 1\r\n\r\nx", "-f", "-i"],
  ["HTTP/1.1 204 No\r\nContent-Length: 3\r\n\r\nabc", "-i"],
  ["HTTP/1.1 304 No\r\nTransfer-Encoding: chunked\r\n\r\nabc"],
  [`${OK}Content-Length: 3\r\n\r\n`, "-I"],
  [`${OK}Content-Length: 3\r\n\r\nabcdef`],
  [`${OK}Content-Length: 3, 3\r\n\r\nabcdef`],
  [`${OK}Content-Length: 3\r\nContent-Length: 3\r\n\r\nabcdef`],
  [`${OK}Content-Length: 003\r\n\r\nabcdef`],
  [`${OK}Content-Length: 9\r\n\r\nabc`],
  [`${OK}Content-Length: -1\r\n\r\nabc`],
  [`${OK}Content-Length:\r\n\r\nabc`],
  [`${OK}A: b\r\n c\r\nContent-Length: 1\r\n\r\nx`, "-i"],
  [`HTTP/1.1 200 OK\nA: b\nContent-Length: 1\n\nxy`, "-i"],
  [`${OK}A: \xe9\xff\r\nContent-Length: 1\r\n\r\nx`, "-i"],
  [`${OK}Ab\r\n\r\nx`],
  [`${OK}A: b\0c\r\n\r\nx`],
  [`${CHUNKED}5\r\nhello\r\n0\r\n\r\n`, "-i"],
  [`${CHUNKED}5;a=b\r\nhello\r\n0;c\r\nA: b\r\n\r\nextra`],
  [`${CHUNKED}000A\r\n0123456789\r\n0\r\n\r\n`],
  [`${CHUNKED}1\nx\n0\n\n`],
  [`${CHUNKED}5\r\nhello\n0\r\n\r\n`],
  [`${CHUNKED}3\r\nxy\r\n0\r\n\r\n`],
  [`${OK}Content-Length: 9\r\n${CODED}1\r\nx\r\n0\r\n\r\n`],
  ["HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"],
  [`${CHUNKED}zz\r\nx\r\n0\r\n\r\n`],
  [`${CHUNKED}-1\r\nx\r\n0\r\n\r\n`],
  [`${CHUNKED}ffffffffffffffffff\r\nx\r\n0\r\n\r\n`],
  [`${CHUNKED}1\r\nxy\r\n0\r\n\r\n`],
  [`${CHUNKED}5\r\nhey\r\n0\r\n\r\n`],
  [`${CHUNKED}1\r\nx\r\n`],
  [`${CHUNKED}1\r\nx\r\n0\r\n`],
  [`${OK}Transfer-Encoding: foo, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n`],
  [coded("gzip", gzip)],
  [coded("gzip", gzip), "--compressed"],
  [coded("x-gzip", gzip), "--compressed"],
  [coded("deflate", zlib), "--compressed"],
  [coded("none", "x"), "--compressed"],
  [coded("foo", ""), "--compressed"],
  [coded("gzip", ""), "--compressed"],
  [coded("gzip", "no gzip"), "--compressed"],
  [coded("foo", "x"), "--compressed"],
  [coded("foo", "x")],
  [`${OK}Content-Length: 5\r\n\r\nhello`, "--max-filesize", "4"],
  ["HTTP/1.1 302 Found\r\nContent-Length: 1\r\n\r\nx", "-L"],
  ["HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 1\r\n\r\nx"],
  [
    "HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 1\r\n\r\nx",
    "-L",
    "--max-redirs",
    "0",
  ],
  ["HTTP/1.1 302 Found\r\nLocation: http://h:99999/\r\n\r\n", "-L"],
  ["HTTP/1.1 302 Found\r\nLocation: foo://h/\r\n\r\n", "-L"],
];

/** The same, of curl 7.88 alone: later ones answer these differently. */
const SAME_ONCE: typeof SAME = [
  ["HTTP/3.0 200 OK\r\n\r\nx"],
  ["HTTP/1.1 2000 OK\r\n\r\nx"],
  ["HTTP/1.1  200 OK\r\n\r\nx"],
  [`${OK}Transfer-Encoding: identity\r\nContent-Length: 1\r\n\r\nxyz`],
  [`${OK}Transfer-Encoding: gzip, chunked\r\n\r\n${
    gzip.length.toString(16)
  }\r\n${gzip}\r\n0\r\n\r\n`],
];

const isKnownCurl = !barred("sh", "-c", "curl -V | grep -q '^curl 7.88'");

/** Why http_get differs from curl 7.88: "answer -> curl -> ours -> options", both as "body|status". */
const DIFFERENT: Record<string, string> = {
  "a header section that is cut off is no answer": `${OK}A: b\r\n -> |0 -> |18`,
  "a status line that is cut off is not nothing": "HTTP/1.1 20 -> |52 -> |18",
  "HTTP/2 is not spoken as text": "HTTP/2 200\r\n\r\nx -> x|0 -> |1",
  "a later HTTP/1 is understood (RFC 9110 2.5)":
    "HTTP/1.2 200 OK\r\n\r\nx -> |1 -> x|0",
  "HTTP is written in capitals (RFC 9112 2.3)":
    "http/1.1 200 OK\r\n\r\nx -> x|0 -> |1",
  "a length is digits (RFC 9112 6.3, rule 5)":
    `${OK}Content-Length: +1\r\n\r\nx -> x|0 -> |8`,
  "nothing follows the digits": `${OK}Content-Length: 1x\r\n\r\nx -> x|0 -> |8`,
  "unequal lengths in a line are none":
    `${OK}Content-Length: 1, 2\r\n\r\nx -> x|0 -> |8`,
  "unequal lengths are none":
    `${OK}Content-Length: 2\r\nContent-Length: 1\r\n\r\nx -> x|0 -> |8`,
  "a space before the colon is refused (RFC 9112 5.1)":
    `${OK}A : b\r\n\r\nx -> x|0 -> |8`,
  "a bare CR is refused (RFC 9112 2.2)": `${OK}A: b\rc\r\n\r\nx -> x|0 -> |8`,
  "leading zeros are no overflow": `${CHUNKED}${
    "0".repeat(20)
  }1\r\nx\r\n0\r\n\r\n -> |56 -> x|0`,
  "chunked is applied once (RFC 9112 6.1)":
    `${OK}Transfer-Encoding: chunked\r\n${CODED}1\r\nx\r\n0\r\n\r\n -> x|0 -> |61`,
  "a coded body that is cut off is damaged": `${
    coded("gzip", gzip.slice(0, -2))
  } -> hello, hello|0 -> hello, hello|61 -> --compressed`,
  "several gzip members are one body (RFC 1952 2.2)": `${
    coded("gzip", gzip + gzip)
  } -> hello, hello|23 -> hello, hellohello, hello|0 -> --compressed`,
  "deflate is zlib's format (RFC 9110 8.4.1.2)": `${
    coded("deflate", raw)
  } -> hello|0 -> |61 -> --compressed`,
  "the size is bound without Content-Length too":
    `${OK}\r\nhello -> hello|0 -> hel|63 -> --max-filesize 3`,
};

/** Serves each of the answers in turn, and gets it with curl and with http_get. */
async function beside(answer: string, args: string[]) {
  await using server = new RawServer((conn) => write(conn, answer));
  const curl = new Deno.Command("curl", {
    args: ["-sS", "-m", "9", ...args, server.url().href],
    stdin: "null",
  });
  const { code, stdout } = await curl.output();
  const has = (option: string) => args.includes(option);
  const number = (option: string, usual: number) =>
    has(option) ? Number(args[args.indexOf(option) + 1]) : usual;
  const ours = await collect({
    url: server.url(),
    include: has("-i"),
    head: has("-I"),
    fail: has("-f"),
    location: has("-L"),
    compressed: has("--compressed"),
    "max-filesize": number("--max-filesize", 0),
    "max-redirs": number("--max-redirs", 20),
  });
  return { curl: [text(stdout), code], ours: [ours.body, ours.code] };
}

test("http_get gives the bytes and the status that curl gives", {
  ignore: missing("curl"),
}, async () => {
  const all = [...SAME, ...isKnownCurl ? SAME_ONCE : []];
  for (const [answer, ...args] of all) {
    const { curl, ours } = await beside(answer, args);
    // Where the header section is refused, curl prints some of it.
    if (curl[1] === 8 || curl[1] === 56 && args.includes("-i")) {
      assertEquals(ours, ["", curl[1]], answer);
    } else assertEquals(ours, curl, JSON.stringify([answer, ...args]));
  }
});

test("http_get differs from curl where it means to", {
  ignore: missing("curl"),
}, async () => {
  for (const [why, line] of Object.entries(DIFFERENT)) {
    const [answer, curl, ours, args] = line.split(" -> ");
    const got = await beside(answer, args?.split(" ") ?? []);
    assertEquals(got.ours.join("|"), ours, why);
    // Later ones may know better.
    if (isKnownCurl) assertEquals(got.curl.join("|"), curl, `curl: ${why}`);
  }
});
