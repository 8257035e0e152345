import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "jsr:@std/assert@^1";
import { parseArgs } from "jsr:@std/cli@^1/parse-args";
import { accept, announce, connect, delay, Failure } from "../utils.ts";
import { formatAddress, limited, listen, log, output } from "../utils.ts";
import { parseNumber, parsePort, parseSeconds, parseTarget } from "../utils.ts";
import { printable, reason, refuse, refuseUnknown } from "../utils.ts";
import { resolve, RoundTrips, run, screen, standardInput } from "../utils.ts";
import { timeLimit, writeAll } from "../utils.ts";
import { captured, LINUX, missing, repeat, ROOT, Running } from "./helpers.ts";
import { soon, test, text, unusedPort, WINDOWS } from "./helpers.ts";

/** The status and the message of a failure that is expected. */
function failure(work: () => unknown): [number, string] {
  const error = assertThrows(work, Failure);
  return [error.status, error.message];
}

/** As above, for what fails later. */
async function failureOf(promise: Promise<unknown>): Promise<[number, string]> {
  const error = await assertRejects(() => promise, Failure);
  return [error.status, error.message];
}

/** A signal that nobody aborts. */
const signal = new AbortController().signal;

/** Stands in for a part of the system while some work is done. */
async function replaced<T extends object, K extends keyof T>(
  [object, key]: [T, K],
  value: T[K],
  work: () => unknown,
): Promise<void> {
  const before = object[key];
  object[key] = value;
  try {
    await work();
  } finally {
    object[key] = before;
  }
}

// Messages

test("a reason is a few words, without the system's numbers", () => {
  const { ConnectionRefused, ConnectionReset, AddrInUse } = Deno.errors;
  const cases: [Error, string][] = [
    [new ConnectionRefused("Refused (os error 111)"), "connection refused"],
    [new ConnectionReset("x"), "connection reset"],
    [new AddrInUse("Address in use (os error 98)"), "address in use"],
    [new Error("No space left (os error 28)"), "no space left"],
    [new Error("IPv6 is off"), "IPv6 is off"],
  ];
  for (const [error, words] of cases) assertEquals(reason(error), words);
});

test("text that is printed cannot drive the terminal", () => {
  assertEquals(printable("\x1b[2J\x07\x7f\x9b1m"), "\\x1b[2J\\x07\\x7f\\x9b1m");
  assertEquals(printable("a\r\nb\0"), "a\\r\\nb\\x00");
  const plain = "caf\u00e9 \u6642\u9593 \u{1f600}";
  assertEquals(printable(plain), plain);
  const sly = "\u202e \u2066 \u200f \u2028 \u2029 \ufeff \u{e0041} \ud800";
  for (const character of sly.split(" ")) {
    assertMatch(
      printable(`a${character}b`),
      /^a\\(x[0-9a-f]{2}|u\{[0-9a-f]{4,6}\})b$/,
    );
  }
});

test("a line end stays one on a terminal, in two pieces too", async () => {
  const isTerminal = () => true;
  const { out } = await captured(() =>
    replaced([Deno.stdout, "isTerminal"], isTerminal, async () => {
      const pieces = ["one\r", "\ntwo\r", "over\r\n"];
      for (const piece of pieces) await output(new TextEncoder().encode(piece));
    })
  );
  assertEquals(out, "one\ntwoover\n");
});

test("output to a full disk is 23 in a line, to a closed pipe without", {
  ignore: !LINUX || missing("bash"),
}, async () => {
  const code = `import { run, output } from "./utils.ts";
    const parse = () => ({ _: [], help: true, version: false, verbose: [] });
    const usage = "x".repeat(1e6);
    Deno.exit(await run({ name: "t", usage, parse }, [], async () => {}));`;
  const shell = async (tail: string) => {
    const line = `set -o pipefail; "$0" eval '${code}' ${tail}`;
    const args = ["-c", line, Deno.execPath()];
    await using bash = new Running("bash", args, { cwd: ROOT });
    const { code: status, stderr } = await bash.finish();
    return { status, stderr };
  };
  assertEquals(await shell("> /dev/full"), {
    status: 23,
    stderr: "t: cannot write the output: no space left on device\n",
  });
  const closed = await shell("| head -c 1 > /dev/null");
  assertEquals(closed, { status: 23, stderr: "" });
});

// The log

test("a log loses no line until a thousand wait for their reader", async () => {
  const reader = Promise.withResolvers<void>();
  let written = "";
  const write = async (part: Uint8Array) => {
    await reader.promise;
    written += text(part);
    return part.length;
  };
  await replaced([Deno.stdout, "write"], write, async () => {
    for (let i = 0; i < 5000; i++) log(`${i}`);
    reader.resolve();
    await new Promise((done) => setTimeout(done, 10));
    for (let i = 0; i < 20; i++) {
      log(`later ${i}`);
      for (let turn = 0; turn < i; turn++) await null;
    }
    await new Promise((done) => setTimeout(done, 10));
  });
  const lines = written.split("\n").slice(0, -1);
  const first = lines.slice(0, -20);
  assert(first.length >= 1000 && first.length <= 1001, `${first.length}`);
  assertEquals(first, first.map((_, i) => `${i}`));
  assertEquals(lines.slice(-20), lines.slice(-20).map((_, i) => `later ${i}`));
});

test("a log that is limited tells what it dropped, also without a later line", async () => {
  const lines: string[] = [];
  const limitedLog = limited((line) => void lines.push(line), 2);
  for (const line of ["a", "b", "c", "d"]) limitedLog(line);
  const isTold = () => lines.length === 3;
  const seen = () => lines;
  await repeat(() => delay(20), isTold, "a line about the others", { seen });
  limitedLog("e");
  assertEquals(lines, ["a", "b", "... and 2 more", "e"]);
});

test("a line that is being typed is known to the trace", async () => {
  const { stdin } = Deno;
  const readable = new Response("typed\npart").body!;
  await replaced([Deno, "stdin"], {
    ...stdin,
    isTerminal: () => true,
    readable,
  }, async () => {
    await Array.fromAsync(standardInput());
  });
  assertEquals(screen.midLine, true);
  screen.midLine = false;
});

// Time and bytes

test("a time limit follows its signal, and ends by itself", async () => {
  const stop = new AbortController();
  assertEquals(timeLimit(Infinity, stop.signal), stop.signal);
  const limit = timeLimit(1e6, stop.signal);
  assert(!limit.aborted);
  stop.abort(new Failure(130, ""));
  assertEquals(limit.reason, stop.signal.reason);
  const short = timeLimit(1, signal);
  const late = new Promise((done) => short.addEventListener("abort", done));
  await soon(late, "the end of a limit");
});

test("all bytes are written, even where each write takes a few", async () => {
  const taken: number[] = [];
  const write = (part: Uint8Array) => {
    const length = Math.min(part.length, 1 + taken.length % 3);
    taken.push(...part.subarray(0, length));
    return Promise.resolve(length);
  };
  const sent = Uint8Array.from({ length: 100 }, (_, i) => i);
  await writeAll({ write }, sent);
  assertEquals(taken, [...sent]);
});

// The command line

test("ports are 0 to 65535 or a service's name", () => {
  assertEquals(["0", "13", "65535"].map(parsePort), [0, 13, 65535]);
  const names = "echo daytime ftp ssh telnet smtp http https".split(" ");
  assertEquals(names.map(parsePort), [7, 13, 21, 22, 23, 25, 80, 443]);
  const bad = "65536 -1 +1 1.5 1e3 0x50 nosuch 000080 toString __proto__";
  for (const text of [...bad.split(" "), "", " 80", "80 ", "http "]) {
    assertEquals(failure(() => parsePort(text)), [
      2,
      `"${text}" is not a port: use 0 to 65535 or a service name`,
    ]);
  }
});

test("numbers and seconds keep to their range, and say which", () => {
  const range: [number, number] = [1, 10];
  assertEquals(parseNumber({}, "size", 5, range), 5);
  assertEquals(parseNumber({ size: "10" }, "size", 5, range), 10);
  for (const size of ["0", "11", "1.5", "0x1", "1e0", "-1", "ten", " 1"]) {
    const [status, message] = failure(() =>
      parseNumber({ size }, "size", 5, range)
    );
    assertEquals(status, 2);
    assertMatch(message, /^--size .*1 to 10/);
    assertStringIncludes(message, `"${size}"`);
  }
  assertEquals(parseSeconds({}, "wait", 5), 5000);
  const waits = ["1.5", ".5", "0"].map((wait) =>
    parseSeconds({ wait }, "wait")
  );
  assertEquals(waits, [1500, 500, 0]);
  for (const wait of ["-1", "1s", "1e9", "Infinity", "1000001", "."]) {
    const [status, message] = failure(() => parseSeconds({ wait }, "wait"));
    assertEquals(status, 2);
    assertStringIncludes(message, `"${wait}"`);
  }
});

/** Reads a command line as the scripts do. */
function target(...args: string[]) {
  const string = ["_"] as const;
  const boolean = ["ipv4", "ipv6"] as const;
  const alias = { 4: "ipv4", 6: "ipv6" };
  return parseTarget(parseArgs(args, { string, boolean, alias }), 7);
}

test("a host has its port as a word, or behind a colon", () => {
  const cases: [string[], string, number][] = [
    [["localhost"], "localhost", 7],
    [["localhost", "80"], "localhost", 80],
    [["localhost:http"], "localhost", 80],
    [["127.0.0.1:1"], "127.0.0.1", 1],
    [["::1"], "::1", 7],
    [["::1", "80"], "::1", 80],
    [["fe80::1:2"], "fe80::1:2", 7],
    [["[::1]"], "::1", 7],
    [["[::1]:80"], "::1", 80],
    [["::ffff:127.0.0.1"], "127.0.0.1", 7],
    [["[::FFFF:7f00:1]:80"], "127.0.0.1", 80],
    [["b\u00fccher.example"], "xn--bcher-kva.example", 7],
  ];
  for (const [words, hostname, port] of cases) {
    const found = target(...words);
    assertEquals(
      [found.hostname, found.port],
      [hostname, port],
      words.join(" "),
    );
  }
  const { family } = target("-6", "localhost");
  assertEquals(family, 6);
});

test("what is no host is refused, and named", () => {
  const bad = "5 1313 [::1 ::1] [::1]80 :80 a/b u@h a?b a#b 999.1.1.1";
  const more = ["", ":", "localhost:99999", "a:b:c", "1.2.3.4:5:6"];
  more.push("a b", "\x1b[2J", "a\nb", "a\\b");
  for (const word of [...bad.split(" "), ...more]) {
    const [status, message] = failure(() => target(word));
    assertEquals(status, 2, word);
    assertMatch(message, /is not a (host$|port: use 0)/, word);
  }
  assertEquals(failure(() => target("a", "1", "2"))[0], 2);
  assertEquals(failure(() => target("a:1", "2"))[0], 2);
  assertEquals(failure(() => target("a", "0"))[0], 2);
  assertEquals(failure(() => target("-4", "-6", "a"))[0], 2);
});

test("options that are unknown or another role's are refused by name", () => {
  const read = () => parseArgs(["--prot", "1"], { unknown: refuseUnknown });
  assertEquals(failure(read), [2, "unknown option --prot: see --help"]);
  const given = { quiet: false, json: true, host: undefined };
  refuse(given, ["quiet", "host"], "is for others");
  const refusing = () => refuse(given, ["json"], "is for others");
  assertEquals(failure(refusing), [2, "--json is for others"]);
});

// Addresses and sockets

test("addresses have brackets around IPv6, and IPv4 is unwrapped", () => {
  const show = (hostname: string) => formatAddress({ hostname, port: 7777 });
  assertEquals(show("127.0.0.1"), "127.0.0.1:7777");
  assertEquals(show("::1"), "[::1]:7777");
  assertEquals(show("::ffff:127.0.0.1"), "127.0.0.1:7777");
  assertEquals(show("::"), "[::]:7777");
  assertEquals(show("localhost"), "localhost:7777");
});

test("an address is not looked up, and its family is kept to", async () => {
  const at = (hostname: string, family?: number) =>
    resolve({ hostname, port: 1, family, signal });
  assertEquals(await at("127.0.0.1"), ["127.0.0.1"]);
  assertEquals(await at("::1", 6), ["::1"]);
  assertEquals((await failureOf(at("127.0.0.1", 6)))[0], 2);
  assertEquals((await failureOf(at("::1", 4)))[0], 2);
  assertEquals(await at("localhost", 4), ["127.0.0.1"]);
});

test("looking up ends when the signal aborts", async () => {
  const stop = new AbortController();
  const at = { hostname: "localhost", port: 1, signal: stop.signal };
  const looking = resolve(at);
  stop.abort(new Failure(130, ""));
  await assertRejects(() => soon(looking, "the end of a lookup"), Failure);
});

test("connecting says 7 when refused, 6 for an unknown name", async () => {
  const port = unusedPort();
  const to = (hostname: string) => connect({ hostname, port, signal });
  const refused = `cannot connect to 127.0.0.1:${port}: connection refused`;
  assertEquals(await failureOf(to("127.0.0.1")), [7, refused]);
  const unknown = "cannot resolve a..test: no such name";
  assertEquals(await failureOf(to("a..test")), [6, unknown]);
});

test("connecting tries each address of a name", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const to = { hostname: "localhost", port: listener.addr.port, signal };
  using conn = await connect(to); // ::1 refuses, where localhost is both
  assertEquals(conn.remoteAddr.hostname, "127.0.0.1");
  (await listener.accept()).close();
});

test("listening on :: takes IPv4 as well, and falls back to it", async () => {
  using both = listen((at) => Deno.listen(at), 0);
  const { port } = both.addr;
  for (const hostname of WINDOWS ? ["127.0.0.1"] : ["127.0.0.1", "::1"]) {
    using _conn = await Deno.connect({ hostname, port });
    (await both.accept()).close();
  }
  const open = ({ hostname }: { hostname: string }) => {
    if (!hostname.includes(":")) return hostname;
    throw new Error("Address family not supported by protocol (os error 97)");
  };
  assertEquals(listen(open, 0), "0.0.0.0");
  const [status, message] = failure(() => listen(open, 1, "::1"));
  assertEquals(status, 1, "who asks for an IPv6 address gets no other");
  assertMatch(message, /^cannot listen on \[::1\]:1: address family not/);
});

test("a busy and a privileged port are 1, with what to do next", () => {
  const { AddrInUse, PermissionDenied } = Deno.errors;
  const opening = (error: Error, port = 13) =>
    failure(() =>
      listen(() => {
        throw error;
      }, port)
    );
  const [busy, why] = opening(new AddrInUse("In use (os error 98)"));
  assertEquals(busy, 1);
  assertMatch(why, /\b13 is in use\b.*--port/);
  const [barred, hint] = opening(new PermissionDenied("x"));
  assertEquals(barred, 1);
  assertMatch(hint, /port 13 needs more rights: try --port 1313$/);
  // Windows keeps some ports above for itself.
  const [reserved, reason] = opening(new PermissionDenied("x"), 65_000);
  assertEquals(reserved, 1);
  assertMatch(reason, /^cannot listen on \S+:65000: permission denied$/);
});

test("a server says where it listens, and where others reach it", async () => {
  const addr = { transport: "udp", hostname: "::1", port: 7 } as const;
  const flush = () => new Promise((done) => setTimeout(done, 10));
  const said = async (hostname: string) => {
    await announce({ ...addr, hostname }, false);
    await flush();
  };
  const narrow = await captured(() => said("::1"));
  assertEquals(narrow.out, "listening on udp://[::1]:7\n");
  const wide = await captured(() => said("::"));
  const near = "(on the local network: udp://[\\d.]+:7\n)?";
  assertMatch(wide.out, RegExp(`^listening on udp://\\[::\\]:7\n${near}$`));
});

/** A listener whose `accept` gives these, one after the other. */
function listenerOf(steps: (Error | Deno.TcpConn)[]): Deno.TcpListener {
  const accept = () => {
    const step = steps.shift() ?? new Deno.errors.BadResource("closed");
    return step instanceof Error ? Promise.reject(step) : Promise.resolve(step);
  };
  return { accept } as unknown as Deno.TcpListener;
}

test("accepting survives clients that are gone, and full tables", async () => {
  const { NotConnected } = Deno.errors;
  const gone = () => new NotConnected("Not connected (os error 107)");
  const full = () => new Error("Too many open files (os error 24)");
  const conn = {} as Deno.TcpConn;
  const listener = listenerOf([gone(), gone(), conn, full(), full(), conn]);
  const lines: string[] = [];
  const next = () => accept(listener, (line) => lines.push(line));
  assertEquals(await next(), conn);
  assertEquals(lines, [], "that is everyday life, not worth a line");
  const started = performance.now();
  assertEquals(await next(), conn);
  assert(performance.now() - started >= 14, "it spun");
  assertEquals(new Set(lines), new Set(["cannot accept: too many open files"]));
  assertEquals(await next(), undefined, "the listener is closed");
});

// Round trips

/** Round trips that took so many milliseconds, of so many sent. */
function trips(sent: number, ...times: number[]): RoundTrips {
  const all = new RoundTrips();
  all.sent = sent;
  all.times.push(...times);
  return all;
}

test("round trips are summed up as ping does it", () => {
  const none = trips(5);
  assertEquals(`${none}`, "5 sent, 0 received, 100% loss");
  assertEquals(
    `${trips(5, 3, 1, 2, 5, 4)}`,
    "5 sent, 5 received, 0% loss\n" +
      "min/avg/max/mdev = 1.00/3.00/5.00/1.41 ms",
  );
  const some = trips(7, 1, 1, 1, 1, 1);
  Object.assign(some.odd, { duplicate: 2, late: 1 });
  const line = "7 sent, 5 received, 28.5714% loss, 2 duplicate, 1 late";
  assertStringIncludes(`${some}`, line);
  const long = trips(1e6, ...Array(1000).fill(1000));
  assertStringIncludes(`${long}`, "= 1000.00/1000.00/1000.00/0.00 ms");
});

test("a loss is never shown as none, or as all, where it is not", () => {
  const most = trips(50_001, ...Array(50_000).fill(1));
  assertStringIncludes(`${most}`, "50000 received, 0.00199996% loss");
  assertStringIncludes(`${trips(1e6, 1)}`, "1 received, 99.9999% loss");
});

test("percentiles are of 20 round trips and more", () => {
  const hundred = Array.from({ length: 100 }, (_, i) => 100 - i);
  const text = `${trips(100, ...hundred)}`;
  assertMatch(text, /\np50\/p90\/p99 = 50\.00\/90\.00\/99\.00 ms$/);
  assert(!`${trips(19, ...hundred.slice(81))}`.includes("p50"));
  const { p50Ms, p90Ms, p99Ms } = trips(100, ...hundred).toJSON();
  assertEquals([p50Ms, p90Ms, p99Ms], [50, 90, 99]);
});

test("no round trip at all has a summary in JSON that is JSON", () => {
  const { sent, received, lossPercent } = JSON.parse(JSON.stringify(trips(2)));
  assertEquals([sent, received, lossPercent], [2, 0, 100]);
  const unsent = JSON.parse(JSON.stringify(new RoundTrips()));
  assertEquals([unsent.sent, typeof unsent.lossPercent], [0, "number"]);
  assertEquals([unsent.minMs, unsent.avgMs, unsent.p99Ms], [null, null, null]);
  assertMatch(`${new RoundTrips()}`, /^0 sent, 0 received, \d+% loss$/);
});

// Running

const OPTIONS = { _: [], help: false, version: false, verbose: [] };
const SCRIPT = { name: "tool", usage: "usage\n", parse: () => OPTIONS };

/** The status of a run whose work throws, and what is printed. */
async function outcome(thrown: unknown): Promise<[number, string]> {
  const work = () => Promise.reject(thrown);
  const running = () => run(SCRIPT, [], work);
  const { value, err } = await captured(running);
  return [value, err];
}

test("what a network can cause is one line and an exit status", async () => {
  const { ConnectionReset } = Deno.errors;
  const reset = new ConnectionReset("Reset (os error 104)");
  const cases: [Error, number, string][] = [
    [new Failure(28, "no answer"), 28, "tool: no answer\n"],
    [new Failure(18, "a\n\x1b[2Jb"), 18, "tool: a\\n\\x1b[2Jb\n"],
    [new Failure(23, ""), 23, ""],
    [new Error("Odd (os error 5)"), 1, "tool: odd\n"],
    [reset, 56, "tool: connection reset\n"],
  ];
  for (const [error, status, line] of cases) {
    assertEquals(await outcome(error), [status, line]);
  }
});

test("what is our own fault is not hidden", async () => {
  const fault = new TypeError("x is not a function");
  await assertRejects(() => outcome(fault), TypeError);
});

test("a run does no work when the command line is bad", async () => {
  let worked = false;
  const parse = () => {
    throw new Failure(2, "bad");
  };
  const work = async () => {
    worked = true;
    await null;
  };
  const bad = { ...SCRIPT, parse };
  const { value } = await captured(() => run(bad, [], work));
  assertEquals([worked, value], [false, 2]);
});

test("an option without its value is refused, and a value too many", async () => {
  const parse = (args: string[]) =>
    parseArgs(args, {
      string: ["_", "port"],
      boolean: ["help", "version", "quiet", "verbose"],
      collect: ["verbose"],
      alias: { p: "port", q: "quiet", v: "verbose" },
    });
  const work = () => Promise.resolve();
  const cases: [string, string][] = [
    ["--port=", "--port needs a value"],
    ["-p", "--port needs a value"],
    ["-qp80", '--quiet takes no value: "p80"'],
    ["-q5", '--quiet takes no value: "5"'],
    ["-vp80", '--verbose takes no value: "p80"'],
    ["--verbose=false", '--verbose takes no value: "false"'],
    ["--help=x", '--help takes no value: "x"'],
    ["--quiet=", '--quiet takes no value: ""'],
  ];
  for (const [arg, message] of cases) {
    const running = () => run({ ...SCRIPT, parse }, [arg], work);
    const { value, err } = await captured(running);
    assertEquals([value, err], [2, `tool: ${message}\n`]);
  }
  const args = ["-qvv", "-p80"];
  assertEquals(await run({ ...SCRIPT, parse }, args, work), 0);
});

// In a process of its own: tests of other files share this one.
test("a signal stops a run, and leaves the next run alone", {
  ignore: WINDOWS,
}, async () => {
  const code = `import { run } from "./utils.ts";
    const parse = () => ({ _: [], help: false, version: false, verbose: [] });
    const script = { name: "t", usage: "", parse };
    const alive = setInterval(() => {}, 1000);
    const stopped = await run(script, [], (_, signal) =>
      new Promise((_, reject) => {
        signal.addEventListener("abort", () => reject(new Error("x")));
        Deno.kill(Deno.pid, "SIGTERM");
      }));
    clearInterval(alive);
    const next = await run(script, [], async (_, signal) => {
      console.log(stopped, signal.aborted);
    });
    Deno.exit(next);`;
  const options = { cwd: ROOT };
  await using child = new Running(Deno.execPath(), ["eval", code], options);
  const { stdout, stderr, code: status } = await child.finish();
  assertEquals([stdout, stderr, status], ["143 false\n", "", 0]);
});
