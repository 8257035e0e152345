/** The server of daytime, and clients that do not behave. */
import { assertAlmostEquals, assertEquals } from "jsr:@std/assert@^1";
import { assertGreaterOrEqual, assertLessOrEqual } from "jsr:@std/assert@^1";
import { assertMatch, assertRejects } from "jsr:@std/assert@^1";
import { assertStringIncludes } from "jsr:@std/assert@^1";
import { setTimeout as delay } from "node:timers/promises";
import { parseDaytime, serve } from "../daytime.ts";
import { address, apart, ask, bytesOf, confined } from "./daytime_servers.ts";
import { LINE, textOf, WINDOWS } from "./daytime_servers.ts";
import { missing, noNc, repeat, ROOT, run, Running } from "./helpers.ts";
import { serve as serveProcess, soon, test } from "./helpers.ts";

/** The server on loopback, without a process. */
function serving(given?: Deno.DatagramConn) {
  const hostname = "127.0.0.1";
  const listener = Deno.listen({ hostname, port: 0 });
  const { port } = listener.addr;
  const socket = given ??
    Deno.listenDatagram({ transport: "udp", hostname, port });
  const stop = new AbortController();
  const { signal } = stop;
  const lines: string[] = [];
  const log = (line: string) => void lines.push(line);
  const done = serve({ listener, socket, signal, log });
  const end = async () => {
    stop.abort();
    return await soon(done, "the end of the server", { seen: () => lines });
  };
  const dispose = async () => void await end();
  return { port, lines, stop: end, [Symbol.asyncDispose]: dispose };
}

/** The first line of a log that matches, once it is there. */
async function logged(
  { lines }: { lines: string[] },
  pattern: RegExp,
): Promise<string> {
  const find = () => lines.find((line) => pattern.test(line));
  const isThere = () => find() !== undefined;
  const seen = () => lines;
  await repeat(() => delay(10), isThere, `${pattern} in the log`, { seen });
  return find()!;
}

/** A UDP socket that sends and waits for answers. */
function peer(hostname = "127.0.0.1") {
  const socket = Deno.listenDatagram({ transport: "udp", hostname, port: 0 });

  async function receive(): Promise<string> {
    const buffer = new Uint8Array(65_535);
    const [bytes] = await soon(socket.receive(buffer), "a datagram");
    return textOf(bytes);
  }

  return {
    send: (size: number, port: number) =>
      socket.send(new Uint8Array(size), address(port, hostname)),
    receive,
    [Symbol.dispose]: () => socket.close(),
  };
}

function dial(port: number): Promise<Deno.TcpConn> {
  return Deno.connect({ hostname: "127.0.0.1", port });
}

/** All that comes over a connection until its end. */
async function all(conn: Deno.TcpConn): Promise<string> {
  const buffer = new Uint8Array(4096);
  let text = "";
  for (;;) {
    const reading = conn.read(buffer);
    const seen = () => text;
    const length = await soon(reading, "the end of the line", { seen });
    if (length === null) return text;
    text += textOf(buffer.subarray(0, length));
  }
}

test("daytime --serve answers every datagram, empty or large", async () => {
  await using server = serving();
  using client = peer();
  for (const size of [0, 1, 512, 1500, 65_507]) {
    await client.send(size, server.port);
    assertMatch(await client.receive(), LINE, `${size} bytes`);
  }
  const line = await logged(server, /^udp/);
  assertMatch(line, /^udp 127\.0\.0\.1:\d+ \d\d bytes in \d\.\d{3} s$/);
  assertEquals(await server.stop(), { connections: 0, datagrams: 5 });
});

test("daytime --serve writes the line and closes, without a question", async () => {
  await using server = serving();
  using conn = await dial(server.port);
  const line = await all(conn);
  assertMatch(line, LINE);
  const { time } = parseDaytime(line);
  assertAlmostEquals(Date.parse(time ?? ""), Date.now(), 5000);
  conn.close();
  const { length } = line;
  const entry = await logged(server, /^tcp/);
  assertMatch(entry, /^tcp 127\.0\.0\.1:\d+ \d\d bytes in \d\.\d{3} s$/);
  assertStringIncludes(entry, ` ${length} bytes`);
});

test("daytime --serve gives the line also to a client that talks", async () => {
  await using server = serving();
  for (const size of [5, 300_000]) {
    using conn = await dial(server.port);
    const noise = new Uint8Array(size);
    let sent = 0;
    while (sent < size) sent += await conn.write(noise.subarray(sent));
    assertMatch(await all(conn), LINE); // a reset would have destroyed it
  }
});

test("daytime --serve parts with a client that does not close", async () => {
  await using server = serving();
  using silent = await dial(server.port);
  using talking = await dial(server.port);
  const noise = new Uint8Array(65_536);
  const talk = async () => {
    for (;;) await talking.write(noise);
  };
  const talked = assertRejects(talk);
  assertMatch(await all(silent), LINE);
  await soon(talked, "the end of a connection that only talks");
  const line = /^tcp 127\.0\.0\.1:\d+ \d+ bytes in [1-4]\.\d{3} s/;
  await logged(server, line);
  assertEquals(await server.stop(), { connections: 2, datagrams: 0 });
});

test("daytime --serve outlives hundreds of resets", async () => {
  await using server = serving();
  await Promise.all(Array.from({ length: 300 }, async (_, i) => {
    using conn = await dial(server.port);
    if (i % 3 === 0) await conn.write(bytesOf("hello\r\n"));
    // Closed with the line unread: that is a reset.
  }));
  using conn = await dial(server.port);
  assertMatch(await all(conn), LINE);
});

test("daytime --serve serves the others while some do not read", async () => {
  await using server = serving();
  const dialing = Array.from({ length: 200 }, () => dial(server.port));
  const idle = await Promise.all(dialing);
  using conn = await dial(server.port);
  assertMatch(await all(conn), LINE);
  using client = peer();
  await client.send(0, server.port);
  assertMatch(await client.receive(), LINE);
  for (const each of idle) each.close();
});

// --- datagrams that may be forged

test({
  name: "daytime --serve answers no other server, whoever forged its address",
  ignore: confined() || missing("python3"),
  async fn() {
    // Raw sockets send from any address. 192.0.2.9 is this machine's too, so
    // that an answer would be seen: each port that was forged listens.
    const { code, stdout, stderr } = await apart(`
      ip address add 192.0.2.9/32 dev lo
      $daytime -s -p 1400 > /run/log & server=$!; ready 1400
      python3 - <<'PYTHON'
import select, socket, struct
U = (socket.AF_INET, socket.SOCK_DGRAM)
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
def forge(port):
    ip = struct.pack("!BBHHHBBH4s4s", 69, 0, 29, 1, 0, 64, 17, 0,
        socket.inet_aton("192.0.2.9"), socket.inet_aton("127.0.0.1"))
    raw.sendto(ip + struct.pack("!HHHH", port, 1400, 9, 0) + b"x",
        ("127.0.0.1", 0))
heard = []
for port in [7, 13, 17, 19, 37, 53, 69, 123, 161, 1023, 1024, 1313, 7777,
             50000]:
    listening = socket.socket(*U)
    listening.bind(("192.0.2.9", port))
    heard.append(listening)
    forge(port)
forge(1400)
honest = socket.socket(*U)
honest.bind(("192.0.2.9", 0))
honest.settimeout(9)
honest.sendto(b"", ("127.0.0.1", 1400))
print(honest.recv(100).decode().strip())
print([s.getsockname()[1] for s in select.select(heard, [], [], 0)[0]])
PYTHON
      kill $server; wait $server; server=; cat /run/log`);
    assertEquals([code, stderr], [0, ""]);
    const [line, answered] = stdout.split("\n");
    assertMatch(`${line}\n`, LINE);
    assertEquals(answered, "[1024, 50000]");
    assertMatch(
      stdout,
      /\nudp 192\.0\.2\.9:7 not answered: it may be a server/,
    );
    assertMatch(stdout, /\nserved 0 over TCP, 3 over UDP\n$/);
  },
});

/** A server without a network, which receives this, and then stops. */
async function receiving(
  given: (Deno.NetAddr | Error)[],
  send = (_: Deno.NetAddr) => Promise.resolve(40),
) {
  const closed = Promise.withResolvers<never>();
  const done = Promise.withResolvers<void>();
  const answered: string[] = [];
  const socket = {
    receive(): Promise<[Uint8Array, Deno.Addr]> {
      const next = given.shift();
      if (next instanceof Error) return Promise.reject(next);
      if (next) return Promise.resolve([new Uint8Array(), next]);
      done.resolve();
      return closed.promise;
    },
    send(_: Uint8Array, to: Deno.NetAddr): Promise<number> {
      answered.push(`${to.hostname}:${to.port}`);
      return send(to);
    },
    close: () => closed.reject(new Deno.errors.BadResource("closed")),
  };
  await using server = serving(socket as unknown as Deno.DatagramConn);
  await soon(done.promise, "all datagrams to be received");
  const total = await server.stop();
  return { answered, lines: server.lines, total };
}

test("daytime --serve answers neither multicast nor broadcast", async () => {
  const many = ["224.0.0.1", "239.255.255.250", "::ffff:224.0.0.251"];
  const more = ["255.255.255.255", "ff02::1", "::ffff:255.255.255.255"];
  const one = ["223.255.255.255", "240.0.0.1", "fe80::1", "192.0.2.255"];
  const from = [...many, ...more, ...one].map((each) => address(40_000, each));
  const { answered, lines, total } = await receiving(from);
  assertEquals(answered, one.map((each) => `${each}:40000`));
  assertEquals(total.datagrams, one.length);
  const said = lines.filter((line) => /not answered/.test(line));
  assertLessOrEqual(said.length, 2); // one a second, and how many more
});

test("daytime --serve goes on when an answer cannot be sent", async () => {
  const { ConnectionReset } = Deno.errors;
  const reset = new ConnectionReset("Connection reset by peer (os error 104)");
  const unreachable = new Error("Network is unreachable (os error 101)");
  const lost = Array.from({ length: 50 }, (_, i) => address(41_000 + i));
  const { answered, lines, total } = await receiving(
    [reset, address(40_000), reset, ...lost, address(40_001)],
    ({ port }) =>
      port < 41_000 ? Promise.resolve(40) : Promise.reject(unreachable),
  );
  assertEquals([answered[0], answered.at(-1)], [
    "127.0.0.1:40000",
    "127.0.0.1:40001",
  ]);
  assertEquals([answered.length, total.datagrams], [52, 2]);
  assertStringIncludes(lines.join("\n"), "cannot answer: connection reset");
  assertLessOrEqual(lines.length, 6);
});

test("daytime --serve does not let a flood into its log", {
  ignore: WINDOWS,
}, async () => {
  await using server = await serveProcess("daytime", ["-s"]);
  using client = peer();
  const started = performance.now();
  let answers = 0;
  while (answers < 3000) {
    for (let i = 0; i < 50; i++) await client.send(0, server.port);
    for (let i = 0; i < 50; i++) assertMatch(await client.receive(), LINE);
    answers += 50;
  }
  const seconds = Math.ceil((performance.now() - started) / 1000);
  server.kill();
  const { stdout } = await server.finish();
  const lines = stdout.match(/^udp /gm) ?? [];
  assertGreaterOrEqual(lines.length, 100);
  assertLessOrEqual(lines.length, 100 * (1 + seconds));
  assertStringIncludes(stdout, "served 0 over TCP, 3000 over UDP\n");
});

// --- the beginning and the end

test("daytime --serve answers all who have asked before it ends", async () => {
  await using server = serving();
  using client = peer();
  for (let i = 0; i < 50; i++) await client.send(0, server.port);
  // Connected by the system, and not all of them accepted yet.
  const dialing = Array.from({ length: 50 }, () => dial(server.port));
  const conns = await Promise.all(dialing);
  const stopping = server.stop();
  for (const conn of conns) {
    assertMatch(await all(conn), LINE);
    conn.close();
  }
  assertEquals(await stopping, { connections: 50, datagrams: 50 });
  for (let i = 0; i < 50; i++) assertMatch(await client.receive(), LINE);
  await assertRejects(() => dial(server.port), Deno.errors.ConnectionRefused);
});

test("daytime --serve ends while clients hold on to their connections", async () => {
  await using server = serving();
  using conn = await dial(server.port);
  assertMatch(await all(conn), LINE);
  const started = performance.now();
  assertEquals(await server.stop(), { connections: 1, datagrams: 0 });
  assertLessOrEqual(performance.now() - started, 5000);
});

test("daytime --serve says where it listens, who came, and how many", {
  ignore: WINDOWS,
}, async () => {
  await using server = await serveProcess("daytime", ["-s"]);
  const { port } = server;
  assertMatch(server.stdout, /^listening on tcp:\/\/\[::\]:\d+\n/);
  await server.until(RegExp(`listening on udp://\\[::\\]:${port}\n`));
  for (const hostname of ["127.0.0.1", "::1"]) {
    for (const udp of [false, true]) {
      const { offsetMs, roundTripMs } = await ask({ port, hostname, udp });
      assertAlmostEquals(Number(offsetMs), 0, 600 + roundTripMs);
    }
  }
  await server.until(/^udp \[::1\]:\d+ \d+ bytes in \d\.\d{3} s$/m);
  await server.until(/^tcp 127\.0\.0\.1:\d+ \d+ bytes in \d\.\d{3} s$/m);
  server.kill();
  const { code, stdout, stderr } = await server.finish();
  assertEquals([code, stderr], [0, ""]);
  assertMatch(stdout, /\nserved 2 over TCP, 2 over UDP\n$/);
});

test("daytime --serve -q prints one line; -v shows each exchange", {
  ignore: WINDOWS,
}, async () => {
  const args = ["--serve", "-q", "-v", "--host", "127.0.0.1"];
  await using server = await serveProcess("daytime", args);
  const { port } = server;
  await ask({ port });
  await ask({ port, udp: true });
  const events = [
    / \* 127\.0\.0\.1:\d+ accepted\n/,
    / > 127\.0\.0\.1:\d+ \d+ bytes "\w+day, [^"]*"(\.\.\.)?\n/,
    / \* 127\.0\.0\.1:\d+ half-closed by the peer\n/,
    / \* 127\.0\.0\.1:\d+ closed\n/,
    / < 127\.0\.0\.1:\d+ 0 bytes ""\n/,
  ];
  for (const event of events) await server.until(event, "stderr");
  server.kill("SIGINT");
  const { code, stdout } = await server.finish();
  assertEquals([code, stdout], [0, `listening on tcp://127.0.0.1:${port}\n`]);
});

test("daytime --serve says what to do when the port is taken", async () => {
  const here = { hostname: "127.0.0.1", port: 0 };
  using listener = Deno.listen(here);
  const socket = Deno.listenDatagram({ transport: "udp", ...here });
  for (const { port } of [listener.addr, socket.addr as Deno.NetAddr]) {
    const args = ["-s", "--host", "127.0.0.1", "-p", `${port}`];
    const { code, stdout, stderr } = await run("daytime", args);
    const said = `port ${port} is in use: choose another with --port`;
    assertEquals([code, stdout], [1, ""]);
    assertEquals(stderr, `daytime: ${said}\n`);
  }
  socket.close();
});

test("daytime --serve --port 0 finds a port free for TCP and UDP", async () => {
  const script = JSON.stringify(new URL("daytime.ts", ROOT).href);
  const code = `const real = Deno.listenDatagram;
    let taken = 2;
    Deno.listenDatagram = (options) => {
      taken--;
      if (taken < 0) return real(options);
      throw new Deno.errors.AddrInUse("Address already in use (os error 98)");
    };
    const { main } = await import(${script});
    Deno.exit(await main(["-s", "-p", "0"]));`;
  const args = ["eval", "--unstable-net", code];
  await using server = new Running(Deno.execPath(), args, { cwd: ROOT });
  const [, port] = await server.until(/listening on udp:\/\/\S+:(\d+)\n/);
  assertMatch(server.stdout, RegExp(`^listening on tcp://\\S+:${port}\n`));
  await ask({ port: Number(port) });
  await ask({ port: Number(port), udp: true });
});

// --- beside the tools of the field

test({
  name: "nc reads our server, over TCP with and without input, and over UDP",
  ignore: noNc(),
  async fn() {
    await using server = serving();
    const cases = [["", []], ["what time is it?\n", []], ["\n", ["-u"]]];
    for (const [input, flags] of cases as [string, string[]][]) {
      const args = [...flags, "127.0.0.1", `${server.port}`];
      await using nc = new Running("nc", args);
      await nc.type(input);
      assertMatch((await nc.until(/\n/)).input ?? "", LINE);
    }
  },
});
