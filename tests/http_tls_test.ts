import { assert, assertEquals, assertMatch } from "jsr:@std/assert@^1";
import type { Header } from "../http_get.ts";
import { Failure } from "../utils.ts";
import { setTimeout as delay } from "node:timers/promises";
import { missing, repeat, run, soon, test } from "./helpers.ts";
import { collect, folder, hold, RawServer, write } from "./http_servers.ts";

const HI = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
const TLS = { ignore: missing("openssl") };

/** An authority, and certificates of it: for this machine, for another name, and one that has expired. */
class Authority implements Disposable {
  readonly #dir = folder();
  constructor() {
    Deno.writeTextFileSync(
      this.#path("conf"),
      `[ca]\ndefault_ca=d\n[d]\ndatabase=${
        this.#path("index")
      }\nnew_certs_dir=${this.#path(".")}\nserial=${this.#path("serial")}\n` +
        "default_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n[req]\ndistinguished_name=p\n",
    );
    Deno.writeTextFileSync(this.#path("index"), "");
    Deno.writeTextFileSync(this.#path("serial"), "01\n");
    this.#openssl(
      "req -x509 -days 9 -subj /CN=authority -addext basicConstraints=critical,CA:TRUE",
      "ca",
    );
    this.#certify(
      "here",
      "DNS:localhost,IP:127.0.0.1,IP:::1",
      "20200101000000Z",
      "20990101000000Z",
    );
    this.#certify(
      "elsewhere",
      "DNS:elsewhere.example",
      "20200101000000Z",
      "20990101000000Z",
    );
    this.#certify(
      "expired",
      "DNS:localhost,IP:127.0.0.1",
      "20200101000000Z",
      "20200201000000Z",
    );
  }
  #path(name: string): string {
    // In a file for openssl, backslashes would be escapes.
    return `${this.#dir.path}/${name}`.replaceAll("\\", "/");
  }
  #openssl(command: string, name: string, output = "pem") {
    const key = command.startsWith("req")
      ? "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout"
      : "-keyfile";
    const args = `${command} -config ${this.#path("conf")} ${key} ${
      this.#path(output ? `${name}.key` : "ca.key")
    }`;
    const { success, stderr } = new Deno.Command("openssl", {
      args: [
        ...args.split(" "),
        "-out",
        this.#path(`${name}.${output || "pem"}`),
      ],
    }).outputSync();
    if (!success) throw new Error(new TextDecoder().decode(stderr));
  }
  #certify(name: string, names: string, from: string, to: string) {
    Deno.writeTextFileSync(this.#path("ext"), `subjectAltName=${names}\n`);
    this.#openssl(`req -subj /CN=${name}`, name, "csr");
    const files = `-in ${this.#path(`${name}.csr`)} -cert ${
      this.#path("ca.pem")
    } -extfile ${this.#path("ext")}`;
    this.#openssl(
      `ca -batch -notext -startdate ${from} -enddate ${to} ${files}`,
      name,
      "",
    );
  }
  get file(): string {
    return this.#path("ca.pem");
  }
  get caCerts(): string[] {
    return [Deno.readTextFileSync(this.file)];
  }
  listen(name: string, hostname = "127.0.0.1"): Deno.TlsListener {
    const [cert, key] = ["pem", "key"].map((type) =>
      Deno.readTextFileSync(this.#path(`${name}.${type}`))
    );
    return Deno.listenTls({ hostname, port: 0, cert, key });
  }
  [Symbol.dispose](): void {
    this.#dir[Symbol.dispose]();
  }
}

const GOT_HI = { body: "hi", code: 0, message: "" };

test(
  "http_get speaks TLS with a server that is trusted, by name and by address",
  TLS,
  async () => {
    using authority = new Authority();
    const { caCerts } = authority;
    await using server = new RawServer(HI, authority.listen("here"));
    await using six = new RawServer(HI, authority.listen("here", "::1"));
    const byName = new URL(`https://localhost:${server.port}/`);
    const byIPv6 = new URL(`https://[::1]:${six.port}/`);
    const byAddress = server.url("/", "https");
    assertEquals(await collect({ url: byAddress, caCerts }), GOT_HI);
    assertEquals(await collect({ url: byName, caCerts, family: 4 }), GOT_HI);
    assertEquals(await collect({ url: byIPv6, caCerts }), GOT_HI);
    const hosts = server.requests.map((each) =>
      each.match(/Host: (.*):\d/)![1]
    );
    assertEquals(hosts, ["127.0.0.1", "localhost"]);
  },
);

test(
  "http_get sends nothing to a server whose certificate is wrong",
  TLS,
  async () => {
    using authority = new Authority();
    const { caCerts } = authority;
    const name = /not valid for name "127\.0\.0\.1".*elsewhere\.example/;
    const unknown = /unknown authority \(--cacert FILE adds one\)/;
    const untrusted: [certificate: string, says: RegExp, caCerts?: string[]][] =
      [
        ["elsewhere", name, caCerts],
        ["expired", /expired/i, caCerts],
        ["here", unknown],
      ];
    for (const [certificate, says, caCerts] of untrusted) {
      await using server = new RawServer(HI, authority.listen(certificate));
      const asked = { url: server.url("/", "https"), caCerts, include: true };
      const { body, code, message } = await collect(asked);
      assertEquals([body, code, server.requests], ["", 60, []], message);
      assertMatch(message, /^the certificate of 127\.0\.0\.1 is not trusted: /);
      assertMatch(message, says);
    }
  },
);

test("a download that finds no trust leaves no descriptor open", {
  ignore: TLS.ignore || Deno.build.os !== "linux",
}, async () => {
  using authority = new Authority();
  await using server = new RawServer(HI, authority.listen("here"));
  const url = server.url("/", "https");
  const descriptors = () => [...Deno.readDirSync("/proc/self/fd")].length;
  assertEquals((await collect({ url })).code, 60);
  const before = descriptors();
  for (let i = 0; i < 20; i++) await collect({ url });
  const open = () => descriptors() <= before + 3; // the server's close later
  await repeat(() => delay(10), open, "the descriptors to be closed");
});

test(
  "http_get follows redirects into TLS without secrets, and none out of it",
  TLS,
  async () => {
    using authority = new Authority();
    const { caCerts } = authority;
    const moved = (to: URL) =>
      `HTTP/1.1 301 Moved\r\nLocation: ${to.href}\r\n\r\n`;
    await using server = new RawServer(HI, authority.listen("here"));
    await using plain = new RawServer(moved(server.url("/", "https")));
    const asked = { caCerts, location: true };
    const headers: Header[] = [["Cookie", "crumb"]];
    const got = await collect({ url: plain.url(), ...asked, headers });
    assertEquals(got, GOT_HI);
    assert(plain.requests[0].includes("crumb"));
    assert(!server.requests[0].includes("crumb"));
    const secure = authority.listen("here");
    await using down = new RawServer(moved(plain.url()), secure);
    const failed = await collect({ url: down.url("/", "https"), ...asked });
    assertEquals([failed.code, plain.requests.length], [1, 1]);
    assertEquals(
      failed.message,
      "refused to follow a redirect from https to http",
    );
  },
);

test(
  "http_get takes authorities from --cacert and from the system, and shows TLS with -v",
  TLS,
  async () => {
    using authority = new Authority();
    await using server = new RawServer(HI, authority.listen("here"));
    const url = server.url("/", "https").href;
    const known = { env: { SSL_CERT_FILE: authority.file, SSL_CERT_DIR: "" } };
    const [told, system, neither] = await Promise.all([
      run("http_get", [
        "-v",
        "--diagram",
        `${authority.file}.md`,
        "--cacert",
        authority.file,
        url,
      ]),
      run("http_get", [url], "", known),
      run("http_get", ["-v", url]),
    ]);
    assertEquals([told.code, told.stdout], [0, "hi"]);
    assertMatch(
      told.stderr,
      /\* connected to .*\n.*\* TLS with 127\.0\.0\.1\n.*> \d+ bytes "GET \/ HTTP.*\n.*< \d+ bytes "HTTP/,
    );
    const drawing = await Deno.readTextFile(`${authority.file}.md`);
    assertMatch(
      drawing,
      /p1-->>p2: ClientHello\n.*p2-->>p1: ServerHello, Certificate, Finished\n/,
    );
    assertEquals([system.code, system.stdout, system.stderr], [0, "hi", ""]);
    assertEquals([neither.code, neither.stdout], [60, ""]);
    assert(!neither.stderr.includes("> "), "nothing was sent");
  },
);

test("http_get says 35 for a plain server behind https, or one that hangs up", async () => {
  const raw = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = raw.addr;
  const answers = ["HTTP/1.1 400 Bad Request\r\n\r\n", ""];
  const serving = (async () => {
    for (const answer of answers) {
      const conn = await raw.accept();
      await conn.read(new Uint8Array(1000));
      await write(conn, answer);
      conn.close();
    }
  })();
  const url = new URL(`https://127.0.0.1:${port}/`);
  const plain = await collect({ url });
  assertEquals([plain.code, plain.message], [
    35,
    "127.0.0.1 does not speak TLS: try http://",
  ]);
  assertEquals((await collect({ url })).code, 35);
  await serving;
  raw.close();
});

test("http_get -m bounds the handshake with a server that is silent", async () => {
  const silent = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const accepted = silent.accept();
  const url = new URL(`https://127.0.0.1:${silent.addr.port}/`);
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(new Failure(28, "late")), 200);
  const work = collect({ url, signal: stop.signal });
  const { code, message } = await soon(work, "the end of the handshake");
  clearTimeout(timer);
  assertEquals([code, message], [28, "late"]);
  (await accepted).close();
  silent.close();
});

/** Passes bytes on between a client and a server, until `cut` resolves: then it hangs up on both. */
function relay(to: number, cut: Promise<void>) {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const serving = (async () => {
    const client = await listener.accept();
    const server = await Deno.connect({ hostname: "127.0.0.1", port: to });
    const pass = async (from: Deno.Conn, to: Deno.Conn) => {
      const buffer = new Uint8Array(16_384);
      for (let n; (n = await from.read(buffer).catch(() => null)) !== null;) {
        await write(to, buffer.subarray(0, n));
      }
    };
    const passing = [pass(client, server), pass(server, client)];
    await cut;
    client.close();
    server.close();
    listener.close();
    await Promise.all(passing);
  })();
  return { port: listener.addr.port, serving };
}

test(
  "http_get says 18 for TLS that is cut off, as the end of the body may be missing",
  TLS,
  async () => {
    using authority = new Authority();
    for (
      const [answer, code] of [["\r\nhi", 18], [
        "Content-Length: 3\r\n\r\nhi",
        18,
      ], [
        "Content-Length: 2\r\n\r\nhi",
        0,
      ]] as const
    ) {
      await using server = new RawServer(
        (conn) =>
          write(conn, `HTTP/1.1 200 OK\r\n${answer}`).then(() => hold(conn)),
        authority.listen("here"),
      );
      const seen = Promise.withResolvers<void>();
      const middle = relay(server.port, seen.promise);
      const url = new URL(`https://127.0.0.1:${middle.port}/`);
      const take = () => Promise.resolve(seen.resolve());
      assertEquals(
        (await collect({ url, caCerts: authority.caCerts, write: take })).code,
        code,
        answer,
      );
      await middle.serving;
    }
  },
);

test(
  "http_get says 52 for TLS that is cut off before an answer",
  TLS,
  async () => {
    using authority = new Authority();
    const asked = Promise.withResolvers<void>();
    await using server = new RawServer(
      (conn) => {
        asked.resolve();
        return hold(conn);
      },
      authority.listen("here"),
    );
    const middle = relay(server.port, asked.promise);
    const url = new URL(`https://127.0.0.1:${middle.port}/`);
    assertEquals((await collect({ url, caCerts: authority.caCerts })).code, 52);
    await middle.serving;
  },
);
