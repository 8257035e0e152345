/** The client of daytime, as people, servers of every kind and liars meet it. */
import { assert, assertEquals, assertGreater } from "jsr:@std/assert@^1";
import { assertGreaterOrEqual, assertLess } from "jsr:@std/assert@^1";
import { assertMatch, assertRejects } from "jsr:@std/assert@^1";
import { assertStringIncludes } from "jsr:@std/assert@^1";
import { type Answer, daytime, daytimeUdp } from "../daytime.ts";
import { Failure, VERSION } from "../utils.ts";
import { address, apart, ask, bytesOf, cli } from "./daytime_servers.ts";
import { confined, failure, LINE, LINUX, NIST } from "./daytime_servers.ts";
import { OURS, says, tcpServer, textOf, udpServer } from "./daytime_servers.ts";
import { WINDOWS } from "./daytime_servers.ts";
import { missing, network, ROOT, Running, soon, start } from "./helpers.ts";
import { test } from "./helpers.ts";

const SCRIPT = new URL("daytime.ts", ROOT).href;

/** Waits until the client has gone. */
function silence(conn: Deno.TcpConn): Promise<number | null> {
  return conn.read(new Uint8Array(1));
}

test("daytime joins a line that arrives byte by byte", async () => {
  const bytes = bytesOf(OURS);
  let i = 0;
  const read = (buffer: Uint8Array) => {
    if (i === bytes.length) return Promise.resolve(null);
    buffer[0] = bytes[i];
    i++;
    return Promise.resolve(1);
  };
  assertEquals(textOf(await daytime({ read })), OURS);
  await using server = tcpServer(async (conn) => {
    conn.setNoDelay(true);
    for (const byte of bytes) await conn.write(Uint8Array.of(byte));
  });
  assertEquals(textOf((await ask(server)).bytes), OURS);
});

test("daytime counts the round trip to the first byte of the answer", async () => {
  await using server = tcpServer(async (conn) => {
    await new Promise((resolve) => setTimeout(resolve, 60));
    await conn.write(bytesOf("x"));
    await new Promise((resolve) => setTimeout(resolve, 1000));
  });
  const { roundTripMs } = await ask(server);
  assertGreater(roundTripMs, 30);
  assertLess(roundTripMs, 1000);
});

test("daytime accepts 512 bytes, and no more", async () => {
  const line = `${"x".repeat(510)}\r\n`;
  await using tcp = says(line);
  await using udp = udpServer(() => line);
  assertEquals((await ask(tcp)).bytes.length, 512);
  assertEquals((await ask({ ...udp, udp: true })).bytes.length, 512);
  await using more = says(`${line}y`);
  await using moreUdp = udpServer(() => `${line}y`);
  const said = `63 127.0.0.1:${more.port} sent more than 512 bytes`;
  assertEquals(await failure(ask(more)), said);
  assertMatch(
    await failure(ask({ ...moreUdp, udp: true })),
    /^63 .* more than/,
  );
});

test("daytime leaves a server that never stops sending", async () => {
  const noise = new Uint8Array(65_536).fill(120);
  let sent = 0;
  await using server = tcpServer(async (conn) => {
    for (;;) sent += await conn.write(noise);
  });
  assertMatch(await failure(ask(server)), /^63 .* sent more than 512 bytes$/);
  assertGreater(sent, 0);
});

test("daytime calls an empty answer by its name", async () => {
  await using tcp = says("");
  await using udp = udpServer(() => "");
  const said = `52 127.0.0.1:${tcp.port} sent an empty answer`;
  assertEquals(await failure(ask(tcp)), said);
  assertMatch(
    await failure(ask({ ...udp, udp: true })),
    /^52 .* empty answer$/,
  );
});

test("daytime gives up in time on a server that does not end", async () => {
  await using silent = tcpServer(silence);
  await using trickling = tcpServer(async (conn) => {
    for (;;) {
      await conn.write(bytesOf("x"));
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  });
  await using open = tcpServer(async (conn) => {
    await conn.write(bytesOf(OURS));
    await silence(conn);
  });
  const started = performance.now();
  await Promise.all([silent, trickling, open].map(async ({ port }) => {
    const said = `28 no complete answer from 127.0.0.1:${port} in 0.3 s`;
    assertEquals(await failure(ask({ port, timeout: 300 })), said);
  }));
  assertGreaterOrEqual(performance.now() - started, 290);
});

test("daytime stops when it is told to", async () => {
  let stop = new AbortController();
  const abort = () => stop.abort(new Failure(130, "stopped"));
  await using tcp = tcpServer((conn) => {
    abort();
    return silence(conn);
  });
  await using udp = udpServer(() => {
    abort();
    return undefined;
  });
  for (const { port } of [tcp, udp]) {
    stop = new AbortController();
    const asking = { port, udp: port === udp.port, timeout: 60_000 };
    await assertRejects(() => ask({ ...asking, signal: stop.signal }));
    await assertRejects(() => ask({ ...asking, signal: stop.signal }));
  }
  assertEquals([tcp.conns.length, udp.questions.length], [1, 1]);
});

test({
  name: "daytime says that the server has reset the connection",
  ignore: missing("python3"),
  async fn() {
    const script = `import socket, struct
s = socket.create_server(("127.0.0.1", 0))
print(s.getsockname()[1], flush=True)
c, _ = s.accept()
c.send(b"Monday, Nov")
input()
c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
c.close()`;
    await using python = new Running("python3", ["-c", script]);
    const [port] = await python.until(/\d+/);
    await using client = start("daytime", ["-v", "127.0.0.1", port]);
    await client.until(/< 11 bytes/, "stderr");
    await python.type("now\n");
    const { code, stdout, stderr } = await client.finish();
    assertEquals([code, stdout], [56, ""]);
    assertMatch(stderr, /\* reset by the peer\n/);
    const said = `cannot ask 127.0.0.1:${port}: connection reset\n`;
    assertStringIncludes(stderr, `daytime: ${said}`);
  },
});

test("daytime says when nobody listens", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  listener.close();
  const said = `7 cannot connect to 127.0.0.1:${port}: connection refused`;
  assertEquals(await failure(ask({ port })), said);
});

test("daytime says when there is no such host, or none of that family", async () => {
  for (const udp of [false, true]) {
    const nowhere = ask({ hostname: "no-such-host.invalid", port: 13, udp });
    assertMatch(await failure(nowhere), /^6 cannot resolve no-such-host\.inva/);
    const said = "2 127.0.0.1 is not an IPv6 address";
    assertEquals(await failure(ask({ port: 13, udp, family: 6 })), said);
  }
});

// --- over UDP

/** A UDP socket without a network; it notes when something is sent. */
function fake(
  receive: () => Promise<[Uint8Array<ArrayBuffer>, Deno.Addr]>,
  send: (n: number) => void,
) {
  const times: number[] = [];
  const socket: Parameters<typeof daytimeUdp>[0] = {
    receive,
    send() {
      const n = times.push(performance.now());
      return new Promise((resolve) => resolve(send(n) ?? 0));
    },
  };
  return { socket, times };
}

test("daytime asks again over UDP, waiting longer each time", async () => {
  const answer = Promise.withResolvers<[Uint8Array<ArrayBuffer>, Deno.Addr]>();
  const { socket, times } = fake(() => answer.promise, (n) => {
    if (n === 5) answer.resolve([bytesOf(OURS), address(1313)]);
  });
  assertEquals(textOf(await daytimeUdp(socket, address(1313), 8)), OURS);
  assertEquals(times.length, 5);
  for (let i = 1; i < 5; i++) {
    assertGreaterOrEqual(times[i] - times[i - 1], 8 * 2 ** (i - 1) - 1);
  }
});

test("daytime says at once when a question cannot be sent", async () => {
  const never = new Promise<never>(() => {});
  const { socket } = fake(() => never, () => {
    throw new Error("Network is unreachable");
  });
  const asking = daytimeUdp(socket, address(13));
  await assertRejects(() => asking, Error, "Network is unreachable");
});

test("daytime asks with empty datagrams, until one is answered", async () => {
  await using server = udpServer((n) => n < 3 ? undefined : OURS);
  const answer = await ask({ ...server, udp: true, timeout: 4000 });
  assertEquals([answer.text, answer.transport], [OURS.trim(), "udp"]);
  assertEquals(server.questions.map(({ bytes }) => bytes), [0, 0, 0]);
  // The answer came 2400 ms after the first question.
  assertLess(answer.roundTripMs, 2000);
});

test("daytime waits for an answer over UDP only so long", async () => {
  await using server = udpServer(() => undefined);
  const said = `28 no answer from 127.0.0.1:${server.port} in 0.4 s`;
  const asking = ask({ port: server.port, udp: true, timeout: 400 });
  assertEquals(await failure(asking), said);
  assertGreaterOrEqual(server.questions.length, 2);
});

test("daytime believes only the server asked, and shows who else sends", async () => {
  const here = { transport: "udp", hostname: "127.0.0.1", port: 0 } as const;
  const forger = Deno.listenDatagram(here);
  const socket = Deno.listenDatagram(here);
  const { port } = socket.addr as Deno.NetAddr;
  const serving = (async () => {
    const [, from] = await socket.receive();
    const forged = bytesOf("Friday, January 1, 1999 00:00:00-UTC\r\n");
    for (let i = 0; i < 3; i++) await forger.send(forged, from);
    await socket.receive(); // the question is repeated all the same
    await socket.send(bytesOf(OURS), from);
  })();
  const client = await cli(["-u", "-v", "-w", 1, "127.0.0.1", port]);
  await soon(serving, "the question, twice");
  socket.close();
  forger.close();
  assertEquals([client.code, client.stdout], [0, OURS.replace("\r", "")]);
  const ignored = / \* ignored 38 bytes from 127\.0\.0\.1:\d+ ?\n/g;
  assertEquals(client.stderr.match(ignored)?.length, 3);
});

test("daytime asks this machine at 0.0.0.0 and ::, over UDP too", async () => {
  for (const [any, hostname] of [["0.0.0.0", "127.0.0.1"], ["::", "::1"]]) {
    await using server = udpServer(() => OURS, hostname);
    const asking = { ...server, udp: true, hostname: any };
    assertEquals((await ask(asking)).address, hostname);
  }
});

// --- the command line

test("daytime prints help and version, and asks nobody", async () => {
  for (const flag of ["-h", "--help"]) {
    const { code, stdout, stderr } = await cli([flag]);
    assertEquals([code, stderr], [0, ""]);
    const words = [
      "--udp",
      "--timeout",
      "--json",
      "--raw",
      "--serve",
      "--host",
    ];
    const more = ["--port", "--diagram", "(5;", "(1313;", "time.nist.gov"];
    for (const word of [...words, ...more]) assertStringIncludes(stdout, word);
    assertLess(stdout.split("\n").length, 25);
    for (const line of stdout.split("\n")) assertLess(line.length, 80);
  }
  const version = { code: 0, stdout: `daytime ${VERSION}\n`, stderr: "" };
  assertEquals(await cli(["-V"]), version);
  assertEquals(await cli(["--version"]), version);
});

test("daytime refuses a bad command line, before anything is sent", async () => {
  await using server = says(OURS);
  const { port } = server;
  const here = ["127.0.0.1", port];
  const client = "is for the client";
  const cases: [(string | number)[], string][] = [
    [[...here, "--jsn"], "unknown option --jsn"],
    [[...here, "-x"], "-x"],
    [[...here, "third"], 'too many words: "third"'],
    [["", port], '"" is not a host'],
    [["127.0.0.1", ""], '"" is not a port'],
    [["127.0.0.1", "70000"], '"70000" is not a port'],
    [["127.0.0.1", "1e3"], '"1e3" is not a port'],
    [["127.0.0.1", "nonsense"], '"nonsense" is not a port'],
    [["bad host", port], '"bad host" is not a host'],
    [["5", port], '"5" is not a host'],
    [[`127.0.0.1:${port}`, port], "too many words"],
    [[...here, "-w"], "--timeout needs a value"],
    [[...here, "-w", "soon"], '"soon"'],
    [[...here, "--timeout=-1"], '"-1"'],
    [[...here, "--diagram"], "--diagram needs a value"],
    [[...here, "--json", "--raw"], "--json and --raw cannot be combined"],
    [[...here, "-4", "-6"], "-4 and -6 cannot be combined"],
    [[...here, "--host", "::"], "--host is for the server: it needs --serve"],
    [[...here, "-p", 1], "--port is for the server: it needs --serve"],
    [[...here, "-q"], "--quiet is for the server: it needs --serve"],
    [[...here, "--reuse-port"], "unknown option --reuse-port"],
    [["--serve", "there"], '--serve takes no HOST, but "there" is given'],
    [["--serve", "-u"], `--udp ${client}: not with --serve`],
    [["--serve", "--json"], `--json ${client}`],
    [["--serve", "--raw"], `--raw ${client}`],
    [["--serve", "--diagram", "x.md"], `--diagram ${client}`],
    [["--serve", "-w", "1"], `--timeout ${client}`],
    [["--serve", "-6"], `--ipv6 ${client}`],
    [["--serve", "-p", "70000"], '"70000" is not a port'],
    [["--serve", "-p"], "--port needs a value"],
    [["--serve", "--host", ""], "--host needs a value"],
  ];
  for (const [args, words] of cases) {
    const { code, stdout, stderr } = await cli(args);
    assertEquals([code, stdout], [2, ""], stderr);
    assertStringIncludes(stderr, words);
    assertMatch(stderr, /^daytime: [^\n]*\n$/);
  }
  assertEquals(server.conns.length, 0);
});

test("daytime takes the port as a second word, or with the host", async () => {
  await using tcp = says("noon\n");
  await using udp = udpServer(() => "noon\n");
  const done = { code: 0, stdout: "noon\n", stderr: "" };
  for (const [{ port }, flags] of [[tcp, []], [udp, ["-u"]]] as const) {
    assertEquals(await cli([...flags, "127.0.0.1", port]), done);
    assertEquals(await cli([...flags, `127.0.0.1:${port}`]), done);
  }
});

test("daytime ends lines as Unix does in a pipe; --raw leaves them", async () => {
  const lines: [string, string][] = [
    [OURS, OURS.replace("\r", "")],
    [NIST, NIST],
    ["no line end", "no line end\n"],
    ["\x1b[2J\x07 caf\u00e9\r\n\r\n", "\x1b[2J\x07 caf\u00e9\n\n"],
    ["two\r\nlines\r, or three\n", "two\nlines\r, or three\n"],
  ];
  for (const [text, printed] of lines) {
    await using tcp = says(text);
    await using udp = udpServer(() => text);
    for (
      const flags of [["127.0.0.1", tcp.port], ["-u", "127.0.0.1", udp.port]]
    ) {
      const plain = { code: 0, stdout: printed, stderr: "" };
      assertEquals(await cli(flags), plain);
      assertEquals(await cli([...flags, "--raw"]), { ...plain, stdout: text });
    }
  }
});

test("daytime passes on bytes that are no text", async () => {
  const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
  await using server = says(bytes);
  for (const flags of [["--raw"], []]) {
    const args = ["run", "-A", SCRIPT, ...flags, "127.0.0.1", `${server.port}`];
    const command = new Deno.Command(Deno.execPath(), { args, cwd: ROOT });
    const { stdout } = await soon(command.output(), "the end of the command");
    const end = flags.length > 0 ? [] : [10];
    assertEquals([...stdout], [...bytes, ...end]);
  }
});

test("daytime lets no server drive the terminal, and adds a line", async () => {
  const hostile =
    "\x1b]0;owned\x07noon\x9b31m \u202egnp\r\nsecond \x08line\r\n";
  await using server = says(hostile);
  const words = ["127.0.0.1", server.port];
  const { code, stdout } = await cli(words, true);
  assertEquals(code, 0);
  const [first, second, third, ...rest] = stdout.split("\n");
  assertEquals(first, "\\x1b]0;owned\\x07noon\\x9b31m \\x202egnp");
  assertEquals([second, rest], ["second \\x08line", [""]]);
  assertMatch(third, /^no time to compare with our clock; round trip \S+ ms$/);
  for (const flag of ["--json", "--raw"]) {
    const { stdout } = await cli([...words, flag], true);
    assertMatch(stdout, /^[\n\x20-\x7e]+$/);
  }
});

test("daytime --json prints one object, over TCP and UDP", async () => {
  await using server = says(NIST);
  const tcp = await cli(["--json", "localhost", server.port]);
  assertEquals([tcp.code, tcp.stderr], [0, ""]);
  assertMatch(tcp.stdout, /^\{.*\}\n$/);
  const answer = JSON.parse(tcp.stdout) as Answer;
  assertEquals([typeof answer.offsetMs, typeof answer.roundTripMs], [
    "number",
    "number",
  ]);
  assertEquals({ ...answer, offsetMs: 0, roundTripMs: 0 }, {
    server: "localhost",
    address: "127.0.0.1",
    port: server.port,
    transport: "tcp",
    text: NIST.trim(),
    time: "2026-11-23T13:17:05.000Z",
    offsetMs: 0,
    roundTripMs: 0,
    nist: { mjd: 61367, dst: 0, leapSecond: 0, health: 0, advanceMs: 50 },
  });
  await using inetd = udpServer(() => "Mon Nov 23 13:17:05 2026\r\n");
  const udp = await cli(["--json", "-u", "127.0.0.1", inetd.port]);
  const free = JSON.parse(udp.stdout) as Answer;
  assertEquals([free.transport, free.text], [
    "udp",
    "Mon Nov 23 13:17:05 2026",
  ]);
  assertEquals([free.time, free.offsetMs, free.nist], [null, null, null]);
  assertEquals(Object.keys(free), Object.keys(answer));
});

test("daytime asks by IPv4 or IPv6 as it is told", async () => {
  await using four = says("four");
  await using six = says("six", "::1");
  await using udp = udpServer(() => "six", "::1");
  const printed = async (...args: (string | number)[]) =>
    (await cli(args)).stdout;
  assertEquals(await printed("-4", "localhost", four.port), "four\n");
  assertEquals(await printed("-6", "::1", six.port), "six\n");
  assertEquals(await printed(`[::1]:${six.port}`), "six\n");
  assertEquals(await printed("-u", "::1", udp.port), "six\n");
});

test("daytime -v shows the exchange as it happens, a line an event", async () => {
  await using tcp = says(OURS);
  const shown = async (...args: (string | number)[]) => {
    const { stderr } = await cli(["-v", ...args]);
    return stderr.replace(/^\d+\.\d+/gm, "T");
  };
  assertEquals(
    await shown("127.0.0.1", tcp.port),
    `T * connected to 127.0.0.1:${tcp.port}
T < 40 bytes "Monday, November 23, 2026 13:17:05-UTC\\r\\n"
T * half-closed by the peer
T * closed
`,
  );
  await using udp = udpServer((n) => n < 2 ? undefined : "\x1b[2J");
  assertEquals(
    await shown("-u", "-w", 1, "127.0.0.1", udp.port),
    `T * asking 127.0.0.1:${udp.port}
T > 0 bytes ""
T * no answer: asking again
T > 0 bytes ""
T < 4 bytes "\\x1b[2J"
T * closed
`,
  );
});

test("daytime --diagram draws the exchange, whichever way it ends", async () => {
  const folder = await Deno.makeTempDir();
  const file = `${folder}/exchange.md`;
  const draw = async (...args: (string | number)[]) => {
    const { code } = await cli(["--diagram", file, ...args]);
    return { code, drawing: await Deno.readTextFile(file) };
  };
  try {
    await using server = says(OURS);
    const tcp = await draw("127.0.0.1", server.port);
    assertEquals(tcp.code, 0);
    assertMatch(tcp.drawing, /^```mermaid\nsequenceDiagram\n/);
    assertMatch(tcp.drawing, /-->>p\d: ACK\n +p\d->>p\d: 40 bytes "Monday, /);
    await using silent = udpServer(() => undefined);
    const udp = await draw("-u", "-w", 0.3, "127.0.0.1", silent.port);
    assertEquals(udp.code, 28);
    assertGreaterOrEqual(udp.drawing.match(/-\)p\d: 0 bytes/g)?.length ?? 0, 2);
    assertStringIncludes(udp.drawing, "no answer from 127.0.0.1");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

// --- processes

test({
  name: "daytime is interrupted with status 130, and says nothing more",
  ignore: WINDOWS,
  async fn() {
    const asked = Promise.withResolvers<void>();
    await using tcp = tcpServer((conn) => {
      asked.resolve();
      return silence(conn);
    });
    await using client = start("daytime", ["127.0.0.1", `${tcp.port}`]);
    await soon(asked.promise, "a connection");
    client.kill("SIGINT");
    const { code, stdout, stderr } = await client.finish();
    assertEquals([code, stdout, stderr], [130, "", ""]);
  },
});

test({
  name: "daytime says when its output cannot be written",
  ignore: !LINUX,
  async fn() {
    await using server = says(OURS);
    for (const flag of ["-4", "--json"]) {
      const args = `run -A "${SCRIPT}" ${flag} 127.0.0.1 ${server.port}`;
      const command = `"${Deno.execPath()}" ${args} > /dev/full`;
      await using shell = new Running("sh", ["-c", command], { cwd: ROOT });
      const { code, stderr } = await shell.finish();
      const said = "cannot write the output: no space left on device";
      assertEquals([code, stderr], [23, `daytime: ${said}\n`]);
    }
  },
});

test({
  name: "daytime on a real terminal escapes what could drive it",
  ignore: WINDOWS || missing("python3"),
  async fn() {
    await using server = says("\x1b[31m12 o'clock\x07\r\n");
    const words = ["run", "-A", SCRIPT, "127.0.0.1", `${server.port}`];
    const command = JSON.stringify([Deno.execPath(), ...words]);
    const code = `import pty; pty.spawn(${command})`;
    const options = { cwd: ROOT };
    await using python = new Running("python3", ["-c", code], options);
    const { stdout } = await python.finish();
    assertMatch(stdout, /\\x1b\[31m12 o'clock\\x07\r\nno time to .* ms\r\n/);
  },
});

test("daytime without --unstable-net asks over TCP, and names the flag for UDP", async () => {
  await using server = says("noon\n");
  const map = new URL("mirror/import_map.json", ROOT).href;
  const flags = ["run", "-A", "--no-config", "--import-map", map, SCRIPT];
  const bare = async (...args: string[]) => {
    await using running = new Running(Deno.execPath(), [...flags, ...args]);
    return await running.finish();
  };
  const [tcp, ...others] = await Promise.all([
    bare("127.0.0.1", `${server.port}`),
    bare("-u", "127.0.0.1"),
    bare("-s"),
  ]);
  assertEquals([tcp.code, tcp.stdout], [0, "noon\n"]);
  for (const { code, stdout, stderr } of others) {
    assertEquals([code, stdout], [1, ""]);
    assertEquals(stderr, "daytime: UDP needs Deno's --unstable-net flag\n");
  }
});

test("daytime needs only the permissions of its first line, and ends at once", async () => {
  const [first] = (await Deno.readTextFile(new URL(SCRIPT))).split("\n", 1);
  const pattern = /^#!\/usr\/bin\/env -S deno (run --unstable-net .*)$/;
  const flags = first.match(pattern)?.[1].split(" ") ?? [];
  assert(flags.every((flag) => /net|^run$|^--allow-sys=/.test(flag)), first);
  const bare = (...args: (string | number)[]) => {
    const all = [...flags, "--no-prompt", SCRIPT, ...args.map(String)];
    return new Running(Deno.execPath(), all, { cwd: ROOT });
  };
  await using server = bare("-s", "-p", 0);
  const [, port] = await server.until(/listening on udp:\S+:(\d+)/);
  for (const flag of ["-4", "-u"]) {
    await using client = bare("-w", 600, flag, "127.0.0.1", port);
    const { code, stdout, stderr } = await client.finish();
    assertEquals([code, stderr], [0, ""]);
    assertMatch(stdout, LINE);
  }
});

test({
  name: "daytime reads what nc serves",
  ignore: missing("nc"),
  async fn() {
    await using nc = new Running("nc", ["-l", "-v", "-N", "127.0.0.1", "0"]);
    const [, port] = await nc.until(/Listening on \S+ (\d+)/i, "stderr");
    await nc.type(OURS);
    const asking = ask({ port: Number(port) });
    await nc.until(/Connection received/, "stderr");
    await nc.stdin.close();
    assertEquals((await asking).text, OURS.trim());
  },
});

// --- in a network of their own

test({
  name: "daytime asks time.nist.gov on port 13 if it is told nothing else",
  ignore: confined(),
  async fn() {
    const { code, stdout, stderr } = await apart(
      `$daytime -s -q -p 13 > /dev/null & server=$!; ready 13
      $daytime --json; $daytime --json -u; $daytime -w 1 localhost daytime`,
    );
    assertEquals([code, stderr], [0, ""]);
    const [tcp, udp, named] = stdout.split("\n");
    for (const [line, by] of [[tcp, "tcp"], [udp, "udp"]]) {
      const { server, address, port, transport } = JSON.parse(line) as Answer;
      assertEquals([server, address], ["time.nist.gov", "127.0.0.1"]);
      assertEquals([port, transport], [13, by]);
    }
    assertMatch(`${named}\n`, LINE);
  },
});

test({
  name: "daytime asks NIST over UDP once in 4 s, and others more often",
  ignore: confined(),
  async fn() {
    const { stderr } = await apart(
      `$daytime -u -v -w 1 time.nist.gov 9 || $daytime -u -v -w 1 localhost 9`,
    );
    const [nist, local] = stderr.split(" * resolved localhost");
    assertEquals(nist.match(/ > 0 bytes/g)?.length, 1);
    assertGreater(local.match(/ > 0 bytes/g)?.length ?? 0, 1);
    // Of two addresses it asks IPv4's: some servers have no other.
    assertStringIncludes(local, "* asking 127.0.0.1:9\n");
  },
});

test({
  name: "daytime names port 1313 if port 13 of this machine refuses",
  ignore: confined(),
  async fn() {
    const { code, stdout, stderr } = await apart(
      `for host in 127.0.0.1 ::1 localhost 127.0.0.1:7 0.0.0.0; do
        $daytime $host || echo $?; done`,
    );
    assertEquals([code, stdout], [0, "7\n".repeat(5)]);
    const lines = stderr.trim().split("\n");
    const hint = "try port 1313, where daytime --serve listens";
    const cannot = "daytime: cannot connect to";
    const plain = `${cannot} 127.0.0.1:7: connection refused`;
    assertEquals(
      lines[0],
      `${cannot} 127.0.0.1:13: connection refused: ${hint}`,
    );
    const hinted = lines.map((line) => line.endsWith(hint));
    assertEquals(hinted, [true, true, true, false, true]);
    assertEquals(lines[3], plain);
  },
});

test({
  name: "daytime says at once that there is no way to the server",
  ignore: confined(),
  async fn() {
    const { stdout, stderr } = await apart(
      `for flag in -4 -u; do $daytime $flag 192.0.2.1 || echo $?; done`,
    );
    assertEquals(stdout, "7\n7\n");
    const [tcp, udp] = stderr.split("\n");
    const why = "192.0.2.1:13: network is unreachable";
    assertEquals(tcp, `daytime: cannot connect to ${why}`);
    assertEquals(udp, `daytime: cannot ask ${why}`);
  },
});

test({
  name: "daytime reads inetd's daytime, which names no zone",
  ignore: confined() || missing("inetd"),
  async fn() {
    // Over UDP inetd answers nobody on loopback.
    const { code, stdout, stderr } = await apart(`${network("192.0.2.13/24")}
      echo '192.0.2.13:daytime stream tcp nowait root internal' > /run/inetd
      echo '192.0.2.13:daytime dgram udp wait root internal' >> /run/inetd
      inetd -i /run/inetd & server=$!; ready 13
      $daytime --json 192.0.2.13; $daytime --json -u 192.0.2.13`);
    assertEquals([code, stderr], [0, ""]);
    const lines = stdout.trim().split("\n");
    assertEquals(lines.length, 2);
    for (const line of lines) {
      const { text, time, offsetMs, nist } = JSON.parse(line) as Answer;
      assertMatch(text, /^\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}$/);
      assertEquals([time, offsetMs, nist], [null, null, null]);
    }
  },
});
