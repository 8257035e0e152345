import {
  assert,
  assertEquals,
  assertGreater,
  assertLess,
  assertMatch,
  assertNotEquals,
  assertNotMatch,
  assertRejects,
  assertStringIncludes,
} from "jsr:@std/assert@^1";
import type { Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { echo, main, ping, serve, talk } from "../echo_tcp.ts";
import type { PingOptions, ServeOptions, TalkOptions } from "../echo_tcp.ts";
import { Failure, RoundTrips } from "../utils.ts";
import { assertSame, barred, bytes, captured } from "./helpers.ts";
import { type Handler, LINUX, missing, Namespace } from "./helpers.ts";
import { noBash, noNamespaces, noNc, pipe, random } from "./helpers.ts";
import { receive, repeat, reset, ROOT, run, Running, send } from "./helpers.ts";
import { serve as serveProcess, serveOnce, serveResets } from "./helpers.ts";
import { soon, start, terminal, test, text, WINDOWS } from "./helpers.ts";

/** A round trip: what is sent must come back. */
async function trip(conn: Deno.Conn, message = random(16)): Promise<void> {
  const both = [receive(conn, message.length), send(conn, message)] as const;
  const [answer] = await soon(Promise.all(both), "the echo");
  assertSame(answer, message);
}

/**
 * Sends without reading until no more fits: nothing moves while another
 * connection makes its round trips. Returns a count of the bytes taken, which
 * grows when there is room again.
 */
async function stuff(conn: Deno.Conn, other: Deno.Conn): Promise<() => number> {
  const chunk = new Uint8Array(1024 * 1024);
  let sent = 0;
  for (let isStuck = false; !isStuck;) {
    isStuck = true;
    const taken = (length: number) => {
      sent += length;
      isStuck = false;
    };
    conn.write(chunk).then(taken, () => {});
    for (let i = 0; i < 50; i++) await trip(other);
    assertLess(
      sent,
      100e6,
      "the server takes all from a client that reads not",
    );
  }
  return () => sent;
}

/** A server in this process. */
class Local implements AsyncDisposable {
  readonly lines: string[] = [];
  readonly port: number;
  readonly #stop = new AbortController();
  readonly #total: ReturnType<typeof serve>;

  constructor(options: Partial<ServeOptions> = {}, hostname = "127.0.0.1") {
    const listener = Deno.listen({ hostname, port: 0 });
    this.port = listener.addr.port;
    const log = (line: string) => void this.lines.push(line);
    const { signal } = this.#stop;
    this.#total = serve({ listener, signal, log, ...options });
  }

  connect(hostname = "127.0.0.1"): Promise<Deno.TcpConn> {
    return soon(Deno.connect({ hostname, port: this.port }), "a connection");
  }

  /** Waits until so many connections are logged. */
  async logged(count: number): Promise<string[]> {
    const isDone = () => this.lines.length >= count;
    const seen = () => this.lines;
    await repeat(() => delay(5), isDone, `${count} lines of the log`, { seen });
    return this.lines;
  }

  stop() {
    this.#stop.abort();
    return soon(this.#total, "the end of the service");
  }

  async [Symbol.asyncDispose]() {
    await this.stop();
  }
}

const silent: Handler = (_conn, over) => over;
const early: Handler = (conn) => receive(conn, 6);
const once: Handler = async (conn) => send(conn, await receive(conn, 64));

/** Runs a command line in this process. */
async function command(...args: string[]) {
  const { value: status, ...printed } = await captured(() => main(args));
  return { status, ...printed };
}

// The protocol

/** A connection that gives `input` in pieces, and takes parts of a write. */
function scripted(input: Uint8Array, piece: number, room: number) {
  const upTo = (most: number) => 1 + Math.floor(Math.random() * most);
  const output: number[] = [];
  const buffers: number[] = [];
  let at = 0;
  const read = (buffer: Uint8Array) => {
    buffers.push(buffer.length);
    if (at === input.length) return Promise.resolve(null);
    const part = input.subarray(at, at + Math.min(upTo(piece), buffer.length));
    buffer.set(part);
    at += part.length;
    return Promise.resolve(part.length);
  };
  const write = (from: Uint8Array) => {
    assertGreater(from.length, 0, "an empty write");
    const length = Math.min(from.length, upTo(room));
    for (const byte of from.subarray(0, length)) output.push(byte);
    return Promise.resolve(length);
  };
  return { read, write, output, buffers };
}

test("echo sends back every byte, however it comes and is taken", async () => {
  const cases = [[1e6, 1000], [100_000, 7777], [300, 299], [5, 1], [1, 1]];
  for (const [piece, room] of cases) {
    const input = random(Math.min(200_000, 1000 * room));
    const conn = scripted(input, piece, room);
    await echo(conn);
    assertSame(Uint8Array.from(conn.output), input);
  }
});

test("echo sends nothing when nothing comes", async () => {
  const conn = scripted(new Uint8Array(), 1, 1);
  await echo(conn);
  assertEquals([conn.output, conn.buffers.length], [[], 1]);
});

test("echo begins with a small buffer, and takes at most 256 KiB", async () => {
  const conn = scripted(new Uint8Array(3_000_000), 1e12, 1e12);
  await echo(conn);
  assertLess(conn.buffers[0], 2049, "for a connection that is idle");
  assertEquals(Math.max(...conn.buffers), 256 * 1024);
});

test("echo reads nothing more while what it has is not taken", async () => {
  let reads = 0;
  const taken = Promise.withResolvers<number>();
  const read = (buffer: Uint8Array) =>
    Promise.resolve(++reads < 3 ? buffer.fill(1, 0, 1) && 1 : null);
  const write = () => reads === 1 ? taken.promise : Promise.resolve(1);
  const echoing = echo({ read, write });
  await delay(1);
  assertEquals(reads, 1);
  taken.resolve(1);
  await soon(echoing, "the end of echo");
  assertEquals(reads, 3);
});

test("echo passes on what goes wrong with reading and writing", async () => {
  const { ConnectionReset } = Deno.errors;
  const reset = () => Promise.reject(new ConnectionReset("x"));
  const read = (buffer: Uint8Array) => Promise.resolve(buffer.length);
  for (const conn of [{ read: reset, write: reset }, { read, write: reset }]) {
    await assertRejects(() => echo(conn), ConnectionReset);
  }
});

// The server

test("echo_tcp gives back what was sent after a half-close", async () => {
  await using server = new Local();
  using conn = await server.connect();
  const message = random(3_000_000);
  const sending = send(conn, message).then(() => conn.closeWrite());
  const [answer] = await soon(
    Promise.all([receive(conn), sending]),
    "the answer",
  );
  assertSame(answer, message);
});

test("echo_tcp serves its clients side by side", async () => {
  await using server = new Local();
  const all = Array.from({ length: 20 }, () => server.connect());
  const conns = await Promise.all(all);
  for (const conn of conns.toReversed()) await trip(conn);
  await Promise.all(conns.map((conn) => trip(conn, random(100_000))));
  for (const conn of conns) conn.close();
  await server.logged(20);
});

test("echo_tcp serves each of a hundred that wait in line", async () => {
  await using server = new Local({ maxConnections: 1 });
  const all = Array.from({ length: 100 }, () => server.connect());
  const conns = await Promise.all(all);
  await Promise.all(conns.map(async (conn, i) => {
    await send(conn, bytes(`I am ${i}`)); // before it is its turn
    await conn.closeWrite();
    assertEquals(text(await receive(conn)), `I am ${i}`);
    conn.close();
  }));
  assertEquals((await server.stop()).connections, 100);
});

test("echo_tcp logs who, how many bytes and how long", {
  ignore: WINDOWS,
}, async () => {
  await using server = new Local({}, "::");
  for (const [i, host] of ["127.0.0.1", "::1"].entries()) {
    const conn = await server.connect(host);
    const name = `${i ? "[::1]" : host}:${conn.localAddr.port}`;
    await trip(conn, random(1000 + i));
    conn.close();
    const line = (await server.logged(i + 1))[i];
    assertMatch(line, /^\S+ \d+ bytes in \d+\.\d{3} s$/);
    assertStringIncludes(line, `${name} ${1000 + i} bytes in `);
  }
  assertEquals(await server.stop(), { connections: 2, bytes: 2001 });
});

test("echo_tcp lets those over --max-connections wait their turn", async () => {
  await using server = new Local({ maxConnections: 2 });
  const conns: Deno.TcpConn[] = [];
  for (let i = 0; i < 4; i++) conns.push(await server.connect());
  const answered: number[] = [];
  const waiting = [2, 3].map((i) =>
    trip(conns[i]).then(() => answered.push(i))
  );
  for (let i = 0; i < 40; i++) await trip(conns[i % 2]);
  assertEquals(answered, []);
  conns[0].close();
  await waiting[0];
  for (let i = 0; i < 20; i++) await trip(conns[1]);
  assertEquals(answered, [2]);
  conns[1].close();
  await waiting[1];
  conns[2].close();
  conns[3].close();
  await server.logged(4);
});

test("echo_tcp closes what is idle for too long, nothing else", async () => {
  await using server = new Local({ idleTimeout: 300 });
  using idle = await server.connect();
  using busy = await server.connect();
  using stuffed = await server.connect();
  await stuff(stuffed, busy);
  const isOver = () => server.lines.length === 2;
  await repeat(() => trip(busy), isOver, "both that are idle to be closed");
  assertEquals((await receive(idle)).length, 0);
  for (const line of server.lines) assertMatch(line, /\.\d{3} s: timed out$/);
  await trip(busy);
});

test("echo_tcp that is stopped before it begins ends at once", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const serving = serve({ listener, signal: AbortSignal.abort() });
  const total = await soon(serving, "its end", { seconds: 2 });
  assertEquals(total, { connections: 0, bytes: 0 });
});

test("echo_tcp ends idle connections when it is stopped", async () => {
  await using server = new Local();
  using conn = await server.connect();
  using fresh = await server.connect();
  await trip(conn);
  const stopping = server.stop();
  const ends = await Promise.all([receive(conn), receive(fresh)]);
  assertEquals(ends.map(({ length }) => length), [0, 0]);
  assertEquals(await stopping, { connections: 2, bytes: 16 });
  await assertRejects(() => server.connect(), Deno.errors.ConnectionRefused);
});

test("echo_tcp gives back what is in flight when it is stopped", async () => {
  await using server = new Local();
  using conn = await server.connect();
  using other = await server.connect();
  const sent = await stuff(conn, other);
  const stopping = server.stop();
  const answer = await receive(conn);
  assertGreater(sent(), 1_000_000);
  assertEquals(answer.length, sent());
  await stopping;
});

// The client, without a process

/** Talks to a peer; what came back, the status and message of a failure. */
async function talked(
  peer: Handler,
  input: Iterable<string> | AsyncIterable<string>,
  options: Partial<TalkOptions> = {},
) {
  await using server = serveOnce(peer);
  using conn = await Deno.connect({ hostname: "127.0.0.1", port: server.port });
  let came = "";
  const output = async (part: Uint8Array) => {
    came += text(part);
    await null;
  };
  const encoder = new TextEncoderStream();
  const stream = ReadableStream.from(input).pipeThrough(encoder);
  const rest = { input: stream, output, timeout: 5000, ...options };
  const ended = talk({ conn, ...rest }).then(() => undefined, (error) => error);
  const error = await soon(ended, "the end of the talk");
  return { came, status: error?.status, message: error?.message };
}

const DONE = { status: undefined, message: undefined };

/** Gives each of the parts, and waits after it. */
async function* slowly(parts: string[], ms: number): AsyncGenerator<string> {
  for (const part of parts) {
    yield part;
    await delay(ms);
  }
}

/** Gives this, and never ends. */
async function* forever(first = ""): AsyncGenerator<string> {
  if (first) yield first;
  await new Promise<void>(() => {});
}

test("the client sends, half-closes, and passes on what comes", async () => {
  const came = "hello world\n";
  assertEquals(await talked(echo, ["hello ", "world\n"]), { came, ...DONE });
});

test("the client says 18 when the server closes with bytes owed", async () => {
  const short: Handler = async (conn) => {
    await receive(conn);
    await send(conn, bytes("hel"));
  };
  const { came, status, message } = await talked(short, ["hello\n"]);
  assertEquals([came, status], ["hel", 18]);
  assertMatch(message, /\b3 bytes/);
  const endless = await talked(early, forever("hello\n"));
  assertEquals(endless.status, 18, "there is more to send");
});

test("the client says 28 when nothing comes back in time", async () => {
  const mute: Handler = async (conn, over) => {
    await echo(conn);
    await over; // it does not close
  };
  const timeout = 50;
  const silence = await talked(silent, ["hello\n"], { timeout });
  assertEquals(silence, {
    came: "",
    status: 28,
    message: "no answer within 0.05 s",
  });
  const open = await talked(silent, forever("hello"), { timeout });
  assertEquals(open.status, 28, "input still open");
  const unclosed = await talked(mute, ["hello\n"], { timeout });
  assertEquals([unclosed.came, unclosed.status], ["hello\n", 28]);
});

test("the client's own pauses and slow output are no silence", async () => {
  const timeout = 200;
  const typed = await talked(echo, slowly(["a", "b"], 400), { timeout });
  assertEquals(typed, { came: "ab", ...DONE });
  let came = "";
  const output = async (part: Uint8Array) => {
    await delay(400); // a pager that waits for its reader
    came += text(part);
  };
  const paged = await talked(echo, ["hello"], { timeout, output });
  assertEquals([came, paged.message], ["hello", undefined]);
});

test("slow output is no silence, even as more is sent meanwhile", async () => {
  const output = () => delay(500);
  const options = { timeout: 200, output };
  for (const more of [["b"], []]) { // a second piece, or the end of the input
    const typed = slowly(["a", ...more], 100);
    const { message } = await talked(echo, typed, options);
    assertEquals(message, undefined);
  }
});

test("the client's patience is not renewed by what it sends", async () => {
  const typing = slowly(Array(40).fill("x"), 50); // 2 s
  const started = performance.now();
  const { status } = await talked(silent, typing, { timeout: 200 });
  assertEquals(status, 28);
  assertLess(performance.now() - started, 1500, "it waited for the typing");
});

test("the client owes nothing to a server that speaks unasked", async () => {
  const welcoming: Handler = async (conn) => {
    await send(conn, bytes("220 welcome\r\n"));
    const question = await receive(conn, 4);
    await delay(150); // a server far away
    await send(conn, question);
  };
  async function* later() {
    await delay(400);
    yield "QUIT";
  }
  const { came, message } = await talked(welcoming, later(), { timeout: 300 });
  assertEquals([came, message], ["220 welcome\r\nQUIT", undefined]);
});

test("the client waits for a slow end after a pause of the input", async () => {
  const slow: Handler = async (conn) => {
    await echo(conn);
    await delay(150); // a server far away
  };
  const { status } = await talked(slow, slowly(["a"], 400), { timeout: 300 });
  assertEquals(status, undefined);
});

test("the client passes on what goes wrong with its output", async () => {
  const failure = new Failure(23, "cannot write the output");
  const output = () => Promise.reject(failure);
  assertEquals((await talked(echo, ["x"], { output })).status, 23);
});

/** Measures round trips; what was logged, counted, and the failure. */
async function pinged(peer: Handler, options: Partial<PingOptions> = {}) {
  await using server = serveOnce(peer);
  using conn = await Deno.connect({ hostname: "127.0.0.1", port: server.port });
  const trips = new RoundTrips();
  const { signal } = new AbortController();
  const seqs: number[] = [];
  const show = async (seq: number, milliseconds: number) => {
    seqs.push(milliseconds > 0 && milliseconds < 9000 ? seq : NaN);
    await null;
  };
  const usual = {
    count: 3,
    size: 64,
    interval: 0,
    timeout: 5000,
    signal,
    show,
  };
  const ended = ping({ conn, trips, ...usual, ...options })
    .then(() => undefined, (error) => error);
  const error = await soon(ended, "the end of the round trips");
  const counted = `${trips.sent}/${trips.times.length}`;
  return { seqs, counted, status: error?.status };
}

test("round trips are counted, and told of one by one", async () => {
  const five = await pinged(echo, { count: 5 });
  assertEquals(five, {
    seqs: [1, 2, 3, 4, 5],
    counted: "5/5",
    status: undefined,
  });
  const size = 16 * 1024 * 1024; // more than all buffers on the way hold
  const large = await pinged(echo, { count: 1, size });
  assertEquals([large.counted, large.status], ["1/1", undefined]);
});

test("an answer that is changed, early or doubled is none: 8", async () => {
  const changed: Handler = async (conn, over) => {
    await send(conn, (await receive(conn, 64)).toReversed());
    await over;
  };
  const doubled: Handler = async (conn, over) => {
    const message = await receive(conn, 64);
    await send(conn, message);
    await send(conn, message);
    await over;
  };
  const first = await pinged(changed);
  assertEquals([first.status, first.counted], [8, "1/0"]);
  const second = await pinged(doubled);
  assertEquals([second.status, second.counted], [8, "2/1"]);
});

test("round trips end with a silent or closing server", async () => {
  const lazy: Handler = async (conn, over) => {
    await once(conn, over);
    await over;
  };
  const late = await pinged(lazy, { timeout: 100 });
  assertEquals(late, { seqs: [1], counted: "2/1", status: 28 });
  const closed = await pinged(once);
  assertEquals(closed, { seqs: [1], counted: "2/1", status: 18 });
});

// The command line

test("echo_tcp refuses what cannot be meant", async () => {
  const cases: [string[], RegExp][] = [
    [["127.0.0.1", "1", "-c", "0"], /count.*"0"/],
    [["127.0.0.1", "1", "-c", "-5"], /-5/],
    [["127.0.0.1", "1", "-c", "1", "-s", "0"], /size.*"0"/],
    [["127.0.0.1", "1", "-c", "1", "-s", "99999999"], /size.*99999999/],
    [["127.0.0.1", "1", "-p", "2"], /--port/],
    [["127.0.0.1", "1", "--max-connections", "5"], /max-connections/],
    [["127.0.0.1", "1", "--reuse-port"], /reuse-port/],
    [["--idle-timeout", "-1"], /-1/],
    [["--max-connections", "many"], /many/],
    [["-c", "5"], /count/],
    [["-s", "5"], /size/],
    [["--json"], /json/],
  ];
  for (const [args, offender] of cases) {
    const { status, out, err } = await command(...args);
    assertEquals([status, out], [2, ""], `echo_tcp ${args.join(" ")}: ${err}`);
    assertMatch(err, /^echo_tcp: [^\n]+\n$/);
    assertMatch(err, offender);
  }
});

test("echo_tcp -c prints a line each and a summary, as ping does", async () => {
  await using server = new Local();
  const at = `127.0.0.1:${server.port}`;
  const few = await command(at, "-c", "3", "-i", "0.01", "--size", "9");
  assertEquals([few.status, few.err], [0, ""]);
  const lines = few.out.replace(/time=\d+\.\d\d ms/g, "time").split("\n");
  const seq = [1, 2, 3].map((i) => `9 bytes from ${at}: seq=${i} time`);
  assertEquals(lines.slice(0, 4), [...seq, "3 sent, 3 received, 0% loss"]);
  const times = /^min\/avg\/max\/mdev = (\d+\.\d\d\/){3}\d+\.\d\d ms$/;
  assertMatch(lines[4], times);
  for (let i = 0; i < 20; i++) { // what is printed twice is the same twice
    const { out } = await command(at, "-c", "1");
    const [, time] = out.match(/time=(\S+)/)!;
    assertStringIncludes(out, `= ${time}/${time}/${time}/0.00 ms`);
  }
  const many = await command(at, "-c", "20", "-i", "0");
  const percentiles = /\np50\/p90\/p99 = (\d+\.\d\d\/){2}\d+\.\d\d ms\n$/;
  assertMatch(many.out, percentiles);
});

test("echo_tcp -c --json prints the summary as one object", async () => {
  await using server = new Local();
  const at = `127.0.0.1:${server.port}`;
  const { out } = await command(at, "-c", "3", "-i", "0", "--json");
  const { sent, received, lossPercent, ...times } = JSON.parse(out);
  assertEquals([sent, received, lossPercent], [3, 3, 0]);
  assert(times.minMs <= times.avgMs && times.avgMs <= times.maxMs, out);
  assertEquals(out.split("\n").length, 2);
  await using mute = serveOnce(silent);
  const none = await command(mute.at, "-c", "3", "-w", "0.05", "--json");
  assertEquals(none.status, 28);
  const { sent: asked, received: came } = JSON.parse(none.out);
  assertEquals([asked, came], [1, 0]);
});

test("echo_tcp -c says why fewer came back than were asked for", async () => {
  await using closing = serveOnce(once);
  const some = await command(closing.at, "-c", "3", "-i", "0");
  assertNotEquals(some.status, 0);
  assertStringIncludes(some.out, "\n2 sent, 1 received, 50% loss\n");
  assertMatch(some.err, /^echo_tcp: [^\n]*closed[^\n]*\n$/);
  await using mute = serveOnce(silent);
  const none = await command(mute.at, "-c", "3", "-w", "0.05");
  assertEquals(none.status, 28);
  assertEquals(none.out, "1 sent, 0 received, 100% loss\n");
  assertMatch(none.err, /^echo_tcp: no answer [^\n]*\n$/);
});

test("echo_tcp -4 and -6 keep the client to a family", {
  ignore: WINDOWS,
}, async () => {
  await using server = new Local({}, "::");
  for (const [option, peer] of [["-4", "127.0.0.1"], ["-6", "[::1]"]]) {
    const host = option === "-4" ? "localhost" : "::1";
    const to = [host, `${server.port}`];
    const { status, out, err } = await command(option, ...to, "-c", "1");
    assertEquals([status, err], [0, ""]);
    assertStringIncludes(out, `64 bytes from ${peer}:${server.port}: seq=1 `);
  }
});

// Processes

test("echo_tcp ends at once at the second signal", {
  ignore: WINDOWS,
}, async () => {
  await using server = await serveProcess("echo_tcp", ["-q"]);
  using conn = await Deno.connect({ port: server.port });
  using other = await Deno.connect({ port: server.port });
  await stuff(conn, other);
  server.kill("SIGTERM");
  await receive(other); // idle, so it is closed: the drain is under way
  const connecting = () => Deno.connect({ port: server.port });
  await assertRejects(connecting, Deno.errors.ConnectionRefused);
  server.kill("SIGTERM");
  const { code, signal, stderr } = await server.finish(3);
  assertNotEquals(code, 0);
  assertEquals([signal, stderr], [null, ""]);
});

test("echo_tcp waits 5 s for a client that reads nothing", {
  ignore: WINDOWS,
}, async () => {
  await using server = await serveProcess("echo_tcp", ["-q"]);
  using conn = await Deno.connect({ port: server.port });
  using other = await Deno.connect({ port: server.port });
  await stuff(conn, other);
  const started = performance.now();
  server.kill("SIGTERM");
  assertEquals((await server.finish()).code, 0);
  const seconds = (performance.now() - started) / 1000;
  assert(seconds > 4 && seconds < 8, `it ended after ${seconds} s`);
});

test("echo_tcp loses nothing that came before SIGTERM", {
  ignore: WINDOWS,
}, async () => {
  await using server = await serveProcess("echo_tcp", ["-q"]);
  const all = (length: number) => Array.from({ length }, connect);
  const connect = () => Deno.connect({ port: server.port });
  const conns = await Promise.all(all(100));
  // Half of them have never sent anything; all are idle for long.
  await Promise.all(conns.slice(50).map((conn) => trip(conn)));
  await delay(120);
  server.kill("SIGSTOP");
  // The system goes on taking connections: these are in line.
  conns.push(...await Promise.all(all(20)));
  await Promise.all(conns.map((conn) => send(conn, bytes("too late?"))));
  server.kill("SIGTERM");
  server.kill("SIGCONT");
  const answers = conns.map((conn) =>
    receive(conn).then(text, (error) => `${error}`)
  );
  const wrong = (await Promise.all(answers)).filter((answer) =>
    answer !== "too late?"
  );
  for (const conn of conns) conn.close();
  assertEquals(wrong, [], "of 120 came back otherwise");
  assertEquals((await server.finish()).code, 0);
});

test("echo_tcp takes --max-connections and --idle-timeout", async () => {
  const limits = ["--max-connections", "1", "--idle-timeout", "0.3"];
  await using server = await serveProcess("echo_tcp", limits);
  using first = await Deno.connect({ port: server.port });
  using second = await Deno.connect({ port: server.port });
  let isAnswered = false;
  const waiting = trip(second).then(() => isAnswered = true);
  for (let i = 0; i < 20; i++) await trip(first);
  assert(!isAnswered, "two at once");
  await server.until(/ 320 bytes in \d\.\d{3} s: timed out\n/);
  await waiting;
});

test("echo_tcp tells each way to fail by its status, in one line", async () => {
  const cases: [Handler, string[], number, RegExp][] = [
    [early, [], 18, /closed/],
    [silent, ["-w", "0.2"], 28, /no answer within 0\.2 s/],
    [silent, ["-c", "1", "-w", "0.2"], 28, /no answer/],
  ];
  await Promise.all(cases.map(async ([handler, args, status, message]) => {
    await using server = serveOnce(handler);
    const words = [server.at, ...args];
    const { code, stderr } = await run("echo_tcp", words, "hello\n");
    assertEquals(code, status, stderr);
    assertMatch(stderr, /^echo_tcp: [^\n]+\n$/);
    assertMatch(stderr, message);
  }));
});

test("echo_tcp ends with 56 when the server resets", async () => {
  await using server = await serveResets();
  const { code, stdout, stderr } = await run("echo_tcp", [server.at], "x");
  assertEquals([code, stdout], [56, ""]);
  assertMatch(stderr, /^echo_tcp: [^\n]*connection reset\n$/);
  const { status, out, err } = await command(server.at, "-c", "1");
  assertNotEquals(status, 0);
  assertEquals(out, "1 sent, 0 received, 100% loss\n");
  assertMatch(err, /^echo_tcp: [^\n]*connection reset\n$/);
});

test("echo_tcp ends with 18 while the person could still type", async () => {
  await using server = serveOnce(early);
  await using client = start("echo_tcp", [server.at]);
  await client.type("hello\n");
  await client.until(/^echo_tcp: [^\n]+\n$/, "stderr");
  assertEquals((await client.finish()).code, 18);
});

test("Ctrl-C ends a client with 130, round trips with their summary", {
  ignore: WINDOWS,
}, async () => {
  await using server = new Local();
  const at = `127.0.0.1:${server.port}`;
  await using typing = start("echo_tcp", [at]);
  await using pinging = start("echo_tcp", [at, "-c", "9", "-i", "60"]);
  await typing.type("x");
  await Promise.all([typing.until(/x/), pinging.until(/seq=1 .*\n/)]);
  typing.kill("SIGINT");
  pinging.kill("SIGINT");
  await assertRejects(() => typing.until(/y/), Error, "ended");
  const { code, stdout, stderr } = await typing.finish();
  assertEquals([code, stdout, stderr], [130, "x", ""]);
  const pinged = await pinging.finish();
  assertEquals([pinged.code, pinged.stderr], [130, ""]);
  assertMatch(pinged.stdout, /\n1 sent, 1 received, 0% loss\nmin.* ms\n$/);
});

const CLIENT = ["run", "-A", "--no-prompt", "echo_tcp.ts"];

/** Runs a shell line, in which $client sends to a server. */
async function shell(line: string, at: string) {
  const client = `client() { "$0" ${CLIENT.join(" ")} "$1" "\${@:2}"; }`;
  const script = `set -o pipefail; ${client}; ${line.replaceAll("AT", at)}`;
  const args = ["-c", script, Deno.execPath()];
  await using bash = new Running("bash", args, { cwd: ROOT });
  return await bash.finish();
}

test("echo_tcp ends quietly with 23 when nobody reads its output", {
  ignore: noBash(),
}, async () => {
  await using server = new Local();
  const at = `127.0.0.1:${server.port}`;
  const lines = [
    "head -c 3000000 /dev/zero 2> /dev/null | client AT | head -c 5 | wc -c",
    "client AT -c 3 -i 0 | true",
    "client AT --help | true",
  ];
  const ends = await Promise.all(lines.map((line) => shell(line, at)));
  assertEquals(ends.map(({ stderr }) => stderr), ["", "", ""]);
  assertEquals(ends[0].stdout.trim(), "5");
  assertEquals(ends[1].code, 23);
});

test("echo_tcp says 23 and why when its output cannot be written", {
  ignore: !LINUX || missing("bash"),
}, async () => {
  await using server = new Local();
  const at = `127.0.0.1:${server.port}`;
  for (const line of ["echo hello | client AT", "client AT -c 1"]) {
    const { code, stderr } = await shell(`${line} > /dev/full`, at);
    assertMatch(stderr, /^echo_tcp: [^\n]*no space left on device\n$/);
    assertEquals(code, 23);
  }
});

/** A process whose output is read up to its first line, and no further. */
async function unread(...args: string[]) {
  const child = new Deno.Command(Deno.execPath(), {
    ...{ args: [...CLIENT, ...args], cwd: ROOT },
    ...{ stdin: "piped", stdout: "piped", stderr: "piped" },
  }).spawn();
  const reader = child.stdout.getReader();
  const first = text((await soon(reader.read(), "the first line")).value!);
  reader.releaseLock();
  const ended = async () => {
    const { code } = await soon(child.status, "the end");
    const { stdout, stderr, stdin } = child;
    if (!stdout.locked) await stdout.cancel().catch(() => {});
    await stdin.close().catch(() => {});
    return { code, stderr: await new Response(stderr).text() };
  };
  return { child, ended, port: Number(first.match(/:(\d+)\n/)?.[1]) };
}

test("echo_tcp goes on serving when its log fills a pipe", {
  ignore: !LINUX,
}, async () => {
  const { child, port, ended } = await unread("--port", "0");
  for (let i = 0; i < 4000; i++) {
    using conn = await soon(Deno.connect({ port }), `connection ${i}`);
    await trip(conn);
  }
  child.kill("SIGTERM");
  assertEquals(await ended(), { code: 0, stderr: "" });
});

test("echo_tcp goes on serving when its log is closed", {
  ignore: WINDOWS,
}, async () => {
  const { child, port, ended } = await unread("--port", "0");
  await child.stdout.cancel();
  for (let i = 0; i < 20; i++) {
    using conn = await Deno.connect({ port });
    await trip(conn);
  }
  child.kill("SIGTERM");
  assertEquals(await ended(), { code: 0, stderr: "" });
});

/** Waits until a count does not grow any more. */
async function standstill(count: () => number): Promise<void> {
  for (let before = -1; before !== count();) {
    before = count();
    await delay(300);
  }
}

test("Ctrl-C ends a client whose output nobody takes", {
  ignore: !LINUX,
}, async () => {
  let sent = 0;
  await using server = serveOnce(async (conn) => {
    const noise = new Uint8Array(65_536);
    while (await conn.write(noise).catch(() => 0)) sent++;
  });
  const { child, ended } = await unread(server.at);
  await standstill(() => sent);
  child.kill("SIGINT");
  assertEquals(await ended(), { code: 130, stderr: "" });
});

test("Ctrl-C ends round trips whose lines nobody takes", {
  ignore: !LINUX,
}, async () => {
  let trips = 0;
  await using server = serveOnce(async (conn) => {
    const buffer = new Uint8Array(64);
    while (await conn.read(buffer).catch(() => null)) {
      trips++;
      await conn.write(buffer);
    }
  });
  const args = [server.at, "-c", "1000000", "-i", "0"];
  const { child, ended } = await unread(...args);
  await standstill(() => trips);
  child.kill("SIGINT");
  assertEquals(await ended(), { code: 130, stderr: "" });
});

test("echo_tcp goes on serving when the disk of its log is full", {
  ignore: !LINUX || barred("unshare", "-m", "true"),
}, async () => {
  const line = "mount -t tmpfs -o size=4k none /mnt && " +
    'exec "$0" run -A echo_tcp.ts --port 0 > /mnt/log';
  const args = ["-m", "sh", "-c", line, Deno.execPath()];
  await using server = new Running("unshare", args, { cwd: ROOT });
  let log = "";
  const read = async () => {
    const file = `/proc/${server.pid}/root/mnt/log`;
    log = await Deno.readTextFile(file).catch(() => "");
    await delay(10);
  };
  const isUp = () => /tcp:\/\/\S+:\d+\n/.test(log);
  await repeat(read, isUp, "a port in the log", { seen: () => log });
  const port = Number(log.match(/tcp:\/\/\S+:(\d+)\n/)![1]);
  for (let i = 0; i < 200; i++) { // a line each of some 40 bytes
    using conn = await Deno.connect({ port });
    await trip(conn);
  }
  server.kill();
  const { code, stderr } = await server.finish();
  assertEquals([code, stderr], [0, ""]);
});

test("echo_tcp's log of a flood is bounded by lines a second", async () => {
  await using server = await serveProcess("echo_tcp");
  const started = performance.now();
  let count = 0;
  while (performance.now() - started < 2000) {
    using _conn = await Deno.connect({ port: server.port });
    count++;
  }
  server.kill();
  const { stdout } = await server.finish();
  const lines = stdout.split("\n").length;
  assert(count > 400, `only ${count} connections`);
  const seconds = (performance.now() - started) / 1000;
  const most = 100 * (seconds + 2);
  assertLess(lines, most, `lines for ${count} connections`);
  assertMatch(stdout, /\n\.\.\. and \d+ more\n/);
});

// Survival

test("echo_tcp goes on at SIGHUP if nohup started it, else it ends", {
  ignore: !LINUX || missing("nohup"), // elsewhere it cannot tell
}, async () => {
  const words = [Deno.execPath(), "run", "-A", "echo_tcp.ts", "--port", "0"];
  const options = { cwd: ROOT };
  await using kept = new Running("nohup", words, options);
  await using ended = new Running(words[0], words.slice(1), options);
  for (const server of [kept, ended]) {
    await server.until(/listening/);
    server.kill("SIGHUP");
  }
  assertEquals((await ended.finish()).code, 0);
  kept.kill("SIGTERM");
  assertMatch((await kept.finish()).stdout, /served 0 connections/);
});

test("echo_tcp survives resets at every stage", {
  ignore: WINDOWS,
}, async () => {
  const unread = (socket: Socket) =>
    new Promise((done) => socket.write("x".repeat(1000), done));
  const between = async (socket: Socket) => {
    socket.write("x");
    await new Promise((done) => socket.once("data", done));
  };
  const middle = async (socket: Socket) => {
    await between(socket);
    socket.write("x".repeat(100_000));
  };
  const stages = [undefined, unread, between, middle];
  await Promise.all([[], ["--max-connections", "1"]].map(async (args) => {
    await using server = await serveProcess("echo_tcp", ["-q", ...args]);
    for (let i = 0; i < 400; i++) await reset(server.port, stages[i % 4]);
    server.kill("SIGSTOP"); // these are over before they are accepted
    for (let i = 0; i < 50; i++) await reset(server.port, stages[i % 2]);
    server.kill("SIGCONT");
    using conn = await Deno.connect({ port: server.port });
    await trip(conn);
    server.kill();
    const { code, stderr } = await server.finish();
    assertEquals([code, stderr], [0, ""]);
  }));
});

/** The processor time of a process, in seconds. */
async function processorTime(pid: number): Promise<number> {
  const [, rest] = (await Deno.readTextFile(`/proc/${pid}/stat`)).split(") ");
  return (Number(rest.split(" ")[11]) + Number(rest.split(" ")[12])) / 100;
}

/** The resident memory of a process, in bytes. */
async function memory(pid: number): Promise<number> {
  const status = await Deno.readTextFile(`/proc/${pid}/status`);
  return 1024 * Number(status.match(/VmRSS:\s+(\d+)/)![1]);
}

test("echo_tcp waits while descriptors run out, and serves again", {
  ignore: !LINUX || missing("bash"),
}, async () => {
  const line = 'ulimit -n 64; exec "$0" run -A echo_tcp.ts --port 0';
  const args = ["-c", line, Deno.execPath()];
  await using server = new Running("bash", args, { cwd: ROOT });
  const port = Number((await server.until(/tcp:\/\/\S+:(\d+)\n/))[1]);
  const connecting = Array.from({ length: 100 }, () => Deno.connect({ port }));
  const conns = await Promise.all(connecting);
  const trips = conns.map((conn) => trip(conn));
  for (const each of trips) each.catch(() => {});
  await server.until(/cannot accept: too many open files\n/);
  const before = await processorTime(server.pid);
  await delay(500); // in this time it may not spin
  assertLess(await processorTime(server.pid) - before, 0.15, "it spins");
  for (const [i, conn] of conns.entries()) { // makes room for another
    await trips[i];
    conn.close();
  }
  server.kill();
  const { code, stdout, stderr } = await server.finish();
  assertEquals(code, 0);
  assertLess(stdout.match(/cannot accept/g)!.length, 100, "lines about it");
  assertNotMatch(stderr, /^echo_tcp|Uncaught|panicked/m);
  assertMatch(stdout, /\nserved 100 connections, 1600 bytes\n$/);
});

test("echo_tcp holds little for clients that never read", {
  ignore: !LINUX,
}, async () => {
  await using server = await serveProcess("echo_tcp", ["-q"]);
  using other = await Deno.connect({ port: server.port });
  await trip(other, random(3_000_000));
  const before = await memory(server.pid);
  const connect = () => Deno.connect({ port: server.port });
  const conns = await Promise.all(Array.from({ length: 6 }, connect));
  for (const conn of conns) await stuff(conn, other);
  assertLess(await memory(server.pid) - before, 30e6);
  server.kill("SIGKILL"); // it would wait for them
  await server.finish();
  for (const conn of conns) conn.close();
});

test("1 GiB goes through echo_tcp in less than 80 MB", {
  ignore: !LINUX,
}, async () => {
  await using server = await serveProcess("echo_tcp", ["-q"]);
  using conn = await Deno.connect({ port: server.port });
  const total = 1024 ** 3;
  const chunk = random(1024 * 1024);
  const sending = async () => {
    for (let i = 0; i < 1024; i++) await send(conn, chunk);
    await conn.closeWrite();
  };
  const receiving = async () => {
    const buffer = new Uint8Array(1024 * 1024);
    let got = 0;
    for (;;) {
      const length = await conn.read(buffer);
      if (length === null) return got;
      assertEquals(buffer[0], chunk[got % chunk.length], `byte ${got}`);
      got += length;
    }
  };
  const both = Promise.all([receiving(), sending()]);
  const [got] = await soon(both, "1 GiB", { seconds: 50 });
  assertEquals(got, total);
  const status = await Deno.readTextFile(`/proc/${server.pid}/status`);
  assertLess(1024 * Number(status.match(/VmHWM:\s+(\d+)/)![1]), 80e6);
});

test("echo_tcp probes peers that are silent", {
  ignore: !LINUX || missing("ss"),
}, async () => {
  await using server = new Local();
  using conn = await server.connect();
  await trip(conn);
  const args = ["-tnoH", `sport = :${server.port}`];
  const { stdout } = await pipe("ss", args, bytes(""));
  assertMatch(text(stdout), /ESTAB.*timer:\(keepalive,/);
});

test("echo_tcp serves where IPv6 is switched off", {
  ignore: noNamespaces(),
}, async () => {
  const off = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6";
  await using here = await Namespace.make(`${off} && ip link set lo up`);
  await using server = here.script("echo_tcp", "-p", "7777");
  await server.until(/^listening on tcp:\/\/(\[::\]|0\.0\.0\.0):7777\n/);
  for (const host of ["127.0.0.1", "localhost"]) {
    await using client = here.script("echo_tcp", host);
    await client.type("hello\n");
    const { code, stdout, stderr } = await client.finish();
    assertEquals([code, stdout, stderr], [0, "hello\n", ""]);
  }
  server.kill();
  assertEquals((await server.finish()).code, 0);
});

// The tools of the field

const PYTHON = `
import socket, sys, threading
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def send():
    s.sendall(sys.stdin.buffer.read())
    s.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
while data := s.recv(65536): sys.stdout.buffer.write(data)
`;

const TOOLS: Record<string, string[]> = {
  nc: ["-N", "127.0.0.1", "PORT"],
  socat: ["-t", "10", "-", "TCP:127.0.0.1:PORT"],
  ncat: ["127.0.0.1", "PORT"],
  python3: ["-c", PYTHON, "PORT"],
  [Deno.execPath()]: [...CLIENT, "127.0.0.1", "PORT"],
};

/** Sends megabytes through a client, whose server is an echo. */
async function through(program: string, args: string[]): Promise<void> {
  const message = random(3_000_000);
  const { code, stdout, stderr } = await pipe(program, args, message);
  assertEquals([code, stderr], [0, ""]);
  assertSame(stdout, message);
}

for (const [tool, args] of Object.entries(TOOLS)) {
  const isOurs = tool === Deno.execPath();
  test(`3 MB go through ${isOurs ? "the client" : tool} to echo_tcp and back`, {
    ignore: tool === "nc" ? noNc() : missing(tool),
  }, async () => {
    await using server = new Local();
    const words = args.map((word) => word.replace("PORT", `${server.port}`));
    await through(tool, words);
  });
}

test("3 MB go through the client to socat and back", {
  ignore: missing("socat"),
}, async () => {
  const listen = "TCP-LISTEN:0,bind=127.0.0.1";
  const args = ["-d", "-d", "-t", "10", listen, "EXEC:cat"];
  await using server = new Running("socat", args);
  const line = await server.until(/listening on \S+ (\S+:\d+)\n/, "stderr");
  await through(Deno.execPath(), [...CLIENT, line[1]]);
});

test("3 MB go through the client to inetd's own echo and back", {
  ignore: noNamespaces() || missing("inetd"),
}, async () => {
  const setup = "ip link set lo up && mount -t tmpfs none /mnt && " +
    "echo echo stream tcp nowait root internal > /mnt/inetd.conf";
  await using here = await Namespace.make(setup); // its port, 7, is free
  await using inetd = here.start("inetd", "-d", "-i", "/mnt/inetd.conf");
  await inetd.until(/ADD.*echo/, "stderr");
  const inside = here.command(Deno.execPath(), ...CLIENT, "127.0.0.1:echo");
  await through("nsenter", inside);
});

test("what a server sends cannot drive the client's terminal", {
  ignore: !LINUX || missing("script"),
}, async () => {
  const evil = Uint8Array.from(
    "\x1b[2J\x1b]0;owned\x07\x9b5i",
    (character) => character.charCodeAt(0),
  );
  await using server = serveOnce(async (conn) => {
    await receive(conn, 6);
    await send(conn, evil);
  });
  const client = `"${Deno.execPath()}" ${CLIENT.join(" ")} ${server.at}`;
  const seen = await terminal(`echo hello | ${client}`);
  assertStringIncludes(seen, "owned");
  // deno-lint-ignore no-control-regex
  assertNotMatch(seen, /[\x07\x1b\x9b]/);
});

test("a caller may close echo_tcp's listener before the signal aborts", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const stop = new AbortController();
  const serving = serve({ listener, signal: stop.signal });
  listener.close();
  await soon(serving, "the end of the server");
  stop.abort();
  await delay(100); // a second close would be an error that nobody catches
});
