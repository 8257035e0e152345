import { assert, assertEquals, assertLess } from "jsr:@std/assert@^1";
import { assertMatch } from "jsr:@std/assert@^1";
import { missing, noPty, ROOT, run, Running, start, test } from "./helpers.ts";
import { bytes, checksum, compress, folder, hold } from "./http_servers.ts";
import { random, RawServer, write } from "./http_servers.ts";

const OK = "HTTP/1.1 200 OK\r\n";
const HI = `${OK}Content-Length: 2\r\n\r\nhi`;
const UNIX = { ignore: Deno.build.os === "windows" };
const LINUX = { ignore: Deno.build.os !== "linux" };
const TERMINAL = { ignore: noPty() };
const ERASE = "\x1b[K"; // to the end of the line
const SCRIPT = new URL("http_get.ts", ROOT).pathname;
const COMMAND = [Deno.execPath(), "run", "-A", "--no-prompt", SCRIPT];

/** The script in a shell, as `"$@"`; `$0` is a name. */
function inShell(shell: string, args: string[], name = "sh"): Running {
  const options = { cwd: ROOT, env: { NO_COLOR: "1" } };
  return new Running("sh", ["-c", shell, name, ...COMMAND, ...args], options);
}

/** The script with a terminal; `before` are shell commands. */
function onTerminal(args: string[], before = ":"): Running {
  const python = "import os, pty, sys; " +
    "sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
  const shell = ["sh", "-c", `${before}; exec "$@"`, "sh"];
  const words = ["-c", python, ...shell, ...COMMAND, ...args];
  return new Running("python3", words, { cwd: ROOT, env: { NO_COLOR: "1" } });
}

/** A server that sends a part of a body, and tells when it has. */
function stalling() {
  const { promise: sent, resolve } = Promise.withResolvers<void>();
  const server = new RawServer(async (conn) => {
    await write(conn, `${OK}Content-Length: 9\r\n\r\nhello`);
    resolve();
    await hold(conn);
  });
  return { server, sent };
}

test("http_get writes the body to stdout, and nothing else anywhere", async () => {
  await using server = new RawServer(
    `${OK}Content-Length: 6\r\n\r\n\x00\x1b[1m\xff`,
  );
  const { code, stdout, stderr } = await run("http_get", [server.url().href]);
  assertEquals([code, stdout, stderr], [0, "\0\x1b[1m\ufffd", ""]);
});

test("http_get prints its usage on one screen, and its version", async () => {
  const help = await run("http_get", ["--help"]);
  assertEquals([help.code, help.stderr], [0, ""]);
  const parts = ["usage: http_get", "-o, --output FILE", "examples:", "20"];
  for (const part of parts) assert(help.stdout.includes(part), part);
  const lines = help.stdout.trimEnd().split("\n");
  assertLess(lines.length, 25);
  assert(lines.every((line) => line.length <= 80));
  assertEquals((await run("http_get", ["-V"])).stdout, "http_get 1.0.0\n");
});

test("http_get says where it could not connect, and to whom", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const here = `127.0.0.1:${listener.addr.port}`;
  listener.close();
  const cases: [number, RegExp, ...string[]][] = [
    [7, /cannot connect to 127\.0\.0\.1:\d+: connection refused\n$/, here],
    [2, /127\.0\.0\.1 is not an IPv6 address/, "-6", here],
    [6, /cannot resolve nowhere\.invalid: [^\n]+\n$/, "nowhere.invalid"],
  ];
  for (const [status, says, ...args] of cases) {
    const { code, stdout, stderr } = await run("http_get", args);
    assertEquals([code, stdout], [status, ""], stderr);
    assertMatch(stderr, says);
  }
});

test("http_get shows the exchange with -v, on stderr, in 80 columns", async () => {
  await using server = new RawServer(
    `${OK}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n`,
  );
  const url = server.url(`/${"long/".repeat(30)}`).href;
  const { stdout, stderr } = await run("http_get", ["-v", url]);
  assertEquals(stdout, "hi");
  const lines = stderr.trimEnd().split("\n");
  assert(lines.every((line) => line.length <= 80), stderr);
  const marks = lines.map((line) => line.replace(/^\d+\.\d+ /, ""));
  assertEquals(marks.map((line) => line[0]).join(""), "*><****", stderr);
  assertEquals(marks.slice(3), [
    "* body: chunked (RFC 9112 6.3, rule 4)",
    "* chunk: 2 bytes",
    "* chunk: 0 bytes, the last",
    "* closed",
  ]);
});

test("http_get -v shows that it closed, though the answer was bad", async () => {
  await using server = new RawServer("HTTP/1.1 404 Not Found\r\n\r\noops");
  const args = ["-vf", server.url().href];
  const { code, stderr } = await run("http_get", args);
  assertEquals(code, 22);
  assertMatch(
    stderr,
    / \* closed\nhttp_get: the server answers 404 Not Found\n$/,
  );
});

test(
  "http_get -o leaves nothing behind, whenever the time is over",
  UNIX,
  async () => {
    using dir = folder();
    await using server = new RawServer((conn) => hold(conn));
    const url = server.url().href;
    for (let ms = 1; ms <= 12; ms++) {
      const args = ["-o", `${dir.path}/a`, "-m", `${ms / 1000}`, url];
      const { code } = await run("http_get", args);
      assertEquals([code, dir.names()], [28, []], `${ms} ms`);
    }
  },
);

test(
  "http_get ends quietly when nobody reads its output any more",
  UNIX,
  async () => {
    await using server = new RawServer(async (conn) => {
      await write(conn, `${OK}\r\n`);
      for (;;) await write(conn, "endless ".repeat(1000));
    });
    const shell = `("$@"; echo "status $?" >&2) | head -c 10`;
    await using script = inShell(shell, [server.url().href]);
    const { stdout, stderr } = await script.finish();
    assertEquals([stdout, stderr], ["endless en", "status 23\n"]);
  },
);

/** Runs the script with an output that nobody reads. */
async function unread(args: string[], stop?: Promise<void>) {
  const child = new Deno.Command(COMMAND[0], {
    args: [...COMMAND.slice(1), ...args],
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  stop?.then(() => child.kill("SIGINT"));
  const stderr = await new Response(child.stderr).text();
  const { code } = await child.status;
  await child.stdout.cancel();
  return { code, stderr };
}

/** A server that sends without end, and tells when nobody takes it. */
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

test("http_get -m ends it though nobody reads its output", UNIX, async () => {
  const { server } = pouring();
  await using _ = server;
  const { code, stderr } = await unread(["-m", "0.5", server.url().href]);
  assertEquals([code, stderr], [28, "http_get: timed out after 0.5 s\n"]);
});

test(
  "http_get ends with 130 at Ctrl-C, though nobody reads its output",
  UNIX,
  async () => {
    const { server, stuck } = pouring();
    await using _ = server;
    const { code, stderr } = await unread([server.url().href], stuck);
    assertEquals([code, stderr], [130, ""]);
  },
);

const SIGNALS = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;
for (const [signal, status] of Object.entries(SIGNALS)) {
  // Without /proc, one that has no terminal goes on at SIGHUP.
  const where = signal === "SIGHUP" ? LINUX : UNIX;
  test(`http_get -o leaves nothing behind at ${signal}`, where, async () => {
    using dir = folder();
    const { server, sent } = stalling();
    await using _ = server;
    const url = server.url().href;
    await using script = start("http_get", ["-o", `${dir.path}/a`, url]);
    await sent;
    assertEquals(dir.names().filter((name) => name === "a"), []);
    script.kill(signal as Deno.Signal);
    const { code, stdout, stderr } = await script.finish();
    assertEquals([code, stdout, stderr, dir.names()], [status, "", "", []]);
  });
}

test(
  "http_get -o leaves nothing behind when its terminal is closed",
  TERMINAL,
  async () => {
    using dir = folder();
    const { server, sent } = stalling();
    await using _ = server;
    const python = `
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0: os.execvp(sys.argv[1], sys.argv[1:])
os.read(terminal, 1000)
input()
os.close(terminal)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))`;
    const args = ["-o", `${dir.path}/a`, server.url().href];
    const words = ["-c", python, ...COMMAND, ...args];
    await using script = new Running("python3", words, { cwd: ROOT });
    await sent;
    await script.type("close\n");
    assertEquals([(await script.finish()).stdout, dir.names()], ["129\n", []]);
  },
);

test("http_get -o goes on at SIGHUP if nohup started it", {
  ignore: LINUX.ignore || missing("nohup"),
}, async () => {
  using dir = folder();
  const more = Promise.withResolvers<void>();
  const sent = Promise.withResolvers<void>();
  await using server = new RawServer(async (conn) => {
    await write(conn, `${OK}Content-Length: 10\r\n\r\nhello`);
    sent.resolve();
    await more.promise;
    await write(conn, "world");
  });
  const args = ["-o", `${dir.path}/a`, server.url().href];
  await using script = new Running("nohup", [...COMMAND, ...args]);
  await sent.promise;
  script.kill("SIGHUP");
  more.resolve();
  assertEquals((await script.finish()).code, 0);
  assertEquals(Deno.readTextFileSync(`${dir.path}/a`), "helloworld");
});

test(
  "http_get writes a large body to a file, to a pipe and with -o",
  UNIX,
  async () => {
    using dir = folder();
    const body = random(5_000_000);
    const sum = await checksum(body);
    await using server = new RawServer(async (conn) => {
      await write(conn, `${OK}Content-Length: ${body.length}\r\n\r\n`);
      await write(conn, body);
    });
    const ways = ['> "$0"', '| cat > "$0"', '-o "$0"', '-o - > "$0"'];
    ways.push('-o /dev/stdout | cat > "$0"', '-o /dev/fd/3 3> "$0"');
    const file = `${dir.path}/a`;
    for (const way of ways) {
      await using script = inShell(`"$@" ${way}`, [server.url().href], file);
      assertEquals((await script.finish()).code, 0, way);
      assertEquals(await checksum(Deno.readFileSync(file)), sum, way);
      Deno.removeSync(file);
    }
  },
);

test("http_get says 23 when it cannot write its output", LINUX, async () => {
  await using server = new RawServer(HI);
  const url = server.url().href;
  const cases = {
    "> /dev/full": /cannot write the output: no space left on device\n$/,
    "-o /dev/full": /cannot write \/dev\/full: no space left on device\n$/,
    "1< /dev/null": /cannot write the output: it is open for reading only\n$/,
  };
  for (const [way, says] of Object.entries(cases)) {
    await using script = inShell(`"$@" ${way}`, [url]);
    const { code, stderr } = await script.finish();
    assertEquals(code, 23, way);
    assertMatch(stderr, says);
  }
  assertEquals(server.requests.length, 2, "nothing was asked in vain");
});

test("http_get waits for a pipe without a reader until the time is over", {
  ignore: UNIX.ignore || missing("mkfifo"),
}, async () => {
  using dir = folder();
  await using server = new RawServer(HI);
  const fifo = `${dir.path}/fifo`;
  assertEquals((await new Running("mkfifo", [fifo]).finish()).code, 0);
  for (const option of ["-o", "--cacert"]) {
    const args = ["-m", "0.1", option, fifo, server.url().href];
    const { code, stderr } = await run("http_get", args);
    assertEquals(code, 28, option);
    assertEquals(stderr, "http_get: timed out after 0.1 s\n");
  }
  assertEquals(server.requests, []);
});

test(
  "http_get -o refuses a terminal, which a server could drive",
  TERMINAL,
  async () => {
    await using server = new RawServer(HI);
    await using script = onTerminal(["-o", "/dev/tty", server.url().href]);
    const { code, stdout } = await script.finish();
    assertEquals(code, 23);
    assertEquals(
      stdout.trim(),
      "http_get: cannot write /dev/tty: it is a terminal: leave out -o",
    );
  },
);

test("http_get pours no binary onto a terminal", TERMINAL, async () => {
  await using server = new RawServer(`${OK}Content-Length: 4\r\n\r\na\0bc`);
  for (const args of [[], ["-o", "-"], ["-o", "/dev/stdout"]]) {
    await using script = onTerminal([...args, server.url().href]);
    const { code, stdout } = await script.finish();
    assertEquals(code, 23);
    assertMatch(
      stdout,
      /^http_get: binary output may confuse your terminal: use -o FILE.*\r?\n$/,
    );
  }
});

test("http_get lets no server drive the terminal", TERMINAL, async () => {
  const body = "a\tb\r\nc\x1b]0;title\x07\rd\x7f\xc3\xa9\xc2\x9b1m\n";
  await using server = new RawServer(
    `HTTP/1.1 200 \x1b[31mred\r\nA: \x07bell\r\n\r\n${body}`,
  );
  await using script = onTerminal(["-i", server.url().href]);
  const { code, stdout } = await script.finish();
  assertEquals(code, 0);
  const shown = "HTTP/1.1 200 \\x1b[31mred\nA: \\x07bell\n\n" +
    "a\tb\nc\\x1b]0;title\\x07\\rd\\x7fé\\x9b1m\n";
  assertEquals(stdout.replace(/\r*\n/g, "\n"), shown);
});

/** A server that sends two halves of a body, the second one when told. */
function halves(half: Uint8Array) {
  const more = Promise.withResolvers<void>();
  const server = new RawServer(async (conn) => {
    await write(conn, `${OK}Content-Length: ${2 * half.length}\r\n\r\n`);
    await write(conn, half);
    await more.promise;
    await write(conn, half);
  });
  return { server, more: more.resolve };
}

test(
  "http_get shows the progress of -o, and leaves its last line there",
  TERMINAL,
  async () => {
    using dir = folder();
    const { server, more } = halves(new Uint8Array(1_000_000));
    await using _ = server;
    const args = ["-o", `${dir.path}/a`, server.url().href];
    await using script = onTerminal(args);
    const half = /\r1,000 kB of 2,000 kB {2}50% {2}[\d,]+ kB\/s {2}\d+ s left/;
    await script.until(half);
    await script.until(/(50%.*){3}/s); // and draws it again
    more();
    const { code, stdout } = await script.finish();
    assertEquals(code, 0);
    const whole =
      /\r2,000 kB of 2,000 kB {2}100% {2}[\d,]+ kB\/s[^\r]{3}\r?\n$/;
    assertMatch(stdout, whole);
    assertEquals(Deno.statSync(`${dir.path}/a`).size, 2_000_000);
  },
);

test(
  "http_get keeps its progress within the width of the terminal",
  TERMINAL,
  async () => {
    using dir = folder();
    const { server, more } = halves(bytes("h"));
    await using _ = server;
    const args = ["-o", `${dir.path}/a`, server.url().href];
    await using script = onTerminal(args, "stty cols 13");
    const [, line] = await script.until(/\r([^\r]+)\r/);
    more();
    assertEquals(line, `1 kB of 1 kB${ERASE}`);
    assertEquals((await script.finish()).code, 0);
  },
);

test(
  "http_get begins a line of a trace behind progress on a new line",
  TERMINAL,
  async () => {
    using dir = folder();
    const { server, more } = halves(bytes("h"));
    await using _ = server;
    const args = ["-v", "-o", `${dir.path}/a`, server.url().href];
    await using script = onTerminal(args);
    await script.until(/1 kB of 1 kB/);
    more();
    const { stdout } = await script.finish();
    const lines = stdout.split(/\r*\n/);
    const traced = lines.filter((line) => /\d\.\d{4} [*<>] /.test(line));
    assert(traced.length > 5, stdout);
    assert(traced.every((line) => /^\d+\.\d{4} [*<>] /.test(line)), stdout);
  },
);

test(
  "http_get begins a line of a trace behind a body on a new line",
  TERMINAL,
  async () => {
    const { server, more } = halves(bytes("no end of line"));
    await using _ = server;
    await using script = onTerminal(["-v", server.url().href]);
    await script.until(/no end of line\s*$|no end of line.*no end of line/s);
    more();
    const { stdout } = await script.finish();
    const traced = stdout.split(/\r*\n/).filter((line) => / [*<>] /.test(line));
    assert(traced.every((line) => /^\d+\.\d{4} [*<>] /.test(line)), stdout);
  },
);

test(
  "http_get shows no progress with -s, nor without a terminal",
  TERMINAL,
  async () => {
    using dir = folder();
    await using server = new RawServer(async (conn) => {
      await write(conn, `${OK}Content-Length: 2\r\n\r\nh`);
      await new Promise((resolve) => setTimeout(resolve, 400)); // it would appear
      await write(conn, "i");
    });
    const url = server.url().href;
    await using silent = onTerminal(["-s", "-o", `${dir.path}/a`, url]);
    const quiet = await silent.finish();
    assertEquals([quiet.code, quiet.stdout], [0, ""]);
    const piped = await run("http_get", ["-o", `${dir.path}/b`, url]);
    assertEquals([piped.code, piped.stdout, piped.stderr], [0, "", ""]);
  },
);

/** The most memory that the script takes, in bytes, and its status. */
async function memory(args: string[]): Promise<{ code: number; peak: number }> {
  const python = "import resource, subprocess, sys; " +
    "code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode; " +
    "print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
  const words = ["-c", python, ...COMMAND, ...args];
  await using script = new Running("python3", words);
  const { stdout } = await script.finish();
  const [code, kilobytes] = stdout.split(" ").map(Number);
  return { code, peak: kilobytes * 1024 };
}

const MEMORY = { ignore: missing("python3") || Deno.build.os !== "linux" };

test(
  "http_get passes on half a gigabyte in little memory",
  MEMORY,
  async () => {
    const piece = new Uint8Array(1 << 20);
    const size = 512 << 20;
    await using server = new RawServer(async (conn, request) => {
      const length = request.startsWith("GET /small ") ? 0 : size;
      await write(conn, `${OK}Content-Length: ${length}\r\n\r\n`);
      for (let sent = 0; sent < length; sent += piece.length) {
        await write(conn, piece);
      }
    });
    const small = await memory([server.url("/small").href]);
    const large = await memory([server.url().href]);
    assertEquals([small.code, large.code], [0, 0]);
    assertLess(large.peak - small.peak, 30e6);
  },
);

test(
  "http_get expands a hundred million zeros in little memory",
  MEMORY,
  async () => {
    const bodies = {
      "/small": await compress("gzip", bytes("small")),
      "/large": await compress("gzip", new Uint8Array(100e6)),
    };
    await using server = new RawServer(async (conn, request) => {
      const body = bodies[request.split(" ")[1] as "/small"];
      const length = `Content-Length: ${body.length}\r\n\r\n`;
      await write(conn, `${OK}Content-Encoding: gzip\r\n${length}`);
      await write(conn, body);
    });
    const small = await memory(["--compressed", server.url("/small").href]);
    const large = await memory(["--compressed", server.url("/large").href]);
    assertEquals([small.code, large.code], [0, 0]);
    assertLess(large.peak - small.peak, 50e6);
  },
);
