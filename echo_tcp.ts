#!/usr/bin/env -S deno run --allow-net --allow-sys=networkInterfaces
/**
 * An echo server over TCP (RFC 862), and its client. The server sends every
 * byte back until the client half-closes. TCP has no message boundaries: what
 * was sent at once may come back in pieces.
 *
 * Try it in two terminals:
 *
 *     deno run -A echo_tcp.ts                  # listening on tcp://[::]:7777
 *
 *     deno run -A echo_tcp.ts -v localhost     # type a line: it comes back
 *     deno run -A echo_tcp.ts -c 5 localhost   # five round trips, timed
 *
 * echo_udp.ts does the same with datagrams.
 *
 * @module
 */
import { parseArgs } from "jsr:@std/cli@^1/parse-args";
import { aborted, accept, announce, connect, counted, delay } from "./utils.ts";
import { Failure, formatAddress, limited, listen, log } from "./utils.ts";
import { type Log, needsUnstableNet, output, parseNumber } from "./utils.ts";
import { parsePort, parseSeconds, parseTarget, reason } from "./utils.ts";
import { refuse, refuseUnknown, rounded, RoundTrips, run } from "./utils.ts";
import { standardInput, timeLimit, type Trace, writeAll } from "./utils.ts";

const PORT = 7777; // RFC 862 says 7, but ports below 1024 may need root
const LARGEST = 16 * 1024 * 1024; // bytes of a round trip
const LONGEST = 2 ** 31 - 1; // milliseconds; a longer timer fires at once

/** The protocol: sends back what arrives, until the peer half-closes. */
export async function echo(
  conn: Pick<Deno.Conn, "read" | "write">,
): Promise<void> {
  let buffer = new Uint8Array(64); // small, as most connections are idle
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

/** A connection being served. To `echo`, it looks like one. It counts bytes. */
class Session {
  bytes = 0;
  isWriting = false;
  readonly started = Math.floor(performance.now()); // an integer: less memory
  moved = this.started; // when bytes last went back
  ending = ""; // why it ended, unless the client half-closed

  constructor(readonly conn: Deno.TcpConn, readonly trace?: Trace) {}

  /** Runs the protocol to its end. Not async: waiting would take memory. */
  run(): Promise<void> {
    try {
      this.conn.setNoDelay(true); // answers do not wait for more to send
      this.conn.setKeepAlive(true); // probes notice a peer that vanished
      if (!this.trace) return echo(this);
      const stream = this.trace.stream(this, this.peer);
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

  /** Closes it. If it is closed already, close() would throw. */
  close(ending = ""): void {
    this.ending ||= ending;
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

/** The options of {@linkcode serve}. */
export interface ServeOptions {
  listener: Deno.TcpListener;
  signal: AbortSignal; // ends it, once what has arrived was sent back
  maxConnections?: number; // at once, until the signal; others wait
  idleTimeout?: number; // milliseconds in which something must move
  log?: Log;
  trace?: Trace;
}

/**
 * Serves all connections side by side until the signal aborts. Returns how
 * many there were, and how many bytes went back.
 */
export async function serve(options: ServeOptions) {
  const { listener, signal, log = () => {}, trace } = options;
  const { maxConnections = Infinity, idleTimeout = Infinity } = options;
  const sessions = new Set<Session>();
  const total = { connections: 0, bytes: 0 };
  let placeFree = Promise.withResolvers<void>(); // renewed when all are taken

  function begin(conn: Deno.TcpConn): void {
    const session = new Session(conn, trace);
    const end = (error?: unknown) => {
      sessions.delete(session);
      total.bytes += session.bytes;
      log(session.end(error));
      placeFree.resolve();
    };
    sessions.add(session);
    total.connections++;
    session.run().then(end, end);
  }

  aborted(signal).catch(() => { // it rejects when the signal aborts
    placeFree.resolve();
    // Until then, connections in the backlog are accepted and served, too.
    setTimeout(() => listener[Symbol.dispose](), 50);
  });
  const pause = Math.min(idleTimeout / 4, 1000);
  const sweep = setInterval(() => closeIdle(sessions, idleTimeout), pause);
  for (;;) {
    const conn = await accept(listener, log);
    if (!conn) break; // the listener is closed
    begin(conn);
    while (sessions.size >= maxConnections && !signal.aborted) {
      placeFree = Promise.withResolvers();
      await placeFree.promise;
    }
  }
  clearInterval(sweep);
  await drain(sessions);
  return total;
}

function closeIdle(sessions: Set<Session>, timeout: number): void {
  const now = performance.now();
  for (const session of sessions) {
    if (now - session.moved < timeout) continue;
    session.trace?.event(`${session.peer} timed out`);
    session.close("timed out");
  }
}

/** Closes connections once they are quiet for 0.1 s, and all within 5 s. */
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

type Stream = Pick<Deno.Conn, "read" | "write" | "closeWrite" | "close">;

/** The options of {@linkcode talk}. `timeout` is milliseconds. */
export interface TalkOptions {
  conn: Stream;
  input: AsyncIterable<Uint8Array>;
  output: (bytes: Uint8Array) => Promise<void>;
  timeout: number;
}

/** What {@linkcode sendInput} and {@linkcode receiveEchoes} share. */
class Exchange {
  owed = 0; // bytes that have not come back; below 0 if more came
  isSent = false; // the whole input
  isReading = true; // from the server; else the output is slow
  waited = 0; // for the server, in milliseconds, since it last sent something
}

/**
 * The client: sends the input and half-closes, while it passes on what comes
 * back, whatever it is. Fails with status 18 if the server closes early, 28 if
 * it is silent for too long.
 */
export async function talk(options: TalkOptions): Promise<void> {
  const { conn, timeout } = options;
  const exchange = new Exchange();
  const late = Promise.withResolvers<never>();
  const watch = setInterval(() => {
    const { owed, isSent, isReading } = exchange;
    // Only the server's silence counts, and only if something is expected.
    const isExpecting = owed > 0 || isSent; // bytes, or the server's FIN
    if (!isExpecting || !isReading) return;
    exchange.waited += 50;
    if (exchange.waited <= timeout) return;
    late.reject(new Failure(28, `no answer within ${timeout / 1000} s`));
  }, 50);
  const both = [sendInput(options, exchange), receiveEchoes(options, exchange)];
  await Promise.race([Promise.all(both), late.promise]).finally(() => {
    clearInterval(watch);
    conn.close();
  });
}

async function sendInput({ conn, input }: TalkOptions, exchange: Exchange) {
  for await (const bytes of input) {
    exchange.owed += bytes.length;
    await writeAll(conn, bytes);
  }
  exchange.isSent = true;
  await conn.closeWrite();
}

async function receiveEchoes(options: TalkOptions, exchange: Exchange) {
  const buffer = new Uint8Array(65_536);
  for (;;) {
    const length = await options.conn.read(buffer);
    if (length === null) break;
    exchange.owed -= length;
    exchange.isReading = false;
    await options.output(buffer.subarray(0, length));
    exchange.isReading = true;
    exchange.waited = 0;
  }
  const { isSent, owed } = exchange;
  if (isSent && owed <= 0) return;
  const missing = `${counted(owed, "byte")} did not come back`;
  const why = isSent ? missing : "the input has not ended";
  throw new Failure(18, `the server closed, but ${why}`);
}

/** The options of {@linkcode ping}. Times are milliseconds, `size` is bytes. */
export interface PingOptions {
  conn: Stream;
  count: number;
  size: number;
  interval: number;
  timeout: number;
  trips: RoundTrips; // a new one; filled even when this ends early
  show: (seq: number, milliseconds: number) => Promise<void>;
}

/**
 * Measures round trips, one after the other. Fails with status 8 if what comes
 * back was changed, 18 if the server closes, 28 if it is late.
 */
export async function ping(
  { conn, count, size, interval, timeout, trips, show }: PingOptions,
): Promise<void> {
  try {
    for (let seq = 1; seq <= count; seq++) {
      // Printable, and unlike the message before: an old answer is noticed.
      const message = new Uint8Array(size).map((_, i) => 33 + (seq + i) % 94);
      trips.sent++;
      const milliseconds = await roundTrip(conn, message, timeout);
      trips.times.push(milliseconds);
      await show(seq, milliseconds);
      if (seq < count) await delay(Math.max(0, interval - milliseconds));
    }
  } finally {
    conn.close();
  }
}

/** Sends a message, and returns how long it took to come back. */
async function roundTrip(conn: Stream, message: Uint8Array, timeout: number) {
  const answer = new Uint8Array(message.length);
  const readAnswer = async () => {
    let received = 0;
    while (received < answer.length) {
      const length = await conn.read(answer.subarray(received));
      if (length === null) throw new Failure(18, "the server closed");
      received += length;
    }
  };
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    late.reject(new Failure(28, `no answer within ${timeout / 1000} s`));
  }, Math.min(timeout, LONGEST));
  const started = performance.now();
  try {
    // Read while writing: else both sides fill up and wait for each other.
    const both = Promise.all([writeAll(conn, message), readAnswer()]);
    await Promise.race([both, late.promise]);
  } finally {
    clearTimeout(timer);
  }
  const milliseconds = rounded(performance.now() - started);
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
  -s, --size BYTES            with -c: bytes in each (64)
  -i, --interval SECONDS      with -c: time between them (1)
      --json                  with -c: print the summary as a JSON object
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
  // deno-fmt-ignore
  return parseArgs(args, {
    string: ["_", ...SERVER, ...CLIENT],
    boolean: [
      "help", "version", "verbose", "quiet", "reuse-port", "json",
      "ipv4", "ipv6",
    ],
    collect: ["verbose"],
    alias: {
      c: "count", i: "interval", p: "port", s: "size", w: "timeout",
      h: "help", q: "quiet", v: "verbose", V: "version", 4: "ipv4", 6: "ipv6",
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
  const maxConnections = most || Infinity;
  const idleTimeout = parseSeconds(options, "idle-timeout") || Infinity;
  if (reusePort) needsUnstableNet("--reuse-port");
  // The backlog is how many may wait to be accepted.
  const more = { reusePort, tcpBacklog: 4096 };
  const listener = listen((at) => Deno.listen({ ...at, ...more }), port, host);
  await announce(listener.addr, quiet);
  const rest = { trace, log: quiet ? undefined : limited(log) };
  const limits = { maxConnections, idleTimeout };
  const total = await serve({ listener, signal, ...limits, ...rest });
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
  const conn = trace ? trace.stream(socket) : socket;
  if (count === 0) {
    const input = standardInput();
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
  if (trace) trace.quotes = false; // the bytes of round trips are not drawn
  const rest = { interval, timeout, trips, show };
  try {
    const pinging = ping({ conn, count, size, ...rest });
    await Promise.race([pinging, aborted(signal)]);
  } finally {
    // After Ctrl-C, slow output is not waited for.
    const summing = output(`${options.json ? JSON.stringify(trips) : trips}\n`);
    await Promise.race([summing, signal.aborted ? delay(500) : summing]);
  }
}

/** Runs a command line. Returns the exit status. */
export function main(args: string[]): Promise<number> {
  const script = { name: "echo_tcp", usage: USAGE, parse };
  return run(script, args, async (options, signal, trace) => {
    const isClient = options._.length > 0;
    await (isClient ? client : server)(options, signal, trace);
  });
}

// Deno.exitCode would wait for a read of stdin: exit now.
if (import.meta.main) Deno.exit(await main(Deno.args));
