/** What holds for every script: a table of them, and a test a sentence. */
import {
  assert,
  assertEquals,
  assertMatch,
  assertNotMatch,
  assertRejects,
  assertStringIncludes,
} from "jsr:@std/assert@^1";
import { bytes, captured, type Handler, LINUX, missing } from "./helpers.ts";
import { Namespace, noBash, noNamespaces, ROOT, run } from "./helpers.ts";
import { Running, serveOnce, soon, start, temporary } from "./helpers.ts";
import { test, unusedPort, WINDOWS } from "./helpers.ts";

/** A script, and what is particular about its command line. */
interface Script {
  name: string;
  /** what help names, with the default that it must tell */
  options: Record<string, string>;
  /** the words that ask a server and give up after so many seconds */
  ask: (host: string, port: number | string, seconds?: number) => string[];
  transport: "tcp" | "udp";
  /** the options that make a server of it */
  serve?: string[];
  /** options that only a server has, and only a client */
  servers: string[];
  clients: string[];
  /** what cannot be meant, beside a server to ask, and the offender */
  bad: [string[], string][];
}

/** HOST:PORT, for the clients that take it. */
function at(host: string, port: number | string): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

const COMMON = {
  "--diagram": "",
  "--verbose": "",
  "--help": "",
  "--version": "",
};

const ECHO = {
  options: {
    ...COMMON,
    ...{ "--host": "::", "--port": "7777", "--quiet": "", "--json": "" },
    ...{ "--timeout": "5", "--count": "", "--size": "64", "--interval": "1" },
  },
  ask: (host: string, port: number | string, seconds = 0) => [
    ...[host, `${port}`, "-c", "1", "-w", `${seconds}`],
  ],
  serve: [],
  servers: ["--host=::1", "--port=1", "--quiet"],
  clients: ["--count=1", "--size=1", "--interval=1", "--timeout=1", "--json"],
  bad: [
    ...[[["-w", "soon"], "soon"], [["-c", "1.5"], "1.5"], [
      ["-i", ""],
      "interval",
    ]],
    ...[[["-c", "0"], '"0"'], [["word"], "word"], [["-s", "many"], "many"]],
  ] as [string[], string][],
};

const SCRIPTS: Script[] = [{
  ...ECHO,
  name: "echo_tcp",
  transport: "tcp",
  options: { ...ECHO.options, "--max-connections": "0", "--idle-timeout": "0" },
  servers: [...ECHO.servers, "--max-connections=1", "--idle-timeout=1"],
}, {
  ...ECHO,
  name: "echo_udp",
  transport: "udp",
  options: { ...ECHO.options, "--lose": "", "--seed": "" },
  servers: [...ECHO.servers, "--lose=1", "--seed=1"],
  bad: [...ECHO.bad, [["-s", "65508"], "65508"]],
}, {
  name: "daytime",
  transport: "tcp",
  options: {
    ...{ ...COMMON, "--host": "::", "--port": "1313", "--quiet": "" },
    ...{ "--udp": "", "--timeout": "5", "--json": "", "--serve": "" },
  },
  ask: (host, port, seconds = 0) => [host, `${port}`, "-w", `${seconds}`],
  serve: ["--serve"],
  servers: ["--host=::1", "--port=1", "--quiet"],
  clients: ["--udp", "--timeout=1", "--json"],
  bad: [[["-w", "soon"], "soon"], [["word"], "word"], [["-w", ""], "timeout"]],
}, {
  name: "http_get",
  transport: "tcp",
  options: {
    ...{ ...COMMON, "--include": "", "--head": "", "--location": "" },
    ...{ "--max-redirs": "20", "--output": "", "--header": "", "--fail": "" },
    ...{ "--max-time": "", "--compressed": "", "--cacert": "" },
    ...{ "--max-filesize": "", "--http1.0": "", "--silent": "" },
  },
  ask: (host, port, seconds = 0) => [
    ...[`http://${at(host, port)}/`, "-m", `${seconds}`],
  ],
  servers: [],
  clients: [],
  bad: [
    ...[[["-m", "soon"], "soon"], [["word"], "word"], [["-o", ""], "output"]],
    ...[[["--max-redirs", "all"], "all"], [["-H", "no colon"], "no colon"]],
  ] as [string[], string][],
}];

const SERVERS = SCRIPTS.filter(({ serve }) => serve);
const ECHOES = SCRIPTS.filter(({ name }) => name.startsWith("echo"));
const STREAMS = SCRIPTS.filter(({ transport }) => transport === "tcp");
const WORDS = SERVERS.map(({ name }) => name); // these take HOST [PORT]

type Body = (script: Script) => Promise<void>;

/** A test a script. */
function each(scripts: Script[], sentence: string, body: Body, ignore = false) {
  for (const script of scripts) {
    const name = `${script.name} ${sentence}`;
    test(name, { ignore }, () => body(script));
  }
}

/** Runs a command line in this process. */
async function command({ name }: Script, ...args: string[]) {
  const { main } = await import(new URL(`${name}.ts`, ROOT).href);
  const { value, ...printed } = await captured<number>(() => main(args));
  return { status: value, ...printed };
}

/** That a failure is told in one line, which cannot drive a terminal. */
function assertOneLine({ name }: Script, text: string) {
  assertMatch(text, RegExp(`^${name}: [^\\n\\x1b]+\n$`));
  assertNotMatch(text, /\bat .*:\d+:\d+|Uncaught|\[object/);
}

const silent: Handler = (_conn, over) => over;
const ANSWERS: Record<string, Handler> = {
  async echo_tcp(conn) {
    const buffer = new Uint8Array(65_536);
    let length: number | null = 0;
    while ((length = await conn.read(buffer)) !== null) {
      await conn.write(buffer.subarray(0, length));
    }
  },
  daytime: (conn) => conn.write(bytes("Monday\r\n")),
  async http_get(conn) {
    await conn.read(new Uint8Array(10_000));
    await conn.write(bytes("HTTP/1.1 200 OK\r\n\r\nMonday\r\n"));
  },
};

/** A server of either transport for one client, that answers or is silent. */
function answering({ transport, name }: Script, isSilent = false) {
  if (transport === "tcp") return serveOnce(isSilent ? silent : ANSWERS[name]);
  const socket = Deno.listenDatagram({
    ...{ transport: "udp", hostname: "127.0.0.1", port: 0 },
  });
  const done = (async () => {
    const [datagram, from] = await socket.receive(new Uint8Array(65_535));
    if (!isSilent) await socket.send(datagram, from);
  })().catch(() => {});
  return {
    port: (socket.addr as Deno.NetAddr).port,
    async [Symbol.asyncDispose]() {
      socket.close();
      await soon(done, "the end of a test's server");
    },
  };
}

// --help and --version

each(SCRIPTS, "tells its options and defaults in 24 lines", async (script) => {
  const { name, options } = script;
  const { status, out, err } = await command(script, "--help");
  assertEquals([status, err], [0, ""]);
  assertEquals((await command(script, "-h")).out, out);
  assertMatch(out, RegExp(`^${name}: `));
  assertMatch(out, RegExp(`\nusage: ${name} `));
  assertMatch(out, RegExp(`\nexamples?:\\s+${name} `));
  const lines = out.trimEnd().split("\n");
  for (const [option, value] of Object.entries(options)) {
    const named = RegExp(`(^|[ ,(])${option}(?![\\w-])`);
    const line = lines.find((line) => named.test(line));
    assert(line, `${option} is not in the help`);
    if (value) assertMatch(line, RegExp(`[( ]${value}[,;:)]`), option);
  }
  assert(lines.length <= 24, `${lines.length} lines`);
  for (const line of lines) assert(line.length <= 80, line);
});

each(SCRIPTS, "tells its version", async (script) => {
  for (const option of ["-V", "--version"]) {
    const { status, out, err } = await command(script, option);
    assertEquals([status, out, err], [0, `${script.name} 1.0.0\n`, ""]);
  }
});

each(SCRIPTS, "ends quietly when nobody reads its help", async ({ name }) => {
  const line = `"$0" run -A ${name}.ts --help | true`;
  const args = ["-c", line, Deno.execPath()];
  await using bash = new Running("bash", args, { cwd: ROOT });
  assertEquals((await bash.finish()).stderr, "");
}, noBash());

each(
  SCRIPTS,
  "says 23 where its stdout is open for reading only",
  async ({ name }) => {
    const line = `"$0" run -A ${name}.ts --help 1< /dev/null`;
    const args = ["-c", line, Deno.execPath()];
    await using bash = new Running("bash", args, { cwd: ROOT });
    const { code, stderr } = await bash.finish();
    const why = "cannot write the output: it is open for reading only";
    assertEquals([code, stderr], [23, `${name}: ${why}\n`]);
  },
  !LINUX,
);

// Bad command lines

each(
  SCRIPTS,
  "refuses a bad command line, and names the offender",
  async (script) => {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = listener.addr;
    const cases: [string[], string][] = [
      ...script.bad,
      [["--verbos"], "--verbos"],
      [["-Z"], "-Z"],
      [["--\x1b[2J"], "\\x1b[2J"],
      [["--no-verbose"], "--no-verbose"],
      [["--diagram"], "diagram"],
      [["--diagram="], "diagram"],
      [["--diagram", "-v"], "diagram"],
      [["--", "word", "word", "word"], "word"],
      [["-4", "-6"], "-4"],
      ...script.servers.map((option) =>
        [[option], option.split("=")[0]] as [string[], string]
      ),
    ];
    for (const [args, offender] of cases) {
      const words = script.ask("127.0.0.1", port);
      const { status, out, err } = await command(script, ...words, ...args);
      assertEquals([status, out], [2, ""], `${args.join(" ")}: ${err}`);
      assertOneLine(script, err);
      assertStringIncludes(err, offender, args.join(" "));
    }
    // The first to be accepted is ours: nothing was sent before.
    using mine = await Deno.connect({ hostname: "127.0.0.1", port });
    using first = await listener.accept();
    assertEquals(first.remoteAddr.port, mine.localAddr.port);
  },
);

each(SCRIPTS, "refuses a host of digits alone, and no port", async (script) => {
  const words = [["5", "7"], ["1313", "7"], ["127.0.0.1", "65536"]];
  for (const [host, port] of [...words, ["127.0.0.1", "nosuch"]]) {
    const { status, err } = await command(script, ...script.ask(host, port));
    assertEquals(status, WORDS.includes(script.name) ? 2 : 3, err);
    assertOneLine(script, err);
    assertStringIncludes(err, port === "7" ? host : port);
  }
});

each(ECHOES, "refuses what shapes round trips without -c", async (script) => {
  for (const option of ["--size=9", "--interval=2", "--json"]) {
    const { status, err } = await command(script, "127.0.0.1", "9", option);
    const name = option.split("=")[0];
    assertEquals([status, err], [2, `${script.name}: ${name} needs -c\n`]);
  }
});

each(SERVERS, "refuses for a server what is a client's", async (script) => {
  const own = [...script.clients, "--diagram=/no/folder", "-4", "-6"];
  const family: Record<string, string> = { "-4": "4", "-6": "6" };
  const cases: [string[], string][] = [
    ...own.map((option) =>
      [[option], family[option] ?? option.split("=")[0]] as [string[], string]
    ),
    [["--port", "65536"], "65536"],
    [["--port", "nosuch"], "nosuch"],
    [["--port"], "port"],
    [["--host", ""], "host"],
    [["--host", "a b"], "a b"],
    [["--host", "127.0.0.1:80"], "127.0.0.1:80"],
    [["--host", "5"], '"5" is not a host'],
  ];
  for (const [args, offender] of cases) {
    const words = [...script.serve!, ...args];
    const { status, out, err } = await command(script, ...words);
    assertEquals([status, out], [2, ""], `${args.join(" ")}: ${err}`);
    assertOneLine(script, err);
    assertStringIncludes(err, offender);
  }
});

each(SCRIPTS, "draws nothing of a bad command line", async (script) => {
  await using folder = await temporary();
  const file = `${folder.path}/drawing.md`;
  const words = script.ask("5", 7);
  const { status } = await command(script, ...words, "--diagram", file);
  assert(status === 2 || status === 3, `${status}`);
  await assertRejects(() => Deno.stat(file), Deno.errors.NotFound);
});

// Failures of the network, and their exit statuses

each(STREAMS, "says that a connection is refused: 7", async (script) => {
  for (const host of ["127.0.0.1", "::1"]) {
    const port = unusedPort();
    const words = script.ask(host, port);
    const { status, out, err } = await command(script, ...words);
    const why = `cannot connect to ${at(host, port)}: connection refused`;
    assertEquals([status, out, err], [7, "", `${script.name}: ${why}\n`]);
  }
});

each(SCRIPTS, "says that nothing came in time: 28", async (script) => {
  await using server = answering(script, true);
  const words = script.ask("127.0.0.1", server.port, 0.05);
  const { status, err } = await command(script, ...words);
  assertEquals(status, 28);
  assertOneLine(script, err);
});

each(SCRIPTS, "keeps an address to its family", async (script) => {
  for (const [option, host] of [["-4", "::1"], ["-6", "127.0.0.1"]]) {
    const words = [option, ...script.ask(host, 9)];
    const { status, err } = await command(script, ...words);
    assert(status === 2 || status === 6, `${status}`);
    assertOneLine(script, err);
    assertMatch(err, RegExp(`\\bIPv${option[1]} address`));
  }
});

/** A name server that knows no name, and does not answer for one of them. */
const NAME_SERVER = `
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("127.0.0.1", 53))
print("listening", flush=True)
while True:
    query, who = s.recvfrom(512)
    head = query[:2] + b"\\x81\\x83" + query[4:6] + b"\\0" * 6
    if b"silent" not in query: s.sendto(head + query[12:], who)
`;

/** A network with a name server, which answers or not. */
function names(): Promise<Namespace> {
  const file = "echo nameserver 127.0.0.1 > /mnt/resolv.conf";
  const mount = "mount --bind /mnt/resolv.conf /etc/resolv.conf";
  const setup = `mount -t tmpfs none /mnt && ${file} && ${mount}`;
  return Namespace.make(`${setup} && ip link set lo up`);
}

each(
  SCRIPTS,
  "tells an unknown name from a silent name server",
  async (script) => {
    await using here = await names();
    const ask = async (host: string, seconds: number) => {
      const words = script.ask(host, 7, seconds);
      await using client = here.script(script.name, ...words);
      const { code, stderr } = await client.finish();
      assertOneLine(script, stderr);
      return { code, stderr };
    };
    const none = await ask("nosuch.example", 8);
    assertEquals(none.code, 6);
    assertMatch(none.stderr, /name server/);
    await using server = here.start("python3", "-c", NAME_SERVER);
    await server.until(/listening/);
    const message = "cannot resolve nosuch.example: no such name";
    const stderr = `${script.name}: ${message}\n`;
    assertEquals(await ask("nosuch.example", 8), { code: 6, stderr });
    const words = ["-4", ...script.ask("nosuch.example", 7, 8)];
    await using client = here.script(script.name, ...words);
    assertEquals((await client.finish()).stderr, stderr, "of no family");
    const silent = await ask("silent.example", 1);
    assert(silent.code === 6 || silent.code === 28, silent.stderr);
    assertMatch(silent.stderr, /name server|silent\.example|timed out after/);
  },
  noNamespaces() || missing("python3"),
);

test("a server whose address a silent name server knows says so", {
  ignore: noNamespaces(),
}, async () => {
  await using here = await names(); // in which nothing answers
  await using server = here.script("echo_tcp", "--host", "nosuch.example");
  const { code, stderr } = await server.finish();
  assertEquals(code, 6);
  assertMatch(stderr, /^echo_tcp: cannot listen on nosuch\.example:7777: /);
  assertNotMatch(stderr, /no such name/);
});

each(SCRIPTS, "names the permission that it lacks", async (script) => {
  const host = script.transport === "tcp" ? "127.0.0.1" : "localhost";
  for (const to of [host, "nosuch.invalid"]) {
    const flags = ["run", "--no-prompt", "--quiet", `${script.name}.ts`];
    const args = [...flags, ...script.ask(to, 7)];
    await using client = new Running(Deno.execPath(), args, { cwd: ROOT });
    const { code, stderr } = await client.finish();
    assert(code !== 0, "it went on");
    assertOneLine(script, stderr);
    assertMatch(stderr, /net access|--allow-net/);
    assertNotMatch(stderr, /no such name/);
  }
});

// -v and --diagram

each(SCRIPTS, "keeps data on stdout, its trace on stderr", async (script) => {
  await using folder = await temporary();
  await using server = answering(script);
  const file = `${folder.path}/exchange.md`;
  const words = script.ask("127.0.0.1", server.port, 5);
  const traced = ["-v", "--diagram", file, ...words];
  const { code, stdout, stderr } = await run(script.name, traced);
  assertEquals(code, 0, stderr);
  assertMatch(stdout, /Monday|64 bytes from/);
  for (const line of stderr.trimEnd().split("\n")) {
    assertMatch(line, /^\d+\.\d{4} [*<>] [ -~]+$/);
    assert(line.length <= 80, line);
  }
  assertMatch(
    stderr,
    RegExp(`^\\S+ \\* .*127\\.0\\.0\\.1:${server.port}`, "m"),
  );
  assertMatch(stderr, /^\S+ < \d+ bytes? "[^\n]+"(\.\.\.)?$/m);
  const drawing = await Deno.readTextFile(file);
  assertMatch(drawing, /^```mermaid\nsequenceDiagram\n[^]*\n```\n$/);
  const others = `p2 as 127\\.0\\.0\\.1:${server.port}\n`;
  assertMatch(drawing, RegExp(`p1 as ${script.name}\n.* ${others}`));
});

each(SCRIPTS, "draws also when the exchange fails", async (script) => {
  await using folder = await temporary();
  await using server = answering(script, true);
  const file = `${folder.path}/exchange.md`;
  const words = script.ask("127.0.0.1", server.port, 0.05);
  const { status } = await command(script, ...words, "--diagram", file);
  assertEquals(status, 28);
  const drawing = await Deno.readTextFile(file);
  assertMatch(drawing, /\b(no (complete )?answer|timed out)\b[^]*\n```\n$/);
});

each(SCRIPTS, "says 23 when its drawing cannot be written", async (script) => {
  await using server = answering(script);
  const words = script.ask("127.0.0.1", server.port, 5);
  const drawing = ["--diagram", "/no/such/folder.md"];
  const { status, err } = await command(script, ...words, ...drawing);
  assertEquals(status, 23);
  assertOneLine(script, err);
  assertStringIncludes(err, "cannot write");
});

// Signals

each(SCRIPTS, "ends with 130 at Ctrl-C", async (script) => {
  await using server = answering(script, true);
  const words = ["-v", ...script.ask("127.0.0.1", server.port)];
  await using client = start(script.name, words);
  await client.until(
    RegExp(`127\\.0\\.0\\.1:${server.port}|^\\S+ >`, "m"),
    "stderr",
  );
  client.kill("SIGINT");
  const { code, stderr } = await client.finish();
  assertEquals(code, 130);
  assertNotMatch(stderr, /Uncaught| at .*:\d+:\d+/);
}, WINDOWS);

// Servers

/** Asks a server, until it is known to have seen it. */
async function visit(script: Script, port: number): Promise<void> {
  const words = script.ask("127.0.0.1", port, 5);
  const { code, stderr } = await run(script.name, words);
  assertEquals(code, 0, stderr);
}

each(
  SERVERS,
  "serves: address, a line a peer, a summary, 0",
  async (script) => {
    const { name, serve, transport } = script;
    await Promise.all((["SIGINT", "SIGTERM"] as const).map(async (signal) => {
      await using server = start(name, [...serve!, "--port", "0"]);
      const first = RegExp(`^listening on ${transport}://\\[::\\]:(\\d+)\n`);
      const port = Number((await server.until(first))[1]);
      await visit(script, port);
      server.kill(signal);
      const { code, stdout, stderr } = await server.finish();
      assertEquals([code, stderr], [0, ""]);
      const peer =
        /^(tcp |udp )?127\.0\.0\.1:\d+ .*\b\d+ bytes.* in \d+\.\d{3} s/gm;
      assertEquals(stdout.match(peer)?.length, 1, stdout);
      const near = stdout.match(/^on the local network: .*$/m)?.[0] ?? "";
      if (near) assertMatch(near, RegExp(`//[\\d.]+:${port}$`));
      assertMatch(stdout, /\n(served|answered) 1 [^\n]+\n$/);
    }));
  },
  WINDOWS,
);

each(SERVERS, "--quiet prints one line, --host says which", async (script) => {
  const cases: [string[], string][] = [
    [["-q"], "[::]"],
    [["-q", "--host", "::1"], "[::1]"],
    [["--quiet", "--host", "127.0.0.1"], "127.0.0.1"],
  ];
  await Promise.all(cases.map(async ([args, address]) => {
    const words = [...script.serve!, "--port", "0", ...args];
    await using server = start(script.name, words);
    const port = Number((await server.until(/:(\d+)\n/))[1]);
    if (address !== "[::1]") await visit(script, port);
    server.kill("SIGTERM");
    const { code, stdout, stderr } = await server.finish();
    assertEquals([code, stderr], [0, ""]);
    const line = `listening on ${script.transport}://${address}:${port}\n`;
    assertEquals(stdout, line);
  }));
}, WINDOWS);

each(SERVERS, "says where it cannot listen, and what to do", async (script) => {
  await using first = start(script.name, [...script.serve!, "--port", "0"]);
  const [, port] = await first.until(/:(\d+)\n/);
  const serve = (...args: string[]) =>
    command(script, ...script.serve!, ...args);
  const busy = await serve("--port", port);
  assertEquals([busy.status, busy.out], [1, ""]);
  assertOneLine(script, busy.err);
  assertMatch(busy.err, RegExp(`\\b${port}\\b.* in use.*--port`));
  const nowhere = await serve("--port", "0", "--host", "192.0.2.77");
  assertEquals([nowhere.status, nowhere.out], [1, ""]);
  const why = "cannot listen on 192.0.2.77:0: cannot assign requested address";
  const err = nowhere.err.replace("can't", "cannot"); // macOS says can't
  assertEquals(err, `${script.name}: ${why}\n`);
}, WINDOWS);

const threshold = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
const isOpen = !LINUX || Number(Deno.readTextFileSync(threshold)) < 14;

each(
  SERVERS,
  "says which port to try where it lacks rights",
  async (script) => {
    const capability = "-net_bind_service";
    const drop = [`--bounding-set=${capability}`, `--inh-caps=${capability}`];
    const words = ["run", "-A", `${script.name}.ts`, ...script.serve!];
    const deno = [Deno.execPath(), ...words, "--port", "daytime"];
    const args = Deno.uid() === 0 ? [...drop, ...deno] : deno;
    await using server = new Running("setpriv", args, { cwd: ROOT });
    const { code, stdout, stderr } = await server.finish();
    assertEquals([code, stdout], [1, ""]);
    assertOneLine(script, stderr);
    assertMatch(stderr, /port 13 needs more rights: try --port 1313\n$/);
  },
  isOpen || missing("setpriv"),
);
