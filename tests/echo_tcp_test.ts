import {
  assert,
  assertEquals,
  assertGreater,
  assertLess,
  assertMatch,
  assertNotMatch,
  assertRejects,
  assertStringIncludes,
} from "jsr:@std/assert@^1";
import { delay } from "jsr:@std/async@^1/delay";
import {
  echo,
  main,
  ping,
  type PingOptions,
  serve,
  type ServeOptions,
  talk,
  type TalkOptions,
} from "../echo_tcp.ts";
import { Failure, RoundTrips, type Stream } from "../utils.ts";
import {
  missing,
  repeat,
  ROOT,
  run,
  Running,
  serve as serveProcess,
  soon,
  start,
  test,
} from "./helpers.ts";

const LINUX = Deno.build.os === "linux";
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
const bytes = (text: string) => new TextEncoder().encode(text);

/** Bytes in no order, so that a piece lost, doubled or moved shows. */
function random(length: number): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(length);
  for (let i = 0; i < length; i += 65_536) {
    crypto.getRandomValues(all.subarray(i, i + 65_536));
  }
  return all;
}

/** Compares many bytes at the speed of a loop. */
function assertSame(actual: Uint8Array, expected: Uint8Array) {
  const first = expected.findIndex((byte, i) => byte !== actual[i]);
  assertEquals(
    [actual.length, first],
    [expected.length, -1],
    "length, and the first byte that differs",
  );
}

async function send(
  conn: Pick<Deno.Conn, "write">,
  all: Uint8Array,
): Promise<void> {
  for (let sent = 0; sent < all.length;) {
    sent += await conn.write(all.subarray(sent));
  }
}

/** Reads so many bytes, or until the peer half-closes. */
async function receive(
  conn: Pick<Deno.Conn, "read">,
  most = Infinity,
): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for (let got = 0, n; got < most; got += n) {
    const buffer = new Uint8Array(Math.min(65_536, most - got));
    n = await soon(conn.read(buffer), "more bytes, or the end", {
      seen: () => `${got} bytes`,
    }) ?? 0;
    if (n === 0) {
      break;
    }
    parts.push(buffer.subarray(0, n));
  }
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) all.set(part, at), at += part.length;
  return all;
}

/** A round trip: what is sent must come back. */
async function trip(
  conn: Deno.Conn,
  message: Uint8Array = random(16),
): Promise<void> {
  const [answer] = await soon(
    Promise.all([receive(conn, message.length), send(conn, message)]),
    "the echo",
  );
  assertSame(answer, message);
}

/** Makes round trips until something has happened. */
async function busyUntil(
  conn: Deno.Conn,
  happened: () => boolean,
): Promise<void> {
  await repeat(
    () => trip(conn),
    happened,
    `the end of the round trips: ${happened}`,
  );
}

/**
 * Sends without reading until no more fits: then nothing moves while another connection makes its round trips. Returns
 * a count of the bytes that were taken, which grows when there is room again.
 */
async function stuff(conn: Deno.Conn, other: Deno.Conn): Promise<() => number> {
  const chunk = new Uint8Array(1024 * 1024);
  let sent = 0;
  for (let stuck = false; !stuck;) {
    stuck = true;
    conn.write(chunk).then((n) => (sent += n, stuck = false), () => {});
    for (let i = 0; i < 50; i++) await trip(other);
    assertLess(
      sent,
      100e6,
      "the server takes and takes from a client that reads nothing",
    );
  }
  return () => sent;
}

/** A server in this process. */
class Local implements AsyncDisposable {
  readonly lines: string[] = [];
  readonly port: number;
  readonly total: ReturnType<typeof serve>;
  readonly #stop = new AbortController();
  #changed = Promise.withResolvers<void>();

  constructor(options: Partial<ServeOptions> = {}, hostname = "127.0.0.1") {
    const listeners = options.listeners ?? [Deno.listen({ hostname, port: 0 })];
    this.port = (listeners[0].addr as Deno.NetAddr).port;
    const log = (line: string) => {
      this.lines.push(line);
      this.#changed.resolve(), this.#changed = Promise.withResolvers();
    };
    this.total = serve({
      signal: this.#stop.signal,
      log,
      ...options,
      listeners,
    });
  }
  connect(hostname = "127.0.0.1"): Promise<Deno.TcpConn> {
    return soon(Deno.connect({ hostname, port: this.port }), "a connection");
  }
  /** Waits until so many connections are logged. */
  async logged(count: number): Promise<string[]> {
    while (this.lines.length < count) {
      await soon(this.#changed.promise, `line ${count} of the log`, {
        seen: () => this.lines,
      });
    }
    return this.lines;
  }
  stop() {
    this.#stop.abort();
    return soon(this.total, "the end of the service");
  }
  async [Symbol.asyncDispose]() {
    await this.stop();
  }
}

/** A server that treats its one client as `handler` says, who may hold it until all is over. */
function hostile(
  handler: (conn: Deno.TcpConn, over: Promise<void>) => Promise<unknown>,
) {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 }),
    over = Promise.withResolvers<void>();
  const done = listener.accept().then(async (conn) => {
    await handler(conn, over.promise).finally(() => conn.close());
  });
  return {
    at: `127.0.0.1:${listener.addr.port}`,
    async [Symbol.asyncDispose]() {
      over.resolve(), listener.close();
      await done.catch(() => {});
    },
  };
}

const silent = (_conn: Deno.TcpConn, over: Promise<void>) => over;
const early = (conn: Deno.TcpConn) => receive(conn, 6);
const once = async (conn: Deno.TcpConn, over: Promise<void>) => {
  await send(conn, await receive(conn, 64));
  await over;
};

/** Runs a command line in this process: its status, and the lines it prints. */
async function command(
  ...args: string[]
): Promise<{ status: number; out: string[]; err: string[] }> {
  const { log, error } = console, { stdout } = Deno, { write } = stdout;
  const err: string[] = [];
  let out = "";
  console.log = (line) => out += `${line}\n`;
  console.error = (line) => void err.push(line);
  stdout.write = (part) => Promise.resolve((out += text(part), part.length));
  try {
    const status = await soon(main(args), "the exit status");
    return { status, out: out.split("\n").slice(0, -1), err };
  } finally {
    console.log = log, console.error = error, stdout.write = write;
  }
}

/** Runs a program with the given bytes on its standard input; what it writes, byte for byte. */
async function pipe(program: string, args: string[], input: Uint8Array) {
  const child = new Deno.Command(program, {
    args,
    cwd: ROOT,
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  })
    .spawn();
  const writing = new Response(input as BodyInit).body!.pipeTo(child.stdin)
    .catch(() => {});
  const [{ code, stdout, stderr }] = await soon(
    Promise.all([child.output(), writing]),
    program,
  );
  return { code, stdout, stderr: text(stderr) };
}

const CLIENT = ["run", "-A", "--no-prompt", "echo_tcp.ts", "-c"];

// The protocol

/** A connection that gives `input` in pieces, and takes only a part of what is written each time. */
function scripted(input: Uint8Array, piece: () => number, room: () => number) {
  const output: number[] = [], buffers: number[] = [];
  let at = 0;
  const read = (buffer: Uint8Array) => {
    buffers.push(buffer.length);
    if (at === input.length) return Promise.resolve(null);
    const part = input.subarray(at, at + Math.min(piece(), buffer.length));
    buffer.set(part), at += part.length;
    return Promise.resolve(part.length);
  };
  const write = (from: Uint8Array) => {
    assertGreater(from.length, 0, "an empty write");
    const n = Math.min(from.length, room());
    for (const byte of from.subarray(0, n)) output.push(byte);
    return Promise.resolve(n);
  };
  return { read, write, output, buffers };
}

const upTo = (most: number) => () => 1 + Math.floor(Math.random() * most);

test("echo sends back every byte when each write takes only a part", async () => {
  const input = random(200_000);
  for (
    const [piece, room] of [[Infinity, 1000], [100_000, 7777], [300, 299], [
      5,
      1,
    ]]
  ) {
    const conn = scripted(
        input.subarray(0, 1000 * room),
        upTo(piece),
        upTo(room),
      ),
      tally = { received: 0, sent: 0 };
    await echo(conn, tally);
    assertSame(Uint8Array.from(conn.output), input.subarray(0, 1000 * room));
    assertEquals(tally, {
      received: conn.output.length,
      sent: conn.output.length,
    });
  }
});

test("echo sends back what comes byte by byte", async () => {
  const input = random(5000), conn = scripted(input, () => 1, () => 1);
  await echo(conn);
  assertSame(Uint8Array.from(conn.output), input);
});

test("echo sends back messages of one size, and of changing sizes, each as it was", async () => {
  const sizes = [
      5,
      5,
      5,
      128,
      128,
      5,
      256,
      512,
      511,
      512,
      1,
      1024,
      3,
      3,
      2048,
      2047,
      2048,
    ],
    input = random(10_000);
  let i = 0;
  const conn = scripted(input, () => sizes[i++ % sizes.length], () => Infinity);
  await echo(conn);
  assertSame(Uint8Array.from(conn.output), input);
});

test("echo sends nothing when nothing comes", async () => {
  const conn = scripted(new Uint8Array(), () => 1, () => 1);
  await echo(conn);
  assertEquals([conn.output, conn.buffers.length], [[], 1]);
});

test("echo begins with a small buffer, and never takes more than 256 KiB at once", async () => {
  const conn = scripted(
    new Uint8Array(3_000_000),
    () => Infinity,
    () => Infinity,
  );
  await echo(conn);
  assert(
    conn.buffers[0] <= 2048,
    `${conn.buffers[0]} bytes for a connection that is idle`,
  );
  assertEquals(Math.max(...conn.buffers), 256 * 1024);
});

test("echo reads nothing more while what it has is not taken", async () => {
  let reads = 0;
  const taken = Promise.withResolvers<number>();
  const read = (buffer: Uint8Array) =>
    Promise.resolve(++reads < 3 ? buffer.length : null);
  const echoing = echo({
    read,
    write: (from) => reads === 1 ? taken.promise : Promise.resolve(from.length),
  });
  await delay(0);
  assertEquals(reads, 1);
  taken.resolve(1);
  await echoing;
  assertEquals(reads, 3);
});

test("echo counts what is taken in parts, part by part: a slow reader is not idle", async () => {
  const tally = { received: 0, sent: 0 },
    second = Promise.withResolvers<number>();
  let writes = 0;
  const read = (buffer: Uint8Array) =>
    Promise.resolve(writes ? null : buffer.fill(1, 0, 10) && 10);
  const echoing = echo({
    read,
    write: () => ++writes === 1 ? Promise.resolve(3) : second.promise,
  }, tally);
  await delay(0);
  const between = { ...tally };
  second.resolve(7);
  await echoing;
  assertEquals([between, tally], [{ received: 10, sent: 3 }, {
    received: 10,
    sent: 10,
  }]);
});

test("echo passes on what goes wrong with reading and writing", async () => {
  const reset = () => Promise.reject(new Deno.errors.ConnectionReset("x"));
  const read = (buffer: Uint8Array) => Promise.resolve(buffer.length);
  await assertRejects(
    () => echo({ read: reset, write: reset }),
    Deno.errors.ConnectionReset,
  );
  await assertRejects(
    () => echo({ read, write: reset }),
    Deno.errors.ConnectionReset,
  );
});

// The server

test("echo_tcp gives back what was sent after a half-close, then closes too", async () => {
  await using server = new Local();
  using conn = await server.connect();
  const message = random(3_000_000);
  const [answer] = await soon(
    Promise.all([
      receive(conn),
      send(conn, message).then(() => conn.closeWrite()),
    ]),
    "the answer",
  );
  assertSame(answer, message);
});

test("echo_tcp serves its clients side by side, not one after the other", async () => {
  await using server = new Local();
  const conns = await Promise.all(
    Array.from({ length: 20 }, () => server.connect()),
  );
  for (const conn of conns.toReversed()) await trip(conn);
  await Promise.all(conns.map((conn) => trip(conn, random(100_000))));
  for (const conn of conns) conn.close();
  await server.logged(20);
});

test("echo_tcp lets a hundred clients wait in line, and serves each of them", async () => {
  await using server = new Local({ maxConnections: 1 });
  const conns = await Promise.all(
    Array.from({ length: 100 }, () => server.connect()),
  );
  await Promise.all(conns.map(async (conn, i) => {
    await send(conn, bytes(`I am ${i}`)); // before it is its turn
    await conn.closeWrite();
    assertEquals(text(await soon(receive(conn), "the answer")), `I am ${i}`);
    conn.close();
  }));
  assertEquals((await server.stop()).connections, 100);
});

test("echo_tcp logs who, how many bytes and how long, and counts them up", async () => {
  await using server = new Local({}, "::");
  const clients = [
    await server.connect("127.0.0.1"),
    await server.connect("::1"),
  ];
  const names = clients.map(({ localAddr: { port } }, i) =>
    i ? `[::1]:${port}` : `127.0.0.1:${port}`
  );
  for (const [i, conn] of clients.entries()) {
    await trip(conn, random(1000 + i));
    conn.close();
    const line = (await server.logged(i + 1))[i];
    assertMatch(line, /^\S+ \d+ bytes in \d+\.\d{3} s$/);
    assertStringIncludes(line, `${names[i]} ${1000 + i} bytes in `);
  }
  assertEquals(await server.stop(), { connections: 2, bytes: 2001 });
});

test("echo_tcp survives a client's reset, with data unread and in the middle", async () => {
  await using server = new Local();
  for (let i = 1; i <= 50; i++) {
    const conn = await server.connect();
    await send(conn, random(i * 1000));
    if (i % 2) await receive(conn, 1);
    conn.close(); // with the echo unread: a reset
    await server.logged(i);
  }
  assert(
    server.lines.some((line) => /: (connection reset|broken pipe)$/.test(line)),
    server.lines[0],
  );
  using conn = await server.connect();
  await trip(conn);
});

test("echo_tcp turns away IPv4 where it is to speak IPv6 only", async () => {
  await using server = new Local({ family: 6 }, "::");
  using turned = await server.connect("127.0.0.1"),
    welcome = await server.connect("::1");
  await trip(welcome);
  assertEquals(
    (await soon(receive(turned).catch(() => bytes("")), "the answer")).length,
    0,
  );
  assertEquals((await server.stop()).connections, 1);
});

/** A listener that counts how many of its connections are served at once: read from, and not yet closed. */
function counting(listener: Deno.TcpListener, served = { now: 0, most: 0 }) {
  const accept = async () => {
    const conn = await listener.accept(),
      read = conn.read.bind(conn),
      close = conn[Symbol.dispose].bind(conn);
    conn.read = (buffer) => {
      served.most = Math.max(served.most, ++served.now);
      conn.read = read;
      conn[Symbol.dispose] =
        () => (served.now--, conn[Symbol.dispose] = close, close());
      return read(buffer);
    };
    return conn;
  };
  return {
    served,
    listener: {
      accept,
      close: () => listener.close(),
      addr: listener.addr,
    } as Deno.TcpListener,
  };
}

test("echo_tcp lets connections over --max-connections wait, and serves them when it is their turn", async () => {
  const { served, listener } = counting(
    Deno.listen({ hostname: "127.0.0.1", port: 0 }),
  );
  await using server = new Local({ listeners: [listener], maxConnections: 2 });
  const [first, second, third, fourth] = [
    await server.connect(),
    await server.connect(),
    await server.connect(),
    await server.connect(),
  ];
  let answered = 0;
  const waiting = [third, fourth].map((conn) =>
    trip(conn).then(() => answered++)
  );
  for (let i = 0; i < 20; i++) await trip(first), await trip(second);
  assertEquals([answered, served.now], [0, 2]);
  first.close();
  await waiting[0];
  assertEquals(answered, 1);
  third.close();
  await waiting[1];
  second.close(), fourth.close();
  await server.logged(4);
  assertEquals(served.most, 2);
});

test("echo_tcp keeps to --max-connections with two listeners, as it has on Windows", async () => {
  const served = { now: 0, most: 0 };
  const each = [1, 2].map(() =>
    counting(Deno.listen({ hostname: "127.0.0.1", port: 0 }), served).listener
  );
  await using server = new Local({ listeners: each, maxConnections: 1 });
  const ports = each.map(({ addr }) => (addr as Deno.NetAddr).port);
  const conns = await Promise.all(
    [0, 1, 0, 1].map((i) =>
      Deno.connect({ hostname: "127.0.0.1", port: ports[i] })
    ),
  );
  await Promise.all(conns.map((conn) => trip(conn).then(() => conn.close())));
  await server.logged(4);
  assertEquals(served.most, 1);
});

test("echo_tcp gives no place away that a write still takes, though its connection was closed", async () => {
  const stuck = Promise.withResolvers<number>(),
    addr = { transport: "tcp" as const, hostname: "127.0.0.1", port: 0 };
  const fake = () => ({
    ...{
      remoteAddr: addr,
      setNoDelay() {},
      setKeepAlive() {},
      [Symbol.dispose]() {},
      close() {},
    },
    read: () => Promise.resolve(1),
    write: () => stuck.promise, // as in Deno 2.4, which does not end it when the connection is closed
  } as unknown as Deno.TcpConn);
  const closed = Promise.withResolvers<never>(), waiting = [fake(), fake()];
  const listener = {
    accept: () =>
      waiting.length ? Promise.resolve(waiting.shift()!) : closed.promise,
    close: () => closed.reject(new Deno.errors.BadResource("closed")),
    addr,
  } as unknown as Deno.TcpListener;
  const server = new Local({
    listeners: [listener],
    maxConnections: 1,
    idleTimeout: 20,
  });
  await server.logged(1);
  await delay(100);
  assertEquals(
    server.lines.length,
    1,
    "the second is not served meanwhile, so not idle",
  );
  stuck.reject(new Deno.errors.ConnectionReset());
  await server.logged(2);
  await server.stop();
});

test("echo_tcp closes what is idle for --idle-timeout, and nothing else", async () => {
  await using server = new Local({ idleTimeout: 60 });
  using idle = await server.connect();
  using busy = await server.connect();
  const end = receive(idle).catch(() => bytes(""));
  await busyUntil(busy, () => server.lines.length > 0);
  assertEquals((await end).length, 0);
  assertMatch(server.lines[0], / 0 bytes in 0\.\d{3} s: timed out$/);
  await trip(busy);
});

test("echo_tcp closes a client that reads nothing for --idle-timeout", {
  sanitizeOps: false, // Deno 2.4 does not end a write that waits
}, async () => {
  await using server = new Local({ idleTimeout: 300 });
  using busy = await server.connect(), stuffed = await server.connect();
  await stuff(stuffed, busy);
  await busyUntil(busy, () => server.lines.length > 0);
  assertMatch(server.lines[0], /: timed out$/);
});

test("echo_tcp that is stopped before it begins ends at once", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  try {
    const serving = serve({
      listeners: [listener],
      signal: AbortSignal.abort(),
      log: () => {},
    });
    assertEquals(
      await soon(serving, "the end of the service", { seconds: 2 }),
      { connections: 0, bytes: 0 },
    );
  } finally {
    listener[Symbol.dispose]();
  }
});

test("echo_tcp ends idle connections when it is stopped", async () => {
  await using server = new Local();
  using conn = await server.connect(), fresh = await server.connect();
  await trip(conn);
  const stopping = server.stop();
  assertEquals([(await receive(conn)).length, (await receive(fresh)).length], [
    0,
    0,
  ]);
  assertEquals(await stopping, { connections: 2, bytes: 16 });
  await assertRejects(() => server.connect(), Deno.errors.ConnectionRefused);
});

test("echo_tcp gives back what is in flight when it is stopped", async () => {
  await using server = new Local();
  using conn = await server.connect();
  using other = await server.connect();
  const sent = await stuff(conn, other), stopping = server.stop();
  const answer = await soon(receive(conn), "all that was in flight");
  assertGreater(sent(), 1_000_000);
  assertEquals(answer.length, sent());
  await stopping;
});

test("echo_tcp reads what came to a connection that was idle for long, before it closes it", async () => {
  const { now } = performance,
    accepted = Promise.withResolvers<void>(),
    closed = Promise.withResolvers<never>();
  const came = Promise.withResolvers<number>(), written: number[] = [];
  const conn = {
    remoteAddr: { transport: "tcp", hostname: "127.0.0.1", port: 9 },
    ...{ setNoDelay() {}, setKeepAlive() {} },
    read: () => (accepted.resolve(),
      Promise.race(
        written.length ? [closed.promise] : [came.promise, closed.promise],
      )),
    write: (part: Uint8Array) =>
      Promise.resolve((written.push(part.length), part.length)),
    [Symbol.dispose]: () =>
      closed.reject(new Deno.errors.BadResource("closed")),
  };
  closed.promise.catch(() => {});
  const over = Promise.withResolvers<never>(),
    conns = [Promise.resolve(conn), over.promise];
  const close = () => over.reject(new Deno.errors.BadResource("closed"));
  const listener = {
    accept: () => conns.shift(),
    close,
    addr: conn.remoteAddr,
  } as unknown as Deno.TcpListener;
  const server = new Local({ listeners: [listener] });
  try {
    await soon(accepted.promise, "the answer");
    performance.now = () => now.call(performance) + 60_000;
    const stopping = server.stop();
    await delay(0); // as long as it may take until a read that has data says so
    came.resolve(5);
    await stopping;
  } finally {
    performance.now = now;
  }
  assertEquals(written, [5]);
});

test("echo_tcp waits at most 5 s for a client that reads nothing", {
  sanitizeOps: false, // as above
}, async () => {
  const { now } = performance;
  let ahead = 0, over = false;
  await using server = new Local();
  using conn = await server.connect(), other = await server.connect();
  await stuff(conn, other);
  try {
    performance.now = () => now.call(performance) + ahead;
    const stopping = server.stop().then((total) => (over = true, total));
    await receive(other); // idle, so it is closed: the drain is under way
    ahead = 4500;
    await delay(100);
    assert(!over, "it gave up early");
    ahead = 5001;
    assertEquals((await stopping).connections, 2);
  } finally {
    performance.now = now;
  }
});

// The client, without a process

/** The other end of a connection, in memory: what is written comes back as `answer` makes it, at once. */
class Mirror implements Stream {
  halfClosed = false;
  closed = false;
  ended = false;
  #coming: Uint8Array[] = [];
  #changed = Promise.withResolvers<void>();
  constructor(
    readonly answer = (message: Uint8Array): Uint8Array | undefined => message,
    readonly piece = Infinity,
  ) {}

  #tell() {
    this.#changed.resolve(), this.#changed = Promise.withResolvers();
  }
  give(...parts: Uint8Array[]) {
    this.#coming.push(...parts), this.#tell();
  }
  end() {
    this.ended = true, this.#tell();
  }
  async read(buffer: Uint8Array): Promise<number | null> {
    while (!this.#coming.length && !this.ended && !this.closed) {
      await this.#changed.promise;
    }
    if (this.closed) throw new Deno.errors.BadResource("closed");
    const next = this.#coming.shift();
    if (!next) return null;
    const part = next.subarray(0, Math.min(buffer.length, this.piece));
    if (part.length < next.length) {
      this.#coming.unshift(next.subarray(part.length));
    }
    buffer.set(part);
    return part.length;
  }
  write(message: Uint8Array): Promise<number> {
    if (this.closed) {
      return Promise.reject(new Deno.errors.BadResource("closed"));
    }
    const answer = this.answer(message.slice());
    if (answer) this.give(answer);
    return Promise.resolve(message.length);
  }
  closeWrite(): Promise<void> {
    this.halfClosed = true;
    if (this.answer(new Uint8Array())) this.end();
    return Promise.resolve();
  }
  close() {
    this.closed = true, this.#tell();
  }
}

const nothing = () => undefined;

/** Talks to a connection; what came back as text, and the failure, if any. */
async function talked(
  conn: Stream,
  input: Iterable<string> | AsyncIterable<string>,
  options: Partial<TalkOptions> = {},
) {
  let came = "";
  const output = (part: Uint8Array) =>
    Promise.resolve(void (came += text(part)));
  const stream = ReadableStream.from(input).pipeThrough(
    new TextEncoderStream(),
  );
  const talking = talk({
    conn,
    input: stream,
    output,
    timeout: 5000,
    ...options,
  });
  const error = await soon(
    talking.then(() => undefined, (error) => error),
    "the end of the talk",
  );
  return { came, error, status: (error as Failure | undefined)?.status };
}

/** Never ends, and gives nothing. */
async function* forever(first = ""): AsyncGenerator<string> {
  if (first) yield first;
  await new Promise<void>(() => {});
}

/** Gives each of the parts, then waits. */
async function* slowly(parts: string[], ms: number): AsyncGenerator<string> {
  for (const part of parts) {
    yield part;
    await delay(ms);
  }
}

test("the client sends its input, half-closes, and passes on what comes back", async () => {
  const conn = new Mirror();
  assertEquals(await talked(conn, ["hello ", "world\n"]), {
    came: "hello world\n",
    error: undefined,
    status: undefined,
  });
  assert(conn.halfClosed);
});

test("the client passes on what comes byte by byte", async () => {
  assertEquals(
    (await talked(new Mirror(undefined, 1), ["x".repeat(1000)])).came,
    "x".repeat(1000),
  );
});

test("the client gives back megabytes through a real server, every byte of them", async () => {
  await using server = new Local();
  using conn = await server.connect();
  const message = random(5_000_000), parts: Uint8Array[] = [];
  const output = (part: Uint8Array) =>
    Promise.resolve(void parts.push(part.slice()));
  await soon(
    talk({
      conn,
      input: ReadableStream.from([message]),
      output,
      timeout: 5000,
    }),
    "the answer",
  );
  assertSame(
    new Uint8Array(await new Blob(parts as BlobPart[]).arrayBuffer()),
    message,
  );
});

test("the client says 18 when the server closes with answers owed", async () => {
  const conn: Mirror = new Mirror(() => (conn.end(), bytes("hel")));
  const { came, error, status } = await talked(conn, ["hello\n"]);
  assertEquals([came, status], ["hel", 18]);
  assertMatch(error.message, /[ (]3 bytes/);
});

test("the client says 18 when the server closes while there is more to send", async () => {
  const conn = new Mirror();
  conn.end();
  assertEquals((await talked(conn, forever())).status, 18);
});

test("the client says 28 when nothing comes back in time", async () => {
  const conn = new Mirror(nothing),
    { error, status } = await talked(conn, ["hello\n"], { timeout: 20 });
  assertEquals([status, error.message, conn.closed], [
    28,
    "no answer within 0.02 s",
    true,
  ]);
  assertEquals(
    (await talked(new Mirror(nothing), forever("hello"), { timeout: 20 }))
      .status,
    28,
    "input still open",
  );
});

test("the client says 28 when all came back, but the server does not close", async () => {
  const conn = new Mirror((message) => message.length ? message : undefined);
  const { came, status } = await talked(conn, ["hello\n"], { timeout: 20 });
  assertEquals([came, status], ["hello\n", 28]);
});

test("the client waits for a person who types nothing", async () => {
  const typed = await talked(new Mirror(), slowly(["a", "b", "c"], 60), {
    timeout: 20,
  });
  assertEquals(typed, { came: "abc", error: undefined, status: undefined });
});

test("the client's patience is not renewed by what it sends itself", async () => {
  let typed = 0, over = false;
  const typing = Promise.withResolvers<void>();
  async function* keepTyping() {
    for (; typed < 50 && !over; typed++) {
      yield "x";
      await delay(10);
    }
    typing.resolve();
  }
  const { status } = await talked(new Mirror(nothing), keepTyping(), {
    timeout: 60,
  });
  over = true;
  await typing.promise;
  assertEquals(status, 28);
  assertLess(typed, 50, "it waited for the person to stop typing");
});

test("the client does not take its own slow output for a silent server", async () => {
  for (
    const input of [["hello ", "world"], slowly(["hello ", "wor", "ld"], 10)]
  ) {
    let came = "";
    const output = async (part: Uint8Array) => {
      await delay(60); // a pager that waits for its reader
      came += text(part);
    };
    const { error } = await talked(new Mirror(undefined, 3), input, {
      timeout: 20,
      output,
    });
    assertEquals([came, error], ["hello world", undefined]);
  }
});

test("the client owes a server nothing that speaks unasked", async () => {
  const conn = new Mirror();
  conn.give(bytes("220 welcome, what can I do for you?\r\n"));
  async function* later() {
    await delay(60);
    yield "QUIT";
  }
  const { came, error } = await talked(conn, later(), { timeout: 20 });
  assertStringIncludes(came, "QUIT", `it gave up: ${error?.message}`);
  assertNotMatch(
    `${error?.message}`,
    /-\d/,
    "less than nothing is still to come",
  );
});

test("the client is done when it has failed: nothing of it goes on", async () => {
  const conn = new Mirror(nothing), more = Promise.withResolvers<void>();
  conn.read = () => Promise.reject(new Deno.errors.ConnectionReset("x"));
  async function* later() {
    await more.promise;
    yield "more";
  }
  const { status } = await talked(conn, later(), { timeout: 20 });
  assertEquals(status, 56);
  more.resolve();
  await delay(60);
  assert(
    !conn.closed,
    "its timer went on, and closed a connection that it had given back",
  );
});

test("the client passes on what goes wrong with its output", async () => {
  const output = () =>
    Promise.reject(new Failure(23, "cannot write the output"));
  assertEquals((await talked(new Mirror(), ["x"], { output })).status, 23);
});

test("the client says 56 when the connection is reset", async () => {
  const conn = new Mirror(nothing);
  conn.read = () =>
    Promise.reject(
      new Deno.errors.ConnectionReset(
        "Connection reset by peer (os error 104)",
      ),
    );
  const { status, error } = await talked(conn, ["x"]);
  assertEquals(status, 56);
  assertStringIncludes(error.message, "connection reset");
});

/** Measures round trips; what was logged, the summary, and the failure, if any. */
async function pinged(conn: Stream, options: Partial<PingOptions> = {}) {
  const trips = new RoundTrips(),
    seqs: number[] = [],
    { signal } = new AbortController();
  const log = (seq: number, ms: number) =>
    void seqs.push(ms >= 0 && ms < 10_000 ? seq : NaN);
  const pinging = ping({
    conn,
    count: 3,
    size: 64,
    interval: 0,
    timeout: 5000,
    signal,
    trips,
    log,
    ...options,
  });
  const error = await soon(
    pinging.then(() => undefined, (error) => error),
    "the end of the round trips",
  );
  return {
    seqs,
    summary: `${trips}`.split("\n")[0],
    error,
    status: (error as Failure | undefined)?.status,
  };
}

test("round trips are counted, and told of one by one", async () => {
  for (const piece of [Infinity, 1]) {
    const { seqs, summary, error } = await pinged(
      new Mirror(undefined, piece),
      { count: 5 },
    );
    assertEquals([seqs, summary, error], [
      [1, 2, 3, 4, 5],
      "5 sent, 5 received, 0% loss",
      undefined,
    ]);
  }
});

test("an answer that was there before its question, or came twice, is none", async () => {
  const early = new Mirror(nothing);
  early.give(
    ...[1, 2, 3].map((seq) =>
      new Uint8Array(64).map((_, i) => 33 + (i + seq + 1) % 94)
    ),
  );
  const twice = new Mirror((message) =>
    new Uint8Array([...message, ...message])
  );
  for (
    const [conn, summary] of [[early, "1 sent, 0 received"], [
      twice,
      "2 sent, 1 received",
    ]] as const
  ) {
    const pinging = await pinged(conn);
    assertEquals([pinging.status, pinging.summary.startsWith(summary)], [
      8,
      true,
    ], pinging.summary);
  }
});

test("round trips have the size that was asked for, up to megabytes", async () => {
  const sizes: number[] = [];
  await pinged(new Mirror((message) => (sizes.push(message.length), message)), {
    count: 1,
    size: 1000,
  });
  assertEquals(sizes, [1000]);
  await using server = new Local();
  using conn = await server.connect();
  const { error } = await pinged(conn, { count: 1, size: 16 * 1024 * 1024 }); // more than all buffers hold: it would stand still
  assertEquals(error, undefined);
  assertEquals((await server.stop()).bytes, 16 * 1024 * 1024);
});

test("round trips that took their time do not end those that follow", async () => {
  const { summary, error } = await pinged(new Mirror(), {
    count: 5,
    interval: 25,
    timeout: 40,
  });
  assertEquals([summary, error], ["5 sent, 5 received, 0% loss", undefined]);
});

test("a round trip that does not come back in time is 28", async () => {
  let answers = 0;
  const { seqs, summary, error, status } = await pinged(
    new Mirror((message) => answers++ ? undefined : message),
    { timeout: 20 },
  );
  assertEquals([seqs, summary, status], [
    [1],
    "2 sent, 1 received, 50% loss",
    28,
  ]);
  assertStringIncludes(error.message, "seq=2");
});

test("a round trip that comes back changed, or that the server ends, is told apart", async () => {
  assertEquals(
    (await pinged(new Mirror((message) => message.fill(120)))).status,
    8,
  );
  const conn = new Mirror(nothing);
  conn.end();
  assertEquals((await pinged(conn)).status, 18);
});

test("the wait between round trips ends with the signal", async () => {
  const stop = new AbortController(),
    log = () => stop.abort(new Failure(130, ""));
  const { summary, status } = await pinged(new Mirror(), {
    interval: 3_600_000,
    signal: stop.signal,
    log,
  });
  assertEquals([summary, status], ["1 sent, 1 received, 0% loss", 130]);
});

// The command line

test("echo_tcp refuses what cannot be meant", async () => {
  const cases: [string[], RegExp][] = [
    [["-c", "127.0.0.1:1", "-n", "0"], /count/],
    [["-c", "127.0.0.1:1", "-n", "1", "--size", "0"], /size/],
    [["-c", "127.0.0.1:1", "-n", "1", "--size", "999999999999999"], /size/],
    [["-c", "127.0.0.1:1", "-n", "-1"], /count|-1/],
    [["-c", "127.0.0.1:x"], /"x"/],
    [["-c", ""], /connect/],
    [["-c"], /connect/],
    [["--host", "127.0.0.1:80"], /127\.0\.0\.1:80/],
    [["--host", "a b"], /a b/],
    [["-4", "--host", "::1"], /::1/],
    [["-4", "--host", "::"], /::/],
    [["-6", "--host", "127.0.0.1"], /127\.0\.0\.1/],
    [["--idle-timeout", "-1"], /idle-timeout|-1/],
    [["--max-connections", "many"], /many/],
    [["-n", "5"], /count/],
    [["--diagram", "x.md"], /diagram/],
    [["-c", "127.0.0.1:1", "--max-connections", "5"], /max-connections/],
    [["-c", "127.0.0.1:1", "--quiet"], /quiet/],
    [["-c", "127.0.0.1:1", "-p", "2"], /more than one port: 1, 2/],
    [["-c", "127.0.0.1:1", "--size", "5"], /--size.*--count/],
    [["-c", "127.0.0.1:1", "-i", "5"], /--interval.*--count/],
    [["--host", "nosuch.invalid", "-n", "5"], /--count/],
    [["localhost"], /localhost.*-c HOST:PORT/],
  ];
  for (const [args, offender] of cases) {
    const { status, out, err } = await command(...args);
    assertEquals(
      [status, out, err.length],
      [2, [], 1],
      `echo_tcp ${args.join(" ")}: ${err}`,
    );
    assertMatch(err[0], /^echo_tcp: /);
    assertMatch(err[0], offender);
  }
});

test("echo_tcp says which port is busy", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr,
    { status, out, err } = await command(
      "--host",
      "127.0.0.1",
      "-p",
      `${port}`,
    );
  assertEquals([status, out], [1, []]);
  assertEquals(err, [
    `echo_tcp: cannot listen on 127.0.0.1:${port}: address already in use: try --port 0`,
  ]);
});

test("echo_tcp says where it cannot listen", async () => {
  await using barred = new Running(Deno.execPath(), [
    "run",
    "--no-prompt",
    "--quiet",
    "echo_tcp.ts",
  ], { cwd: ROOT });
  const { code, stderr } = await barred.finish();
  assertEquals([code, stderr.split("\n").length], [1, 2], stderr);
  assertMatch(
    stderr,
    /^echo_tcp: cannot listen on \[::\]:7777: requires net access/,
  );
  const { status, err } = await command("--host", "192.0.2.77", "-p", "0");
  assertEquals([status, err], [1, [
    "echo_tcp: cannot listen on 192.0.2.77:0: cannot assign requested address",
  ]]);
});

test("echo_tcp says when nobody listens, or nobody has that name", {
  sanitizeResources: false, // Deno 2.4 keeps the handle that could have cancelled the attempt
}, async () => {
  const gone = Deno.listen({ hostname: "127.0.0.1", port: 0 }),
    { port } = gone.addr;
  gone.close();
  for (const more of [[], ["-n", "1"]]) {
    const refused = await command("-c", `127.0.0.1:${port}`, ...more);
    assertEquals([refused.status, refused.out], [7, []]);
    assertEquals(refused.err, [
      `echo_tcp: cannot connect to 127.0.0.1:${port}: connection refused`,
    ]);
    const unknown = await command("-c", "nosuch.invalid", ...more);
    assertEquals([unknown.status, unknown.out], [6, []]);
    assertEquals(unknown.err, [
      "echo_tcp: cannot resolve nosuch.invalid: no such name",
    ]);
  }
});

test("echo_tcp -4 and -6 keep the client to a family", {
  sanitizeResources: false, // as above
}, async () => {
  await using server = new Local({}, "::");
  for (const [option, peer] of [["-4", "127.0.0.1"], ["-6", "[::1]"]]) {
    const { status, out } = await command(
      option,
      "-c",
      `localhost:${server.port}`,
      "-n",
      "1",
    );
    assertEquals(status, 0);
    assertStringIncludes(
      out[0],
      `64 bytes from ${peer}:${server.port}: seq=1 `,
    );
  }
  const { status, err } = await command("-6", "-c", `127.0.0.1:${server.port}`);
  assertEquals([status, err], [6, [
    "echo_tcp: cannot resolve 127.0.0.1: no IPv6 address",
  ]]);
});

test("echo_tcp -n prints a line each and a summary, as ping does", async () => {
  await using server = new Local();
  const { status, out, err } = await command(
    "-c",
    `127.0.0.1:${server.port}`,
    "-n",
    "3",
    "-i",
    "0.01",
    "--size",
    "9",
  );
  assertEquals([status, err], [0, []]);
  const lines = [1, 2, 3].map((seq) =>
    `9 bytes from 127.0.0.1:${server.port}: seq=${seq} time=_ ms`
  );
  assertEquals(
    out.slice(0, 3).map((line) => line.replace(/\d+\.\d{2} ms$/, "_ ms")),
    lines,
  );
  assertMatch(
    out.slice(3).join("\n"),
    /^3 sent, 3 received, 0% loss\nmin\/avg\/max\/mdev = (\d+\.\d\d\/){3}\d+\.\d\d ms$/,
  );
});

test("echo_tcp -n is done when at least one came back, and 28 when none", async () => {
  await using first = hostile(once), none = hostile(silent);
  const some = await command(
    "-c",
    first.at,
    "-n",
    "3",
    "-i",
    "0",
    "-w",
    "0.05",
  );
  assertEquals([some.status, some.out[1]], [0, "2 sent, 1 received, 50% loss"]);
  const never = await command(
    "-c",
    none.at,
    "-n",
    "3",
    "-i",
    "0",
    "-w",
    "0.05",
  );
  assertEquals([never.status, never.out], [28, [
    "1 sent, 0 received, 100% loss",
  ]]);
  assertMatch(never.err.join("\n"), /^echo_tcp: no answer [^\n]*$/);
});

// Processes

test("echo_tcp runs from its first line to its summary", {
  ignore: Deno.build.os === "windows",
}, async () => {
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    await using server = await serveProcess("echo_tcp");
    assertMatch(server.stdout, /^listening on tcp:\/\/\[::\]:\d+\n/);
    const conn = await Deno.connect({
      hostname: "127.0.0.1",
      port: server.port,
    });
    await trip(conn, random(1000));
    const name = `127.0.0.1:${(conn.localAddr as Deno.NetAddr).port}`;
    conn.close();
    await server.until(
      new RegExp(
        `\n${name.replaceAll(".", "\\.")} 1000 bytes in \\d+\\.\\d{3} s\n`,
      ),
    );
    server.kill(signal);
    const { code, stdout, stderr } = await server.finish();
    assertEquals([code, stderr], [0, ""]);
    assertMatch(stdout, /\nserved 1 connection, 1000 bytes\n$/);
  }
});

test("echo_tcp --quiet keeps the first line only", async () => {
  await using server = await serveProcess("echo_tcp", ["--quiet"]);
  using conn = await Deno.connect({ port: server.port });
  await trip(conn);
  server.kill();
  const { code, stdout, stderr } = await server.finish();
  assertEquals([code, stderr], [0, ""]);
  assertMatch(stdout, /^listening on tcp:\/\/\[::\]:\d+\n$/);
});

test("echo_tcp listens where --host, -4 and -6 say", async () => {
  const cases = [["--host", "127.0.0.1"], ["--host", "::1"], ["-4"], ["-6"], [
    "-4",
    "--host",
    "localhost",
  ]];
  const where = ["127.0.0.1", "[::1]", "0.0.0.0", "[::]", "127.0.0.1"];
  await Promise.all(cases.map(async (args, i) => {
    await using server = await serveProcess("echo_tcp", ["-q", ...args]);
    assertEquals(
      server.stdout,
      `listening on tcp://${where[i]}:${server.port}\n`,
      args.join(" "),
    );
  }));
});

test("echo_tcp -6 --host localhost listens on IPv6", async () => {
  await using server = await serveProcess("echo_tcp", [
    "-q",
    "-6",
    "--host",
    "localhost",
  ]);
  assertEquals(server.stdout, `listening on tcp://[::1]:${server.port}\n`);
});

test("echo_tcp ends at once at the second signal", {
  ignore: Deno.build.os === "windows",
}, async () => {
  await using server = await serveProcess("echo_tcp", ["-q"]);
  using conn = await Deno.connect({ port: server.port }),
    other = await Deno.connect({ port: server.port });
  await stuff(conn, other);
  server.kill("SIGTERM");
  await receive(other); // it is idle, and so closed: the drain is under way, and would take 5 s for the first
  await assertRejects(
    () => Deno.connect({ port: server.port }),
    Deno.errors.ConnectionRefused,
  );
  server.kill("SIGTERM");
  const { code, signal, stderr } = await server.finish(3);
  assertEquals([code !== 0, signal, stderr], [true, null, ""]);
});

test(
  "echo_tcp gives back what came before SIGTERM, though it had not seen it yet",
  {
    ignore: Deno.build.os === "windows",
  },
  async () => {
    await using server = await serveProcess("echo_tcp", ["-q"]);
    const conns = await Promise.all(
      Array.from({ length: 100 }, () => Deno.connect({ port: server.port })),
    );
    await Promise.all(conns.slice(50).map((conn) => trip(conn))); // the others have never sent anything
    await delay(120); // not to wait for something: they are to be idle for long
    server.kill("SIGSTOP");
    await Promise.all(conns.map((conn) => send(conn, bytes("too late?"))));
    server.kill("SIGTERM");
    server.kill("SIGCONT");
    const answers = await Promise.all(
      conns.map((conn) =>
        soon(receive(conn), "the answer").catch(() => new Uint8Array())
      ),
    );
    for (const conn of conns) conn.close();
    assertEquals(
      answers.filter((answer) => text(answer) !== "too late?").length,
      0,
      "of 100 came back short",
    );
    assertEquals((await server.finish()).code, 0);
  },
);

test(
  "echo_tcp serves who was in line when SIGTERM came",
  { ignore: !LINUX },
  async () => {
    await using server = await serveProcess("echo_tcp");
    server.kill("SIGSTOP"); // the system goes on taking connections
    const conns = await Promise.all(
      Array.from({ length: 20 }, () => Deno.connect({ port: server.port })),
    );
    for (const conn of conns) {
      await send(conn, bytes("last words")), await conn.closeWrite();
    }
    server.kill("SIGTERM"), server.kill("SIGCONT");
    for (using conn of conns) {
      assertEquals(
        text(await soon(receive(conn), "the answer")),
        "last words",
      );
    }
    const { code, stdout } = await server.finish();
    assertEquals(code, 0);
    assertMatch(stdout, /\nserved 20 connections, 200 bytes\n$/);
  },
);

test("echo_tcp takes --max-connections and --idle-timeout", async () => {
  await using server = await serveProcess("echo_tcp", [
    "--max-connections",
    "1",
    "--idle-timeout",
    "0.3",
  ]);
  using first = await Deno.connect({ port: server.port }),
    second = await Deno.connect({ port: server.port });
  let answered = false;
  const waiting = trip(second).then(() => answered = true);
  for (let i = 0; i < 20; i++) await trip(first);
  assert(!answered, "two at once");
  await server.until(/ 320 bytes in \d\.\d{3} s: timed out\n/);
  await waiting;
});

test("echo_tcp says that a low port needs more rights", {
  ignore: !LINUX || missing("setpriv"),
}, async () => {
  const drop = Deno.uid() === 0
    ? ["--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"]
    : [];
  const args = [
    ...drop,
    Deno.execPath(),
    "run",
    "-A",
    "echo_tcp.ts",
    "--port",
    "echo",
  ];
  // Where the system bars no port at all, there is nothing to be told.
  const barred = Number(
    await Deno.readTextFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"),
  ) > 7;
  if (!barred) return;
  const { code, stdout, stderr } = await new Running("setpriv", args, {
    cwd: ROOT,
  }).finish();
  assertEquals([code, stdout], [1, ""]);
  assertEquals(
    stderr,
    "echo_tcp: cannot listen on [::]:7: permission denied: port 7 needs more rights: try --port 1307\n",
  );
});

test("echo_tcp -v shows what a server sees, a line an event", async () => {
  await using server = await serveProcess("echo_tcp", ["-v"]);
  const conn = await Deno.connect({ hostname: "127.0.0.1", port: server.port });
  await trip(conn, bytes("a\x1b[2Jb\n"));
  await conn.closeWrite();
  await receive(conn);
  const peer = `127.0.0.1:${conn.localAddr.port}`;
  conn.close();
  await server.until(/closed\n$/, "stderr");
  const lines = server.stderr.trimEnd().split("\n");
  for (const line of lines) assertMatch(line, /^\d+\.\d{4} [*<>] [ -~]+$/);
  assertEquals(lines.map((line) => line.replace(/^\S+ /, "")), [
    `* ${peer} accepted`,
    `< ${peer} 7 bytes "a\\x1b[2Jb\\n"`,
    `> ${peer} 7 bytes "a\\x1b[2Jb\\n"`,
    `* ${peer} half-closed by the peer`,
    `* ${peer} closed`,
  ]);
});

test("echo_tcp -c -v shows what a client sees, on stderr", async () => {
  await using server = new Local();
  const { code, stdout, stderr } = await run("echo_tcp", [
    "-v",
    "-c",
    `127.0.0.1:${server.port}`,
  ], "hi\n");
  assertEquals([code, stdout], [0, "hi\n"]);
  const lines = stderr.trimEnd().split("\n");
  for (const line of lines) assertMatch(line, /^\d+\.\d{4} [*<>] [ -~]+$/);
  const seen = lines.map((line) => line.replace(/^\S+ /, ""));
  for (
    const event of [
      `* connected to 127.0.0.1:${server.port}`,
      '> 3 bytes "hi\\n"',
      '< 3 bytes "hi\\n"',
      "* half-closed: nothing more to send",
      "* half-closed by the peer",
      "* closed",
    ]
  ) assert(seen.includes(event), `${event} is not in\n${stderr}`);
});

test("echo_tcp -c tells each way to fail by its status, in one line", async () => {
  const cases: [Parameters<typeof hostile>[0], string[], number, RegExp][] = [
    [early, [], 18, /closed the connection/],
    [silent, ["-w", "0.2"], 28, /no answer within 0\.2 s/],
    [early, ["-n", "1"], 28, /closed the connection/],
    [silent, ["-n", "1", "-w", "0.2"], 28, /no answer/],
  ];
  await Promise.all(cases.map(async ([handler, args, status, message]) => {
    await using server = hostile(handler);
    const { code, stdout, stderr } = await run("echo_tcp", [
      "-c",
      server.at,
      ...args,
    ], "hello\n");
    assertEquals(code, status, stderr);
    assertMatch(stderr, /^echo_tcp: [^\n]+\n$/);
    assertMatch(stderr, message);
    assertEquals(
      stdout,
      args.includes("-n") ? "1 sent, 0 received, 100% loss\n" : "",
    );
  }));
});

const RESETTER = `
import socket, struct
listener = socket.create_server(("127.0.0.1", 0))
print("at 127.0.0.1:%d" % listener.getsockname()[1], flush=True)
for _ in range(2):
    conn, _ = listener.accept()
    conn.recv(1000)
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()
`;

test(
  "echo_tcp -c ends with 56 when the server resets the connection",
  { ignore: missing("python3") },
  async () => {
    await using server = new Running("python3", ["-c", RESETTER]);
    const at = (await server.until(/at (\S+)\n/))[1];
    const { code, stdout, stderr } = await run(
      "echo_tcp",
      ["-c", at],
      "hello\n",
    );
    assertEquals([code, stdout], [56, ""]);
    assertMatch(stderr, /^echo_tcp: [^\n]*connection reset[^\n]*\n$/);
    const { status, out, err } = await command("-c", at, "-n", "1");
    assertEquals([status, out], [28, ["1 sent, 0 received, 100% loss"]]);
    assertMatch(err.join("\n"), /^echo_tcp: [^\n]*connection reset$/);
  },
);

test("echo_tcp -c ends with 18 when the server closes while the person could still type", async () => {
  await using server = hostile(early);
  await using client = start("echo_tcp", ["-c", server.at]);
  await client.type("hello\n");
  await client.until(/^echo_tcp: [^\n]+\n$/, "stderr");
  assertEquals((await client.finish()).code, 18);
});

test("Ctrl-C ends a client with 130, and the round trips with their summary", {
  ignore: Deno.build.os === "windows",
}, async () => {
  await using server = new Local();
  await using typing = start("echo_tcp", ["-c", `127.0.0.1:${server.port}`]);
  await using pinging = start("echo_tcp", [
    "-c",
    `127.0.0.1:${server.port}`,
    "-n",
    "1000",
    "-i",
    "60",
  ]);
  await typing.type("x");
  await Promise.all([typing.until(/x/), pinging.until(/seq=1 .*\n/)]);
  typing.kill("SIGINT"), pinging.kill("SIGINT");
  await assertRejects(() => typing.until(/y/), Error, "ended"); // before the end of its input can end it
  const [typed, pinged] = await Promise.all([
    typing.finish(),
    pinging.finish(),
  ]);
  assertEquals([typed.code, typed.stdout, typed.stderr], [130, "x", ""]);
  assertEquals([pinged.code, pinged.stderr], [130, ""]);
  assertMatch(
    pinged.stdout,
    /\n1 sent, 1 received, 0% loss\nmin\/avg\/max\/mdev = .* ms\n$/,
  );
});

test("echo_tcp ends quietly when nobody reads its output any more", {
  ignore: missing("bash"),
}, async () => {
  await using server = new Local();
  const shell = (line: string) =>
    new Running("bash", [
      "-c",
      line,
      Deno.execPath(),
      `127.0.0.1:${server.port}`,
    ], { cwd: ROOT }).finish();
  const client = `"$0" run -A echo_tcp.ts -c "$1"`;
  const [data, pings, help] = await soon(
    Promise.all([
      shell(`head -c 3000000 /dev/zero | ${client} | head -c 5 | wc -c`),
      shell(`${client} -n 3 -i 0 | head -n 1 | wc -l`),
      shell(`"$0" run -A echo_tcp.ts --help | head -n 1 | wc -l`),
    ]),
    "the answer",
  );
  assertEquals([data.stdout.trim(), pings.stdout.trim(), help.stdout.trim()], [
    "5",
    "1",
    "1",
  ]);
  assertEquals([data.stderr, pings.stderr, help.stderr], ["", "", ""]);
});

test("echo_tcp says that its output cannot be written", {
  ignore: !LINUX || missing("bash"),
}, async () => {
  await using server = new Local();
  const shell = (line: string) =>
    new Running("bash", [
      "-c",
      line,
      Deno.execPath(),
      `127.0.0.1:${server.port}`,
    ], { cwd: ROOT }).finish();
  const client = `"$0" run -A echo_tcp.ts -c "$1"`;
  for (
    const { code, stderr } of await soon(
      Promise.all([
        shell(`echo hello | ${client} > /dev/full`),
        shell(`${client} -n 1 > /dev/full`),
      ]),
      "the answer",
    )
  ) {
    assertMatch(stderr, /^echo_tcp: [^\n]*no space left on device\n$/);
    assertEquals(code, 23);
  }
});

/** A process whose output is taken as far as its first line, and then waits for a reader. */
async function unread(...args: string[]) {
  const options = {
    cwd: ROOT,
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  } as const;
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "echo_tcp.ts", ...args],
    ...options,
  }).spawn();
  const reader = child.stdout.getReader(),
    first = text((await soon(reader.read(), "the answer")).value!);
  reader.releaseLock();
  const ended = async () => {
    const { code } = await soon(child.status, "the end"); // its output is still not read
    await Promise.all([
      child.stdout.cancel(),
      child.stderr.cancel(),
      child.stdin.close().catch(() => {}),
    ]);
    return code;
  };
  return { child, first, ended };
}

test(
  "echo_tcp goes on serving when its log fills a pipe, and ends when it is told to",
  { ignore: !LINUX },
  async () => {
    const { child, first, ended } = await unread("--port", "0"),
      port = Number(first.match(/:(\d+)\n/)![1]);
    for (let i = 0; i < 4000; i++) {
      using conn = await soon(Deno.connect({ port }), `connection ${i}`);
      await soon(trip(conn), `answer ${i}`);
    }
    child.kill("SIGTERM");
    assertEquals(await ended(), 0);
  },
);

test(
  "Ctrl-C ends a client whose output nobody takes",
  { ignore: !LINUX },
  async () => {
    let sent = 0;
    await using server = hostile(async (conn) => {
      const noise = new Uint8Array(65_536).fill(120), gone = () => 0;
      while (await conn.write(noise).catch(gone)) sent++;
    });
    const { child, ended } = await unread("-c", server.at);
    for (let before = -1; before !== sent; await delay(100)) before = sent; // until nothing moves any more
    child.kill("SIGINT");
    assertEquals(await ended(), 130);
  },
);

test("echo_tcp goes on serving when nobody reads its log any more", async () => {
  const { child, first } = await unread("--port", "0"),
    port = Number(first.match(/:(\d+)\n/)![1]);
  try {
    await Promise.all([child.stdout.cancel(), child.stdin.close()]);
    for (let i = 0; i < 20; i++) {
      using conn = await Deno.connect({ port });
      await trip(conn);
    }
  } finally {
    child.kill("SIGTERM");
    const [{ code }, stderr] = await soon(
      Promise.all([child.status, new Response(child.stderr).text()]),
      "the answer",
    );
    assertEquals([code, stderr], [0, ""]);
  }
});

/** Whether a program may do what is asked of it here: for `ignore`, where that takes rights of its own. */
function barred(program: string, ...args: string[]): boolean {
  if (missing(program)) return true;
  return !new Deno.Command(program, { args, stdout: "null", stderr: "null" })
    .outputSync().success;
}

test("echo_tcp goes on serving when the disk that its log is on is full", {
  ignore: !LINUX || barred("unshare", "-m", "true"),
}, async () => {
  const folder = await Deno.makeTempDir();
  const line =
    `mount -t tmpfs -o size=4k none "$1" && exec "$0" run -A echo_tcp.ts --port 0 > "$1/log"`;
  await using shell = new Running("unshare", [
    "-m",
    "sh",
    "-c",
    line,
    Deno.execPath(),
    folder,
  ], { cwd: ROOT });
  const log = `/proc/${shell.pid}/root${folder}/log`;
  let text = "";
  const reading = async () =>
    text = await Deno.readTextFile(log).catch(() => "");
  await repeat(
    reading,
    () => /tcp:\/\/\S+:\d+\n/.test(text),
    "a port in the log",
    { seen: () => text },
  );
  const port = Number(text.match(/tcp:\/\/\S+:(\d+)\n/)![1]);
  for (let i = 0; i < 200; i++) { // a line each of some 40 bytes
    using conn = await Deno.connect({ port });
    await trip(conn);
  }
  shell.kill();
  const { code, stderr } = await shell.finish();
  await Deno.remove(folder, { recursive: true });
  assertEquals([code, stderr], [0, ""]);
});

// Survival

const RESETS = `
import os, signal, socket, struct, sys
port, pid, count = map(int, sys.argv[1:])
def reset(prepare=lambda s: None):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.connect(("127.0.0.1", port))
    prepare(s)
    s.close()
def unread(s): s.send(b"x" * 1000)
def between(s): s.send(b"x"); s.recv(1)
def middle(s): between(s); s.send(b"x" * 100_000)
for i in range(count): reset([lambda s: None, unread, between, middle][i % 4])
os.kill(pid, signal.SIGSTOP)  # so that these are over before they are accepted
for i in range(100): reset([lambda s: None, unread][i % 2])
os.kill(pid, signal.SIGCONT)
`;

test(
  "echo_tcp survives thousands of resets: before accept, in the middle, with data unread",
  {
    ignore: !LINUX || missing("python3"),
  },
  async () => {
    await Promise.all([[], ["--max-connections", "1"]].map(async (args) => {
      await using server = await serveProcess("echo_tcp", ["-q", ...args]);
      const flood = ["-c", RESETS, `${server.port}`, `${server.pid}`, "3000"];
      const { code, stderr } = await pipe("python3", flood, bytes(""));
      assertEquals([code, stderr], [0, ""]);
      using conn = await Deno.connect({ port: server.port });
      await trip(conn);
      server.kill();
      const finished = await server.finish();
      assertEquals([finished.code, finished.stderr], [0, ""]);
    }));
  },
);

/** The processor time of a process, in seconds. */
async function processorTime(pid: number): Promise<number> {
  const [, rest] = (await Deno.readTextFile(`/proc/${pid}/stat`)).split(") ");
  return (Number(rest.split(" ")[11]) + Number(rest.split(" ")[12])) / 100;
}

/** The resident memory of a process, in bytes. */
async function memory(pid: number): Promise<number> {
  return 1024 *
    Number(
      (await Deno.readTextFile(`/proc/${pid}/status`)).match(
        /VmRSS:\s+(\d+)/,
      )![1],
    );
}

test(
  "echo_tcp waits while descriptors run out, and serves again as soon as some are freed",
  {
    ignore: !LINUX || missing("prlimit"),
  },
  async () => {
    const args = [
      "--nofile=64",
      Deno.execPath(),
      "run",
      "-A",
      "echo_tcp.ts",
      "--port",
      "0",
    ];
    await using server = new Running("prlimit", args, { cwd: ROOT });
    const port = Number(
      (await server.until(/listening on tcp:\/\/\S+:(\d+)\n/))[1],
    );
    const conns = await Promise.all(
      Array.from({ length: 100 }, () => Deno.connect({ port })),
    );
    const trips = conns.map((conn) => trip(conn));
    trips.forEach((each) => each.catch(() => {}));
    await server.until(/cannot accept: too many open files; trying again\n/);
    const before = await processorTime(server.pid);
    await delay(500); // not to wait for something: the time over which it may not spin
    assertLess(await processorTime(server.pid) - before, 0.1, "it spins");
    for (const [i, conn] of conns.entries()) { // each one that is closed makes room for another
      await trips[i];
      conn.close();
    }
    server.kill();
    const { code, stdout, stderr } = await server.finish();
    assertEquals([code, stdout.match(/cannot accept/g)?.length], [0, 1]);
    assertNotMatch(stderr, /^echo_tcp|Uncaught|panicked/m);
    assertMatch(stdout, /\nserved 100 connections, 1600 bytes\n$/);
  },
);

test("echo_tcp holds little for clients that never read, and serves others", {
  ignore: !LINUX,
}, async () => {
  await using server = await serveProcess("echo_tcp", ["-q"]);
  using other = await Deno.connect({ port: server.port });
  await trip(other, random(3_000_000));
  const before = await memory(server.pid);
  const conns = await Promise.all(
    Array.from({ length: 6 }, () => Deno.connect({ port: server.port })),
  );
  for (const conn of conns) await stuff(conn, other);
  assertLess(await memory(server.pid) - before, 30e6);
  server.kill("SIGKILL"); // it would wait for them
  await server.finish();
  for (const conn of conns) conn.close();
});

const CROWD = `
import resource, socket, sys
port, count = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
def trip(conns, message):
    for i, s in enumerate(conns): s.sendall(message(i))
    for i, s in enumerate(conns):
        assert s.recv(100) == message(i), i
conns = []
while len(conns) < count:
    batch = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(100)]
    trip(batch, lambda i: b"hello")
    conns += batch
trip(conns, lambda i: b"I am %d" % i)
print("echoed", len(conns), flush=True)
sys.stdin.read()
trip(conns, lambda i: b"still %d" % i)
`;

const few = !LINUX ||
  barred(
    "sh",
    "-c",
    '[ "$(ulimit -Hn)" = unlimited ] || [ "$(ulimit -Hn)" -ge 6000 ]',
  );

test(
  "echo_tcp holds 5,000 connections at once, in little memory",
  { ignore: few || missing("python3") },
  async () => {
    const prepared = [
      "-c",
      'ulimit -n 6000; exec "$0" run -A echo_tcp.ts -q --port 0',
      Deno.execPath(),
    ];
    await using server = new Running("bash", prepared, { cwd: ROOT });
    const port = Number(
      (await server.until(/listening on tcp:\/\/\S+:(\d+)\n/))[1],
    );
    using one = await Deno.connect({ port });
    for (let i = 0; i < 100; i++) await trip(one);
    const before = await memory(server.pid);
    await using crowd = new Running("python3", [
      "-c",
      CROWD,
      `${port}`,
      "5000",
    ]);
    await crowd.until(/echoed 5000\n/);
    assertLess(
      (await memory(server.pid) - before) / 5000,
      16_000,
      "bytes a connection",
    );
    assertEquals((await crowd.finish()).stderr, "");
    server.kill();
    assertEquals((await server.finish()).code, 0);
  },
);

test("echo_tcp probes peers that are silent", {
  ignore: !LINUX || missing("ss"),
}, async () => {
  await using server = new Local();
  using conn = await server.connect();
  await trip(conn);
  const { stdout } = await new Deno.Command("ss", {
    args: ["-tnoH", `sport = :${server.port}`],
  }).output();
  assertMatch(text(stdout), /ESTAB.*timer:\(keepalive,/);
});

test("echo_tcp serves where IPv6 is switched off", {
  ignore: !LINUX || missing("ip") || missing("nsenter") ||
    barred("unshare", "-n", "true"),
}, async () => {
  const off =
    "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 && ip link set lo up";
  const line = `${off} && exec "$0" run -A echo_tcp.ts --port 7777`;
  await using server = new Running("unshare", [
    "-n",
    "sh",
    "-c",
    line,
    Deno.execPath(),
  ], { cwd: ROOT });
  await server.until(/^listening on tcp:\/\/(\[::\]|0\.0\.0\.0):7777\n/);
  const inside = ["-t", `${server.pid}`, "-n", Deno.execPath(), ...CLIENT];
  for (const host of ["127.0.0.1", "localhost"]) {
    const { code, stdout, stderr } = await pipe(
      "nsenter",
      [...inside, host],
      bytes("hello\n"),
    );
    assertEquals([code, text(stdout), stderr], [0, "hello\n", ""]);
  }
  const named = [
    "-t",
    `${server.pid}`,
    "-n",
    Deno.execPath(),
    "run",
    "-A",
    "echo_tcp.ts",
    "-p",
    "0",
    "--host",
    "localhost",
  ];
  await using local = new Running("nsenter", named, { cwd: ROOT });
  await local.until(/^listening on tcp:\/\/127\.0\.0\.1:\d+\n/);
  server.kill();
  assertEquals((await server.finish()).code, 0);
});

test(
  "several processes share a port with --reuse-port",
  { ignore: !LINUX },
  async () => {
    await using first = await serveProcess("echo_tcp", ["--reuse-port"]);
    await using second = start("echo_tcp", [
      "--reuse-port",
      "--port",
      `${first.port}`,
    ]);
    await second.until(/listening on .*\n/);
    const conns = await Promise.all(
      Array.from({ length: 64 }, () => Deno.connect({ port: first.port })),
    );
    for (const conn of conns) await trip(conn);
    for (const conn of conns) conn.close();
    first.kill(), second.kill();
    const ended = await Promise.all([first.finish(), second.finish()]);
    const served = ended.map(({ stdout }) =>
      Number(stdout.match(/\nserved (\d+) connections/)![1])
    );
    assertEquals(served[0] + served[1], 64);
    assert(served[0] > 0 && served[1] > 0, `${served}`);
  },
);

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

const tools: Record<string, (port: number) => string[]> = {
  nc: (port) => ["-N", "127.0.0.1", `${port}`],
  socat: (port) => ["-t", "10", "-", `TCP:127.0.0.1:${port}`],
  ncat: (port) => ["127.0.0.1", `${port}`],
  python3: (port) => ["-c", PYTHON, `${port}`],
};

for (const [tool, args] of Object.entries(tools)) {
  test(`3 MB go through ${tool} to echo_tcp and back`, {
    ignore: missing(tool),
  }, async () => {
    await using server = new Local();
    const message = random(3_000_000),
      { code, stdout } = await pipe(tool, args(server.port), message);
    assertEquals(code, 0);
    assertSame(stdout, message);
  });
}

test("3 MB go through echo_tcp -c to echo_tcp and back", async () => {
  await using server = new Local();
  const message = random(3_000_000), to = `127.0.0.1:${server.port}`;
  const { code, stdout, stderr } = await pipe(
    Deno.execPath(),
    [...CLIENT, to],
    message,
  );
  assertEquals([code, stderr], [0, ""]);
  assertSame(stdout, message);
});

test("3 MB go through echo_tcp -c to socat and back", {
  ignore: missing("socat"),
}, async () => {
  await using server = new Running("socat", [
    "-d",
    "-d",
    "-t",
    "10",
    "TCP-LISTEN:0,bind=127.0.0.1",
    "EXEC:cat",
  ]);
  const to =
    (await server.until(/listening on \S+ (127\.0\.0\.1:\d+)\n/, "stderr"))[1];
  const message = random(3_000_000),
    { code, stdout, stderr } = await pipe(
      Deno.execPath(),
      [...CLIENT, to],
      message,
    );
  assertEquals([code, stderr], [0, ""]);
  assertSame(stdout, message);
});

test("3 MB go through echo_tcp -c to inetd's own echo and back", {
  ignore: !LINUX || missing("inetd") || missing("ip") || missing("nsenter") ||
    barred("unshare", "-n", "true"),
}, async () => {
  const config = await Deno.makeTempFile();
  try {
    await Deno.writeTextFile(config, "echo stream tcp nowait root internal\n");
    // Its port is 7: in a network of its own it is free.
    const shell = 'ip link set lo up && exec inetd -d -i "$0"';
    await using inetd = new Running("unshare", [
      "-n",
      "sh",
      "-c",
      shell,
      config,
    ]);
    await inetd.until(/ADD.*echo/, "stderr");
    const message = random(3_000_000),
      inside = ["-t", `${inetd.pid}`, "-n", Deno.execPath(), ...CLIENT];
    const { code, stdout, stderr } = await pipe("nsenter", [
      ...inside,
      "127.0.0.1:echo",
    ], message);
    assertEquals([code, stderr], [0, ""]);
    assertSame(stdout, message);
  } finally {
    await Deno.remove(config);
  }
});

test("what a server sends cannot drive the terminal of echo_tcp -c", {
  ignore: !LINUX || missing("script"),
}, async () => {
  const evil = "\x1b[2J\x1b]0;owned\x07\x9b5i";
  await using server = hostile((conn) =>
    receive(conn, 6).then(() =>
      send(conn, Uint8Array.from(evil, (c) => c.charCodeAt(0)))
    )
  );
  const line =
    `echo hello | "${Deno.execPath()}" run -A echo_tcp.ts -c ${server.at}`;
  const { stdout } = await pipe(
    "script",
    ["-qec", line, "/dev/null"],
    bytes(""),
  );
  assertStringIncludes(text(stdout), "owned");
  assert(
    !stdout.some((byte) => byte === 27 || byte === 7),
    JSON.stringify(text(stdout)),
  );
});
