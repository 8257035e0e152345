#!/usr/bin/env -S deno run --unstable-net --allow-net --allow-sys=networkInterfaces
/**
 * An echo server over UDP (RFC 862), and its client. The server sends every
 * datagram back to its sender, an empty one too. UDP keeps datagrams whole,
 * and promises nothing else: they may be lost, doubled or reordered.
 *
 * Try it in two terminals:
 *
 *     deno run -A --unstable-net echo_udp.ts   # listening on udp://[::]:7777
 *
 *     deno run -A --unstable-net echo_udp.ts -v localhost     # type a line
 *     deno run -A --unstable-net echo_udp.ts -c 5 localhost   # 5 round trips
 *
 * echo_tcp.ts does the same with a stream of bytes.
 *
 * @module
 */
import { parseArgs } from "jsr:@std/cli@^1/parse-args";
import { aborted, announce, counted, delay, Failure } from "./utils.ts";
import { formatAddress, isClosed, isSuspect, limited } from "./utils.ts";
import { listenUdp, type Log, log, openUdp, output } from "./utils.ts";
import { parseNumber, parsePort, parseSeconds, parseTarget } from "./utils.ts";
import { reason, refuse, refuseUnknown, rounded, RoundTrips } from "./utils.ts";
import { run, standardInput, timeLimit, type Trace } from "./utils.ts";
import type { UdpClient, UdpSocket } from "./utils.ts";

const PORT = 7777; // RFC 862 says 7, but ports below 1024 may need root
const LARGEST = 65_507; // bytes of payload in an IPv4 packet
// A character for each byte: strings can be compared, and found in a list.
const latin1 = new TextDecoder("latin1");

/** The protocol: sends datagrams back, until the socket is closed. */
export async function echo(
  socket: Pick<Deno.DatagramConn, "receive" | "send">,
): Promise<void> {
  const buffer = new Uint8Array(65_535); // no datagram is longer
  for (;;) {
    try {
      const [datagram, sender] = await socket.receive(buffer);
      await socket.send(datagram, sender);
    } catch (error) {
      const { BadResource, Interrupted } = Deno.errors;
      if (error instanceof BadResource) return; // the socket is closed
      if (error instanceof Interrupted) return; // closed while this waited
      // Else one peer cannot be reached. The socket still serves the others.
    }
  }
}

/** What went back, to one peer or to all. Times are milliseconds. */
class Traffic {
  datagrams = 0;
  bytes = 0;
  readonly started = performance.now();
  moved = this.started; // when bytes last went back

  add(length: number): void {
    this.datagrams++;
    this.bytes += length;
    this.moved = performance.now();
  }

  toString(): string {
    const datagrams = counted(this.datagrams, "datagram");
    return `${datagrams}, ${counted(this.bytes, "byte")}`;
  }
}

/** The peers that were heard from lately. UDP does not tell when one leaves. */
class Peers extends Map<string, Traffic> {
  add(length: number, peer: Deno.NetAddr, warn: Log): void {
    const who = formatAddress(peer);
    const known = this.get(who);
    if (known) return known.add(length);
    // Senders can be forged without end, so only 100 are listed.
    if (this.size === 100) return warn("not all peers are listed");
    const traffic = new Traffic();
    traffic.add(length);
    this.set(who, traffic);
  }

  /** Logs those that were silent for so many milliseconds. */
  logSilent(silence: number, log: Log): void {
    const now = performance.now();
    for (const [who, traffic] of this) {
      const { started, moved } = traffic;
      if (now - moved < silence) continue;
      this.delete(who);
      log(`${who} ${traffic} in ${((moved - started) / 1000).toFixed(3)} s`);
    }
  }
}

/**
 * Returns a function that is true for so many percent of its calls, by Lehmer's
 * random numbers. The same seed gives the same answers.
 */
export function chance(seed: number): (percent: number) => boolean {
  let state = 1 + seed * 48_271; // never 0, which would stay 0
  return (percent) => {
    state = (state * 48_271) % 2_147_483_647;
    return 100 * state / 2_147_483_647 < percent;
  };
}

/** The options of {@linkcode serve}. */
export interface ServeOptions {
  socket: Deno.DatagramConn;
  signal: AbortSignal; // ends it, once what has arrived was sent back
  lose?: number; // of a hundred datagrams, how many get no answer
  seed?: number; // says which ones
  log?: Log;
  trace?: Trace;
}

/** Serves all peers until the signal aborts. Returns what went back. */
export async function serve(options: ServeOptions): Promise<Traffic> {
  const { signal, lose = 0, seed = 0, log = () => {}, trace } = options;
  const { port } = options.socket.addr as Deno.NetAddr;
  const socket: UdpSocket = trace?.datagrams(options.socket) ?? options.socket;
  const warn = limited(log, 1); // a line a second
  const peers = options.log && new Peers();
  const total = new Traffic();
  const isLost = chance(seed);

  // To `echo`, these two are the socket. They are not async: that is slower.
  const receive = (buffer?: Uint8Array) => socket.receive(buffer);
  const send = (datagram: Uint8Array, to: Deno.Addr) => {
    const peer = to as Deno.NetAddr;
    if (isSuspect(peer, port)) { // two servers would answer each other forever
      warn(`not answered: ${formatAddress(peer)} may be a server`);
      return Promise.resolve(0);
    }
    if (isLost(lose)) {
      trace?.event(`lost on purpose: the answer to ${formatAddress(peer)}`);
      return Promise.resolve(0);
    }
    const sending = socket.send(datagram, to);
    sending.then((length) => {
      total.add(length);
      peers?.add(length, peer, warn);
    }, (error) => {
      if (!isClosed(error)) warn(`cannot answer: ${reason(error)}`);
    });
    return sending; // `echo` waits for it, and goes on if it fails
  };

  const sweep = setInterval(() => peers?.logSilent(3000, log), 1000);
  // It rejects when the signal aborts.
  const drained = aborted(signal).catch(() => drain(total));
  await Promise.race([echo({ receive, send }), drained]);
  clearInterval(sweep);
  socket.close();
  peers?.logSilent(0, log);
  return total;
}

/** Waits until nothing has gone back for 50 ms, for at most 5 s. */
async function drain(total: Traffic): Promise<void> {
  const end = performance.now() + 5000;
  do {
    await delay(50);
  } while (performance.now() < Math.min(end, total.moved + 50));
}

/** The options of {@linkcode talk}. `timeout` is milliseconds. */
export interface TalkOptions extends UdpClient {
  input: AsyncIterable<Uint8Array>;
  output: (bytes: Uint8Array) => Promise<void>;
  timeout: number;
}

/** What {@linkcode sendInput} and {@linkcode receiveEchoes} share. */
class Exchange {
  readonly owed: string[] = []; // lines that have not come back
  isReading = true; // from the server; else the output is slow
  waited = 0; // for the server, in milliseconds, since a line last came back
  received = 0; // answers
  returned = 0; // of them, those that are as they were sent
  nextReturn = Promise.withResolvers<void>(); // until a line comes back
}

/**
 * The client: sends each line of the input, and passes on what comes back,
 * until all has. Fails with status 28 if nothing more comes back in time, 8 if
 * all that came was changed, 56 if a line cannot be sent.
 */
export async function talk(options: TalkOptions): Promise<void> {
  const { socket, timeout } = options;
  const exchange = new Exchange();
  const late = Promise.withResolvers<never>();
  const watch = setInterval(() => {
    const { owed, isReading, received, returned } = exchange;
    if (owed.length === 0 || !isReading) return;
    exchange.waited += 50;
    if (exchange.waited <= timeout) return;
    const isDamaged = received > 0 && returned === 0;
    const back = isDamaged ? "come back unchanged" : "come back";
    const unreturned = counted(owed.length, "line");
    const message = `${unreturned} did not ${back} within ${timeout / 1000} s`;
    late.reject(new Failure(isDamaged ? 8 : 28, message));
  }, 50);
  // Sending ends when nothing is owed; receiving ends only by a failure.
  const both = [sendInput(options, exchange), receiveEchoes(options, exchange)];
  await Promise.race([...both, late.promise]).finally(() => {
    clearInterval(watch);
    socket.close();
  });
}

async function sendInput(options: TalkOptions, exchange: Exchange) {
  const { owed } = exchange;
  for await (const line of lines(options.input)) {
    // Few lines at once: more would overflow a buffer and be lost.
    const most = line.length > 4096 ? 1 : 16;
    while (owed.length >= most) await exchange.nextReturn.promise;
    owed.push(latin1.decode(line));
    await sendToServer(options, line);
  }
  while (owed.length > 0) await exchange.nextReturn.promise;
}

async function receiveEchoes(options: TalkOptions, exchange: Exchange) {
  const { owed } = exchange;
  for await (const answer of answers(options)) {
    const index = owed.indexOf(latin1.decode(answer));
    exchange.isReading = false;
    await options.output(answer);
    exchange.isReading = true;
    exchange.received++;
    if (index < 0) continue; // it is damaged, or came twice: the wait goes on
    owed.splice(index, 1); // only now: sending ends when nothing is owed
    exchange.returned++;
    exchange.waited = 0;
    exchange.nextReturn.resolve();
    exchange.nextReturn = Promise.withResolvers();
  }
}

/** Cuts the input into lines. One that no datagram holds becomes several. */
async function* lines(input: AsyncIterable<Uint8Array>) {
  let line: number[] = [];
  for await (const bytes of input) {
    for (const byte of bytes) {
      line.push(byte);
      if (byte !== 10 && line.length < LARGEST) continue;
      yield new Uint8Array(line);
      line = [];
    }
  }
  if (line.length > 0) yield new Uint8Array(line);
}

/** Sends to the server. Fails with status 56. */
async function sendToServer({ socket, to }: UdpClient, datagram: Uint8Array) {
  await socket.send(datagram, to).catch((error) => {
    const message = `cannot send to ${formatAddress(to)}: ${reason(error)}`;
    throw new Failure(56, message, error);
  });
}

/** What comes from the server. Anybody may send to this port. */
async function* answers({ socket, to }: UdpClient) {
  const buffer = new Uint8Array(65_535);
  for (;;) {
    try {
      const [datagram, sender] = await socket.receive(buffer);
      const from = formatAddress(sender as Deno.NetAddr);
      if (from === formatAddress(to)) yield datagram;
    } catch (error) {
      // Windows reports that nobody listens there. Somebody may start to.
      if (!(error instanceof Deno.errors.ConnectionReset)) throw error;
    }
  }
}

/** The options of {@linkcode ping}. Times are milliseconds, `size` is bytes. */
export interface PingOptions extends UdpClient {
  count: number;
  size: number; // at least the 4 of the sequence number
  interval: number; // 0: the next one follows an answer, or after 10 ms
  timeout: number;
  trips: RoundTrips; // a new one; filled even when this ends early
  show: (seq: number, milliseconds: number) => Promise<void>;
}

/** What {@linkcode sendProbes} and {@linkcode receiveProbes} share. */
class Flight {
  readonly sent: number[] = []; // when, by sequence number
  next = Promise.withResolvers<void>(); // until it is time for the next one
  showing = Promise.resolve(); // until the last answer is on the output
}

/**
 * Measures round trips, one per interval, whether the last one is back or not.
 * Fails with status 28 if nothing comes back, 8 if all that comes was changed,
 * 56 if something cannot be sent.
 */
export async function ping(options: PingOptions): Promise<void> {
  const { socket, to, trips } = options;
  const flight = new Flight();
  const both = [sendProbes(options, flight), receiveProbes(options, flight)];
  await Promise.race(both).finally(() => socket.close());
  if (trips.times.length > 0) return;
  if (trips.odd.damaged) throw new Failure(8, "only damaged answers");
  throw new Failure(28, `no answer from ${formatAddress(to)} in time`);
}

async function sendProbes(options: PingOptions, flight: Flight) {
  const { count, size, interval, timeout, trips } = options;
  const failures: unknown[] = [];
  for (let seq = 1; seq <= count; seq++) {
    const datagram = new TextEncoder().encode(probe(seq, size));
    flight.next = Promise.withResolvers();
    flight.sent[seq] = performance.now();
    trips.sent++;
    const sending = sendToServer(options, datagram);
    await sending.catch((error) => failures.push(error)); // the next may go
    if (seq === count) break;
    await Promise.race([flight.next.promise, delay(interval || 10)]);
    // Nothing is under way during slow output: else the server would seem slow.
    await flight.showing;
  }
  const end = performance.now() + timeout;
  const expected = count - failures.length;
  while (trips.times.length < expected && performance.now() < end) {
    await delay(10);
  }
  await flight.showing;
  if (failures.length > 0) throw failures[0];
}

async function receiveProbes(options: PingOptions, flight: Flight) {
  const { size, interval, timeout, trips, show } = options;
  const returned: boolean[] = []; // by sequence number
  for await (const answer of answers(options)) {
    const now = performance.now();
    const text = latin1.decode(answer);
    const seq = parseInt(text, 36);
    const isProbe = seq in flight.sent && text === probe(seq, size);
    const milliseconds = rounded(now - flight.sent[seq]);
    let oddity = "";
    if (!isProbe) oddity = "damaged";
    else if (returned[seq]) oddity = "duplicate";
    else if (milliseconds > timeout) oddity = "late";
    else if (seq < returned.length) oddity = "reordered"; // a later one came
    if (isProbe) returned[seq] = true;
    if (oddity) trips.odd[oddity] = (trips.odd[oddity] ?? 0) + 1;
    if (oddity && oddity !== "reordered") continue;
    trips.times.push(milliseconds);
    flight.showing = show(seq, milliseconds);
    await flight.showing;
    if (interval === 0) flight.next.resolve();
  }
}

/** A datagram's text: its number in base 36, at most 4 digits, and dots. */
function probe(seq: number, size: number): string {
  return seq.toString(36).padEnd(size, ".");
}

const USAGE = `echo_udp: an echo server over UDP (RFC 862), and its client

usage: echo_udp [options]              be the server
       echo_udp [options] HOST [PORT]  send lines, print what comes back

  -p, --port PORT             server: listen on this port (7777; 0: a free one)
      --host ADDRESS          listen on this address (::, IPv6 and IPv4)
      --lose PERCENT          leave this percentage unanswered (0)
      --seed N                make the losses repeatable
  -q, --quiet                 print only the first line
  -c, --count N               client: measure N round trips
  -s, --size BYTES            with -c: bytes in each, 4 to 65507 (64)
  -i, --interval SECONDS      with -c: time between them (1; 0: none)
      --json                  with -c: print the summary as a JSON object
  -w, --timeout SECONDS       wait this long for an answer (5; 0: forever)
      --diagram FILE          draw the exchange into a Markdown file
  -4, -6                      use IPv4 or IPv6 only
  -v, --verbose               show what crosses the wire (-vv: every byte)
  -h, --help, -V, --version   print this text, or the version

examples: echo_udp --lose 30               serve, but lose three of ten
          echo_udp localhost < file        send its lines and get them back
          echo_udp -c 5 -i 0.2 [::1]:7777  five round trips, 0.2 s apart
`;

const SERVER = ["host", "port", "lose", "seed"] as const;
const CLIENT = ["count", "size", "interval", "timeout", "diagram"] as const;

function parse(args: string[]) {
  // deno-fmt-ignore
  return parseArgs(args, {
    string: ["_", ...SERVER, ...CLIENT],
    boolean: ["help", "version", "verbose", "quiet", "json", "ipv4", "ipv6"],
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
  const { quiet, host } = options;
  const port = parsePort(options.port ?? `${PORT}`);
  const lose = parseNumber(options, "lose", 0, [0, 100]);
  const seed = parseNumber(options, "seed", Date.now() % 1e6, [0, 1e6]);
  const socket = listenUdp(port, host);
  await announce(socket.addr as Deno.NetAddr, quiet);
  const rest = { lose, seed, trace, log: quiet ? undefined : limited(log) };
  const total = await serve({ socket, signal, ...rest });
  if (!quiet) log(`answered ${total}`);
}

async function client(options: Options, signal: AbortSignal, trace?: Trace) {
  const others = [...SERVER, "quiet"];
  refuse(options, others, "is a server option: leave out the HOST");
  const target = parseTarget(options, PORT);
  const timeout = parseSeconds(options, "timeout", 5) || Infinity;
  const count = parseNumber(options, "count", 0, [1, 1e6]);
  const size = parseNumber(options, "size", 64, [4, LARGEST]);
  const interval = parseSeconds(options, "interval", 1);
  if (count === 0) refuse(options, ["size", "interval", "json"], "needs -c");
  const limit = timeLimit(timeout, signal);
  const { socket, to } = await openUdp({ ...target, signal: limit, trace });
  if (count === 0) {
    const input = standardInput();
    const talking = talk({ socket, to, input, output, timeout });
    return await Promise.race([talking, aborted(signal)]);
  }
  const trips = new RoundTrips();
  const peer = formatAddress(to);
  const show = async (seq: number, milliseconds: number) => {
    const line = `seq=${seq} time=${milliseconds.toFixed(2)} ms`;
    trace?.event(line);
    if (!options.json) await output(`${size} bytes from ${peer}: ${line}\n`);
  };
  if (trace) trace.quotes = false; // the bytes of round trips are not drawn
  const rest = { interval, timeout, trips, show };
  try {
    const pinging = ping({ socket, to, count, size, ...rest });
    await Promise.race([pinging, aborted(signal)]);
  } finally {
    // After Ctrl-C, slow output is not waited for.
    const summing = output(`${options.json ? JSON.stringify(trips) : trips}\n`);
    await Promise.race([summing, signal.aborted ? delay(500) : summing]);
  }
}

/** Runs a command line. Returns the exit status. */
export function main(args: string[]): Promise<number> {
  const script = { name: "echo_udp", usage: USAGE, parse };
  return run(script, args, async (options, signal, trace) => {
    const isClient = options._.length > 0;
    await (isClient ? client : server)(options, signal, trace);
  });
}

// Deno.exitCode would wait for a read of stdin: exit now.
if (import.meta.main) Deno.exit(await main(Deno.args));
