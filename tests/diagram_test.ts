/**
 * What `--diagram` writes, drawn by Mermaid itself in a browser: the pictures show what happened, and nothing that a server
 * sends can break them.
 */
import { assert, assertEquals, assertMatch } from "jsr:@std/assert@^1";
import { delay } from "jsr:@std/async@^1/delay";
import { printable, quote, Trace } from "../utils.ts";
import { missing, run, serve, soon, test } from "./helpers.ts";
import { RawServer } from "./http_servers.ts";

const MERMAID = "12.3.0";

/** Mermaid as browsers load it, from npm. It is not imported: that would bring a hundred packages into every check. */
async function mermaid(): Promise<Uint8Array<ArrayBuffer>> {
  const env = { DENO_TLS_CA_STORE: "system,mozilla" }; // so that npm is reached wherever the system reaches it
  const deno = async (...args: string[]) => {
    const { success, stdout, stderr } = await new Deno.Command(
      Deno.execPath(),
      { args, env },
    ).output();
    assert(success, new TextDecoder().decode(stderr));
    return new TextDecoder().decode(stdout);
  };
  await deno("cache", "--quiet", "--no-lock", "--minimum-dependency-age=0", `npm:mermaid@${MERMAID}`);
  const { npmCache } = JSON.parse(await deno("info", "--json"));
  for (const { name } of Deno.readDirSync(npmCache)) { // a folder for each registry
    const script = await Deno.readFile(
      `${npmCache}/${name}/mermaid/${MERMAID}/dist/mermaid.min.js`,
    ).catch(() => null);
    if (script) return script;
  }
  throw new Error("no mermaid in the cache");
}

/** What can be seen in a picture. Arrows are `> SYN`, with how they are drawn: `-->` dashed, `->` solid, `-)` open. */
type Picture = {
  participants: string[];
  arrows: string[];
  notes: string[];
  error?: string;
  scripts: number;
};

// The page asks for a drawing, draws it, and tells what it sees: again and again.
const PAGE =
  `<!doctype html><meta charset="utf-8"><body><script src="/mermaid.js"></script><script type="module">
mermaid.initialize({ startOnLoad: false });
const texts = (what) => [...document.querySelectorAll(what)].map((each) => each.textContent);
for (let n = 0;; n++) {
  const text = await (await fetch("/next", { method: "POST" })).text(), picture = { scripts: 0 };
  try {
    document.body.innerHTML = (await mermaid.render("drawing" + n, text)).svg;
    const lines = [...document.querySelectorAll(".messageLine0, .messageLine1")].map((line) => {
      const right = Number(line.getAttribute("x1")) < Number(line.getAttribute("x2"));
      const open = /filled/.test(line.getAttribute("marker-end")), dashed = line.matches(".messageLine1");
      return (right ? ">" : "<") + (open ? " open" : dashed ? " dashed" : "");
    });
    picture.arrows = texts(".messageText").map((text, i) => lines[i] + " " + text);
    const boxes = [...document.querySelectorAll("text.actor")].sort((a, b) => a.getAttribute("x") - b.getAttribute("x"));
    picture.participants = [...new Set(boxes.map((each) => each.textContent))];
    picture.notes = texts(".noteText");
    picture.scripts = document.body.querySelectorAll("script").length;
  } catch (error) {
    picture.error = String(error);
  }
  await fetch("/drawn", { method: "POST", body: JSON.stringify(picture) });
}
</script>`;

/** A browser without a window, a profile, or a way out of this machine, that draws. */
class Browser implements AsyncDisposable {
  readonly #stop = new AbortController();
  readonly #profile = Deno.makeTempDirSync({ prefix: "chromium-" });
  readonly #child: Deno.ChildProcess;
  readonly #server: Deno.HttpServer<Deno.NetAddr>;
  #next = Promise.withResolvers<(text: string) => void>();
  #drawn = Promise.withResolvers<Picture>();

  constructor(script: Uint8Array<ArrayBuffer>) {
    const options = {
      hostname: "127.0.0.1",
      port: 0,
      signal: this.#stop.signal,
      onListen() {},
    };
    this.#server = Deno.serve(options, async (request) => {
      const { pathname } = new URL(request.url),
        headers = { "content-type": "text/html" };
      if (pathname === "/mermaid.js") return new Response(script);
      if (pathname === "/drawn") this.#drawn.resolve(await request.json());
      if (pathname !== "/next") {
        return new Response(pathname === "/" ? PAGE : "", { headers });
      }
      return new Response(
        await new Promise<string>((give) => this.#next.resolve(give)),
      );
    });
    const flags = [
      "headless",
      "no-sandbox",
      "disable-gpu",
      "disable-quic",
      "no-first-run",
      "disable-sync",
    ];
    flags.push(
      "disable-background-networking",
      "disable-component-update",
      "disable-breakpad",
    );
    flags.push(
      `user-data-dir=${this.#profile}`,
      "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    );
    const args = [
      ...flags.map((flag) => `--${flag}`),
      `http://127.0.0.1:${this.#server.addr.port}/`,
    ];
    this.#child = new Deno.Command("chromium", {
      args,
      env: { HOME: this.#profile, TMPDIR: this.#profile },
      stdout: "null",
      stderr: "null",
    })
      .spawn();
  }

  /** Draws what a Markdown file has between its fences. */
  async draw(markdown: string): Promise<Picture> {
    const [, text] = markdown.match(/^```mermaid\n([^]*?)^```$/m)!;
    const ended = this.#child.status.then(({ code }) =>
      Promise.reject(new Error(`the browser ended with ${code}`))
    );
    const give = await soon(
      Promise.race([this.#next.promise, ended]),
      "the browser",
      { seconds: 30 },
    );
    this.#next = Promise.withResolvers(), this.#drawn = Promise.withResolvers();
    give(text);
    return await soon(Promise.race([this.#drawn.promise, ended]), "a picture", {
      seconds: 30,
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGTERM");
    await this.#child.status;
    this.#stop.abort();
    await this.#server.finished;
    // The browser's own children end a moment later, and write into the profile until then.
    for (let tries = 100; tries--; await delay(20)) {
      if (
        await Deno.remove(this.#profile, { recursive: true }).then(
          () => true,
          () => false,
        )
      ) return;
    }
    throw new Error(`${this.#profile} cannot be removed`);
  }
}

/** The arrows from one side: what the two sides do at the same time has no order. */
const from = (side: string, { arrows }: Picture) =>
  arrows.filter((each) => each.startsWith(side));

test({
  name: "Mermaid draws what --diagram writes",
  ignore: ["chromium", "openssl"].map(missing).some(Boolean),
  async fn(test) {
    const folder = await Deno.makeTempDir(), file = `${folder}/drawing.md`;
    await using browser = new Browser(await mermaid());
    /** Runs a client, and draws its drawing. */
    const drawing = async (name: string, args: string[], input = "") => {
      const { code, stderr } = await run(
          name,
          [...args, "--diagram", file],
          input,
        ),
        text = await Deno.readTextFile(file);
      const picture = await browser.draw(text);
      assertEquals([picture.error, picture.scripts], [undefined, 0], text);
      return { code, stderr, text, ...picture };
    };

    await test.step("echo_tcp: the handshake and the half-closes are told apart from data", async () => {
      await using server = await serve("echo_tcp");
      const seen = await drawing(
        "echo_tcp",
        ["-c", `127.0.0.1:${server.port}`],
        "hello\n",
      );
      assertEquals(seen.participants, ["echo_tcp", `127.0.0.1:${server.port}`]);
      const hello = String.raw`6 bytes "hello\n"`;
      assertEquals(from(">", seen), [
        "> dashed SYN",
        "> dashed ACK",
        `> ${hello}`,
        "> dashed FIN",
      ]);
      assertEquals(from("<", seen), [
        "< dashed SYN, ACK",
        `< ${hello}`,
        "< dashed FIN",
      ]);
      assertEquals(seen.notes, ["closed"]);
    });

    await test.step("echo_tcp: a refused connection is a reset", async () => {
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 }),
        { port } = listener.addr;
      listener.close();
      const seen = await drawing("echo_tcp", ["-c", `127.0.0.1:${port}`]);
      assertEquals(seen.participants, ["echo_tcp", `127.0.0.1:${port}`]);
      assertEquals(seen.arrows, ["> dashed SYN", "< dashed RST, ACK"]);
      assertEquals(seen.notes, [
        `cannot connect to 127.0.0.1:${port}: connection refused`,
      ]);
    });

    await test.step("echo_udp: each datagram is an arrow", async () => {
      await using server = await serve("echo_udp");
      const seen = await drawing(
        "echo_udp",
        ["-c", `127.0.0.1:${server.port}`],
        "one\ntwo\n",
      );
      assertEquals(seen.participants, ["echo_udp", `127.0.0.1:${server.port}`]);
      for (const side of [">", "<"]) {
        const both = ["one", "two"].map((each) =>
          String.raw`${side} open 4 bytes "${each}\n"`
        );
        assertEquals(from(side, seen), both);
      }
      assertMatch(
        seen.notes.join("\n"),
        /^asking 127\.0\.0\.1:\d+ from port \d+\nclosed$/,
      );
    });

    await test.step("echo_udp: at most 200 arrows, the rest is summed up", async () => {
      await using server = await serve("echo_udp");
      const seen = await drawing("echo_udp", [
        "-c",
        `127.0.0.1:${server.port}`,
        "-n",
        "300",
        "-i",
        "0",
        "--size",
        "10",
      ]);
      assert(
        seen.arrows.length > 150 && seen.arrows.length <= 200,
        `${seen.arrows.length}`,
      );
      const [, events, sent, received] = seen.notes.join("\n").match(
        /and (\d+) more events: (\d+) bytes sent, (\d+) bytes received\nclosed$/,
      )!.map(Number);
      assertEquals(10 * seen.arrows.length + sent + received, 6000);
      assertEquals(seen.arrows.length + events, 600);
    });

    await test.step("echo_udp: what does not come back is noted", async () => {
      const socket = Deno.listenDatagram({
        transport: "udp",
        hostname: "127.0.0.1",
        port: 0,
      });
      const answering = socket.receive().then(([datagram, from]) =>
        socket.send(datagram, from)
      );
      const to = `127.0.0.1:${(socket.addr as Deno.NetAddr).port}`;
      const seen = await drawing("echo_udp", [
        "-c",
        to,
        "-n",
        "2",
        "-i",
        "0",
        "-w",
        "0.2",
      ]);
      await answering;
      socket.close();
      assertEquals([from(">", seen).length, from("<", seen).length], [2, 1]);
      assertEquals(seen.notes.slice(-2), ["closed", "no answer to 1 of 2"]);
    });

    await test.step("daytime: over TCP nothing is asked, and both sides close", async () => {
      await using server = await serve("daytime", ["--serve"]);
      const seen = await drawing("daytime", ["127.0.0.1", `${server.port}`]);
      assertEquals(seen.participants, ["daytime", `127.0.0.1:${server.port}`]);
      assertEquals(from(">", seen), [
        "> dashed SYN",
        "> dashed ACK",
        "> dashed FIN",
      ]);
      const [syn, line, fin] = from("<", seen);
      assertEquals([syn, fin], ["< dashed SYN, ACK", "< dashed FIN"]);
      assertMatch(line, /^< \d+ bytes "\w+day, .*-UTC\\r\\n"$/);
    });

    await test.step("daytime: over UDP an empty datagram asks", async () => {
      await using server = await serve("daytime", ["--serve"]);
      const seen = await drawing("daytime", [
        "-u",
        "127.0.0.1",
        `${server.port}`,
      ]);
      assertEquals(seen.arrows.length, 2);
      assertEquals(seen.arrows[0], '> open 0 bytes ""');
      assertMatch(seen.arrows[1], /^< open \d+ bytes "\w+day, .*-UTC\\r\\n"$/);
    });

    await test.step("daytime: what is lost is asked again", async () => {
      const socket = Deno.listenDatagram({
        transport: "udp",
        hostname: "127.0.0.1",
        port: 0,
      });
      const { port } = socket.addr as Deno.NetAddr;
      const seen = await drawing("daytime", [
        "-u",
        "-w",
        "0.5",
        "127.0.0.1",
        `${port}`,
      ]);
      socket.close();
      assert(
        seen.arrows.length > 1 &&
          seen.arrows.every((each) => each === '> open 0 bytes ""'),
      );
      const again = seen.notes.filter((note) =>
        /^no answer for \d\.\d s: asking again$/.test(note)
      );
      assertEquals(again.length, seen.arrows.length - 1);
      assertEquals(
        seen.notes.at(-1),
        `no answer from 127.0.0.1:${port} within 0.5 s`,
      );
    });

    await test.step("http_get: a redirect and TLS are steps of their own", async () => {
      const openssl = async (...args: string[]) => {
        assert(
          (await new Deno.Command("openssl", {
            args,
            cwd: folder,
            stderr: "null",
          }).output()).success,
        );
      };
      const key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
      ];
      await openssl(
        "req",
        "-x509",
        ...key,
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
        "-subj",
        "/CN=authority",
      );
      await openssl(
        "req",
        ...key,
        "-keyout",
        "key",
        "-out",
        "csr",
        "-subj",
        "/CN=server",
      );
      await Deno.writeTextFile(
        `${folder}/names`,
        "subjectAltName=IP:127.0.0.1",
      );
      const by = [
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-extfile",
        "names",
      ];
      await openssl("x509", "-req", "-in", "csr", ...by, "-out", "pem");
      const [cert, pem] = ["pem", "key"].map((name) =>
        Deno.readTextFileSync(`${folder}/${name}`)
      );
      const tls = Deno.listenTls({
        hostname: "127.0.0.1",
        port: 0,
        cert,
        key: pem,
      });
      await using there = new RawServer(
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nHi\n",
        tls,
      );
      const to = `${there.url("/", "https")}`,
        moved = `HTTP/1.1 302 Found\r\nLocation: ${to}\r\n\r\n`;
      await using here = new RawServer(moved);
      const seen = await drawing("http_get", [
        "-L",
        `${here.url()}`,
        "--cacert",
        `${folder}/ca.pem`,
      ]);
      assertEquals(seen.stderr, "");
      assertEquals(seen.participants, [
        "http_get",
        `127.0.0.1:${here.port}`,
        `127.0.0.1:${there.port}`,
      ]);
      const hello = ["> dashed ClientHello", "> dashed Finished"],
        sent = from(">", seen);
      const [get, again] = sent.filter((each) => /GET/.test(each));
      const opens = ["> dashed SYN", "> dashed ACK"], fin = "> dashed FIN";
      assertEquals(sent, [...opens, get, fin, ...opens, ...hello, again, fin]);
      assert(
        from("<", seen).includes("< dashed ServerHello, Certificate, Finished"),
      );
      assert(seen.notes.includes(`redirected to ${to}`), `${seen.notes}`);
      assert(
        seen.notes.includes(
          "body: 3 bytes, by Content-Length (RFC 9112 6.3, rule 6)",
        ),
        `${seen.notes}`,
      );
    });

    await test.step("what a server says cannot break the drawing, and is shown as it is", async () => {
      const hostile = [
        "a; b #35; c &amp; d",
        "```\n# e",
        "end",
        "<script>alert(1)</script><br>f",
        "%%{init: {}}%% g",
      ];
      hostile.push(
        "%% h",
        "$$x^2$$",
        "wrap: i",
        "nowrap:j",
        "style k:#l;",
        "classDef m:#n;",
        "participant o as p",
        "q->>r: s",
      );
      hostile.push(
        "\x1b[2J\x07\0",
        "{}[]()\"'\\",
        "\u202e\u{1f600}é",
        "ﬂ°°35¶ß",
        "---",
        "Note over t: u",
        "@{v}",
        "w\nx",
      );
      const trace = new Trace("echo_tcp", false, file);
      for (const text of hostile) {
        trace.data("<", new TextEncoder().encode(text)), trace.life(text);
      }
      await trace.write();
      const text = await Deno.readTextFile(file),
        seen = await browser.draw(text);
      assertEquals([seen.error, seen.scripts, seen.participants], [
        undefined,
        0,
        ["echo_tcp", "server"],
      ], text);
      const shown = hostile.map((text) => new TextEncoder().encode(text)).map((
        it,
      ) => `${it.length} bytes ${quote(it)}`);
      assertEquals(seen.arrows, shown.map((each) => `< ${each}`));
      assertEquals(seen.notes, hostile.map(printable));
      assertEquals(text.match(/^```/gm)?.length, 2);
    });

    await test.step("what a server says cannot make the drawing too large for Mermaid", async () => {
      const trace = new Trace("http_get", false, file),
        many = new Uint8Array(1000).fill(0x23);
      for (let i = 0; i < 1000; i++) {
        trace.data("<", many), trace.life("#".repeat(100_000));
      }
      await trace.write();
      const text = await Deno.readTextFile(file),
        seen = await browser.draw(text);
      assertEquals(seen.error, undefined);
      assert(text.length < 50_000, `${text.length}`);
      assertMatch(
        seen.notes.at(-2)!,
        /^and \d+ more events: 0 bytes sent, \d+ bytes received$/,
      );
    });

    await Deno.remove(folder, { recursive: true });
  },
});
