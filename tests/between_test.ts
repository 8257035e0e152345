import { assert, assertEquals, assertLess } from "jsr:@std/assert@^1";
import { assertMatch, assertNotEquals } from "jsr:@std/assert@^1";
import dgram from "node:dgram";
import { once } from "node:events";
import { connect } from "node:net";
import { relayUdp } from "../tools/between.ts";
import {
  assertSame,
  bytes,
  LINUX,
  missing,
  random,
  receive,
  WINDOWS,
} from "./helpers.ts";
import {
  reset,
  ROOT,
  run,
  Running,
  send,
  serve,
  serveOnce,
} from "./helpers.ts";
import { serveResets, soon, start, temporary, test, text } from "./helpers.ts";
import { unusedPort } from "./helpers.ts";

/** Starts the relay on a free port, as `serve` does. */
function relay(...args: string[]) {
  return serve("tools/between", args, { env: { NO_COLOR: "1" } });
}

function connectTo(port: number): Promise<Deno.TcpConn> {
  return soon(Deno.connect({ hostname: "127.0.0.1", port }), "a connection");
}

/** A diagram without what differs from run to run: ports, and pieces. */
async function drawing(path: string): Promise<string> {
  const drawn = await Deno.readTextFile(path);
  return drawn.replace(/127\.0\.0\.1:\d+/g, "LOOPBACK");
}

/** Sends a datagram, and waits for what comes back. */
async function ask(socket: Deno.DatagramConn, port: number, data: Uint8Array) {
  const to = { transport: "udp", hostname: "127.0.0.1", port } as const;
  await socket.send(data, to);
  const [answer] = await soon(
    socket.receive(new Uint8Array(65_535)),
    `an answer to ${data.length} bytes`,
  );
  return answer;
}

function openUdp() {
  const at = { transport: "udp", hostname: "127.0.0.1", port: 0 } as const;
  return Deno.listenDatagram(at);
}

test(
  "between films nc with socat, and ends after one connection with --once",
  { ignore: !LINUX || missing("nc") || missing("socat") },
  async () => {
    await using dir = await temporary();
    const file = `${dir.path}/drawing.md`;
    const at = "TCP-LISTEN:0,bind=127.0.0.1,reuseaddr";
    await using socat = new Running("socat", ["-dd", at, "EXEC:cat"]);
    const to = (await socat.until(/listening on .*:(\d+)/, "stderr"))[1];
    const args = ["--once", "--diagram", file, `127.0.0.1:${to}`];
    await using between = await relay(...args);
    const nc = new Running("nc", ["-N", "127.0.0.1", `${between.port}`]);
    await nc.type("hello\n");
    await nc.until(/hello/);
    assertEquals((await nc.finish()).stdout, "hello\n");
    assertEquals((await between.finish()).code, 0);
    assertEquals(
      await drawing(file),
      `\`\`\`mermaid
sequenceDiagram
  participant p1 as LOOPBACK
  participant p2 as LOOPBACK
  p1-->>p2: SYN
  p2-->>p1: SYN, ACK
  p1-->>p2: ACK
  p1->>p2: 6 bytes "hello\\n"
  p2->>p1: 6 bytes "hello\\n"
  p1-->>p2: FIN
  p2-->>p1: FIN
  Note left of p1: SYN, FIN and RST are inferred
\`\`\`
`,
    );
  },
);

test(
  "between films curl with nginx, and changes nothing",
  { ignore: missing("nginx") || missing("curl") },
  async () => {
    await using dir = await temporary();
    const page = random(1_000_000);
    const port = unusedPort();
    const paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
      .map((name) => `${name}_temp_path ${dir.path};`).join(" ");
    const user = Deno.uid() ? "" : "user root;";
    Deno.writeFileSync(`${dir.path}/page`, page);
    Deno.writeTextFileSync(
      `${dir.path}/conf`,
      `daemon off; master_process off; pid ${dir.path}/pid; ${user}
      error_log stderr notice; events {} http { access_log off; ${paths}
      server { listen 127.0.0.1:${port}; root ${dir.path}; } }`,
    );
    const args = ["-c", `${dir.path}/conf`, "-p", dir.path];
    await using nginx = new Running("nginx", args);
    await nginx.until(/getrlimit/, "stderr"); // its last word before it serves
    await using between = await relay("-v", `127.0.0.1:${port}`);
    const got = `${dir.path}/got`;
    const url = `http://127.0.0.1:${between.port}/page`;
    await using curl = new Running("curl", ["-sS", "-o", got, url]);
    assertEquals((await curl.finish()).code, 0);
    assertSame(Deno.readFileSync(got), page);
    await between.until(/half-closed by the server/, "stderr");
    assertMatch(between.stderr, /> \S+ \d+ bytes "GET \/page HTTP\/1.1\\r\\n/);
    assertMatch(between.stderr, /< \S+ \d+ bytes "HTTP\/1.1 200 OK\\r\\n/);
  },
);

const PYTHON = `
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(5)
client.sendto(b"one", ("127.0.0.1", int(sys.argv[1])))
client.sendto(b"", ("127.0.0.1", int(sys.argv[1])))
print(client.recv(1500), client.recv(1500))
`;

test(
  "between films python3 with echo_udp, until Ctrl-C",
  { ignore: !LINUX || missing("python3") },
  async () => {
    await using dir = await temporary();
    const file = `${dir.path}/drawing.md`;
    await using server = await serve("echo_udp");
    const args = ["-u", "--diagram", file, `127.0.0.1:${server.port}`];
    await using between = await relay(...args);
    const command = ["-c", PYTHON, `${between.port}`];
    await using python = new Running("python3", command);
    assertEquals((await python.finish()).stdout, "b'one' b''\n");
    between.kill("SIGINT");
    assertEquals((await between.finish()).code, 0);
    const drawn = (await drawing(file)).split("\n").slice(2, -2);
    assertEquals(drawn.sort(), [
      '  p1-)p2: 0 bytes ""',
      '  p1-)p2: 3 bytes "one"',
      '  p2-)p1: 0 bytes ""',
      '  p2-)p1: 3 bytes "one"',
      "  participant p1 as LOOPBACK",
      "  participant p2 as LOOPBACK",
    ]);
  },
);

test("--chop breaks the naive clients, and none of the real ones", async () => {
  const page = "a line of the page\n".repeat(50);
  const onListen = () => {};
  const where = { hostname: "127.0.0.1", port: 0, onListen };
  await using web = Deno.serve(where, () => new Response(page));
  await using clock = await serve("daytime", ["--serve"]);
  await using echo = await serve("echo_tcp");
  const chopped = (port: number) => relay("--chop", "7", `127.0.0.1:${port}`);
  await using toWeb = await chopped(web.addr.port);
  await using toClock = await chopped(clock.port);
  await using toEcho = await chopped(echo.port);
  const at = "127.0.0.1";

  const ports = { web: `${toWeb.port}`, clock: `${toClock.port}` };
  const daytime = await run("docs/naive_daytime", [at, ports.clock]);
  assertLess(daytime.stdout.length, 37, "a line of RFC 867 has 37 bytes");
  const http = await run("docs/naive_http_get", [at, ports.web, "/"]);
  assert(!http.stdout.includes(page), "naive_http_get gets the whole page");

  const line = await run("daytime", [at, ports.clock]);
  assertMatch(line.stdout, /^\w+, \w+ \d+, \d{4} \d\d:\d\d:\d\d-UTC\n$/);
  const got = await run("http_get", [`http://${at}:${ports.web}/`]);
  assertEquals(got.stdout, page);
  const back = await run("echo_tcp", [at, `${toEcho.port}`], page);
  assertEquals(back.stdout, page);
});

test("--lose breaks the naive client over UDP, but not daytime", async () => {
  await using clock = await serve("daytime", ["--serve"]);
  const to = `127.0.0.1:${clock.port}`;
  await using between = await relay("-u", "-v", "--lose", "50", "--seed=2", to);
  const where = ["127.0.0.1", `${between.port}`];
  await using naive = start("docs/naive_daytime_udp", where);
  await between.until(/0 bytes from the client lost/, "stderr");
  const { stdout, code } = await run("daytime", ["-u", ...where]);
  assertEquals(code, 0);
  assertMatch(stdout, /-UTC\n$/);
  assertEquals(naive.stdout, "");
});

test("each act is a line of the trace, and a note in the drawing", async () => {
  await using dir = await temporary();
  const file = `${dir.path}/drawing.md`;
  await using server = await serve("echo_tcp");
  const args = ["--chop=3", "--delay=5", "-v", "--once", "--diagram", file];
  await using between = await relay(...args, `127.0.0.1:${server.port}`);
  using conn = await connectTo(between.port);
  await send(conn, bytes("12345678"));
  await conn.closeWrite();
  assertEquals(text(await receive(conn)), "12345678");
  const { stderr } = await between.finish();
  const what = "8 bytes from the client";
  assertMatch(stderr, new RegExp(`\\* \\S+ ${what} in pieces of 3\\n`));
  assertMatch(stderr, new RegExp(`\\* \\S+ ${what} delayed by 5 ms\\n`));
  const drawn = await drawing(file);
  assertMatch(
    drawn,
    /Note .* in pieces of 3\n.*Note .* delayed by 5 ms\n/,
  );
  assertMatch(drawn, /p1->>p2: 3 bytes "123"\n/);
});

test("a reset by the client becomes a reset at the server", async () => {
  const seen = Promise.withResolvers<unknown>();
  await using server = serveOnce(async (conn) => {
    await conn.write(bytes("welcome"));
    seen.resolve(await receive(conn).catch((error) => error));
  });
  await using between = await relay("-v", server.at);
  await reset(between.port, async (socket) => {
    socket.write("hello");
    await soon(new Promise((done) => socket.once("data", done)), "welcome");
  });
  const error = await soon(seen.promise, "the server's error");
  assert(error instanceof Deno.errors.ConnectionReset, Deno.inspect(error));
  await between.until(/the client: connection reset\n/, "stderr");
});

test("a reset by the server becomes a reset at the client", async () => {
  await using server = await serveResets();
  await using between = await relay("-v", server.at);
  const client = connect(between.port, "127.0.0.1").on("error", () => {});
  client.write("hello");
  const failure = new Promise<Error>((done) => client.once("error", done));
  const error = await soon(failure, "a reset") as Error & { code: string };
  assertEquals(error.code, "ECONNRESET");
  await between.until(/the server: connection reset\n/, "stderr");
});

test("a server that refuses: the client is reset, the log says it", async () => {
  await using between = await relay(`127.0.0.1:${unusedPort()}`);
  for (let i = 0; i < 2; i++) { // the relay goes on
    const failing = connectTo(between.port).then((conn) =>
      receive(conn).finally(() => conn.close())
    );
    const error = await failing.catch((error) => error);
    assert(error instanceof Deno.errors.ConnectionReset, Deno.inspect(error));
  }
  await between.until(/127\.0\.0\.1:\d+ the server: connection refused/);
});

test("half-closes are half-closes: the other half goes on", async () => {
  const answer = random(1_000_000);
  await using server = serveOnce(async (conn) => {
    await receive(conn);
    await send(conn, answer);
  });
  await using between = await relay("--once", server.at);
  using conn = await connectTo(between.port);
  await send(conn, bytes("question"));
  await conn.closeWrite();
  assertSame(await receive(conn), answer);
  assertEquals((await between.finish()).code, 0);
});

test("a slow reader slows the sender down", { ignore: !LINUX }, async () => {
  let sent = 0;
  await using server = serveOnce(async (conn) => {
    const part = new Uint8Array(65_536);
    while (sent < 2e9) sent += await conn.write(part).catch(() => 2e9);
  });
  await using between = await relay(server.at);
  const memory = async () => {
    const status = await Deno.readTextFile(`/proc/${between.pid}/status`);
    return Number(status.match(/VmRSS:\s+(\d+)/)![1]) / 1024;
  };
  const before = await memory();
  using _conn = await connectTo(between.port);
  let seen = -1;
  while (seen !== sent) { // until the sender has stopped
    seen = sent;
    await new Promise((done) => setTimeout(done, 500));
  }
  assertLess(sent / 1e6, 50, "megabytes taken from the sender");
  assertLess(await memory() - before, 50, "megabytes more memory");
});

test("connections are relayed side by side; six have lanes", {
  ignore: WINDOWS,
}, async () => {
  await using dir = await temporary();
  const file = `${dir.path}/drawing.md`;
  await using server = await serve("echo_tcp");
  const to = `127.0.0.1:${server.port}`;
  await using between = await relay("--diagram", file, to);
  const conns = [];
  for (let i = 0; i < 8; i++) conns.push(await connectTo(between.port));
  for (const [i, conn] of conns.entries()) await send(conn, bytes(`${i}`));
  for (const [i, conn] of conns.entries()) {
    assertEquals(text(await receive(conn, 1)), `${i}`);
    conn.close();
  }
  between.kill("SIGTERM");
  assertEquals((await between.finish()).code, 0);
  const drawn = await Deno.readTextFile(file);
  const lanes = [...drawn.matchAll(/participant \w+ as (.*)/g)];
  const names = lanes.map(([, name]) => name);
  assertEquals(names.length, 8, "six clients, the server and the others");
  assert(names.includes(to) && names.includes("others"), names.join());
});

test("datagrams of every size keep their borders", async () => {
  await using server = await serve("echo_udp");
  await using between = await relay("-u", `127.0.0.1:${server.port}`);
  const socket = openUdp();
  for (const size of [0, 1, 1500, 1501, 9000, 65_507]) {
    const data = random(size);
    assertSame(await ask(socket, between.port, data), data);
  }
  socket.close();
});

test("a hundred clients over UDP have sockets, one more has none", async () => {
  await using server = await serve("echo_udp");
  await using between = await relay("-u", `127.0.0.1:${server.port}`);
  const sockets = Array.from({ length: 101 }, openUdp);
  for (const [i, socket] of sockets.slice(0, 100).entries()) {
    const data = bytes(`${i}`);
    assertEquals(await ask(socket, between.port, data), data);
  }
  const to = { transport: "udp", hostname: "127.0.0.1" } as const;
  await sockets[100].send(bytes("100"), { ...to, port: between.port });
  await between.until(/127\.0\.0\.1:\d+ ignored: there are 100 clients/);
  for (const socket of sockets) socket.close();
});

test("delayed datagrams keep their order", async () => {
  await using server = await serve("echo_udp");
  const args = ["-u", "--delay=20", `127.0.0.1:${server.port}`];
  await using between = await relay(...args);
  const socket = openUdp();
  const to = { transport: "udp", hostname: "127.0.0.1" } as const;
  const sizes = Array.from({ length: 50 }, (_, i) => i);
  for (const size of sizes) {
    await socket.send(new Uint8Array(size), { ...to, port: between.port });
  }
  const got: number[] = [];
  for (const size of sizes) {
    const [answer] = await soon(socket.receive(), `answer ${size}`);
    got.push(answer.length);
  }
  assertEquals(got, sizes);
  socket.close();
});

test(
  "a client over UDP keeps its socket until nothing passes for long",
  { sanitizeOps: false, sanitizeResources: false }, // the last one's socket
  async () => {
    const server = openUdp();
    const client = openUdp();
    const listener = dgram.createSocket("udp4").bind(0, "127.0.0.1");
    await soon(once(listener, "listening"), "a relay");
    const { hostname, port } = server.addr as Deno.NetAddr;
    const never = () => false;
    relayUdp(listener, {
      server: { hostname, port },
      film: () => undefined,
      silence: 1000,
      ...{ chop: 0, wait: 0, lose: 0, double: 0, swap: 0 },
      happens: { ">": never, "<": never },
    });
    /** Sends after a pause; from which port the server gets it. */
    async function seenFrom(pause: number): Promise<number> {
      await new Promise((done) => setTimeout(done, pause));
      const { port } = listener.address();
      const to = { transport: "udp", hostname: "127.0.0.1", port } as const;
      await client.send(bytes("question"), to);
      const [, from] = await soon(server.receive(), "a question");
      return (from as Deno.NetAddr).port;
    }
    const first = await seenFrom(0);
    for (let i = 0; i < 5; i++) assertEquals(await seenFrom(300), first);
    assertNotEquals(await seenFrom(1500), first);
    for (const socket of [server, client, listener]) socket.close();
  },
);

/** What happens to twenty datagrams with this seed, in order. */
async function fates(port: number, seed: number): Promise<string[]> {
  const chances = ["--lose=20", "--double=20", "--swap=20", `--seed=${seed}`];
  await using between = await relay("-uv", ...chances, `127.0.0.1:${port}`);
  const socket = openUdp();
  const to = { transport: "udp", hostname: "127.0.0.1" } as const;
  for (let i = 0; i < 20; i++) {
    const data = new Uint8Array(i);
    await socket.send(data, { ...to, port: between.port });
  }
  await between.until(/ 19 bytes/, "stderr");
  socket.close();
  const lines = between.stderr.matchAll(/(\d+ bytes? from the client .*)/g);
  return [...lines].map(([line]) => line);
}

test("answers over UDP come back from 0.0.0.0, too", async () => {
  await using server = await serve("echo_udp");
  await using between = await relay("-u", `0.0.0.0:${server.port}`);
  const socket = openUdp();
  const to = { transport: "udp", hostname: "127.0.0.1" } as const;
  await socket.send(bytes("hello"), { ...to, port: between.port });
  const [answer] = await soon(socket.receive(), "the answer");
  assertEquals(text(answer), "hello");
  socket.close();
});

test("--seed makes the same happen again; another one does not", async () => {
  const port = unusedPort(); // nobody answers
  const first = await fates(port, 4);
  assertEquals(await fates(port, 4), first);
  assertNotEquals(await fates(port, 5), first);
  for (const fate of [/lost$/, /doubled$/, /held back/]) {
    assert(first.some((line) => fate.test(line)), first.join("\n"));
  }
});

test("the relay's port is the server's and 1000, else a free one", async () => {
  const port = unusedPort();
  const options = { cwd: ROOT };
  const listening = /listening on tcp:\/\/\S+:(\d+)\n/;
  await using one = start("tools/between", [`${port % 60_000}`], options);
  const usual = Number((await one.until(listening))[1]);
  await using two = start("tools/between", [`${port % 60_000}`], options);
  assertNotEquals(Number((await two.until(listening))[1]), usual);
  assertEquals(usual, port % 60_000 + 1000);
});

test("between says in one line that its port is in use", async () => {
  await using between = await relay("127.0.0.1:7");
  const args = ["-p", `${between.port}`, "127.0.0.1:7"];
  const { code, stderr } = await run("tools/between", args);
  const why = `cannot listen on port ${between.port}: it is in use`;
  assertEquals([code, stderr], [1, `between: ${why}\n`]);
});

test("between refuses a bad command line with 2", async () => {
  const lines: [string, RegExp][] = [
    ["", /the server's port is missing/],
    ["7777 7778 7779", /unexpected argument "7779"|unexpected argument "7778"/],
    ["--chop 0 7777", /--chop must be a whole number from 1 to 65536, not "0"/],
    [
      "--lose 101 -u 7777",
      /--lose must be a whole number from 0 to 100, not "101"/,
    ],
    ["--lose 10 7777", /--lose is for UDP: add -u/],
    ["-u --chop 10 7777", /--chop is for TCP/],
    ["-u --once 7777", /--once is for TCP/],
    ["--fast 7777", /unknown option --fast/],
    ["99999", /"99999" is not a port/],
    [
      "-u --seed x no.such.name",
      /--seed must be a whole number from 0 to 1000000, not "x"/,
    ],
  ];
  for (const [line, message] of lines) {
    const args = line.split(" ").filter(Boolean);
    const { code, stderr, stdout } = await run("tools/between", args);
    assertEquals([code, stdout], [2, ""], line);
    assertMatch(stderr, message);
  }
});
