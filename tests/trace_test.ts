/**
 * What `-v` prints, and what `--diagram` draws, by Mermaid itself in a
 * browser: nothing that a peer sends can break them.
 */
import {
  assert,
  assertEquals,
  assertLess,
  assertMatch,
  assertNotMatch,
  assertRejects,
  assertStringIncludes,
} from "jsr:@std/assert@^1";
import { setTimeout as delay } from "node:timers/promises";
import { hexdump, quote, Trace } from "../trace.ts";
import { printable } from "../utils.ts";
import { bytes, captured, LINUX, missing, pair, pipe } from "./helpers.ts";
import { random, receive, repeat, reset, ROOT, run } from "./helpers.ts";
import { Running, send, serve } from "./helpers.ts";
import { serveOnce, serveResets, soon, temporary } from "./helpers.ts";
import { terminal, test, text, unusedPort, WINDOWS } from "./helpers.ts";

// Lines

/** The lines of a trace, without their times; each is within 80 columns. */
function lines(stderr: string): string[] {
  const all = stderr.split("\n").slice(0, -1);
  for (const line of all) {
    assertMatch(line, /^\d+\.\d{4} [*<>] [ -~]+$/);
    assert(line.length <= 80, line);
  }
  return all.map((line) => line.replace(/^\S+ /, ""));
}

test("echo_tcp -v shows what a client sees, a line an event", async () => {
  await using server = await serve("echo_tcp");
  const at = `127.0.0.1:${server.port}`;
  const { code, stdout, stderr } = await run("echo_tcp", ["-v", at], "hi\n");
  assertEquals([code, stdout], [0, "hi\n"]);
  assertEquals(lines(stderr).toSorted(), [
    "* closed",
    `* connected to ${at}`,
    "* half-closed by the peer",
    "* half-closed: nothing more to send",
    '< 3 bytes "hi\\n"',
    '> 3 bytes "hi\\n"',
  ]);
});

test("echo_tcp -v shows what a server sees, a reset too", async () => {
  await using server = await serve("echo_tcp", ["-v"]);
  const conn = await Deno.connect({ hostname: "127.0.0.1", port: server.port });
  await send(conn, bytes("a\x1b[2Jb\n"));
  await conn.closeWrite();
  await receive(conn);
  const peer = `127.0.0.1:${conn.localAddr.port}`;
  conn.close();
  await server.until(/closed\n$/, "stderr");
  assertEquals(lines(server.stderr), [
    `* ${peer} accepted`,
    `< ${peer} 7 bytes "a\\x1b[2Jb\\n"`,
    `> ${peer} 7 bytes "a\\x1b[2Jb\\n"`,
    `* ${peer} half-closed by the peer`,
    `* ${peer} closed`,
  ]);
  await reset(server.port, async (socket) => {
    socket.write("x");
    await new Promise((done) => socket.once("data", done));
  });
  await server.until(/\* \S+ reset by the peer\n/, "stderr");
});

test("echo_tcp -v says when a connection timed out", async () => {
  const words = ["-v", "--idle-timeout", "0.2"];
  await using server = await serve("echo_tcp", words);
  using _conn = await Deno.connect({ port: server.port });
  await server.until(/\* \S+ [^\n]*timed out\n/, "stderr");
});

test("a trace shows a reset once, and the end behind it is no FIN", async () => {
  const { err } = await captured(async () => {
    const reset = () => Promise.reject(new Deno.errors.ConnectionReset("x"));
    const end = () => Promise.resolve(null);
    const conn = { write: reset, read: end, close() {} };
    const stream = new Trace("echo_tcp", 1).stream(conn);
    await stream.write(bytes("a")).catch(() => {});
    await stream.read(new Uint8Array(1));
  });
  assertEquals(lines(err), ["* reset by the peer"]);
});

test("no line of a trace is wider than 80 columns", async () => {
  const trace = new Trace("echo_tcp", 1);
  const peer = "[2001:db8:1111:2222:3333:4444:5555:6666%eth0]:65535";
  const { err } = await captured(() => {
    const clients = [peer, `${peer} ${peer}`].map((who) => trace.client(who));
    for (const each of [trace, ...clients]) {
      each.data("<", new Uint8Array(100_000));
      each.data(">", bytes("hello"));
      each.tcp("reset by the peer");
    }
    trace.event("x".repeat(200));
  });
  const all = lines(err);
  assertEquals(all.length, 10);
  assertMatch(all[0], /^< 100000 bytes "(\\x00)+"\.\.\.$/);
  assertEquals(all[1], '> 5 bytes "hello"');
});

test("a trace shows percent signs as they are", async () => {
  await using server = await serve("echo_tcp");
  const at = `127.0.0.1:${server.port}`;
  const { stderr } = await run("echo_tcp", ["-v", at], "100%% %s\n");
  assertStringIncludes(stderr, '> 9 bytes "100%% %s\\n"');
});

test("a datagram that cannot be sent is shown as that", {
  ignore: WINDOWS, // which says it in other words
}, async () => {
  const address = { transport: "udp", hostname: "127.0.0.1", port: 0 } as const;
  const socket = Deno.listenDatagram(address);
  const trace = new Trace("echo_udp", 1);
  const to = { ...address, port: 9 };
  const { err } = await captured(async () => {
    const traced = trace.datagrams(socket, to);
    await assertRejects(() => traced.send(new Uint8Array(65_508), to));
    traced.close();
  });
  assertMatch(err, /> 65508 bytes .*\n[\d.]+ \* not sent: message too long\n/);
});

test("a full disk under the trace changes nothing else", {
  ignore: !LINUX,
}, async () => {
  await using server = await serve("echo_tcp");
  const args = ["-c", 'echo hi | "$@" 2>/dev/full', "sh", Deno.execPath()];
  args.push("run", "-A", "echo_tcp.ts", "-v", `127.0.0.1:${server.port}`);
  await using shell = new Running("sh", args, { cwd: ROOT });
  const { code, stdout } = await shell.finish();
  assertEquals([code, stdout], [0, "hi\n"]);
});

test("bytes are quoted so that each can be told from every other", () => {
  const latin = Uint8Array.from([0x63, 0xe9, 13, 10]);
  assertEquals(quote(latin, 80), '"c\\xe9\\r\\n"');
  assertEquals(quote(bytes('"\\n"'), 80), '"\\"\\\\n\\""');
  const all = Array.from(
    { length: 256 },
    (_, i) => quote(Uint8Array.of(i), 80),
  );
  assertEquals(new Set(all).size, 256);
  for (const one of all) assertMatch(one, /^"[ -~]+"$/);
});

test("quoted bytes keep to their width, and are cut at no escape", () => {
  for (
    const [byte, shown] of [["\x01", "\\x01"], ["\n", "\\n"], ['"', '\\"']]
  ) {
    for (let before = 50; before <= 62; before++) {
      const start = "a".repeat(before);
      const quoted = quote(bytes(start + byte.repeat(20)), 62);
      assert(quoted.length <= 62, quoted);
      const rest = quoted.match(/^"a+(.*)"\.\.\.$/)![1];
      assertEquals(rest.replaceAll(shown, ""), "", quoted);
    }
  }
});

test("-vv dumps all bytes as hexdump -C does", {
  ignore: missing("hexdump"),
}, async () => {
  const sizes = [1, 7, 8, 9, 15, 16, 17, 300];
  const alphabet = Uint8Array.from({ length: 256 }, (_, i) => i);
  for (const part of [alphabet, ...sizes.map(random)]) {
    // -v: it shows a line again that is as the one before it.
    const { stdout } = await pipe("hexdump", ["-Cv"], part);
    const theirs = text(stdout).split("\n").slice(0, -2);
    assertEquals([...hexdump(part)], theirs);
  }
});

test("echo_tcp -vv shows each byte under its line", async () => {
  await using server = await serve("echo_tcp");
  const words = ["-vv", "127.0.0.1", `${server.port}`];
  const { stderr } = await run("echo_tcp", words, "hello, world, once again\n");
  for (const mark of ["<", ">"]) {
    const [, dump] = stderr.split(RegExp(`${mark} 25 bytes *\n`));
    assertEquals(
      dump.split("\n").slice(0, 2),
      [...hexdump(bytes("hello, world, once again\n"))],
    );
  }
  for (const line of stderr.split("\n")) assert(line.length <= 80, line);
});

test("a trace line on a terminal begins a line of its own", {
  ignore: !LINUX || missing("script"),
}, async () => {
  await using server = serveOnce(async (conn) => {
    await receive(conn, 3);
    await send(conn, bytes("no line end"));
    await receive(conn);
  });
  const client = `"${Deno.execPath()}" run -A echo_tcp.ts -v ${server.at}`;
  const seen = await terminal(`printf hi! | ${client}`);
  assertMatch(seen, /(^|\n)no line end\r\n/);
  const dashes = /\S[^\n]*\d\.\d{4}\S* [*<>]/;
  const plain = seen.replace(COLOR, "");
  for (const line of plain.split("\n")) assertNotMatch(line, dashes);
});

test("Ctrl-C ends the line on a terminal, and no other", {
  ignore: !LINUX || missing("script") || missing("timeout"),
}, async () => {
  const interrupted = (args: string) =>
    terminal(
      `sleep 2 | timeout --foreground -s INT 1 ` +
        `"${Deno.execPath()}" run -A echo_tcp.ts ${args}`,
    );
  const silent = await interrupted("--host 127.0.0.1 --port 0");
  assertMatch(silent, /:\d+\r\n\r\nserved 0 connections, 0 bytes\r\n$/);
  await using server = serveOnce(async (conn) => {
    await send(conn, bytes("no line end"));
    await receive(conn);
  });
  const seen = (await interrupted(`-v ${server.at}`)).replace(COLOR, "");
  assertMatch(seen, /no line end\r\n$/);
});

// deno-lint-ignore no-control-regex
const COLOR = /\x1b\[[\d;]*m/g;

test("a trace has colour on a terminal, but not with TERM=dumb", {
  ignore: !LINUX || missing("script"),
}, async () => {
  const client = `"${Deno.execPath()}" run -A echo_tcp.ts -v localhost:` +
    unusedPort();
  const seen = (env: Record<string, string>) =>
    terminal(client, { env: { NO_COLOR: "", ...env } });
  assertMatch(await seen({ TERM: "xterm" }), COLOR);
  assertNotMatch(await seen({ TERM: "xterm", NO_COLOR: "1" }), COLOR);
  assertNotMatch(await seen({ TERM: "dumb" }), COLOR);
});

test("a traced connection is the same connection", async () => {
  const [near, far] = await pair();
  const conn = new Trace("t", 0).stream(near);
  await conn.write(bytes("hello"));
  await conn.closeWrite();
  assertEquals(text(await receive(far)), "hello");
  await send(far, bytes("world"));
  far.close();
  assertEquals(text(await receive(conn)), "world");
  conn.close();
  await assertRejects(() => near.read(new Uint8Array(1)));
  const fail = () => Promise.reject(new Deno.errors.ConnectionReset("x"));
  const broken = { read: fail, write: fail, closeWrite: fail, close() {} };
  const traced = new Trace("t", 0).stream(broken);
  const { ConnectionReset } = Deno.errors;
  await assertRejects(() => traced.read(new Uint8Array(1)), ConnectionReset);
  await assertRejects(() => traced.write(new Uint8Array(1)), ConnectionReset);
  await assertRejects(() => traced.closeWrite(), ConnectionReset);
});

// Drawings

const MERMAID = "12.3.0";

/** Runs a command of Deno's, with the certificates that the system trusts. */
async function deno(...args: string[]): Promise<string> {
  const env = { DENO_TLS_CA_STORE: "system,mozilla" };
  const options = { args, env };
  const output = await new Deno.Command(Deno.execPath(), options).output();
  assert(output.success, text(output.stderr));
  return text(output.stdout);
}

/**
 * Mermaid as browsers load it, from npm. It is not imported: that would bring
 * a hundred packages into every check.
 */
async function mermaid(): Promise<Uint8Array<ArrayBuffer>> {
  await deno(
    "cache",
    "--quiet",
    "--no-lock",
    "--minimum-dependency-age=0",
    `npm:mermaid@${MERMAID}`,
  );
  const { npmCache } = JSON.parse(await deno("info", "--json"));
  for (const { name } of Deno.readDirSync(npmCache)) { // one a registry
    const folder = `${npmCache}/${name}/mermaid/${MERMAID}`;
    const file = `${folder}/dist/mermaid.min.js`;
    const script = await Deno.readFile(file).catch(() => null);
    if (script) return script;
  }
  throw new Error("no mermaid in the cache");
}

/** What can be seen in a picture; `> dashed SYN` is an arrow to the right. */
interface Picture {
  participants: string[];
  arrows: string[];
  notes: string[];
  error?: string;
  scripts: number;
}

// The page asks for a drawing, draws it, and tells what it sees: again and
// again. `-->>` is dashed, `->>` is not, and `-)` is open.
const PAGE = `<!doctype html><meta charset="utf-8"><body>
<script src="/mermaid.js"></script><script type="module">
mermaid.initialize({ startOnLoad: false });
const all = (what) => [...document.querySelectorAll(what)];
const texts = (what) => all(what).map((each) => each.textContent);
const x = (each, name) => Number(each.getAttribute(name));
const kind = (line) => {
  if (/filled/.test(line.getAttribute("marker-end"))) return " open";
  return line.matches(".messageLine1") ? " dashed" : "";
};
const direction = (line) => x(line, "x1") < x(line, "x2") ? ">" : "<";
for (let n = 0;; n++) {
  const text = await (await fetch("/next", { method: "POST" })).text();
  const picture = { scripts: 0 };
  try {
    document.body.innerHTML = (await mermaid.render("drawing" + n, text)).svg;
    const lines = all(".messageLine0, .messageLine1");
    const arrows = lines.map((line) => direction(line) + kind(line));
    const said = texts(".messageText");
    picture.arrows = said.map((text, i) => arrows[i] + " " + text);
    const boxes = all("text.actor").sort((a, b) => x(a, "x") - x(b, "x"));
    picture.participants = [...new Set(boxes.map((box) => box.textContent))];
    picture.notes = texts(".noteText");
    picture.scripts = document.body.querySelectorAll("script").length;
  } catch (error) {
    picture.error = String(error);
  }
  await fetch("/drawn", { method: "POST", body: JSON.stringify(picture) });
}
</script>`;

const FLAGS = [
  ...["headless", "no-sandbox", "disable-gpu", "disable-quic"],
  ...["no-first-run", "disable-sync", "disable-background-networking"],
  ...["disable-component-update", "disable-breakpad"],
  "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
].map((flag) => `--${flag}`);

/** A browser without a window, a profile, or a way out of this machine. */
class Browser implements AsyncDisposable {
  readonly #stop = new AbortController();
  readonly #profile = Deno.makeTempDirSync({ prefix: "chromium-" });
  readonly #child: Deno.ChildProcess;
  readonly #server: Deno.HttpServer<Deno.NetAddr>;
  #next = Promise.withResolvers<(text: string) => void>();
  #drawn = Promise.withResolvers<Picture>();

  constructor(script: Uint8Array<ArrayBuffer>) {
    const at = { hostname: "127.0.0.1", port: 0, onListen() {} };
    const options = { ...at, signal: this.#stop.signal };
    this.#server = Deno.serve(
      options,
      (request) => this.#serve(request, script),
    );
    const url = `http://127.0.0.1:${this.#server.addr.port}/`;
    this.#child = new Deno.Command("chromium", {
      args: [...FLAGS, `--user-data-dir=${this.#profile}`, url],
      env: { HOME: this.#profile, TMPDIR: this.#profile },
      ...{ stdout: "null", stderr: "null" },
    }).spawn();
  }

  async #serve(request: Request, script: Uint8Array<ArrayBuffer>) {
    const { pathname } = new URL(request.url);
    const headers = { "content-type": "text/html" };
    if (pathname === "/mermaid.js") return new Response(script);
    if (pathname === "/drawn") this.#drawn.resolve(await request.json());
    if (pathname === "/") return new Response(PAGE, { headers });
    if (pathname !== "/next") return new Response("");
    const next = new Promise<string>((give) => this.#next.resolve(give));
    return new Response(await next);
  }

  /** Draws what a Markdown file has between its fences. */
  async draw(markdown: string): Promise<Picture> {
    const [, drawing] = markdown.match(/^```mermaid\n([^]*?)^```$/m)!;
    const ended = this.#child.status.then(({ code }) => {
      throw new Error(`the browser ended with ${code}`);
    });
    const patience = { seconds: 30 };
    const ready = Promise.race([this.#next.promise, ended]);
    const give = await soon(ready, "the browser", patience);
    this.#next = Promise.withResolvers();
    this.#drawn = Promise.withResolvers();
    give(drawing);
    const drawn = Promise.race([this.#drawn.promise, ended]);
    return await soon(drawn, "a picture", patience);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGTERM");
    await this.#child.status;
    this.#stop.abort();
    await this.#server.finished;
    // The browser's children write into the profile a moment longer.
    let isGone = false;
    const remove = async () => {
      const removing = Deno.remove(this.#profile, { recursive: true });
      isGone = await removing.then(() => true, () => false);
      await delay(20);
    };
    await repeat(remove, () => isGone, "the profile to be removed");
  }
}

/** A picture of what a client did, and what it said. */
type Seen = Picture & { code: number; stderr: string; text: string };
/** Runs a client with `--diagram`, and draws its drawing. */
type Draw = (name: string, args: string[], input?: string) => Promise<Seen>;

/** The arrows from a side: what both do at the same time has no order. */
function from(side: string, { arrows }: Picture): string[] {
  return arrows.filter((arrow) => arrow.startsWith(side));
}

const INFERRED = /SYN, FIN and RST are inferred/;
const SYN = ["> dashed SYN", "> dashed ACK"];

/** A UDP server that answers so many datagrams, and is then silent. */
function answeringUdp(count: number) {
  const at = { hostname: "127.0.0.1", port: 0 };
  const socket = Deno.listenDatagram({ transport: "udp", ...at });
  const done = (async () => {
    for (let i = 0; i < count; i++) {
      const [datagram, from] = await socket.receive();
      await socket.send(datagram, from);
    }
  })().catch(() => {});
  return {
    at: `127.0.0.1:${(socket.addr as Deno.NetAddr).port}`,
    async [Symbol.asyncDispose]() {
      socket.close();
      await done;
    },
  };
}

const SCENES: Record<string, (draw: Draw) => Promise<void>> = {
  async "echo_tcp: segments are told apart from data"(draw) {
    await using server = await serve("echo_tcp");
    const at = `127.0.0.1:${server.port}`;
    const seen = await draw("echo_tcp", [at], "hello\n");
    assertEquals(seen.participants, ["echo_tcp", at]);
    const hello = String.raw`6 bytes "hello\n"`;
    const fin = "> dashed FIN";
    assertEquals(from(">", seen), [...SYN, `> ${hello}`, fin]);
    const [synAck, end] = ["< dashed SYN, ACK", "< dashed FIN"];
    assertEquals(from("<", seen), [synAck, `< ${hello}`, end]);
    assertMatch(seen.notes.join("\n"), INFERRED);
  },

  async "echo_tcp: a refused connection is a reset"(draw) {
    const at = `127.0.0.1:${unusedPort()}`;
    const seen = await draw("echo_tcp", [at]);
    assertEquals(seen.participants, ["echo_tcp", at]);
    assertEquals(seen.arrows, ["> dashed SYN", "< dashed RST, ACK"]);
    const refused = `cannot connect to ${at}: connection refused`;
    assertStringIncludes(seen.notes.join("\n"), refused);
  },

  async "echo_tcp: a reset in the middle is an arrow"(draw) {
    await using server = await serveResets();
    const seen = await draw("echo_tcp", [server.at, "-v"], "hello\n");
    assertEquals(seen.code, 56);
    assertEquals(seen.stderr.match(/\* reset by the peer\n/g)?.length, 1);
    assertEquals(from("<", seen), ["< dashed SYN, ACK", "< dashed RST"]);
    assertMatch(seen.notes.join("\n"), INFERRED);
  },

  async "echo_tcp: round trips have times, and no payload"(draw) {
    await using server = await serve("echo_tcp");
    const args = [`127.0.0.1:${server.port}`, "-c", "3", "-i", "0"];
    const seen = await draw("echo_tcp", args);
    const data = seen.arrows.filter((arrow) => !arrow.includes("dashed"));
    const trip = ["> 64 bytes", "< 64 bytes"];
    assertEquals(data, [...trip, ...trip, ...trip]);
    const times = seen.notes.filter((note) =>
      /^seq=\d time=\d+\.\d\d ms$/.test(note)
    );
    assertEquals(times.length, 3);
  },

  async "echo_udp: each datagram is an open arrow"(draw) {
    await using server = await serve("echo_udp");
    const at = `127.0.0.1:${server.port}`;
    const seen = await draw("echo_udp", [at], "one\ntwo\n");
    assertEquals(seen.participants, ["echo_udp", at]);
    for (const side of [">", "<"]) {
      const both = ["one", "two"].map((word) =>
        String.raw`${side} open 4 bytes "${word}\n"`
      );
      assertEquals(from(side, seen), both);
    }
    assertNotMatch(seen.notes.join("\n"), INFERRED);
  },

  async "echo_udp: at most 150 events, the rest is counted"(draw) {
    await using server = await serve("echo_udp");
    const args = [`127.0.0.1:${server.port}`, "-c", "300", "-i", "0"];
    const seen = await draw("echo_udp", args);
    const shown = seen.arrows.length + seen.notes.length;
    assert(shown > 140 && shown <= 152, `${shown} events`);
    assertMatch(seen.notes.join("\n"), /\band \d+ more events\b/);
  },

  async "echo_udp: what does not come back is noted"(draw) {
    await using server = answeringUdp(1);
    const args = [server.at, "-c", "2", "-i", "0", "-w", "0.2"];
    const seen = await draw("echo_udp", args);
    assertEquals([from(">", seen).length, from("<", seen).length], [2, 1]);
  },

  async "daytime: over TCP nothing is asked, and both sides close"(draw) {
    await using server = await serve("daytime", ["--serve"]);
    const at = ["127.0.0.1", `${server.port}`];
    const seen = await draw("daytime", at);
    assertEquals(seen.participants, ["daytime", at.join(":")]);
    assertEquals(from(">", seen), [...SYN, "> dashed FIN"]);
    const [syn, line, fin] = from("<", seen);
    assertEquals([syn, fin], ["< dashed SYN, ACK", "< dashed FIN"]);
    assertMatch(line, /^< \d+ bytes "\w+day, .*-UTC\\r\\n"$/);
  },

  async "daytime: over UDP an empty datagram asks, again if need be"(draw) {
    await using server = await serve("daytime", ["--serve"]);
    const words = ["-u", "127.0.0.1", `${server.port}`];
    const [question, answer] = (await draw("daytime", words)).arrows;
    assertEquals(question, '> open 0 bytes ""');
    assertMatch(answer, /^< open \d+ bytes "\w+day, .*-UTC\\r\\n"$/);
    await using mute = answeringUdp(0);
    const [host, port] = mute.at.split(":");
    const seen = await draw("daytime", ["-u", "-w", "0.5", host, port]);
    assert(seen.arrows.length > 1, `${seen.arrows}`);
    assertEquals(new Set(seen.arrows), new Set([question]));
    assertStringIncludes(seen.notes.join("\n"), mute.at);
  },

  async "http_get: a redirect is a step of its own"(draw) {
    const ok = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nHi\n";
    const answering = (answer: string) =>
      serveOnce(async (conn) => {
        await conn.read(new Uint8Array(10_000));
        await send(conn, bytes(answer));
      });
    await using there = answering(ok);
    const to = `http://${there.at}/`;
    const moved = `HTTP/1.1 302 Found\r\nLocation: ${to}\r\n\r\n`;
    await using here = answering(moved);
    const seen = await draw("http_get", ["-L", here.at]);
    assertEquals(seen.stderr, "");
    assertEquals(seen.participants, ["http_get", here.at, there.at]);
    const gets = from(">", seen).filter((arrow) => arrow.includes("GET"));
    assertEquals(gets.length, 2);
    assertStringIncludes(seen.notes.join("\n"), to);
  },
};

const noBrowser = missing("chromium");

test("a drawing names the client where there was no exchange", async () => {
  await using folder = await temporary();
  const file = `${folder.path}/drawing.md`;
  const { code } = await run("echo_tcp", ["a..test", "--diagram", file]);
  assertEquals(code, 6);
  const participant = "participant p1 as echo_tcp\n";
  assertStringIncludes(await Deno.readTextFile(file), participant);
});

test(
  "Mermaid draws what --diagram writes",
  { ignore: noBrowser },
  async (t) => {
    await using folder = await temporary();
    await using browser = new Browser(await mermaid());
    const draw: Draw = async (name, args, input = "") => {
      const file = `${folder.path}/${crypto.randomUUID()}.md`;
      const words = [...args, "--diagram", file];
      const { code, stderr } = await run(name, words, input);
      const text = await Deno.readTextFile(file);
      const picture = await browser.draw(text);
      assertEquals([picture.error, picture.scripts], [undefined, 0], text);
      return { code, stderr, text, ...picture };
    };
    for (const [sentence, scene] of Object.entries(SCENES)) {
      await t.step(sentence, () => scene(draw));
    }
  },
);

// What Mermaid or Markdown could take for their own.
const HOSTILE = [
  ...["a; b #35; c &amp; d", "```\n# e", "end", "%%{init: {}}%% g"],
  ...["<script>alert(1)</script><br>f", "%% h", "$$x^2$$", "wrap: i"],
  ...["nowrap:j", "style k:#l;", "classDef m:#n;", "participant o as p"],
  ...["q->>r: s", "\x1b[2J\x07\0", "{}[]()\"'\\", "\u202e\u{1f600}é"],
  ...["ﬂ°°35¶ß", "---", "Note over t: u", "@{v}", "w\nx"],
];

test("nothing that a server says can break a drawing", {
  ignore: noBrowser,
}, async () => {
  await using folder = await temporary();
  await using browser = new Browser(await mermaid());
  const file = `${folder.path}/drawing.md`;
  const trace = new Trace("echo_tcp", 0, file);
  trace.data(">", bytes("hello"));
  for (const text of HOSTILE) {
    trace.data("<", bytes(text));
    trace.event(text);
  }
  await trace.write();
  const markdown = await Deno.readTextFile(file);
  const seen = await browser.draw(markdown);
  assertEquals([seen.error, seen.scripts], [undefined, 0], markdown);
  const said = HOSTILE.map(bytes);
  const arrows = said.map((each) =>
    `< ${each.length} bytes ${quote(each, 62)}`
  );
  assertEquals(seen.arrows.slice(1), arrows);
  assertEquals(seen.notes, HOSTILE.map(printable));
  assertEquals(markdown.match(/^```/gm)?.length, 2);

  const long = new Trace("http_get", 0, file);
  for (let i = 0; i < 1000; i++) {
    long.data("<", new Uint8Array(1000).fill(0x23));
    long.event("#".repeat(100_000));
  }
  await long.write();
  const much = await Deno.readTextFile(file);
  assertLess(much.length, 50_000, "more than Mermaid draws");
  const picture = await browser.draw(much);
  assertEquals(picture.error, undefined);
  assertMatch(picture.notes.join("\n"), /\band \d+ more events\b/);
});
