#!/usr/bin/env -S deno run --allow-net --allow-sys=networkInterfaces
/**
 * An echo server over TCP (RFC 862), and its client: whatever arrives goes back, byte for byte, until the peer
 * half-closes. TCP is a stream: it keeps the order of the bytes, never the borders between what was sent.
 *
 * Try it in two terminals:
 *
 *     deno run -A echo_tcp.ts                   listening on tcp://[::]:7777
 *     nc localhost 7777                         type a line, and it comes back; Ctrl-C ends
 *
 *     deno run -A echo_tcp.ts -c localhost -v   the same with our own client, and what crosses the wire
 *     deno run -A echo_tcp.ts -c localhost -n 5 five round trips, timed as ping does it
 *
 * Install: deno install -g --allow-net --allow-sys=networkInterfaces echo_tcp.ts
 * See also: echo_udp.ts, its twin; `diff echo_tcp.ts echo_udp.ts` is the difference between TCP and UDP.
 *
 * @module
 */
import { delay } from "jsr:@std/async@^1/delay";
import { announce, connect, connections, counted, Failure, formatAddress, type Given, isMapped } from "./utils.ts";
import { listen, listenAddress, needsUnstableNet, output, reason, record, refuse, RoundTrips, run } from "./utils.ts";
import { say, serverAddress, type Stream, type Trace, unless, writeAll } from "./utils.ts";

const PORT = 7777; // RFC 862 says 7, which only root may open
const LARGEST = 16 * 1024 * 1024; // bytes of a round trip: TCP has no limit of its own

/** The protocol: sends back what arrives, until the peer half-closes. `tally` counts the bytes on their way. */
export async function echo(conn: Pick<Deno.Conn, "read" | "write">, tally = { received: 0, sent: 0 }): Promise<void> {
  let buffer = new Uint8Array(128); // small, as most connections of a busy server are idle
  for (let n; (n = await conn.read(buffer)) !== null;) {
    tally.received += n;
    // One write may take only a part. Nothing is read meanwhile: that is backpressure, and bounds the memory.
    for (let sent = 0, part; sent < n; sent += part, tally.sent += part) {
      part = await conn.write(buffer.subarray(sent, n));
    }
    if (n === buffer.length && n < 256 * 1024) buffer = new Uint8Array(2 * n); // it was full: more is to come
  }
}

/** A connection being served: its bytes, since when, and when something last moved on it (milliseconds). */
type Session = { conn: Deno.TcpConn; received: number; sent: number; started: number; seen: number; moved: number };

/** Notes what moved since it was last called, and returns the connections on which nothing did for `ms` milliseconds. */
function idle(sessions: Iterable<Session>, ms: number): Session[] {
  const now = performance.now();
  for (const session of sessions) {
    const seen = session.received + session.sent;
    if (session.seen !== seen) session.seen = seen, session.moved = now;
  }
  return [...sessions].filter(({ moved }) => now - moved >= ms);
}

/** Closes each connection once all that arrived was given back, and after 4.9 s those that are left. */
async function drain(sessions: Set<Session>, close: (session: Session) => void): Promise<void> {
  const started = performance.now();
  for (const session of sessions) session.moved = started; // what has arrived may not have been read yet
  for (; sessions.size && performance.now() < started + 4900; await delay(20)) {
    idle(sessions, 100).filter(({ received, sent }) => sent === received).forEach(close);
  }
  sessions.forEach(close);
}

/** What {@linkcode serve} is told. Times are milliseconds. */
export type ServeOptions = {
  listeners: Deno.TcpListener[];
  /** ends the service: what was received is given back first, for at most 5 s */
  signal: AbortSignal;
  /** how many connections at once; those over it wait to be accepted (0: as many as come) */
  maxConnections?: number;
  /** closes a connection on which nothing moved for so long (0: never) */
  idleTimeout?: number;
  /** 6: turns away IPv4, which `::` takes as well */
  family?: 4 | 6;
  log?: (line: string) => void;
  trace?: Trace;
};

/** Serves every connection side by side until the signal aborts. Returns how many there were, and the bytes sent back. */
export async function serve(options: ServeOptions): Promise<{ connections: number; bytes: number }> {
  const { listeners, signal, maxConnections = 0, idleTimeout = 0, family, log = record, trace } = options;
  const sessions = new Set<Session>(), total = { connections: 0, bytes: 0 };
  let taken = 0; // places: in older versions of Deno a write goes on waiting when its connection was closed
  let change = Promise.withResolvers<void>(); // for who waits until there are fewer connections
  const changed = () => (change.resolve(), change = Promise.withResolvers());
  const full = () => maxConnections > 0 && taken >= maxConnections;
  const over = (session: Session, error?: unknown) => {
    if (!sessions.delete(session)) return; // closed by us before
    const { conn, sent, started } = session, peer = formatAddress(conn.remoteAddr);
    conn[Symbol.dispose]();
    total.bytes += sent;
    trace?.life(`${peer} ${error === "timed out" ? error : "closed"}`);
    const seconds = ((performance.now() - started) / 1000).toFixed(3), why = error ? `: ${reason(error)}` : "";
    log(`${peer} ${counted(sent, "byte")} in ${seconds} s${why}`); // a reset is the client's affair
  };
  const begin = (conn: Deno.TcpConn) => {
    const now = Math.floor(performance.now()); // whole: a fraction takes more memory, each connection's
    const who = trace ? `${formatAddress(conn.remoteAddr)} ` : "";
    const session: Session = { conn, received: 0, sent: 0, started: now, seen: 0, moved: now };
    const ended = (error?: unknown) => (over(session, error), taken--, changed());
    sessions.add(session), total.connections++, taken++;
    trace?.life(`${who}accepted`);
    try {
      conn.setNoDelay(true); // an answer does not wait for more to be sent with it
      conn.setKeepAlive(true); // probes find out about peers that vanished without a word
      echo(trace?.stream(conn, who) ?? conn, session).then(ended, ended);
    } catch (error) {
      ended(error);
    }
  };
  const accept = async (listener: Deno.TcpListener) => {
    for await (const conn of connections(listener, log)) {
      while (full() && !signal.aborted) await change.promise;
      if (full() || family === 6 && isMapped(conn.remoteAddr)) conn.close();
      else begin(conn);
    }
  };
  const accepting = Promise.all(listeners.map(accept));
  const closeIdle = () => idle(sessions, idleTimeout).forEach((session) => over(session, "timed out"));
  const sweep = idleTimeout ? setInterval(closeIdle, Math.min(idleTimeout / 4, 1000)) : undefined;
  if (!signal.aborted) await new Promise((resolve) => signal.addEventListener("abort", resolve));
  clearInterval(sweep), changed();
  await delay(50); // who is in line already is served still
  for (const listener of listeners) listener.close();
  await Promise.all([accepting, drain(sessions, (session) => over(session, "closed"))]);
  return total;
}

/** What {@linkcode talk} is told. Times are milliseconds. */
export type TalkOptions = {
  conn: Stream;
  input: ReadableStream<Uint8Array>;
  output: (bytes: Uint8Array) => Promise<void>;
  /** how long to wait for a sign of what is still to come back (0: for ever) */
  timeout: number;
};

/**
 * The client: sends all of the input, half-closes, and passes on what comes back until the server closes too.
 * Throws a {@linkcode Failure} of 18 when the server closes early, 28 when nothing comes back in time.
 */
export async function talk({ conn, input, output, timeout }: TalkOptions): Promise<void> {
  let owed = 0, done = false, late = false, busy = false, timer: ReturnType<typeof setTimeout> | undefined;
  // Only a sign of life from the server renews the patience with it: not what we send, nor that our output is slow.
  const wait = () => {
    if (timeout && !busy && (owed || done)) timer ??= setTimeout(() => (late = true, conn.close()), timeout);
  };
  const rest = () => (clearTimeout(timer), timer = undefined, busy = true);
  const sending = async () => {
    for await (const bytes of input) {
      owed += bytes.length, wait();
      await writeAll(conn, bytes);
    }
    done = true, wait();
    await conn.closeWrite();
  };
  const receiving = async () => {
    const buffer = new Uint8Array(65_536);
    for (let n; (n = await conn.read(buffer)) !== null; busy = false, wait()) {
      rest();
      owed = Math.max(0, owed - n); // a server may also speak unasked
      await output(buffer.subarray(0, n));
    }
    if (owed) {
      throw new Failure(18, `the server closed the connection with ${counted(owed, "byte")} still to come back`);
    }
    if (!done) throw new Failure(18, "the server closed the connection before the input ended");
  };
  try {
    await Promise.all([receiving(), sending()]);
    conn.close();
  } catch (error) {
    if (late) throw new Failure(28, `no answer within ${timeout / 1000} s`, error);
    throw error instanceof Failure ? error : new Failure(56, `the exchange failed: ${reason(error)}`, error);
  } finally {
    rest();
  }
}

/** What {@linkcode ping} is told. Times are milliseconds, `size` is bytes. */
export type PingOptions = {
  conn: Stream;
  count: number;
  size: number;
  interval: number;
  /** how long to wait for each answer (0: for ever) */
  timeout: number;
  signal: AbortSignal;
  /** what is counted, also where it ends early */
  trips: RoundTrips;
  /** told of each round trip */
  log: (seq: number, ms: number) => Promise<void> | void;
};

/**
 * Measures `count` round trips, one after the other. Throws a {@linkcode Failure} of 18 when the server closes early, 28
 * when an answer does not come in time: what comes later could not be told from the next answer.
 */
export async function ping({ conn, count, size, interval, timeout, signal, trips, log }: PingOptions): Promise<void> {
  const letters = new Uint8Array(size + 94).map((_, i) => 33 + i % 94), answer = new Uint8Array(size);
  const receiving = async () => {
    for (let got = 0, n; got < size; got += n) {
      n = await conn.read(answer.subarray(got)) ?? 0;
      if (n === 0) throw new Failure(18, "the server closed the connection");
    }
  };
  await delay(0); // Deno's first timer takes milliseconds, which are not the network's
  for (let seq = 1; seq <= count; seq++) {
    const message = letters.subarray(seq % 94, seq % 94 + size); // no two alike: an answer may be to none of them
    const started = performance.now();
    let late = false;
    const timer = timeout ? setTimeout(() => (late = true, conn.close()), timeout) : undefined;
    trips.sent++;
    // Both at once: a large message that nobody reads back would fill the buffers, and then stand still.
    await Promise.all([writeAll(conn, message), receiving()]).catch((error) => {
      throw late ? new Failure(28, `no answer to seq=${seq} within ${timeout / 1000} s`, error) : error;
    }).finally(() => clearTimeout(timer));
    const ms = performance.now() - started;
    if (answer.some((byte, i) => byte !== message[i])) {
      throw new Failure(8, `the answer to seq=${seq} is not what was sent`);
    }
    trips.add(ms);
    await log(seq, ms);
    if (seq < count) await delay(interval - ms, { signal });
  }
  conn.close();
}

const USAGE = `echo_tcp: an echo server over TCP (RFC 862), and its client

usage: echo_tcp [options]                      serve
       echo_tcp [options] -c HOST[:PORT]       send stdin, print what comes back
       echo_tcp [options] -c HOST[:PORT] -n N  measure N round trips

server:
      --host ADDRESS          listen on this address (::, both families)
  -p, --port PORT             listen on this port, 0 for a free one (7777)
      --reuse-port            share the port between processes (--unstable-net)
      --max-connections N     serve this many at once, others wait (0: no limit)
      --idle-timeout SECONDS  end connections on which nothing moves (0: never)
  -q, --quiet                 print the first line only

client:
  -c, --connect HOST          connect to HOST[:PORT]
  -w, --timeout SECONDS       wait this long for an answer (5; 0: for ever)
  -n, --count N               measure N round trips
      --size BYTES            bytes in each, up to 16777216 (64)
  -i, --interval SECONDS      time between them (1)
      --diagram FILE          draw the exchange into a Markdown file (Mermaid)

both:
  -4, --ipv4                  IPv4 only
  -6, --ipv6                  IPv6 only
  -v, --verbose               show what crosses the wire, on stderr
  -h, --help                  print this text
  -V, --version               print the version

examples:
  echo_tcp --port 0                 serve on a free port
  echo_tcp -c localhost < file      send a file and get it back
  echo_tcp -c [::1]:7 -n 5 -i 0.2   five round trips, 0.2 s apart

exit status: 0 done, 1 cannot listen, 2 usage, 6 host not found,
7 cannot connect, 18 closed early, 23 cannot write the output,
28 timed out (with -n: no answer at all), 56 sending or receiving failed,
130 interrupted
`;

type Serving = { host?: string; "max-connections"?: number; "idle-timeout"?: number; "reuse-port": boolean };
type Asking = { connect?: string; timeout?: number; count?: number; size?: number; interval?: number };
type Flags = Serving & Asking & { port?: number; quiet: boolean };

async function server(given: Given<Flags>): Promise<void> {
  const { port = PORT, family, quiet, "reuse-port": reusePort } = given, log = quiet ? () => {} : record;
  const limits = { maxConnections: given["max-connections"], idleTimeout: given["idle-timeout"] };
  refuse(given, ["timeout", "count", "size", "interval", "diagram"], "is for the client: it needs --connect");
  if (reusePort) needsUnstableNet("--reuse-port");
  const hostname = await listenAddress(given);
  const backlog = { tcpBacklog: 4096 }; // how many may wait to be accepted; Deno's types do not know of it yet
  const listeners = listen((at) => Deno.listen({ ...at, reusePort, ...backlog }), { hostname, port, family });
  await announce("tcp", listeners[0].addr, given);
  const { connections, bytes } = await serve({ ...given, ...limits, listeners, log });
  log(`served ${counted(connections, "connection")}, ${counted(bytes, "byte")}`);
}

async function client(given: Given<Flags>): Promise<void> {
  const { timeout = 5000, count, size = 64, interval = 1000, signal, trace } = given;
  refuse(given, ["host", "reuse-port", "max-connections", "idle-timeout", "quiet"], "is for the server, not --connect");
  if (count === undefined) refuse(given, ["size", "interval"], "is for round trips: it needs --count");
  if (count === 0) throw new Failure(2, "--count must be at least 1");
  if (size < 1 || size > LARGEST) throw new Failure(2, `--size must be from 1 to ${LARGEST}, not ${size}`);
  using socket = await connect({ ...given, ...serverAddress(given.connect!, [given.port], PORT), timeout });
  const conn = trace?.stream(socket) ?? socket, peer = formatAddress(socket.remoteAddr), trips = new RoundTrips();
  if (!count) return await unless(signal, talk({ conn, input: Deno.stdin.readable, output, timeout }));
  const log = (seq: number, ms: number) => output(`${size} bytes from ${peer}: seq=${seq} time=${ms.toFixed(2)} ms\n`);
  const error = await ping({ conn, count, size, interval, timeout, signal, trips, log }).catch((error) => error);
  await output(`${trips}\n`);
  signal.throwIfAborted();
  if (!trips.received) throw new Failure(28, `no answer from ${peer}: ${reason(error)}`, error);
  if (error) say(`echo_tcp: ${reason(error)}`, console.error);
}

/** Runs a command line. Returns the exit status. */
export function main(args: string[]): Promise<number> {
  const command = { name: "echo_tcp", usage: USAGE, words: 0 };
  return run<Flags>(command, args, (given) => given.connect ? client(given) : server(given));
}

// Not by way of exitCode: a read of the terminal that still waits would hold the process.
if (import.meta.main) Deno.exit(await main(Deno.args));
