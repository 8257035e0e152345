/** The client of daytime, as people, servers of every kind and liars meet it. */
import { assert, assertEquals, assertGreater } from "jsr:@std/assert@^1";
import { assertGreaterOrEqual, assertLess } from "jsr:@std/assert@^1";
import { assertMatch, assertStringIncludes } from "jsr:@std/assert@^1";
import type { Report } from "../daytime.ts";
import { apart, ask, bytesOf, cli, confined } from "./daytime_servers.ts";
import { failure, LINE, NIST, OURS, says } from "./daytime_servers.ts";
import { tcpServer, textOf, udpServer, WINDOWS } from "./daytime_servers.ts";
import { missing, network, noNc, noPty, ROOT, Running } from "./helpers.ts";
import { soon, start, test } from "./helpers.ts";

const SCRIPT = new URL("daytime.ts", ROOT).href;

/** Waits until the client has gone. */
function silence(conn: Deno.TcpConn): Promise<number | null> {
  return conn.read(new Uint8Array(1));
}

test("daytime joins a line that arrives byte by byte", async () => {
  await using server = tcpServer(async (conn) => {
    conn.setNoDelay(true);
    for (const byte of bytesOf(OURS)) await conn.write(Uint8Array.of(byte));
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

test("daytime says when there is no such host, or none of that family", async () => {
  for (const udp of [false, true]) {
    const nowhere = ask({ hostname: "no-such-host.invalid", port: 13, udp });
    assertMatch(await failure(nowhere), /^6 cannot resolve no-such-host\.inva/);
    const said = "2 127.0.0.1 is not an IPv6 address";
    assertEquals(await failure(ask({ port: 13, udp, family: 6 })), said);
  }
});

// --- over UDP

test("daytime asks with empty datagrams, waiting longer each time", async () => {
  await using server = udpServer((n) => n < 3 ? undefined : OURS);
  const answer = await ask({ ...server, udp: true, timeout: 5000 });
  assertEquals([answer.text, answer.transport], [OURS.trim(), "udp"]);
  assertEquals(server.questions.map(({ bytes }) => bytes), [0, 0, 0]);
  const [first, second, third] = server.questions.map(({ time }) => time);
  assertGreaterOrEqual(second - first, 990); // 1 s, then 2 s
  assertGreaterOrEqual(third - first, 2990);
  assertLess(answer.roundTripMs, 1000); // of the question that was answered
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
  const client = await cli(["-u", "-v", "127.0.0.1", port]);
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

test("daytime refuses a bad command line, before anything is sent", async () => {
  await using server = says(OURS);
  const here = ["127.0.0.1", server.port];
  const cases: [(string | number)[], string][] = [
    [[...here, "--jsn"], "unknown option --jsn"],
    [[...here, "third"], 'unexpected argument "third"'],
    [["127.0.0.1", ""], '"" is not a port: use 0 to 65535 or a service name'],
    [["5", server.port], '"5" is not a host'],
    [[...here, "-w"], "--timeout needs a value"],
    [[...here, "--json", "--raw"], "--json and --raw cannot be combined"],
    [[...here, "--host", "::"], "--host is a server option: add --serve"],
    [[...here, "-p", 1], "--port is a server option: add --serve"],
    [[...here, "-q"], "--quiet is a server option: add --serve"],
    [["--serve", "there"], '--serve takes no HOST: "there"'],
    [["--serve", ""], '--serve takes no HOST: ""'],
    [["--serve", "-u"], "--udp is a client option: leave out --serve"],
    [["--serve", "--json"], "--json is a client option: leave out --serve"],
    [["--serve", "--raw"], "--raw is a client option: leave out --serve"],
    [["--serve", "-w", "1"], "--timeout is a client option"],
    [["--serve", "-6"], "-6 is a client option"],
    [["--serve", "--reuse-port"], "unknown option --reuse-port"],
  ];
  for (const [args, words] of cases) {
    const { code, stdout, stderr } = await cli(args);
    assertEquals([code, stdout], [2, ""], stderr);
    assertStringIncludes(stderr, words);
  }
  assertEquals(server.conns.length, 0);
});

test("daytime ends lines as Unix does in a pipe; --raw leaves them", async () => {
  const lines = {
    [OURS]: OURS.replace("\r", ""),
    [NIST]: NIST.trimStart(),
    "no line end": "no line end\n",
    "\x1b[2J\x07 caf\u00e9\r\n\r\n": "\x1b[2J\x07 caf\u00e9\n\n",
    "two\r\nlines\r, or three\n": "two\nlines\r, or three\n",
  };
  for (const [text, printed] of Object.entries(lines)) {
    await using tcp = says(text);
    await using udp = udpServer(() => text);
    for (const words of [[tcp.port], [udp.port, "-u"]]) {
      const { stdout, stderr } = await cli(["127.0.0.1", ...words]);
      assertEquals([stdout, stderr], [printed, ""]);
      const raw = await cli(["127.0.0.1", ...words, "--raw"]);
      assertEquals(raw.stdout, text);
    }
  }
});

test("daytime passes on bytes that are no text", async () => {
  const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
  await using server = says(bytes);
  const args = ["run", "-A", SCRIPT, "127.0.0.1", `${server.port}`];
  const command = new Deno.Command(Deno.execPath(), { args, cwd: ROOT });
  const { stdout } = await soon(command.output(), "the end of the command");
  assertEquals([...stdout], [...bytes, 10]);
});

test("daytime --json prints one object, over TCP and UDP", async () => {
  await using server = says(NIST);
  const tcp = await cli(["--json", "localhost", server.port]);
  assertEquals([tcp.code, tcp.stderr], [0, ""]);
  assertMatch(tcp.stdout, /^\{.*\}\n$/);
  const answer = JSON.parse(tcp.stdout) as Report;
  assertEquals(typeof answer.offsetMs, "number");
  assertGreater(answer.roundTripMs, 0);
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
  const free = JSON.parse(udp.stdout) as Report;
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
    return stderr.replace(/^\d+\.\d+|(?<=from port )\d+/gm, "T");
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
    `T * asking 127.0.0.1:${udp.port} from port T
T > 0 bytes ""
T * no answer: asking again
T > 0 bytes ""
T < 4 bytes "\\x1b[2J"
T * closed
`,
  );
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
  name: "daytime lets no server drive a terminal, and adds a line for people",
  ignore: noPty(),
  async fn() {
    const hostile = "\x1b]0;owned\x07noon\u009b31m \u202e\r\nnext \x08line\r\n";
    await using server = says(hostile);
    const words = ["run", "-A", SCRIPT, "127.0.0.1", `${server.port}`];
    const command = JSON.stringify([Deno.execPath(), ...words]);
    const code = `import pty; pty.spawn(${command})`;
    await using python = new Running("python3", ["-c", code], { cwd: ROOT });
    const [first, second, third, ...rest] = (await python.finish()).stdout
      .split("\r\n");
    assertEquals(first, "\\x1b]0;owned\\x07noon\\x9b31m \\u{202e}");
    assertEquals([second, rest], ["next \\x08line", [""]]);
    assertMatch(third, /^no time to compare with our clock; round trip .* ms$/);
  },
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
  ignore: noNc(),
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
      const { server, address, port, transport } = JSON.parse(line) as Report;
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
    assertStringIncludes(local, "* asking 127.0.0.1:9 from port ");
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
      const { text, time, offsetMs, nist } = JSON.parse(line) as Report;
      assertMatch(text, /^\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}$/);
      assertEquals([time, offsetMs, nist], [null, null, null]);
    }
  },
});
