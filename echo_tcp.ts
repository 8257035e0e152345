#!/usr/bin/env -S deno run --allow-net --allow-sys=networkInterfaces
/**
 * An echo server over TCP (RFC 862), and its client. The server sends every
 * byte back until the client half-closes. TCP has no message boundaries: what
 * was sent at once may come back in pieces.
 *
 * Try it in two terminals:
 *
 *     deno run -A echo_tcp.ts              listening on tcp://[::]:7777
 *
 *     deno run -A echo_tcp.ts -v localhost     type a line: it comes back
 *     deno run -A echo_tcp.ts -c 5 localhost   five round trips, timed
 *
 * echo_udp.ts does the same with datagrams.
 *
 * @module
 */
import { parseArgs } from "jsr:@std/cli@^1/parse-args";
import { aborted, accept, announce, connect, counted, delay } from "./utils.ts";
import { Failure, formatAddress, limited, listen, type Log } from "./utils.ts";
import { log, needsUnstableNet, output, parseNumber } from "./utils.ts";
import { parsePort, parseSeconds, parseTarget, reason } from "./utils.ts";
import { refuse, refuseUnknown, RoundTrips, run } from "./utils.ts";
import { timeLimit, type Trace, writeAll } from "./utils.ts";

const PORT = 7777; // RFC 862 says 7, but ports below 1024 may need root
const LARGEST = 16 * 1024 * 1024; // bytes of a round trip

/** The protocol: sends back what arrives, until the peer half-closes. */
export async function echo(
  conn: Pick<Deno.Conn, "read" | "write">,
): Promise<void> {
  let buffer = new Uint8Array(128); // small, as most connections are idle
  for (;;) {
    const length = await conn.read(buffer);
    if (length === null) return; // half-closed: the peer sends no more
    let sent = 0;
    while (sent < length) {
      // While this waits, nothing is read: TCP then slows the peer down.
      sent += await conn.write(buffer.subarray(sent, length));
    }
    const isFull = length === buffer.length;
    if (isFull && length < 256 * 1024) buffer = new Uint8Array(2 * length);
  }
}

/** A connection being served. It counts the bytes that go back. */
class Session {
  bytes = 0;
  isWriting = false;
  readonly started = Math.floor(performance.now());
  moved = this.started; // when bytes last went back
  ending = ""; // why the server closed it, if it did

  constructor(readonly conn: Deno.TcpConn, readonly trace?: Trace) {}

  /** Runs the protocol to its end. */
  run(): Promise<void> {
    try {
      this.conn.setNoDelay(true); // answers do not wait for more to send
      this.conn.setKeepAlive(true); // probes notice a peer that vanished
      if (!this.trace) return echo(this);
      const stream = this.trace.serve(this, this.peer);
      return echo(stream).finally(() => stream.close());
    } catch (error) { // the client is gone already
      return Promise.reject(error);
    }
  }

  read(buffer: Uint8Array): Promise<number | null> {
    return this.conn.read(buffer);
  }

  async write(bytes: Uint8Array): Promise<number> {
    this.isWriting = true;
    const length = await this.conn.write(bytes);
    this.isWriting = false;
    this.bytes += length;
    this.moved = performance.now();
    return length;
  }

  closeWrite(): Promise<void> {
    return this.conn.closeWrite();
  }

  close(ending = ""): void {
    this.ending ||= ending;
    if (ending) this.trace?.event(`${this.peer} ${ending}`);
    this.conn[Symbol.dispose]();
  }

  get peer(): string {
    return formatAddress(this.conn.remoteAddr);
  }

  /** Closes it, and returns what the log says of it. */
  end(error?: unknown): string {
    if (error) this.ending ||= reason(error);
    this.close();
    const seconds = ((performance.now() - this.started) / 1000).toFixed(3);
    const why = this.ending && `: ${this.ending}`;
    const bytes = counted(this.bytes, "byte");
    return `${this.peer} ${bytes} in ${seconds} s${why}`;
  }
}

/** What {@linkcode serve} is told. */
export interface ServeOptions {
  listener: Deno.TcpListener;
  signal: AbortSignal; // ends it, once what has arrived was sent back
  maxConnections?: number; // at once; others wait to be accepted
  idleTimeout?: number; // milliseconds in which something must move
  log?: Log;
  trace?: Trace;
}

/**
 * Serves all connections side by side until the signal aborts. Returns how
 * many there were, and how many bytes went back.
 */
export async function serve(
  { listener, signal, log = () => {}, trace, ...limits }: ServeOptions,
): Promise<{ connections: number; bytes: number }> {
  const { maxConnections = Infinity, idleTimeout = Infinity } = limits;
  const sessions = new Set<Session>();
  const total = { connections: 0, bytes: 0 };
  let place = Promise.withResolvers<void>(); // resolved when one is free

  function begin(conn: Deno.TcpConn): void {
    const session = new Session(conn, trace);
    const end = (error?: unknown) => {
      sessions.delete(session);
      total.bytes += session.bytes;
      log(session.end(error));
      place.resolve();
    };
    sessions.add(session);
    total.connections++;
    session.run().then(end, end);
  }

  aborted(signal).catch(() => {
    place.resolve();
    setTimeout(() => listener.close(), 50); // those in line get in
  });
  const pause = Math.min(idleTimeout / 4, 1e9);
  const sweep = setInterval(() => closeIdle(sessions, idleTimeout), pause);
  let conn: Deno.TcpConn | undefined;
  while ((conn = await accept(listener, log))) {
    begin(conn);
    while (sessions.size >= maxConnections && !signal.aborted) {
      place = Promise.withResolvers();
      await place.promise;
    }
  }
  clearInterval(sweep);
  await drain(sessions);
  return total;
}

function closeIdle(sessions: Set<Session>, timeout: number): void {
  const now = performance.now();
  for (const session of sessions) {
    if (now - session.moved >= timeout) session.close("timed out");
  }
}

/** Closes connections that are quiet for 0.1 s, and all of them after 5 s. */
async function drain(sessions: Set<Session>): Promise<void> {
  const started = performance.now();
  while (sessions.size > 0 && performance.now() - started < 5000) {
    const now = performance.now();
    for (const session of sessions) {
      const quiet = now - Math.max(session.moved, started);
      const isDone = !session.isWriting && quiet >= 100;
      if (isDone || now - started > 4900) session.close("closed");
    }
    await delay(20);
  }
}

/** What {@linkcode talk} is told. `timeout` is milliseconds. */
export interface TalkOptions {
  conn: Pick<Deno.Conn, "read" | "write" | "closeWrite" | "close">;
  input: ReadableStream<Uint8Array>;
  output: (bytes: Uint8Array) => Promise<void>;
  timeout: number;
}

/** What is under way between {@linkcode send} and {@linkcode receive}. */
interface Exchange {
  owed: number; // bytes that have not come back
  isSent: boolean; // the whole input
  since: number; // when the wait for the server began; Infinity: no wait
}

/**
 * The client: sends the input and half-closes, while it passes on what comes
 * back. Throws a {@linkcode Failure} of 18 if the server closes early, or of 28
 * if it is silent for too long.
 */
export async function talk(options: TalkOptions): Promise<void> {
  const { conn, timeout } = options;
  const exchange: Exchange = { owed: 0, isSent: false, since: Infinity };
  let isLate = false;
  const watch = setInterval(() => {
    const isWaiting = exchange.owed > 0 || exchange.isSent;
    isLate = isWaiting && performance.now() - exchange.since > timeout;
    if (isLate) conn.close();
  }, 50);
  try {
    await Promise.all([receive(options, exchange), send(options, exchange)]);
    conn.close();
  } catch (error) {
    if (isLate) throw new Failure(28, `no answer within ${timeout / 1000} s`);
    throw error;
  } finally {
    clearInterval(watch);
  }
}

async function send({ conn, input }: TalkOptions, exchange: Exchange) {
  for await (const bytes of input) {
    if (exchange.owed <= 0) exchange.since = performance.now();
    exchange.owed += bytes.length;
    await writeAll(conn, bytes);
  }
  if (exchange.owed <= 0) exchange.since = performance.now();
  exchange.isSent = true;
  await conn.closeWrite();
}

async function receive({ conn, output }: TalkOptions, exchange: Exchange) {
  const buffer = new Uint8Array(65_536);
  for (;;) {
    const length = await conn.read(buffer);
    if (length === null) break;
    exchange.owed -= length;
    exchange.since = Infinity; // slow output is not the server's fault
    await output(buffer.subarray(0, length));
    exchange.since = performance.now();
  }
  const missing = counted(exchange.owed, "byte");
  const early = exchange.isSent ? `${missing} came back` : "the input ended";
  const isWhole = exchange.isSent && exchange.owed <= 0;
  if (!isWhole) throw new Failure(18, `the server closed before ${early}`);
}

/** What {@linkcode ping} is told. Times are milliseconds, `size` is bytes. */
export interface PingOptions {
  conn: Pick<Deno.Conn, "read" | "write" | "close">;
  count: number;
  size: number;
  interval: number;
  timeout: number;
  trips: RoundTrips; // are counted, also if it ends early
  log: (seq: number, milliseconds: number) => Promise<void>;
}

/**
 * Measures round trips, one after the other. Throws a {@linkcode Failure} of 8
 * if what comes back was changed, 18 if the server closes, 28 if it is late.
 */
export async function ping(
  { conn, count, size, interval, timeout, trips, log }: PingOptions,
): Promise<void> {
  await delay(0); // the first timer takes milliseconds of its own
  for (let seq = 1; seq <= count; seq++) {
    // No two messages in a row are alike.
    const message = new Uint8Array(size).map((_, i) => 33 + (seq + i) % 94);
    trips.sent++;
    const milliseconds = await roundTrip(conn, message, timeout);
    trips.times.push(milliseconds);
    await log(seq, milliseconds);
    if (seq < count) await delay(interval - milliseconds);
  }
  conn.close();
}

/** Sends a message, and returns how long it took to come back. */
async function roundTrip(
  conn: Pick<Deno.Conn, "read" | "write" | "close">,
  message: Uint8Array,
  timeout: number,
): Promise<number> {
  const answer = new Uint8Array(message.length);
  const receive = async () => {
    let received = 0;
    while (received < answer.length) {
      const length = await conn.read(answer.subarray(received));
      if (length === null) throw new Failure(18, "the server closed");
      received += length;
    }
  };
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    conn.close();
  }, Math.min(timeout, 1e9));
  const started = performance.now();
  try {
    // Read while writing: else both sides fill up and wait for each other.
    await Promise.all([writeAll(conn, message), receive()]);
  } catch (error) {
    if (isLate) throw new Failure(28, `no answer within ${timeout / 1000} s`);
    throw error;
  } finally {
    clearTimeout(timer);
  }
  const milliseconds = performance.now() - started;
  if (answer.every((byte, i) => byte === message[i])) return milliseconds;
  throw new Failure(8, "the answer differs from what was sent");
}

const USAGE = `echo_tcp: an echo server over TCP (RFC 862), and its client

usage: echo_tcp [options]              be the server
       echo_tcp [options] HOST [PORT]  send stdin, print what comes back

  -p, --port PORT             server: listen on this port (7777; 0: a free one)
      --host ADDRESS          listen on this address (::, IPv6 and IPv4)
      --max-connections N     serve N at once; others wait (0: no limit)
      --idle-timeout SECONDS  close idle connections (0: never)
      --reuse-port            share the port between processes
  -q, --quiet                 print only the first line
  -c, --count N               client: measure N round trips
  -s, --size BYTES            bytes in each (64)
  -i, --interval SECONDS      time between them (1)
      --json                  print their summary as one JSON object
  -w, --timeout SECONDS       wait this long for an answer (5; 0: forever)
      --diagram FILE          draw the exchange into a Markdown file
  -4, -6                      use IPv4 or IPv6 only
  -v, --verbose               show what crosses the wire (-vv: every byte)
  -h, --help, -V, --version   print this text, or the version

examples: echo_tcp localhost < file        send a file and get it back
          echo_tcp -c 5 -i 0.2 [::1]:7777  five round trips, 0.2 s apart
`;

const SERVER = ["host", "port", "max-connections", "idle-timeout"] as const;
const CLIENT = ["count", "size", "interval", "timeout", "diagram"] as const;

function parse(args: string[]) {
  return parseArgs(args, {
    string: ["_", ...SERVER, ...CLIENT],
    boolean: [
      ...["help", "version", "verbose", "quiet"] as const,
      ...["reuse-port", "json", "ipv4", "ipv6"] as const,
    ],
    collect: ["verbose"],
    alias: {
      ...{ c: "count", i: "interval", p: "port", s: "size", w: "timeout" },
      ...{ h: "help", q: "quiet", v: "verbose", V: "version" },
      ...{ 4: "ipv4", 6: "ipv6" },
    },
    unknown: refuseUnknown,
  });
}

type Options = ReturnType<typeof parse>;

async function server(options: Options, signal: AbortSignal, trace?: Trace) {
  const others = [...CLIENT, "json", "ipv4", "ipv6"];
  refuse(options, others, "is a client option: give a HOST");
  const { quiet, host, "reuse-port": reusePort } = options;
  const port = parsePort(options.port ?? `${PORT}`);
  const most = parseNumber(options, "max-connections", 0, [0, 1e6]);
  const idle = parseSeconds(options, "idle-timeout") || Infinity;
  if (reusePort) needsUnstableNet("--reuse-port");
  // The backlog is how many may wait to be accepted.
  const more = { reusePort, tcpBacklog: 4096 };
  const listener = listen((at) => Deno.listen({ ...at, ...more }), port, host);
  await announce(listener.addr, quiet);
  const limits = { maxConnections: most || Infinity, idleTimeout: idle };
  const lines = quiet ? undefined : limited(log);
  const total = await serve({ listener, signal, trace, ...limits, log: lines });
  if (quiet) return;
  const connections = counted(total.connections, "connection");
  log(`served ${connections}, ${counted(total.bytes, "byte")}`);
}

async function client(options: Options, signal: AbortSignal, trace?: Trace) {
  const others = [...SERVER, "quiet", "reuse-port"];
  refuse(options, others, "is a server option: leave out the HOST");
  const target = parseTarget(options, PORT);
  const timeout = parseSeconds(options, "timeout", 5) || Infinity;
  const count = parseNumber(options, "count", 0, [1, 1e6]);
  const size = parseNumber(options, "size", 64, [1, LARGEST]);
  const interval = parseSeconds(options, "interval", 1);
  if (count === 0) refuse(options, ["size", "interval", "json"], "needs -c");
  const limit = timeLimit(timeout, signal);
  using socket = await connect({ ...target, signal: limit, trace });
  signal.addEventListener("abort", () => socket[Symbol.dispose]());
  const conn = trace ? trace.stream(socket) : socket;
  if (count === 0) {
    const input = Deno.stdin.readable;
    const talking = talk({ conn, input, output, timeout });
    return await Promise.race([talking, aborted(signal)]);
  }
  const trips = new RoundTrips();
  const peer = formatAddress(socket.remoteAddr);
  const show = async (seq: number, milliseconds: number) => {
    const line = `seq=${seq} time=${milliseconds.toFixed(2)} ms`;
    trace?.event(line);
    if (!options.json) await output(`${size} bytes from ${peer}: ${line}\n`);
  };
  if (trace) trace.quotes = false;
  const rest = { interval, timeout, trips, log: show };
  try {
    const pinging = ping({ conn, count, size, ...rest });
    await Promise.race([pinging, aborted(signal)]);
  } finally {
    await output(`${options.json ? JSON.stringify(trips) : trips}\n`);
  }
}

/** Runs a command line. Returns the exit status. */
export function main(args: string[]): Promise<number> {
  const script = { name: "echo_tcp", usage: USAGE };
  return run(script, () => parse(args), (options, signal, trace) => {
    const work = options._.length > 0 ? client : server;
    return work(options, signal, trace);
  });
}

// Deno.exitCode would wait for a read of the terminal: exit now.
if (import.meta.main) Deno.exit(await main(Deno.args));
