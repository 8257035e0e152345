import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertLess,
  assertMatch,
  assertNotMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "jsr:@std/assert@^1";
import {
  announce,
  connect,
  connections,
  Failure,
  formatAddress,
  listen,
  output,
  parse,
  parseAddress,
  parsePort,
  printable,
  quote,
  reason,
  record,
  resolve,
  RoundTrips,
  run,
  say,
  sparing,
  type Stream,
  Trace,
  within,
  writeAll,
} from "../utils.ts";
import { missing, ROOT, Running, test } from "./helpers.ts";

const bytes = (text: string) => Uint8Array.from(text, (c) => c.charCodeAt(0));

/** What `work` prints by way of console.log and console.error, as lines of text. */
async function printed(
  work: () => unknown,
): Promise<{ out: string[]; err: string[] }> {
  const { log, error } = console, out: string[] = [], err: string[] = [];
  console.log = (...all) => void out.push(all.join(" "));
  console.error = (...all) =>
    void err.push(all[0] === "%c%s" ? all[2] : all.join(" "));
  try {
    await work();
  } finally {
    console.log = log, console.error = error;
  }
  return { out, err };
}

/** The status and the message of a failure that is expected. */
function failure(work: () => unknown): [number, string] {
  const error = assertThrows(work, Failure);
  return [error.status, error.message];
}

const peer: Deno.NetAddr = { transport: "tcp", hostname: "127.0.0.1", port: 9 };

/** A listener whose `accept` goes through the given steps, and is closed after them. */
function listener(
  steps: (() => unknown)[],
): Deno.TcpListener & { calls: number } {
  const fake = {
    calls: 0,
    accept: () => {
      const step = steps[fake.calls++];
      return step
        ? Promise.try(step)
        : Promise.reject(new Deno.errors.BadResource("closed"));
    },
  };
  return fake as unknown as Deno.TcpListener & { calls: number };
}

const fail = (error: Error) => () => Promise.reject(error);
const raise = (error: Error) => () => {
  throw error;
};

test("a reason is a few words, without the system's numbers", () => {
  assertEquals(
    reason(
      new Deno.errors.ConnectionRefused("Connection refused (os error 111)"),
    ),
    "connection refused",
  );
  assertEquals(
    reason(new Deno.errors.ConnectionReset("x")),
    "connection reset",
  );
  assertEquals(
    reason(new Deno.errors.PermissionDenied("Permission denied (os error 13)")),
    "permission denied",
  );
  assertEquals(
    reason(new Deno.errors.AddrInUse("Address already in use (os error 98)")),
    "address already in use",
  );
  assertEquals(
    reason(new Error("No space left on device (os error 28)")),
    "no space left on device",
  );
  assertEquals(reason(new Error("IPv6 is off")), "IPv6 is off");
  assertEquals(reason("just text"), "just text");
  assertEquals(reason(undefined), "undefined");
});

test("a time limit aborts with status 28 and its message", async () => {
  const signal = within(1, "no answer");
  const error = await new Promise((done) =>
    signal.addEventListener("abort", () => done(signal.reason))
  );
  assertInstanceOf(error, Failure);
  assertEquals([error.status, error.message], [28, "no answer"]);
});

test("a time limit follows the signal it is given, also one that is aborted already", () => {
  const stop = new AbortController(), signal = within(0, "never", stop.signal);
  assert(!signal.aborted);
  stop.abort(new Failure(130, ""));
  assertEquals(signal.reason, stop.signal.reason);
  assert(within(0, "never", stop.signal).aborted);
});

test("a line that nobody reads any more is no reason to stop", () => {
  say("x", raise(new Deno.errors.BrokenPipe("Broken pipe (os error 32)")));
});

test("a line end stays one on a terminal, though its CR and its LF come apart", async () => {
  const { stdout } = Deno, { write, isTerminal } = stdout;
  let written = "";
  stdout.isTerminal = () => true;
  stdout.write = (bytes) =>
    Promise.resolve((written += new TextDecoder().decode(bytes), bytes.length));
  try {
    for (const piece of ["one\r", "\ntwo\r", "over\r\n"]) {
      await output(new TextEncoder().encode(piece));
    }
    assertEquals(written, "one\r\ntwo\\rover\r\n");
  } finally {
    Object.assign(stdout, { write, isTerminal });
  }
});

test("a log loses no line, whenever it comes, until more than a thousand wait for a reader", async () => {
  const { stdout } = Deno, { write } = stdout;
  let written = "", reads = Promise.resolve();
  stdout.write = async (
    bytes,
  ) => (await reads, written += new TextDecoder().decode(bytes), bytes.length);
  try {
    for (let i = 0; i < 20; i++) {
      record(`line ${i}`);
      for (let turns = 0; turns < i; turns++) await null; // so that one comes just as the one before it was written
    }
    for (let i = 0; i < 50; i++) await null;
    assertEquals(
      written,
      Array.from({ length: 20 }, (_, i) => `line ${i}\n`).join(""),
    );
    const reader = Promise.withResolvers<void>();
    written = "", reads = reader.promise;
    for (let i = 0; i < 5000; i++) record("x");
    reader.resolve();
    for (let i = 0; i < 50; i++) await null;
    assertEquals(written, "x\n".repeat(1001));
  } finally {
    stdout.write = write;
  }
});

test("a log that is sparing prints the first line at once, and then counts what it leaves out", () => {
  const { now } = performance, lines: string[] = [];
  let time = 1000;
  performance.now = () => time;
  try {
    const log = sparing(1000, (line) => void lines.push(line));
    log("a"), log("b"), log("c");
    time += 999, log("d");
    time += 1, log("e");
    time += 1000, log("f");
  } finally {
    performance.now = now;
  }
  assertEquals(lines, ["a", "e (and 3 more)", "f"]);
});

test("text that is printed cannot drive the terminal", () => {
  assertEquals(printable("\x1b[2J\x07\x7f\x9b1m"), "\\x1b[2J\\x07\\x7f\\x9b1m");
  assertEquals(printable("a\r\nb\tc\0"), "a\\r\\nb\\tc\\x00");
  assertEquals(
    printable("caf\u00e9 \u6642\u9593 \u{1f600}"),
    "caf\u00e9 \u6642\u9593 \u{1f600}",
  );
  for (
    const sly of [
      "\u202e",
      "\u2066",
      "\u200f",
      "\u2028",
      "\u2029",
      "\ufeff",
      "\u{e0041}",
      "\ud800",
    ]
  ) {
    const shown = printable(`a${sly}b`);
    assertMatch(
      shown,
      /^a\\x[0-9a-f]+b$/,
      `U+${sly.codePointAt(0)!.toString(16)} is shown as it is`,
    );
  }
});

test("bytes are quoted so that each can be told from every other", () => {
  assertEquals(quote(bytes("caf\xc3\xa9\r\n")), '"caf\\xc3\\xa9\\r\\n"');
  assertEquals(quote(bytes('say "\\n"')), '"say \\"\\\\n\\""');
  assertEquals(quote(new Uint8Array()), '""');
  const all = Array.from({ length: 256 }, (_, i) => quote(Uint8Array.of(i)));
  assertEquals(new Set(all).size, 256);
  for (const one of all) assertMatch(one, /^"[ -~]+"$/);
});

test("quoted bytes are cut at about 60 characters, and never inside an escape", () => {
  assertEquals(quote(bytes("x".repeat(60))), `"${"x".repeat(60)}"`);
  assertEquals(quote(bytes("x".repeat(61))), `"${"x".repeat(60)}"...`);
  // An escape that straddles the border, at each of its places, and one that just fits.
  for (
    const [one, shown] of [["\x01", "\\x01"], ["\n", "\\n"], ['"', '\\"'], [
      "\\",
      "\\\\",
    ]]
  ) {
    for (let before = 50; before <= 60; before++) {
      const quoted = quote(bytes("a".repeat(before) + one.repeat(20)));
      const [, inside] = quoted.match(/^"(.*)"\.\.\.$/) ?? [];
      const whole = "a".repeat(before) +
        shown.repeat(Math.floor((inside.length - before) / shown.length));
      assertEquals(inside, whole, `cut inside ${shown}: ${quoted}`);
      assert(
        inside.length > 60 - shown.length && inside.length <= 64,
        `${inside.length} characters: ${quoted}`,
      );
    }
  }
});

test("all of the bytes are written, even where each write takes a few", async () => {
  const taken: number[] = [];
  const write = (b: Uint8Array) => {
    const n = Math.min(b.length, 1 + taken.length % 3);
    taken.push(...b.subarray(0, n));
    return Promise.resolve(n);
  };
  const sent = Uint8Array.from({ length: 100 }, (_, i) => i);
  await writeAll({ write }, sent);
  assertEquals(taken, [...sent]);
  await assertRejects(
    () => writeAll({ write: fail(new Deno.errors.ConnectionReset()) }, sent),
    Deno.errors.ConnectionReset,
  );
});

test("ports are 0 to 65535 or a service's name", () => {
  assertEquals(["0", "13", "7777", "65535"].map(parsePort), [
    0,
    13,
    7777,
    65535,
  ]);
  const names = [
    "echo",
    "daytime",
    "ftp",
    "ssh",
    "telnet",
    "smtp",
    "http",
    "https",
  ];
  assertEquals(names.map(parsePort), [7, 13, 21, 22, 23, 25, 80, 443]);
  assertEquals(parsePort("HTTP"), 80);
  for (
    const bad of [
      "65536",
      "-1",
      "+1",
      "1.5",
      "1e3",
      "0x50",
      " 80",
      "80 ",
      "",
      "http ",
      "nosuch",
      "000080",
    ]
  ) {
    const [status, message] = failure(() => parsePort(bad));
    assertEquals(status, 2, bad);
    assertStringIncludes(message, `"${bad}"`);
  }
  for (const bad of ["toString", "constructor", "__proto__"]) {
    assertEquals(failure(() => parsePort(bad))[0], 2);
  }
});

test("an address is a host, a host with a port, or IPv6 with and without brackets", () => {
  const at = (text: string) => Object.values(parseAddress(text, 7));
  assertEquals(at("localhost"), ["localhost", 7]);
  assertEquals(at("localhost:80"), ["localhost", 80]);
  assertEquals(at("localhost:http"), ["localhost", 80]);
  assertEquals(at("127.0.0.1:0"), ["127.0.0.1", 0]);
  assertEquals(at("::1"), ["::1", 7]);
  assertEquals(at("[::1]"), ["::1", 7]);
  assertEquals(at("[::1]:80"), ["::1", 80]);
  assertEquals(at("::"), ["::", 7]);
  assertEquals(at("b\u00fccher.example"), ["xn--bcher-kva.example", 7]);
});

test("what is no address is refused, and named", () => {
  const bad = [
    "",
    ":",
    ":80",
    "[::1",
    "::1]",
    "[::1]80",
    "[::1]:",
    "localhost:",
    "localhost:99999",
    "a:b:c",
  ];
  bad.push(
    "a b",
    "a/b",
    "u@h",
    "a?b",
    "a#b",
    "999.1.1.1",
    "1.2.3.4:5:6",
    "\x1b[2J",
    "a\nb",
    "[127.0.0.1]",
    "a\\b",
  );
  for (const text of bad) {
    const [status, message] = failure(() => parseAddress(text, 7));
    assertEquals(status, 2, text);
    assertMatch(message, /is not a (host|port)/);
  }
});

test("addresses are printed with brackets around IPv6, and IPv4 unwrapped", () => {
  const show = (hostname: string) => formatAddress({ hostname, port: 7777 });
  assertEquals(show("127.0.0.1"), "127.0.0.1:7777");
  assertEquals(show("::1"), "[::1]:7777");
  assertEquals(show("::ffff:127.0.0.1"), "127.0.0.1:7777");
  assertEquals(show("::FFFF:10.0.0.1"), "10.0.0.1:7777");
  assertEquals(show("::"), "[::]:7777");
  assertEquals(show("localhost"), "localhost:7777");
});

test("an address that is written out is not looked up, and its family is kept to", async () => {
  assertEquals(await resolve({ hostname: "127.0.0.1", port: 1 }), [
    "127.0.0.1",
  ]);
  assertEquals(await resolve({ hostname: "::1", port: 1, family: 6 }), ["::1"]);
  for (const [hostname, family] of [["127.0.0.1", 6], ["::1", 4]] as const) {
    assertEquals(await resolve({ hostname, port: 1, family }), []);
    const error = await assertRejects(
      () => connect({ hostname, port: 1, family }),
      Failure,
    );
    assertEquals([error.status, error.message], [
      6,
      `cannot resolve ${hostname}: no IPv${family} address`,
    ]);
  }
});

test("localhost is found by either family", async () => {
  assertEquals(await resolve({ hostname: "localhost", port: 1, family: 4 }), [
    "127.0.0.1",
  ]);
  assertEquals(await resolve({ hostname: "localhost", port: 1, family: 6 }), [
    "::1",
  ]);
});

test("looking up ends when the signal aborts", async () => {
  const stop = new AbortController(),
    looking = resolve({
      hostname: "nosuch.invalid",
      port: 1,
      signal: stop.signal,
    });
  stop.abort(new Failure(130, ""));
  assertEquals((await assertRejects(() => looking, Failure)).status, 130);
});

test("connecting goes on to the next address when the first refuses", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { err } = await printed(async () => {
    using conn = await connect({
      hostname: "localhost",
      port: listener.addr.port,
      trace: new Trace("t"),
    });
    assertEquals(conn.remoteAddr.hostname, "127.0.0.1");
    (await listener.accept()).close();
  });
  assertMatch(err[0], /^\d+\.\d+ \* resolved localhost to ::1, 127\.0\.0\.1$/);
  assertMatch(
    err[1],
    /^\d+\.\d+ \* cannot connect to \[::1\]:\d+: connection refused$/,
  );
  assertMatch(err[2], /^\d+\.\d+ \* connected to 127\.0\.0\.1:\d+$/);
});

test(
  "a refused connection is status 7, a name that does not exist 6, each named",
  {
    sanitizeResources: false, // Deno 2.4 keeps the handle that could have cancelled the attempt
  },
  async () => {
    const gone = Deno.listen({ hostname: "127.0.0.1", port: 0 }),
      { port } = gone.addr;
    gone.close();
    const refused = await assertRejects(
      () => connect({ hostname: "127.0.0.1", port }),
      Failure,
    );
    assertEquals([refused.status, refused.message], [
      7,
      `cannot connect to 127.0.0.1:${port}: connection refused`,
    ]);
    const unknown = await assertRejects(
      () => connect({ hostname: "nosuch.invalid", port }),
      Failure,
    );
    assertEquals([unknown.status, unknown.message], [
      6,
      "cannot resolve nosuch.invalid: no such name",
    ]);
    const impossible = await assertRejects(
      () => connect({ hostname: "a..test", port }),
      Failure,
    );
    assertEquals([impossible.status, impossible.message], [
      6,
      "cannot resolve a..test: no such name",
    ]);
  },
);

test("a connection is closed when the signal aborts, which ends a read that waits", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const stop = new AbortController();
  const conn = await connect({
    hostname: "127.0.0.1",
    port: listener.addr.port,
    signal: stop.signal,
  });
  using _other = await listener.accept();
  const reading = conn.read(new Uint8Array(1));
  stop.abort();
  await assertRejects(() => reading);
});

test("listening on :: takes IPv4 as well", async () => {
  const sockets = listen((at) => Deno.listen(at), { hostname: "::", port: 0 });
  try {
    for (const hostname of ["127.0.0.1", "::1"]) {
      const { port } = sockets[0].addr as Deno.NetAddr;
      const [conn, other] = await Promise.all([
        Deno.connect({ hostname, port }),
        sockets[0].accept(),
      ]);
      conn.close(), other.close();
    }
  } finally {
    for (const socket of sockets) socket.close();
  }
});

test("listening falls back to 0.0.0.0 where there is no IPv6", () => {
  const asked: string[] = [],
    without = raise(
      new Error("Address family not supported by protocol (os error 97)"),
    );
  const open = (at: { hostname: string; port: number }) => {
    asked.push(at.hostname);
    return at.hostname.includes(":")
      ? without()
      : { addr: { transport: "tcp" as const, ...at } };
  };
  const sockets = listen(open, { hostname: "::", port: 7777 });
  assertEquals(asked, ["::", "0.0.0.0"]);
  assertEquals(sockets.map(({ addr }) => addr), [{
    transport: "tcp",
    hostname: "0.0.0.0",
    port: 7777,
  }]);
  assertEquals(failure(() => listen(open, { hostname: "::1", port: 1 })), [
    1,
    "cannot listen on [::1]:1: address family not supported by protocol",
  ], "who asks for one IPv6 address does not get all of IPv4");
});

test("listening on :: listens on 0.0.0.0 as well on Windows, at the same port", () => {
  const { build } = Deno, asked: string[] = [];
  const open = ({ hostname, port }: { hostname: string; port: number }) => {
    asked.push(`${hostname} ${port}`);
    return {
      addr: { transport: "tcp" as const, hostname, port: port || 5000 },
    };
  };
  try {
    Object.defineProperty(Deno, "build", {
      value: { ...build, os: "windows" },
      configurable: true,
    });
    assertEquals(listen(open, { hostname: "::", port: 0 }).length, 2);
    assertEquals(listen(open, { hostname: "::1", port: 7 }).length, 1);
  } finally {
    Object.defineProperty(Deno, "build", { value: build, configurable: true });
  }
  assertEquals(asked, [":: 0", "0.0.0.0 5000", "::1 7"]);
});

test("a busy port and a privileged port are status 1, with what to do next", () => {
  const at = { hostname: "::", port: 13 };
  assertEquals(
    failure(() =>
      listen(
        raise(
          new Deno.errors.AddrInUse("Address already in use (os error 98)"),
        ),
        at,
      )
    ),
    [
      1,
      "cannot listen on [::]:13: address already in use: try --port 0",
    ],
  );
  assertEquals(
    failure(() => listen(raise(new Deno.errors.PermissionDenied("x")), at)),
    [
      1,
      "cannot listen on [::]:13: permission denied: port 13 needs more rights: try --port 1313",
    ],
  );
});

test("a server says where it listens", async () => {
  const { out } = await printed(() =>
    announce("udp", { transport: "udp", hostname: "::1", port: 7 })
  );
  assertEquals(out, ["listening on udp://[::1]:7"]);
  const wide = await printed(() =>
    announce("tcp", { transport: "tcp", hostname: "::", port: 7 })
  );
  assertEquals(wide.out[0], "listening on tcp://[::]:7");
  for (const line of wide.out.slice(1)) {
    assertMatch(line, /^from the local network: tcp:\/\/[\d.]+:7$/);
  }
});

test("accepting survives clients that are gone before they are accepted", async () => {
  const gone = fail(
    new Deno.errors.NotConnected(
      "Transport endpoint is not connected (os error 107)",
    ),
  );
  const aborted = fail(
    new Deno.errors.ConnectionAborted(
      "Software caused connection abort (os error 103)",
    ),
  );
  const conn = { remoteAddr: peer } as Deno.TcpConn, seen: Deno.TcpConn[] = [];
  const source = listener([gone, gone, () => conn, aborted, gone, () => conn]);
  const { out, err } = await printed(async () => {
    for await (const each of connections(source)) seen.push(each);
  });
  assertEquals(seen.length, 2);
  assertEquals([out, err], [[], []], "that is everyday life, not worth a line");
});

test("accepting waits while there is no descriptor, longer each time, and says so once", async () => {
  const full = fail(new Error("Too many open files (os error 24)"));
  const source = listener([full, full, full, full]),
    started = performance.now();
  const lines: string[] = [];
  for await (const _ of connections(source, (line) => lines.push(line)));
  assertEquals(lines, ["cannot accept: too many open files; trying again"]);
  assert(performance.now() - started > 100, "it spun");
  assertEquals(source.calls, 5);
});

test("accepting ends when the listener is closed, without a word", async () => {
  const real = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { out, err } = await printed(async () => {
    queueMicrotask(() => real.close());
    for await (const conn of connections(real)) conn.close();
  });
  assertEquals([out, err], [[], []]);
});

/** A stream of which the given parts matter. */
function stream(parts: Partial<Stream> = {}): Stream {
  const write = (b: Uint8Array) => Promise.resolve(b.length);
  return {
    read: () => Promise.resolve(null),
    write,
    closeWrite: () => Promise.resolve(),
    close: () => {},
    ...parts,
  };
}

test("a trace shows an exchange, a line an event, and changes nothing of it", async () => {
  const reads = [bytes("a\x1b[2J"), bytes("x".repeat(100))],
    wrote: number[] = [];
  let closed = 0;
  const { out, err } = await printed(async () => {
    const trace = new Trace("t");
    trace.life("connected to 127.0.0.1:7", ">SYN", "<SYN, ACK", ">ACK");
    const conn = trace.stream(stream({
      read: (buffer) => {
        const next = reads.shift();
        if (next) buffer.set(next);
        return Promise.resolve(next ? next.length : null);
      },
      write: (b) => Promise.resolve(wrote.push(b.length) && 2),
      closeWrite: () => Promise.resolve(void closed++),
      close: () => void closed++,
    }));
    const buffer = new Uint8Array(200);
    assertEquals(await conn.write(bytes("hello")), 2);
    assertEquals(await conn.read(buffer), 5);
    assertEquals(await conn.read(buffer), 100);
    assertEquals(await conn.read(buffer), null);
    await conn.closeWrite();
    conn.close();
  });
  assertEquals([wrote, closed, out], [[5], 2, []]);
  for (const line of err) assertMatch(line, /^\d+\.\d{4} [*><] [ -~]*$/);
  assertEquals(err.map((line) => line.replace(/^\S+ /, "")), [
    "* connected to 127.0.0.1:7",
    '> 2 bytes "he"',
    '< 5 bytes "a\\x1b[2J"',
    `< 100 bytes "${"x".repeat(60)}"...`,
    "* half-closed by the peer",
    "* half-closed: nothing more to send",
    "* closed",
  ]);
});

test("a trace of one byte says byte", async () => {
  const { err } = await printed(() => new Trace("t").data("<", bytes("x")));
  assertMatch(err[0], /< 1 byte "x"$/);
});

test("a trace passes on what goes wrong", async () => {
  const reset = fail(new Deno.errors.ConnectionReset("x"));
  const conn = new Trace("t", false).stream(
    stream({ read: reset, write: reset, closeWrite: reset }),
  );
  await assertRejects(
    () => conn.read(new Uint8Array(1)),
    Deno.errors.ConnectionReset,
  );
  await assertRejects(
    () => conn.write(new Uint8Array(1)),
    Deno.errors.ConnectionReset,
  );
  await assertRejects(() => conn.closeWrite(), Deno.errors.ConnectionReset);
});

test("a diagram is a Mermaid drawing in a Markdown file, whatever the peer sends", async () => {
  const file = await Deno.makeTempFile({ suffix: ".md" });
  try {
    const trace = new Trace("echo_tcp", false, file);
    trace.peer("[::1]:7"), trace.life("connected", ">SYN", "<SYN, ACK", ">ACK");
    trace.data(">", bytes("hello")),
      trace.data("<", bytes('```\nend\n#;<script>%%{"}'));
    trace.peer("127.0.0.1:7"), trace.data(">", bytes("again"));
    await trace.write();
    const [fence, kind, ...lines] = (await Deno.readTextFile(file)).split("\n");
    assertEquals([fence, kind, lines.pop(), lines.pop()], [
      "```mermaid",
      "sequenceDiagram",
      "",
      "```",
    ]);
    assertEquals(lines.length, 9);
    for (const line of lines) {
      assertMatch(
        line,
        /^ {2}(participant \w+ as |(Note left of client|\w+(--?>>|-\))\w+): )([^#;$%&<>`]|#\d+;)*$/,
      );
    }
    assertEquals(lines.filter((line) => line.includes("participant")), [
      "  participant client as echo_tcp",
      "  participant s1 as [::1]:7",
      "  participant s2 as 127.0.0.1:7",
    ]);
    assertMatch(lines[6], /client->>s1: 5 bytes/);
    assertMatch(lines[7], /s1->>client: 23 bytes/);
    assertMatch(lines[8], /client->>s2: 5 bytes/);
  } finally {
    await Deno.remove(file);
  }
});

test("a diagram of a long exchange stays short, and says how much it leaves out", async () => {
  const file = await Deno.makeTempFile({ suffix: ".md" });
  try {
    const trace = new Trace("t", false, file);
    for (let i = 0; i < 100_000; i++) trace.data(">", Uint8Array.of(65));
    await trace.write();
    const text = await Deno.readTextFile(file);
    assertLess(text.length, 20_000);
    assertStringIncludes(text, "and 99800 more");
  } finally {
    await Deno.remove(file);
  }
});

test("a diagram that cannot be written is status 23", async () => {
  const error = await assertRejects(
    () => new Trace("t", false, "/nosuch/file.md").write(),
    Failure,
  );
  assertEquals(error.status, 23);
  assertMatch(error.message, /^cannot write \/nosuch\/file\.md: /);
});

test("round trips are summed up as ping does it", () => {
  const trips = new RoundTrips();
  assertEquals(`${trips}`, "0 sent, 0 received, 0% loss");
  trips.sent = 5;
  assertEquals(`${trips}`, "5 sent, 0 received, 100% loss");
  for (const ms of [1, 2, 3, 4, 5]) trips.add(ms);
  assertEquals(
    `${trips}`,
    "5 sent, 5 received, 0% loss\nmin/avg/max/mdev = 1.00/3.00/5.00/1.41 ms",
  );
  trips.sent = 7;
  for (const what of ["duplicate", "late", "duplicate"]) trips.note(what);
  assertStringIncludes(
    `${trips}`,
    "7 sent, 5 received, 28.6% loss, 2 duplicate, 1 late\n",
  );
});

test("a single round trip has no deviation, and a million do not lose precision to it", () => {
  const one = new RoundTrips();
  one.sent = 1, one.add(0.1);
  assertStringIncludes(`${one}`, "= 0.10/0.10/0.10/0.00 ms");
  const many = new RoundTrips();
  for (let i = 0; i < 1_000_000; i++) many.sent++, many.add(1000);
  assertStringIncludes(`${many}`, "= 1000.00/1000.00/1000.00/0.00 ms");
});

const COMMAND = {
  name: "tool",
  words: 1,
  usage: `tool: an example

  -p, --port PORT         a port
      --wait SECONDS      a time
  -n, --count N           a number
      --size BYTES        a size
  -H, --header TEXT...    text, repeatable
  -q, --quiet             a switch
  -4, --ipv4              IPv4 only
  -6, --ipv6              IPv6 only
  -h, --help              this text
  -V, --version           the version
`,
};
const read = (...args: string[]) => parse(COMMAND, args);

test("a command line is read by what the usage text lists", async () => {
  const all = await read(
    "-p",
    "http",
    "--wait",
    "1.5",
    "-n5",
    "--size=10",
    "-H",
    "a: b",
    "--header",
    "",
    "-q",
    "host",
  )
    .catch((error) => error);
  assertInstanceOf(all, Failure, "an empty value is none");
  const given = await read(
    "-p",
    "http",
    "--wait",
    ".5",
    "-n5",
    "--size=10",
    "-H",
    "a: b",
    "--header",
    "c",
    "-q",
    "x",
  );
  assertEquals([given.port, given.wait, given.count, given.size, given.quiet], [
    80,
    500,
    5,
    10,
    true,
  ]);
  assertEquals([given.header, given.words, given.family], [
    ["a: b", "c"],
    ["x"],
    undefined,
  ]);
  assertEquals((await read("-4")).family, 4);
  assertEquals((await read("-6")).family, 6);
  assertEquals(
    (await read("-p", "1", "-p", "2")).port,
    2,
    "the last one counts",
  );
});

test("options that are not given have no value", async () => {
  const given = await read();
  assertEquals([given.port, given.wait, given.count, given.size, given.quiet], [
    undefined,
    undefined,
    undefined,
    undefined,
    false,
  ]);
});

test("a bad command line is status 2, and names the offender", async () => {
  const cases: [string[], string][] = [
    [["--prot", "1"], "--prot"],
    [["--prot=1"], "--prot"],
    [["-x"], "-x"],
    [["-qx"], "option -x"],
    [["-_"], "option -_:"],
    [["--_=3"], "--_=3"],
    [["--no-quiet"], "--no-quiet"],
    [["--__proto__", "x"], "--__proto__"],
    [["--constructor"], "--constructor"],
    [["--toString=1"], "--toString"],
    [["--port"], "--port"],
    [["--port="], "--port"],
    [["-p", ""], "--port"],
    [["--port", "-q"], "--port"],
    [["--port", "65536"], "65536"],
    [["--port", "http/1"], "http/1"],
    [["--wait", "-1"], ""],
    [["--wait", "1s"], "1s"],
    [["--wait", "1e9"], "1e9"],
    [["--wait", "Infinity"], "Infinity"],
    [["--wait", "1000001"], "1000001"],
    [["--wait", "."], '"."'],
    [["--count", "1.5"], "1.5"],
    [["--count", "0x10"], "0x10"],
    [["--count", "9999999999999999"], "9999999999999999"],
    [["--size", "ten"], "ten"],
    [["--header"], "--header"],
    [["--quiet=1"], "--quiet"],
    [["--quiet=false"], "--quiet"],
    [["--quiet", "false", "host"], "host"],
    [["one", "two"], "two"],
    [["--", "one", "two"], "two"],
    [[""], "empty"],
    [["-4", "-6"], "-4"],
  ];
  for (const [args, offender] of cases) {
    const error = await read(...args).then(() => undefined, (error) => error);
    assertInstanceOf(
      error,
      Failure,
      `${JSON.stringify(args)} is taken as good`,
    );
    assertEquals(error.status, 2, args.join(" "));
    assertStringIncludes(error.message, offender, args.join(" "));
  }
});

test("a word behind a switch stays a word, be it true, false or a number", async () => {
  for (const word of ["true", "false", "012", "1e3", "-"]) {
    const given = await read("--quiet", word);
    assertEquals([given.quiet, given.words], [true, [word]]);
  }
  assertEquals((await read("--header", "true")).header, ["true"]);
});

test("a letter and its value may be written together, behind switches too, as curl has it", async () => {
  const given = await read(
    "-qp7777",
    "-Ha: b",
    "-H=true",
    "-qHfalse",
    "-n",
    "5",
    "host",
  );
  assertEquals([given.quiet, given.port, given.count], [true, 7777, 5]);
  assertEquals([given.header, given.words], [["a: b", "true", "false"], [
    "host",
  ]]);
  assertEquals((await read("-q4")).family, 4);
  assertEquals((await read("-H-x: y", "-Ha: b\nc")).header, [
    "-x: y",
    "a: b\nc",
  ]);
  assertEquals((await read("--", "-p7")).words, ["-p7"], "a word is a word");
  assertEquals(
    (await assertRejects(() => read("-pq"), Failure)).message.slice(0, 20),
    '"q" is not a port: 0',
  );
});

test("an unknown option gets the nearest one suggested", async () => {
  for (
    const [typed, meant] of [["--prot", "--port"], ["--versoin", "--version"], [
      "--conut=5",
      "--count",
    ], [
      "-P",
      "--port",
    ]]
  ) {
    const error = await assertRejects(() => read(typed), Failure);
    assertStringIncludes(error.message, `unknown option ${typed}`);
    assertStringIncludes(error.message, `did you mean ${meant}?`);
  }
  assertNotMatch(
    (await assertRejects(() => read("-k"), Failure)).message,
    /did you mean/,
    "nothing begins with k",
  );
});

/** The line on stderr and the status of a run whose work throws. */
async function outcome(thrown: unknown): Promise<[number, string[]]> {
  let status = NaN;
  const { err } = await printed(async () => {
    status = await run(COMMAND, [], () => Promise.reject(thrown));
  });
  return [status, err];
}

test("what a network can cause is one line and an exit status", async () => {
  assertEquals(await outcome(new Failure(28, "no answer")), [28, [
    "tool: no answer",
  ]]);
  assertEquals(await outcome(new Failure(18, "a\n\x1b[2Jb")), [18, [
    "tool: a\\n\\x1b[2Jb",
  ]]);
  assertEquals(await outcome(new Failure(23, "")), [23, []]);
  assertEquals(await outcome(new Error("Odd (os error 5)")), [1, [
    "tool: odd",
  ]]);
});

test("what is our own fault is not hidden", async () => {
  await assertRejects(
    () => outcome(new TypeError("x is not a function")),
    TypeError,
  );
});

test("a run returns what its work returns, and 0 for nothing", async () => {
  assertEquals(await run(COMMAND, [], () => Promise.resolve(22)), 22);
  assertEquals(await run(COMMAND, [], () => Promise.resolve()), 0);
});

test("a run does no work when the command line is bad", async () => {
  let worked = false, status = NaN;
  await printed(async () => {
    status = await run(
      COMMAND,
      ["--port", "x"],
      () => Promise.resolve(void (worked = true)),
    );
  });
  assertEquals([worked, status], [false, 2]);
});

test("a signal stops a run, and leaves the next run alone", {
  ignore: Deno.build.os === "windows",
}, async () => {
  const alive = setInterval(() => {}, 1000); // what work there is keeps a process alive; a listener for signals does not
  const ended = await run(
    COMMAND,
    [],
    ({ signal }) =>
      new Promise((_, reject) => {
        signal.addEventListener(
          "abort",
          () => reject(new Deno.errors.Interrupted("x")),
        );
        Deno.kill(Deno.pid, "SIGTERM");
      }),
  );
  clearInterval(alive);
  assertEquals(ended, 143);
  assertEquals(
    await run(
      COMMAND,
      [],
      ({ signal }) => Promise.resolve(Number(signal.aborted)),
    ),
    0,
  );
});

test(
  "output to a full disk is status 23 in one line, to a closed pipe without words",
  {
    ignore: Deno.build.os !== "linux" || missing("sh"),
  },
  async () => {
    const code = `import { run, output } from "./utils.ts";
    Deno.exit(await run({ name: "t", usage: "", words: 0 }, [], () => output(new Uint8Array(100000))));`;
    const shell = async (tail: string) => {
      const command = `"$0" eval '${code}' ${tail}`;
      return await new Running("bash", [
        "-o",
        "pipefail",
        "-c",
        command,
        Deno.execPath(),
      ], { cwd: ROOT }).finish();
    };
    const [full, closed] = await Promise.all([
      shell("> /dev/full"),
      shell("| head -c 1 > /dev/null"),
    ]);
    assertEquals([full.code, full.stderr], [
      23,
      "t: cannot write the output: no space left on device\n",
    ]);
    assertEquals([closed.code, closed.stderr], [23, ""]);
    assertNotMatch(full.stderr, / at /);
  },
);
