// What holds for every script, a table and a test a sentence.
import {
  assert,
  assertEquals,
  assertMatch,
  assertNotMatch,
  assertStringIncludes,
} from "jsr:@std/assert@^1";
import { missing, ROOT, run, Running, start, test } from "./helpers.ts";

const WINDOWS = Deno.build.os === "windows";
const bytes = (text: string) => Uint8Array.from(text, (c) => c.charCodeAt(0));

type Script = {
  name: string;
  /** what help names, with the default that it must tell */
  options: Record<string, string>;
  /** the words that ask a server, which is silent unless it is the script's own, and give up after so many seconds */
  ask: (hostname: string, port: number | string, seconds?: number) => string[];
  /** what a client asks, and gets: with bytes that would drive a terminal */
  question: RegExp;
  answer: string;
  /** of what a client was sent, this much goes to stdout */
  body: string;
  transport: "tcp" | "udp";
  /** the options that make a server of it */
  serve?: string[];
  /** command lines that cannot be meant, beside a server to ask, and what a message must name */
  bad: [string[], string][];
};

const EVIL = "\x1b[2J\x07evil\r\n";
const family = {
  "--ipv4": "",
  "--ipv6": "",
  "--verbose": "",
  "--help": "",
  "--version": "",
  "--diagram": "",
};
const listening = { "--host": "::", "--reuse-port": "", "--quiet": "" };
const bracketed = (hostname: string) =>
  hostname.includes(":") ? `[${hostname}]` : hostname;

const SCRIPTS: Script[] = [{
  name: "echo_tcp",
  options: {
    ...{
      ...family,
      ...listening,
      "--port": "7777",
      "--max-connections": "0",
      "--idle-timeout": "0",
      "--connect": "",
    },
    ...{ "--timeout": "5", "--count": "", "--size": "64", "--interval": "1" },
  },
  ask: (
    hostname,
    port,
    seconds = 0,
  ) => ["-c", `${bracketed(hostname)}:${port}`, "-n", "1", "-w", `${seconds}`],
  question: /^/,
  answer: "hello\n",
  body: "hello\n",
  transport: "tcp",
  serve: [],
  bad: [
    [["-w", "soon"], "soon"],
    [["-n", "1.5"], "1.5"],
    [["--size", "-1"], ""],
    [["-i", ""], "interval"],
    [["word"], "word"],
    [["--max-connections", "1"], "max-connections"],
  ],
}, {
  name: "echo_udp",
  options: {
    ...{ ...family, ...listening, "--port": "7777", "--connect": "" },
    ...{ "--timeout": "5", "--count": "", "--size": "64", "--interval": "1" },
  },
  ask: (
    hostname,
    port,
    seconds = 0,
  ) => ["-c", `${bracketed(hostname)}:${port}`, "-n", "1", "-w", `${seconds}`],
  question: /^/,
  answer: "hello\n",
  body: "hello\n",
  transport: "udp",
  serve: [],
  bad: [
    [["-w", "soon"], "soon"],
    [["-n", "many"], "many"],
    [["--size", "65508"], "65508"],
    [["-i", ""], "interval"],
    [["word"], "word"],
    [["--reuse-port"], "reuse-port"],
  ],
}, {
  name: "daytime",
  options: {
    ...family,
    ...listening,
    "--port": "1313",
    "--udp": "",
    "--timeout": "5",
    "--json": "",
    "--serve": "",
  },
  ask: (
    hostname,
    port,
    seconds = 0,
  ) => [hostname, `${port}`, "-w", `${seconds}`],
  question: /^$/,
  answer: EVIL,
  body: EVIL,
  transport: "tcp",
  serve: ["--serve"],
  bad: [[["-w", "soon"], "soon"], [["word"], "word"], [["-w", ""], "timeout"], [
    ["--host", "::1"],
    "host",
  ]],
}, {
  name: "http_get",
  options: {
    ...{
      ...family,
      "--include": "",
      "--head": "",
      "--location": "",
      "--max-redirs": "20",
      "--output": "",
    },
    ...{
      "--header": "",
      "--user-agent": "",
      "--fail": "",
      "--max-time": "",
      "--connect-timeout": "",
    },
    ...{
      "--compressed": "",
      "--cacert": "",
      "--max-filesize": "",
      "--http1.0": "",
      "--silent": "",
    },
  },
  ask: (
    hostname,
    port,
    seconds = 0,
  ) => [`http://${bracketed(hostname)}:${port}/`, "-m", `${seconds}`],
  question: /^GET \/ HTTP\/1\.1\r\n/,
  answer:
    `HTTP/1.1 200 OK\r\nServer: ${EVIL}Content-Length: ${EVIL.length}\r\n\r\n${EVIL}`,
  body: EVIL,
  transport: "tcp",
  bad: [
    [["-m", "soon"], "soon"],
    [["word"], "word"],
    [["--max-redirs", "-1"], ""],
    [["--max-redirs", "all"], "all"],
    [["-o", ""], "output"],
    [["-H", "no colon"], "no colon"],
  ],
}];
const SERVERS = SCRIPTS.filter(({ serve }) => serve);
const STREAMS = SCRIPTS.filter(({ transport }) => transport === "tcp");

type Test = (script: Script) => Promise<void>;

/** A test a script. */
function each(
  scripts: Script[],
  sentence: string,
  body: Test,
  options: Partial<Deno.TestDefinition> = {},
) {
  for (const script of scripts) {
    test({
      name: `${script.name} ${sentence}`,
      fn: () => body(script),
      ...options,
    });
  }
}

/** Runs a command line in this process: its status, and what it prints. */
async function command({ name }: Script, ...args: string[]) {
  const { main } = await import(new URL(`${name}.ts`, ROOT).href);
  const { log, error } = console,
    { stdout } = Deno,
    { write } = stdout,
    err: string[] = [];
  let out = "";
  console.log = (line) => out += `${line}\n`;
  console.error = (line) => void err.push(line);
  stdout.write = (part) =>
    Promise.resolve((out += new TextDecoder().decode(part), part.length));
  try {
    const status: number = await main(args);
    return { status, out, err: err.join("\n") };
  } finally {
    console.log = log, console.error = error, stdout.write = write;
  }
}

/** That a failure is told in one line, which no part of can drive a terminal. */
function assertOneLine({ name }: Script, text: string) {
  assertMatch(text, new RegExp(`^${name}: [^\\n\\x1b]+$`));
  assertNotMatch(text, /\bat .*:\d+:\d+|Uncaught|\[object/);
}

/** A server of either transport that answers its first client as the script expects, or not at all. */
function answering({ transport, answer, name }: Script, silent = false) {
  const hostname = "127.0.0.1";
  if (transport === "udp") {
    const socket = Deno.listenDatagram({ transport, hostname, port: 0 });
    const done = (async () => {
      const [datagram, from] = await socket.receive(new Uint8Array(65_535));
      if (!silent) await socket.send(datagram, from);
    })().catch(() => {});
    const end = () => (socket.close(), done);
    return {
      port: (socket.addr as Deno.NetAddr).port,
      [Symbol.asyncDispose]: end,
    };
  }
  const listener = Deno.listen({ hostname, port: 0 }),
    over = Promise.withResolvers<void>();
  const done = (async () => {
    using conn = await listener.accept();
    if (silent) return await over.promise;
    const buffer = new Uint8Array(65_536);
    if (name !== "echo_tcp") {
      await (name === "http_get" && conn.read(buffer)),
        await conn.write(bytes(answer));
    } else {for (let n; (n = await conn.read(buffer));) {
        await conn.write(buffer.subarray(0, n));
      }}
  })().catch(() => {});
  const end = async () => {
    over.resolve(), listener.close();
    await done;
  };
  return { port: listener.addr.port, [Symbol.asyncDispose]: end };
}

/** A port where nobody listens. */
function nobody(): number {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  listener.close();
  return listener.addr.port;
}

async function temporary<T>(work: (file: string) => Promise<T>): Promise<T> {
  const folder = await Deno.makeTempDir();
  try {
    return await work(`${folder}/exchange.md`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

// -h, --help and -V, --version

each(
  SCRIPTS,
  "tells its options with their defaults, examples and exit statuses at --help",
  async ({ name, options }) => {
    const [help, short] = await Promise.all([
      run(name, ["--help"]),
      run(name, ["-h"]),
    ]);
    assertEquals([help.code, help.stderr, help.stdout], [0, "", short.stdout]);
    assertMatch(help.stdout, new RegExp(`^${name}: .*\n\nusage: ${name} `));
    for (const [option, value] of Object.entries(options)) {
      const line = help.stdout.split("\n").find((line) =>
        line.match(/^ +(-\w, )?(--[\w.-]+)/)?.[2] === option
      );
      assert(line, `${option} is not in the help`);
      assert(
        !value || new RegExp(`\\(${value}\\b|\\(${value},`).test(line),
        `${line} does not say ${value}`,
      );
    }
    assertMatch(help.stdout, new RegExp(`\nexamples:\n  ${name} `));
    const [, statuses] = help.stdout.match(/\nexit status: ([^]*)$/) ?? [];
    for (const status of ["0 done", "2 usage", "6 ", "23 ", "28 ", "130 "]) {
      assertStringIncludes(statuses, status);
    }
    for (const line of help.stdout.split("\n")) assert(line.length <= 80, line);
  },
);

each(SCRIPTS, "tells its version", async ({ name }) => {
  for (
    const { code, stdout, stderr } of await Promise.all([
      run(name, ["-V"]),
      run(name, ["--version"]),
    ])
  ) {
    assertEquals([code, stdout, stderr], [0, `${name} 1.0.0\n`, ""]);
  }
});

// stdout and stderr, -v, --diagram

each(
  SCRIPTS,
  "-v keeps data on stdout, and shows the exchange on stderr, a line an event",
  async (script) => {
    const { name, ask, answer, body, question } = script;
    await temporary(async (file) => {
      await using server = answering(script);
      const echoes = name.startsWith("echo");
      const words = echoes
        ? ["-c", `127.0.0.1:${server.port}`]
        : ask("127.0.0.1", server.port);
      const input = echoes ? answer : "";
      const { code, stdout, stderr } = await run(name, [
        "-v",
        "--diagram",
        file,
        ...words,
      ], input);
      assertEquals(stdout, body);
      assertEquals(code, 0, stderr);
      const lines = stderr.trimEnd().split("\n");
      for (const line of lines) assertMatch(line, /^\d+\.\d{4} [*<>] [ -~]+$/);
      const seen = lines.map((line) => line.replace(/^\S+ /, ""));
      assert(
        seen.some((line) =>
          new RegExp(`^\\* .*127\\.0\\.0\\.1:${server.port}`).test(line)
        ),
        stderr,
      );
      if (question.test("")) {
        assertEquals(seen.some((line) => /^> \d+ bytes? "/.test(line)), echoes);
      } else {assertMatch(
          stderr,
          /^\S+ > \d+ bytes? "GET \/ HTTP\/1\.1\\r\\n/m,
        );}
      assertMatch(stderr, /^\S+ < \d+ bytes? ".{1,60}"(\.\.\.)?$/m);
      if (!echoes) {
        assertStringIncludes(
          stderr,
          name === "daytime"
            ? '"\\x1b[2J\\x07evil\\r\\n"'
            : "\\x1b[2J\\x07evil",
        );
      }

      const drawing = await Deno.readTextFile(file);
      assertMatch(drawing, /^```mermaid\nsequenceDiagram\n[^]*\n```\n$/);
      assertMatch(
        drawing,
        new RegExp(
          `participant client as ${name}\n +participant s1 as 127\\.0\\.0\\.1:${server.port}\n`,
        ),
      );
      assertMatch(drawing, /s1-+(>>|\))client: \d+ bytes? "/);
      assert(!drawing.includes("\x1b"), drawing);
    });
  },
);

each(
  SCRIPTS,
  "draws its diagram also when the exchange fails",
  async (script) => {
    await temporary(async (file) => {
      await using server = answering(script, true);
      const { status } = await command(
        script,
        ...script.ask("127.0.0.1", server.port, 0.05),
        "--diagram",
        file,
      );
      assertEquals(status, 28);
      assertMatch(
        await Deno.readTextFile(file),
        /^```mermaid\nsequenceDiagram\n[^]*(within 0\.05 s|no answer)[^]*\n```\n$/,
      );
    });
  },
);

each(SCRIPTS, "says 23 when its diagram cannot be written", async (script) => {
  await temporary(async (file) => {
    await using server = answering(script);
    const args = [
      ...script.ask("127.0.0.1", server.port),
      "--diagram",
      `${file}/no/folder`,
    ];
    const { code, stderr } = await run(script.name, args);
    assertEquals(code, 23);
    assertOneLine(script, stderr.trimEnd());
    assertStringIncludes(stderr, "cannot write");
  });
});

// Errors, and the exit statuses of what every client can meet

each(
  STREAMS,
  "says in one line that the connection was refused: 7",
  async (script) => {
    const port = nobody(),
      { status, out, err } = await command(
        script,
        ...script.ask("127.0.0.1", port),
      );
    assertEquals([status, err], [
      7,
      `${script.name}: cannot connect to 127.0.0.1:${port}: connection refused`,
    ]);
    assertEquals(out, "");
  },
);

each(
  SCRIPTS,
  "says in one line that a name is not known: 6",
  async (script) => {
    const { status, err } = await command(
      script,
      ...script.ask("nosuch.invalid", 7),
    );
    assertEquals([status, err], [
      6,
      `${script.name}: cannot resolve nosuch.invalid: no such name`,
    ]);
  },
  { sanitizeResources: false },
); // Deno 2.4 keeps the handle that could have cancelled the attempt

each(
  SCRIPTS,
  "says in one line that nothing came in time: 28",
  async (script) => {
    await using server = answering(script, true);
    const { status, err } = await command(
      script,
      ...script.ask("127.0.0.1", server.port, 0.05),
    );
    assertEquals(status, 28);
    assertOneLine(script, err);
  },
);

each(SCRIPTS, "-4 and -6 keep it to a family", async (script) => {
  for (const [option, hostname] of [["-4", "::1"], ["-6", "127.0.0.1"]]) {
    const { status, err } = await command(
      script,
      option,
      ...script.ask(hostname, 9),
    );
    assertEquals(status, 6, err);
    assertOneLine(script, err);
    assertMatch(err, new RegExp(`no IPv${option[1]} address`));
  }
});

each(STREAMS, "prints IPv6 addresses in brackets", async (script) => {
  const { status, err } = await command(script, ...script.ask("::1", nobody()));
  assertEquals(status, 7);
  assertMatch(err, /cannot connect to \[::1\]:\d+: /);
});

// daytime is what a URL cannot say: http_get takes numbers there
each(
  STREAMS.filter(({ name }) => name !== "http_get"),
  "takes a service's name for a port",
  async (script) => {
    const { err } = await command(
      script,
      ...script.ask("127.0.0.1", "discard"),
    );
    assertMatch(err, /^\w+: cannot connect to 127\.0\.0\.1:9: /);
  },
);

// Bad command lines

each(
  SCRIPTS,
  "refuses a bad command line in one line that names the offender, before anything is sent",
  async (script) => {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = listener.addr,
      cases: [string[], string][] = [
        ...script.bad,
        [["--verbos"], "--verbose"],
        [["--versoin"], "--version"],
        [["--diagarm=x.md"], "--diagram"],
        [["-Z"], "-Z"],
        [["--\x1b[2J"], "\\x1b[2J"],
        [["--verbose=yes"], "verbose"],
        [["--no-verbose"], "--no-verbose"],
        [["--diagram"], "diagram"],
        [["--diagram="], "diagram"],
        [["--diagram", "-v"], "diagram"],
        [["--", "word", "word", "word"], "word"],
        [[""], "empty"],
        [["-4", "-6"], "-4"],
      ];
    for (const [args, offender] of cases) {
      const { status, out, err } = await command(
        script,
        ...script.ask("127.0.0.1", port),
        ...args,
      );
      assertEquals([status, out], [2, ""], `${args.join(" ")}: ${err}`);
      assertOneLine(script, err);
      assertStringIncludes(err, offender, args.join(" "));
    }
    for (const port of ["65536", "-1", "nosuch"]) {
      const { status, err } = await command(
        script,
        ...script.ask("127.0.0.1", port),
      );
      assert(
        status === 2 || status === 3 && script.name === "http_get",
        `${status} for port ${port}`,
      );
      assertOneLine(script, err);
    }
    using mine = await Deno.connect({ hostname: "127.0.0.1", port });
    using first = await listener.accept();
    assertEquals(
      first.remoteAddr.port,
      mine.localAddr.port,
      "it connected all the same",
    );
  },
);

// Signals, and pipes that end

each(SCRIPTS, "ends with 130 at Ctrl-C", async (script) => {
  await using server = answering(script, true);
  await using client = start(script.name, [
    "-v",
    ...script.ask("127.0.0.1", server.port),
  ]);
  await client.until(/ (connected to|asking) .*\n/, "stderr");
  client.kill("SIGINT");
  const { code, stderr } = await client.finish();
  assertEquals(code, 130);
  assertNotMatch(stderr, /Uncaught| at .*:\d+:\d+/);
}, { ignore: WINDOWS });

each(SCRIPTS, "ends quietly when nobody reads its help", async ({ name }) => {
  const line = `"$0" run -A ${name}.ts --help | true`;
  const { stderr } = await new Running("bash", ["-c", line, Deno.execPath()], {
    cwd: ROOT,
  }).finish();
  assertEquals(stderr, "");
}, { ignore: missing("bash") });

// Servers

/** Asks a server, until it is known to have seen it. */
async function visit(script: Script, port: number): Promise<void> {
  const { code, stderr } = await run(
    script.name,
    script.ask("127.0.0.1", port, 5),
  );
  assertEquals(code, 0, stderr);
}

each(
  SERVERS,
  "serves: the address first, a line a peer, a summary, and 0 at SIGINT and SIGTERM",
  async (script) => {
    const signals = ["SIGINT", "SIGTERM"] as const;
    await Promise.all(signals.map(async (signal) => {
      await using server = start(script.name, [
        ...script.serve!,
        "--port",
        "0",
      ]);
      const [, port] = await server.until(
        /^listening on (?:tcp|udp):\/\/\[::\]:(\d+)\n/,
      );
      await visit(script, Number(port));
      server.kill(signal);
      const { code, stdout, stderr } = await server.finish();
      assertEquals([code, stderr], [0, ""]);
      const lines = stdout.trimEnd().split("\n");
      assertMatch(
        lines[0],
        new RegExp(`^listening on ${script.transport}://\\[::\\]:${port}$`),
      );
      const near = lines.filter((line) =>
        line.startsWith("from the local network: ")
      );
      for (const line of near) {
        assertMatch(line, new RegExp(`: (tcp|udp)://[\\d.]+:${port}$`));
      }
      const told = lines.filter((line) =>
        /127\.0\.0\.1:\d+ .*\b\d+ bytes.* in \d+\.\d{3} s/.test(line)
      );
      assertEquals(told.length, 1, stdout);
      assertMatch(lines.at(-1)!, /^(served|answered) 1 /);
    }));
  },
  { ignore: WINDOWS },
);

each(
  SERVERS,
  "--quiet prints one line, --host and the family say which",
  async (script) => {
    const cases: [string[], string][] = [
      [["-q"], "[::]"],
      [["-q", "-4"], "0.0.0.0"],
      [["-q", "-6"], "[::]"],
      [["--quiet", "--host", "127.0.0.1"], "127.0.0.1"],
    ];
    await Promise.all(cases.map(async ([args, address]) => {
      await using server = start(script.name, [
        ...script.serve!,
        "--port",
        "0",
        ...args,
      ]);
      const [, port] = await server.until(/:(\d+)\n/);
      if (!args.includes("-6")) await visit(script, Number(port));
      server.kill("SIGTERM");
      const { code, stdout, stderr } = await server.finish();
      assertEquals([code, stderr], [0, ""]);
      assertEquals(
        stdout,
        `listening on ${script.transport}://${address}:${port}\n`,
        args.join(" "),
      );
    }));
  },
  { ignore: WINDOWS },
);

each(
  SERVERS,
  "--reuse-port lets several processes have one port, which is busy without",
  async (script) => {
    await using first = start(script.name, [
      ...script.serve!,
      "--host",
      "127.0.0.1",
      "--port",
      "0",
      "--reuse-port",
    ]);
    const [, port] = await first.until(/listening on .*:(\d+)\n/),
      at = ["--host", "127.0.0.1", "--port", port];
    await using second = start(script.name, [
      ...script.serve!,
      ...at,
      "--reuse-port",
    ]);
    await second.until(/listening on .*\n/);
    const { status, out, err } = await command(script, ...script.serve!, ...at);
    assertEquals([status, out], [1, ""]);
    assertEquals(
      err,
      `${script.name}: cannot listen on 127.0.0.1:${port}: address already in use: try --port 0`,
    );
    for (const server of [first, second]) server.kill("SIGTERM");
    for (const server of [first, second]) {
      assertEquals(
        (await server.finish()).code,
        0,
      );
    }
  },
  { ignore: Deno.build.os !== "linux" },
);

const threshold = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
const open = Deno.build.os !== "linux" ||
  Number(Deno.readTextFileSync(threshold)) < 14; // no port needs rights here

each(
  SERVERS,
  "says which port to try where a low one needs more rights",
  async (script) => {
    const drop = Deno.uid() === 0
      ? ["--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"]
      : [];
    const args = [
      ...drop,
      Deno.execPath(),
      "run",
      "-A",
      `${script.name}.ts`,
      ...script.serve!,
      "--port",
      "daytime",
    ];
    const { code, stdout, stderr } = await new Running("setpriv", args, {
      cwd: ROOT,
    }).finish();
    assertEquals([code, stdout], [1, ""]);
    const hint =
      "permission denied: port 13 needs more rights: try --port 1313";
    assertEquals(stderr, `${script.name}: cannot listen on [::]:13: ${hint}\n`);
  },
  { ignore: open || missing("setpriv") },
);

each(
  SERVERS,
  "refuses what is for the client, and cannot be meant by a server, in one line",
  async (script) => {
    const cases: [string[], string][] = [
      [["--timeout", "1"], "timeout"],
      [["--diagram", "x.md"], "diagram"],
      [["--port", "65536"], "65536"],
      [["--port", "nosuch"], "nosuch"],
      [["--port"], "port"],
      [["--host", "a b"], "a b"],
      [["--host", "127.0.0.1:80"], "127.0.0.1:80"],
      [["--host", "::1", "-4"], "::1"],
      [["--host", "127.0.0.1", "-6"], "127.0.0.1"],
      [["word"], "word"],
    ];
    for (const [args, offender] of cases) {
      const { status, out, err } = await command(
        script,
        ...script.serve!,
        "--port",
        "0",
        ...args,
      );
      assertEquals([status, out], [2, ""], `${args.join(" ")}: ${err}`);
      assertOneLine(script, err);
      assertStringIncludes(err, offender);
    }
  },
);
