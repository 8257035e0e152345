import {
  assert,
  assertEquals,
  assertLess,
  assertMatch,
} from "jsr:@std/assert@^1";
import { missing, ROOT, run, Running, start, test } from "./helpers.ts";
import {
  bytes,
  checksum,
  compress,
  folder,
  hold,
  random,
  RawServer,
  write,
} from "./http_servers.ts";

const OK = "HTTP/1.1 200 OK\r\n", HI = `${OK}Content-Length: 2\r\n\r\nhi`;
const WINDOWS = Deno.build.os === "windows";
const ERASE = "\x1b[K"; // to the end of the line
const SCRIPT = new URL("http_get.ts", ROOT).pathname;
const COMMAND = [Deno.execPath(), "run", "-A", "--no-prompt", SCRIPT];

/** The script with a terminal for its input, output and errors; `before` are shell commands. */
function onTerminal(args: string[], before = ":"): Running {
  const python =
    "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
  return new Running("python3", [
    "-c",
    python,
    "sh",
    "-c",
    `${before}; exec "$@"`,
    "sh",
    ...COMMAND,
    ...args,
  ], {
    cwd: ROOT,
  });
}

test("http_get writes the body to standard output, and nothing else anywhere", async () => {
  await using server = new RawServer(
    `${OK}Content-Length: 6\r\n\r\n\x00\x1b[1m\xff`,
  );
  await using script = start("http_get", [server.url().href]);
  const { code, stdout, stderr } = await script.finish();
  assertEquals([code, stdout, stderr], [0, "\0\x1b[1m\ufffd", ""]);
});

test("http_get prints its usage, and its version", async () => {
  const help = await run("http_get", ["--help"]);
  assertEquals([help.code, help.stderr], [0, ""]);
  for (
    const part of [
      "usage: http_get",
      "-o, --output FILE",
      "examples:",
      "exit status: 0 done",
      "(20)",
    ]
  ) {
    assert(help.stdout.includes(part), part);
  }
  assert(help.stdout.split("\n").every((line) => line.length <= 120));
  assertEquals((await run("http_get", ["-V"])).stdout, "http_get 1.0.0\n");
});

test("http_get says where it could not connect, and to whom", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 }),
    { port } = listener.addr;
  listener.close();
  const cases: [number, RegExp, ...string[]][] = [
    [
      7,
      /^http_get: cannot connect to 127\.0\.0\.1:\d+: connection refused\n$/,
      `127.0.0.1:${port}`,
    ],
    [
      6,
      /^http_get: cannot resolve 127\.0\.0\.1: [^\n]+\n$/,
      "-6",
      `http://127.0.0.1:${port}/`,
    ],
    [
      6,
      /^http_get: cannot resolve nowhere\.invalid: [^\n]+\n$/,
      "http://nowhere.invalid/",
    ],
  ];
  for (const [status, says, ...args] of cases) {
    const { code, stdout, stderr } = await run("http_get", args);
    assertEquals([code, stdout], [status, ""], stderr);
    assertMatch(stderr, says);
  }
});

test("http_get shows the exchange with -v, on stderr", async () => {
  await using server = new RawServer(
    `${OK}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n`,
  );
  const { stdout, stderr } = await run("http_get", ["-v", server.url().href]);
  assertEquals(stdout, "hi");
  const marks = stderr.trimEnd().split("\n").map((line) =>
    line.replace(/^\d+\.\d+ /, "")
  );
  assertEquals(marks.map((line) => line[0]).join(""), "*><****", stderr);
  assertEquals(marks.slice(3), [
    "* body: chunked (RFC 9112 6.3, rule 4)",
    "* chunk: 2 bytes",
    "* chunk: 0 bytes, the last",
    "* closed",
  ]);
});

test("http_get ends quietly when nobody reads its output any more", {
  ignore: WINDOWS,
}, async () => {
  await using server = new RawServer(async (conn) => {
    await write(conn, `${OK}\r\n`);
    for (;;) await write(conn, "endless ".repeat(1000));
  });
  const shell = `("$@"; echo "status $?" >&2) | head -c 10`;
  await using script = new Running("sh", [
    "-c",
    shell,
    "sh",
    ...COMMAND,
    server.url().href,
  ]);
  const { stdout, stderr } = await script.finish();
  assertEquals([stdout, stderr], ["endless en", "status 23\n"]);
});

/** Runs the script with an output that nobody reads, and what comes of it. */
async function unread(
  args: string[],
  then: (child: Deno.ChildProcess) => void = () => {},
) {
  const child = new Deno.Command(COMMAND[0], {
    args: [...COMMAND.slice(1), ...args],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  then(child);
  const [{ code }, stderr] = await Promise.all([
    child.status,
    new Response(child.stderr).text(),
  ]);
  await child.stdout.cancel();
  return { code, stderr };
}

/** A server that sends without end, and tells when the client stopped taking it. */
function pouring(): { server: RawServer; stuck: Promise<void> } {
  const { promise: stuck, resolve } = Promise.withResolvers<void>();
  const server = new RawServer(async (conn) => {
    await write(conn, `${OK}\r\n`);
    for (const piece = new Uint8Array(1 << 16);;) {
      const idle = setTimeout(resolve, 300);
      await write(conn, piece).finally(() => clearTimeout(idle));
    }
  });
  return { server, stuck };
}

test(
  "http_get -m ends it though nobody reads its output",
  { ignore: WINDOWS },
  async () => {
    const { server } = pouring();
    await using _ = server;
    assertEquals(await unread(["-m", "0.5", server.url().href]), {
      code: 28,
      stderr: "http_get: not done within 0.5 s\n",
    });
  },
);

test("http_get ends with 130 at Ctrl-C, though nobody reads its output", {
  ignore: WINDOWS,
}, async () => {
  const { server, stuck } = pouring();
  await using _ = server;
  const interrupt = (child: Deno.ChildProcess) =>
    void stuck.then(() => child.kill("SIGINT"));
  assertEquals(await unread([server.url().href], interrupt), {
    code: 130,
    stderr: "",
  });
});

test(
  "http_get -o leaves nothing behind at Ctrl-C",
  { ignore: WINDOWS },
  async () => {
    using dir = folder();
    const sent = Promise.withResolvers<void>();
    await using server = new RawServer(async (conn) => {
      await write(conn, `${OK}Content-Length: 9\r\n\r\nhello`);
      sent.resolve();
      await hold(conn);
    });
    await using script = start("http_get", [
      "-o",
      `${dir.path}/a`,
      server.url().href,
    ]);
    await sent.promise;
    assertEquals(dir.names().filter((name) => name === "a"), []);
    script.kill("SIGINT");
    const { code, stdout, stderr } = await script.finish();
    assertEquals([code, stdout, stderr, dir.names()], [130, "", "", []]);
  },
);

test(
  "http_get writes a large body to a file, to a pipe and with -o, all of it",
  { ignore: WINDOWS },
  async () => {
    using dir = folder();
    const body = random(5_000_000), sum = await checksum(body);
    await using server = new RawServer(async (conn) => {
      await write(conn, `${OK}Content-Length: ${body.length}\r\n\r\n`);
      await write(conn, body);
    });
    const ways = [
      '> "$0"',
      '| cat > "$0"',
      '-o "$0"',
      '-o - > "$0"',
      '-o /dev/stdout | cat > "$0"',
      '-o /dev/fd/3 3> "$0"',
    ];
    for (const shell of ways.map((way) => `"$@" ${way}`)) {
      await using script = new Running("sh", [
        "-c",
        shell,
        `${dir.path}/a`,
        ...COMMAND,
        server.url().href,
      ]);
      assertEquals((await script.finish()).code, 0, shell);
      assertEquals(
        await checksum(Deno.readFileSync(`${dir.path}/a`)),
        sum,
        shell,
      );
      Deno.removeSync(`${dir.path}/a`);
    }
  },
);

test("http_get says when it cannot write its output", {
  ignore: Deno.build.os !== "linux",
}, async () => {
  await using server = new RawServer(HI);
  await using script = new Running("sh", [
    "-c",
    `"$@" > /dev/full`,
    "sh",
    ...COMMAND,
    server.url().href,
  ]);
  const { code, stderr } = await script.finish();
  assertEquals([code, stderr], [
    23,
    "http_get: cannot write the output: no space left on device\n",
  ]);
  assertEquals(
    (await run("http_get", ["-o", "/dev/full", server.url().href])).code,
    23,
  );
});

// Older versions of Deno open a pipe in the thread that all else waits for: nothing can be done then.
if (!/^2\.[0-4]\./.test(Deno.version.deno)) {
  test(
    "http_get -o waits for a pipe without a reader until the time is over",
    { ignore: missing("mkfifo") },
    async () => {
      using dir = folder();
      await using server = new RawServer(HI);
      const fifo = `${dir.path}/fifo`;
      assertEquals((await new Running("mkfifo", [fifo]).finish()).code, 0);
      for (const option of ["-o", "--cacert"]) {
        const { code, stderr } = await run("http_get", [
          "-m",
          "0.1",
          option,
          fifo,
          server.url().href,
        ]);
        assertEquals(
          [code, stderr],
          [28, "http_get: not done within 0.1 s\n"],
          option,
        );
      }
      assertEquals(server.requests, []);
    },
  );
}

test(
  "http_get -o does not replace what it could not write to",
  { ignore: Deno.build.os !== "linux" },
  async () => {
    using dir = folder();
    await using server = new RawServer(HI);
    const busy = `${dir.path}/sleep`; // a program under way cannot be written to, by root neither
    Deno.copyFileSync("/bin/sleep", busy);
    await using _program = new Running(busy, ["60"]);
    const { code, stderr } = await run("http_get", [
      "-o",
      busy,
      server.url().href,
    ]);
    assertEquals([code, dir.names()], [23, ["sleep"]]);
    assertMatch(stderr, /^http_get: cannot write .*sleep: text file busy\n$/);
  },
);

test("http_get -o refuses a terminal, which a server could drive", {
  ignore: missing("python3"),
}, async () => {
  await using server = new RawServer(HI);
  await using script = onTerminal(["-o", "/dev/tty", server.url().href]);
  const { code, stdout } = await script.finish();
  assertEquals([code, stdout.trim()], [
    23,
    "http_get: /dev/tty is a terminal: it is written to without -o",
  ]);
});

test(
  "http_get pours no binary onto a terminal",
  { ignore: missing("python3") },
  async () => {
    await using server = new RawServer(`${OK}Content-Length: 4\r\n\r\na\0bc`);
    for (const args of [[], ["-o", "-"], ["-o", "/dev/stdout"]]) {
      await using script = onTerminal([...args, server.url().href]);
      const { code, stdout } = await script.finish();
      assertEquals(code, 23);
      assertMatch(
        stdout,
        /^http_get: a terminal is not for binary.*-o FILE.*\r\n$/,
      );
    }
  },
);

test("http_get lets no server drive the terminal", {
  ignore: missing("python3"),
}, async () => {
  await using server = new RawServer(
    "HTTP/1.1 200 \x1b[31mred\r\nA: \x07bell\r\n\r\na\tb\r\nc\x1b]0;title\x07\rd\x7f\xc3\xa9\xc2\x9b1m\n",
  );
  await using script = onTerminal(["-i", server.url().href]);
  const { code, stdout } = await script.finish();
  assertEquals(code, 0);
  const shown = "HTTP/1.1 200 \\x1b[31mred\r\nA: \\x07bell\r\n\r\n" +
    "a\tb\r\nc\\x1b]0;title\\x07\\rd\\x7fé\\x9b1m\n";
  assertEquals(stdout.replace(/\r*\n/g, "\n"), shown.replace(/\r*\n/g, "\n")); // the terminal adds CRs of its own
});

test(
  "http_get shows the progress of -o on a terminal, and leaves its last line there",
  { ignore: missing("python3") },
  async () => {
    using dir = folder();
    const more = Promise.withResolvers<void>();
    await using server = new RawServer(async (conn) => {
      await write(conn, `${OK}Content-Length: 2000000\r\n\r\n`);
      await write(conn, new Uint8Array(1_000_000));
      await more.promise;
      await write(conn, new Uint8Array(1_000_000));
    });
    await using script = onTerminal(["-o", `${dir.path}/a`, server.url().href]);
    await script.until(
      /\r1\.0 MB of 2\.0 MB {2}50% {2}[\d.]+ [kM]B\/s {2}00:00:\d\d left/,
    );
    await script.until(/(50%.*){3}/s); // and draws it again
    more.resolve();
    const { code, stdout } = await script.finish();
    assertEquals(code, 0);
    assertMatch(
      stdout,
      /\r2\.0 MB of 2\.0 MB {2}100% {2}[\d.]+ [kM]B\/s[^\r]{3}\r?\n$/,
    );
    assertEquals(Deno.statSync(`${dir.path}/a`).size, 2_000_000);
  },
);

test("http_get keeps its progress within the width of the terminal", {
  ignore: missing("python3"),
}, async () => {
  using dir = folder();
  const more = Promise.withResolvers<void>();
  await using server = new RawServer(async (conn) => {
    await write(conn, `${OK}Content-Length: 2\r\n\r\nh`);
    await more.promise;
    await write(conn, "i");
  });
  await using script = onTerminal(
    ["-o", `${dir.path}/a`, server.url().href],
    "stty cols 12",
  );
  const [, line] = await script.until(/\r([^\r]+)\r/);
  more.resolve();
  assertEquals(line, `1 B of 2 B ${ERASE}`);
  assertEquals((await script.finish()).code, 0);
});

test("http_get shows no progress with -s, nor without a terminal", {
  ignore: missing("python3"),
}, async () => {
  using dir = folder();
  const slow = async (conn: Deno.Conn) => {
    await write(conn, `${OK}Content-Length: 2\r\n\r\nh`);
    await new Promise((resolve) => setTimeout(resolve, 400)); // longer than the progress needs to appear
    await write(conn, "i");
  };
  await using server = new RawServer(slow);
  await using silent = onTerminal([
    "-s",
    "-o",
    `${dir.path}/a`,
    server.url().href,
  ]);
  const [quiet, piped] = await Promise.all([
    silent.finish(),
    run("http_get", ["-o", `${dir.path}/b`, server.url().href]),
  ]);
  assertEquals([quiet.code, quiet.stdout], [0, ""]);
  assertEquals([piped.code, piped.stdout, piped.stderr], [0, "", ""]);
});

/** The most memory that the script takes, in bytes, and its status; its output goes nowhere. */
async function memory(args: string[]): Promise<{ code: number; peak: number }> {
  const python =
    "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)" +
    ".returncode; print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
  await using script = new Running("python3", [
    "-c",
    python,
    ...COMMAND,
    ...args,
  ]);
  const [code, kilobytes] = (await script.finish()).stdout.split(" ").map(
    Number,
  );
  return { code, peak: kilobytes * 1024 };
}

const MEMORY = { ignore: missing("python3") || Deno.build.os !== "linux" };

test(
  "http_get passes on half a gigabyte in little memory",
  MEMORY,
  async () => {
    const piece = new Uint8Array(1 << 20), size = 512 << 20;
    await using server = new RawServer(async (conn, request) => {
      await write(
        conn,
        `${OK}Content-Length: ${
          request.startsWith("GET /small ") ? 0 : size
        }\r\n\r\n`,
      );
      for (let sent = 0; sent < size; sent += piece.length) {
        await write(conn, piece);
      }
    });
    const small = await memory([server.url("/small").href]),
      large = await memory([server.url().href]);
    assertEquals([small.code, large.code], [0, 0]);
    assertLess(large.peak - small.peak, 30e6);
  },
);

test(
  "http_get expands a hundred million zeros in little memory",
  MEMORY,
  async () => {
    const zeros = await compress("gzip", new Uint8Array(100e6));
    await using server = new RawServer(async (conn, request) => {
      const body = request.startsWith("GET /small ")
        ? await compress("gzip", bytes("small"))
        : zeros;
      await write(
        conn,
        `${OK}Content-Encoding: gzip\r\nContent-Length: ${body.length}\r\n\r\n`,
      );
      await write(conn, body);
    });
    const [small, large] = [server.url("/small").href, server.url().href].map((
      url,
    ) => memory(["--compressed", url]));
    assertEquals([(await small).code, (await large).code], [0, 0]);
    assertLess((await large).peak - (await small).peak, 50e6);
  },
);
