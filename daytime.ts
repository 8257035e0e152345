#!/usr/bin/env -S deno run --unstable-net --allow-net --allow-sys=networkInterfaces
/**
 * Asks a server for the date and time (RFC 867), or is that server. Over TCP
 * nobody has to ask: the server writes a line to whoever connects, and closes.
 * Over UDP any datagram asks, even an empty one.
 *
 * Try it in two terminals:
 *
 *     deno run -A --unstable-net daytime.ts --serve
 *
 *     deno run -A --unstable-net daytime.ts localhost 1313   # -u: over UDP
 *     Monday, November 23, 2026 13:17:05-UTC
 *
 * @module
 */
import { parseArgs } from "jsr:@std/cli@^1/parse-args";
import { aborted, accept, announce, connect, counted, delay } from "./utils.ts";
import { Failure, formatAddress, isClosed, isSuspect } from "./utils.ts";
import { limited, listen, listenUdp, type Log, log } from "./utils.ts";
import { needsUnstableNet, openUdp, output, parsePort } from "./utils.ts";
import { parseSeconds, parseTarget, reason, refuse } from "./utils.ts";
import { refuseUnknown, run, type Target, timeLimit } from "./utils.ts";
import { type Trace, writeAll } from "./utils.ts";

const DAYTIME = 13; // the port of RFC 867
const PORT = 1313; // ours: ports below 1024 need more rights
const LONGEST = 512; // bytes of an answer; it should be a line
const DAY = 86_400_000; // milliseconds
const encoder = new TextEncoder();

/** The protocol over TCP: reads until the server closes. */
export async function daytime(
  conn: Pick<Deno.Conn, "read">,
  most = 512, // bytes; one more is read, to notice a longer answer
): Promise<Uint8Array> {
  const answer = new Uint8Array(most + 1);
  let length = 0;
  while (length <= most) {
    // A read returns what has arrived: the whole line, or one letter of it.
    const received = await conn.read(answer.subarray(length));
    if (received === null) break; // the server has closed
    length += received;
  }
  return answer.subarray(0, length);
}

/** The protocol over UDP: asks until the server answers. */
export async function daytimeUdp(
  socket: Pick<Deno.DatagramConn, "receive" | "send">,
  server: Deno.NetAddr,
  wait = 1000, // milliseconds until it asks again
): Promise<Uint8Array> {
  async function receive(): Promise<Uint8Array> {
    for (;;) {
      const [answer, from] = await socket.receive(new Uint8Array(65_535));
      // Anyone may send to our port: believe only the server.
      const { hostname, port } = from as Deno.NetAddr;
      if (hostname === server.hostname && port === server.port) return answer;
    }
  }
  let receiving: Promise<Uint8Array> | undefined;
  for (;; wait = Math.min(2 * wait, 60_000)) {
    await socket.send(new Uint8Array(), server); // empty, and still a question
    receiving ??= receive(); // one for all: a second could take the answer
    // Nobody tells us that a datagram was lost: there is only silence.
    const answer = await Promise.race([receiving, delay(wait)]);
    if (answer) return answer; // else ask again
  }
}

const MONTHS = [
  ...["January", "February", "March", "April", "May", "June"],
  ...["July", "August", "September", "October", "November", "December"],
];
const DAYS = ["Sun", "Mon", "Tues", "Wednes", "Thurs", "Fri", "Satur"];

/** Formats as RFC 867 does: `Monday, November 23, 2026 13:17:05-UTC\r\n`. */
export function formatDaytime(date = new Date()): string {
  const month = MONTHS[date.getUTCMonth()];
  const day = `${DAYS[date.getUTCDay()]}day, ${month} ${date.getUTCDate()}`;
  const clock = date.toISOString().slice(11, 19);
  return `${day}, ${date.getUTCFullYear()} ${clock}-UTC\r\n`;
}

/** What a line says; null is what it does not say. */
export interface Reading {
  time: string | null; // ISO 8601, in UTC
  nist: Record<string, number> | null; // as in NIST's line
}

const CLOCK = String.raw`(?<clock>(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d)`;
// The zones of RFC 5322: other names have several meanings, or none.
const ZONE = String
  .raw`(?<zone>Z|UTC?|GMT|[ECMP][SD]T|[+-](0\d|1[0-4]):?[0-5]\d)`;
const YEAR = String.raw`(?<year>([12]\d)?\d\d)`;
const MONTH = MONTHS.join("|");
const SHORT_MONTH = MONTHS.map((name) => name.slice(0, 3)).join("|");
// RFC 867 suggests two formats: "Monday, November 23, 2026 13:17:05-UTC" and
// "23 NOV 26 13:17:05 UTC", in front of which mail puts the day of the week.
const FORMATS = [
  String.raw`[a-z]+day, (?<month>${MONTH}) (?<day>\d\d?), (?<year>[12]\d{3})`,
  String.raw`([a-z]+, )?(?<day>\d\d?) (?<month>${SHORT_MONTH}) ${YEAR}`,
].map((date) => RegExp(`^${date} ${CLOCK}[ -]?${ZONE}$`, "i"));
// "61367 26-11-23 13:17:05 00 0 0  50.0 UTC(NIST) *"
const NIST = RegExp(
  String.raw`^(?<mjd>\d{5}) (?<date>\d\d-\d\d-\d\d) ${CLOCK} ` +
    String.raw`(?<dst>\d\d) (?<leapSecond>\d) (?<health>\d) +` +
    String.raw`(?<advanceMs>\d{1,6}(\.\d+)?) UTC\(NIST\) \*$`,
);

type Groups = Record<string, string>;

/** Reads a server's line. Nothing is guessed: many lines name no zone. */
export function parseDaytime(text: string): Reading {
  const line = text.trim();
  const nist = line.match(NIST)?.groups;
  if (nist) return readNist(nist);
  const found = FORMATS.map((format) => line.match(format)).find(Boolean);
  return { time: found ? readTime(found.groups!) : null, nist: null };
}

function readNist({ date, clock, ...rest }: Groups): Reading {
  const numbers = Object.entries(rest).map(([name, n]) => [name, Number(n)]);
  const nist: Record<string, number> = Object.fromEntries(numbers);
  // The date lacks its century. The Modified Julian Date has it: it counts the
  // days from 1858 on, and was 40,587 when 1970 began.
  const day = new Date((nist.mjd - 40_587) * DAY);
  const fullDate = day.toISOString().slice(0, 10);
  const time = fullDate.endsWith(date) ? `${fullDate}T${clock}.000Z` : null;
  return { time, nist };
}

function readTime({ day, month, year, clock, zone }: Groups): string | null {
  const century = year < "50" ? "20" : "19"; // RFC 5322, section 4.3
  const fullYear = year.length === 4 ? year : century + year;
  const date = `${day} ${month} ${fullYear}`;
  // Date takes February 30 for March 2.
  if (new Date(`${date} UTC`).getUTCDate() !== Number(day)) return null;
  return new Date(`${date} ${clock} ${zone}`).toISOString();
}

/** An answer, its sender, and when it was asked for (performance.now). */
export interface Exchange {
  bytes: Uint8Array;
  from: Deno.NetAddr;
  asked: number;
  answered: number; // when its first byte arrived
}

async function askTcp(target: Target): Promise<Exchange> {
  using socket = await connect(target);
  const conn = target.trace ? target.trace.stream(socket) : socket;
  const asked = performance.now(); // the handshake's last ACK was the question
  let answered = 0;
  const read = async (buffer: Uint8Array) => {
    const length = await conn.read(buffer);
    answered ||= performance.now();
    return length;
  };
  const reading = daytime({ read }, LONGEST);
  const bytes = await Promise.race([reading, aborted(target.signal)]);
  conn.close();
  return { bytes, from: socket.remoteAddr, asked, answered };
}

async function askUdp(target: Target, wait: number): Promise<Exchange> {
  const { signal, trace } = target;
  const { socket, to: server } = await openUdp(target);
  // When the last question went out. No answer says which question it is for;
  // the earlier ones were more likely lost than answered late.
  let asked = 0;
  const send = (bytes: Uint8Array, to: Deno.Addr) => {
    if (asked > 0) trace?.event("no answer: asking again");
    asked = performance.now();
    return socket.send(bytes, to);
  };
  const receive = (buffer?: Uint8Array) => socket.receive(buffer);
  try {
    const asking = daytimeUdp({ send, receive }, server, wait);
    const bytes = await Promise.race([asking, aborted(signal)]);
    return { bytes, from: server, asked, answered: performance.now() };
  } finally {
    socket.close();
  }
}

const THIS_MACHINE = /^(127\.[\d.]+|::1?|0\.0\.0\.0|localhost)$/;

/**
 * Asks a daytime server within so many milliseconds. Fails with status 2, 6 or
 * 7 if it cannot be reached, 28 if it is late, 52 if the answer is empty, 56 if
 * it breaks off, 63 if it is too long.
 */
export async function ask(
  { udp, timeout, ...target }: Target & { udp?: boolean; timeout: number },
): Promise<Exchange> {
  const server = formatAddress(target);
  const bounded = { ...target, signal: timeLimit(timeout, target.signal) };
  const isNist = /(^|\.)nist\.gov$/.test(target.hostname);
  const wait = isNist ? 4000 : Math.min(1000, timeout / 5); // NIST wants 4 s
  const asking = udp ? askUdp(bounded, wait) : askTcp(bounded);
  const exchange = await asking.catch((error) => {
    const hint = `try port ${PORT}, where daytime --serve listens`;
    const isLocal = THIS_MACHINE.test(target.hostname);
    const isOurs = isLocal && target.port === DAYTIME;
    const isRefused = error instanceof Failure && error.status === 7;
    if (isOurs && isRefused) throw new Failure(7, `${error.message}: ${hint}`);
    if (error instanceof Failure) throw error;
    const what = udp ? "answer" : "complete answer";
    const late = `no ${what} from ${server} in ${timeout / 1000} s`;
    if (bounded.signal.aborted) throw new Failure(28, late);
    const why = `cannot ask ${server}: ${reason(error)}`;
    throw new Failure(udp ? 7 : 56, why, error);
  });
  const { length } = exchange.bytes;
  if (length === 0) throw new Failure(52, `${server} sent an empty answer`);
  if (length <= LONGEST) return exchange;
  throw new Failure(63, `${server} sent more than ${LONGEST} bytes`);
}

/** What `--json` prints. Milliseconds; null is what cannot be known. */
export type Report = ReturnType<typeof interpret>;

/** Reads an answer, and compares the server's clock with ours. */
export function interpret(server: string, exchange: Exchange) {
  const { hostname: address, port, transport } = exchange.from;
  const text = new TextDecoder().decode(exchange.bytes).trim();
  const { time, nist } = parseDaytime(text);
  const trip = exchange.answered - exchange.asked;
  // NIST's line says how early it is sent. Any other is sent somewhere in the
  // second that it shows: in its middle, give or take half a second.
  const theirs = Date.parse(time ?? "") + (nist ? -nist.advanceMs : 500);
  const ours = performance.timeOrigin + exchange.answered;
  const oneWay = trip / 2; // it took about so long to come here
  const offset = Math.round(theirs + oneWay - ours) || 0; // not -0
  const offsetMs = time === null ? null : offset; // theirs minus ours
  const roundTripMs = Number(trip.toFixed(2));
  const who = { server, address, port, transport };
  return { ...who, text, time, offsetMs, roundTripMs, nist };
}

// What NIST's digits for its health mean, from 1 on.
const HEALTH = ["up to 5 s off", "over 5 s off", "faulty", "in maintenance"];

/** Puts an answer in words for people, within 80 columns. */
export function inWords({ time, offsetMs, roundTripMs, nist }: Report): string {
  const trip = `round trip ${roundTripMs} ms`;
  if (offsetMs === null) return `no time to compare with our clock; ${trip}`;
  const clock = new Date(time!).toTimeString().slice(0, 8);
  const apart = Math.abs(offsetMs);
  const seconds = `${(apart / 1000).toFixed(nist ? 3 : 1)} s`;
  const far = apart < DAY ? seconds : counted(Math.round(apart / DAY), "day");
  const side = offsetMs < 0 ? "behind" : "ahead";
  // The way here took up to the whole trip, and a line names a whole second.
  const isNear = apart <= roundTripMs / 2 + (nist ? 0 : 500);
  const differ = `their clock is ${far} ${side}`;
  const clocks = isNear ? "the clocks agree" : differ;
  const problem = nist?.health && (HEALTH[nist.health - 1] ?? "not healthy");
  const last = problem ? `NIST: ${problem}` : trip;
  return `${clock} local time; ${clocks}; ${last}`;
}

/** Writes the line to a client. Returns what the log says of it. */
async function tell(conn: Deno.TcpConn, trace?: Trace): Promise<string> {
  const who = formatAddress(conn.remoteAddr);
  const stream = trace?.stream(conn, who) ?? conn;
  const started = performance.now();
  const timer = setTimeout(() => conn[Symbol.dispose](), 1000);
  let sent = 0;
  let failure = "";
  try {
    const line = encoder.encode(formatDaytime());
    await writeAll(stream, line);
    sent = line.length;
    await stream.closeWrite();
    // Closing with bytes unread is a reset, which can destroy the line on its
    // way. So what the client says is read, for a second at most.
    while (await stream.read(new Uint8Array(1024)) !== null);
  } catch (error) {
    if (!isClosed(error)) failure = `: ${reason(error)}`; // else by our timer
  }
  clearTimeout(timer);
  conn[Symbol.dispose](); // which may be closed already
  trace?.event(`${who} closed`);
  return `tcp ${who} ${counted(sent, "byte")} in ${elapsed(started)}${failure}`;
}

function elapsed(started: number): string {
  return `${((performance.now() - started) / 1000).toFixed(3)} s`;
}

/** Answers datagrams until the socket is closed. */
async function reply(
  socket: Pick<Deno.DatagramConn, "receive" | "send">,
  ownPort: number,
  log: Log,
  total: { datagrams: number },
): Promise<void> {
  const warn = limited(log, 1);
  const buffer = new Uint8Array(65_535);
  for (;;) {
    try {
      const [, from] = await socket.receive(buffer);
      const started = performance.now();
      const who = `udp ${formatAddress(from as Deno.NetAddr)}`;
      if (isSuspect(from as Deno.NetAddr, ownPort)) {
        warn(`${who} not answered: it may be a server`);
        continue;
      }
      const line = encoder.encode(formatDaytime());
      const sent = await socket.send(line, from);
      total.datagrams++;
      log(`${who} ${counted(sent, "byte")} in ${elapsed(started)}`);
    } catch (error) {
      if (isClosed(error)) return;
      warn(`cannot answer: ${reason(error)}`); // the socket is still good
    }
  }
}

/** The options of {@linkcode serve}. */
export interface ServeOptions {
  listener: Deno.TcpListener;
  socket: Deno.DatagramConn; // on the same port
  signal: AbortSignal; // ends it, once those who have asked are answered
  log?: Log;
  trace?: Trace;
}

/** Serves until the signal aborts. Returns how many were served. */
export async function serve(
  { listener, socket, signal, log = () => {}, trace }: ServeOptions,
): Promise<{ connections: number; datagrams: number }> {
  const total = { connections: 0, datagrams: 0 };
  let open = 0; // connections
  const acceptAll = async () => {
    for (;;) {
      const conn = await accept(listener, log);
      if (!conn) return;
      open++;
      total.connections++;
      tell(conn, trace).then(log).finally(() => open--);
    }
  };
  // Both run until what they listen on is closed.
  acceptAll();
  reply(trace?.datagrams(socket) ?? socket, listener.addr.port, log, total);
  await aborted(signal).catch(() => {});
  // Whoever the system has connected already is accepted and served.
  await delay(50);
  listener.close(); // which ends `acceptAll`
  // It waits until all are closed, and no datagram was answered for 50 ms.
  const end = performance.now() + 5000;
  let before: number;
  do {
    before = total.datagrams;
    await delay(50);
  } while ((open > 0 || before < total.datagrams) && performance.now() < end);
  socket.close(); // which ends `reply`
  return total;
}

/** Opens a port for TCP and UDP. Port 0: one that is free for both. */
function openPort(port: number, host?: string) {
  needsUnstableNet("UDP"); // before a port is taken
  for (let tries = 1;; tries++) {
    const listener = listen((at) => Deno.listen(at), port, host);
    try {
      return { listener, socket: listenUdp(listener.addr.port, host) };
    } catch (error) {
      listener.close();
      if (port !== 0 || tries === 10) throw error;
    }
  }
}

const USAGE = `daytime: asks for the date and time (RFC 867), or serves it

usage: daytime [options] [HOST [PORT]]  ask a server (time.nist.gov, port 13)
       daytime --serve [options]        be the server, over TCP and UDP

  -u, --udp                  client: ask over UDP
  -w, --timeout SECONDS      wait this long for the answer (5; 0: forever)
      --json, --raw          print a JSON object, or the bytes as they came
      --diagram FILE         draw the exchange into a Markdown file
  -4, -6                     use IPv4 or IPv6 only
  -s, --serve                be the server
  -p, --port PORT            server: listen on this port (1313; 0: a free one)
      --host ADDRESS         listen on this address (::, IPv6 and IPv4)
  -q, --quiet                print only the first line
  -v, --verbose              show what crosses the wire (-vv: every byte)
  -h, --help, -V, --version  print this text, or the version

examples: daytime                       the time in UTC, from NIST
          daytime --serve               be a server on port 1313
          daytime -u -v localhost 1313  ask it over UDP, and see how
`;

const SERVER = ["host", "port"] as const;
const CLIENT = ["timeout", "diagram"] as const;

function parse(args: string[]) {
  // deno-fmt-ignore
  return parseArgs(args, {
    string: ["_", ...SERVER, ...CLIENT],
    boolean: [
      "help", "version", "verbose", "quiet", "serve", "udp", "json", "raw",
      "ipv4", "ipv6",
    ],
    collect: ["verbose"],
    alias: {
      p: "port", q: "quiet", s: "serve", u: "udp", w: "timeout", h: "help",
      v: "verbose", V: "version", 4: "ipv4", 6: "ipv6",
    },
    unknown: refuseUnknown,
  });
}

type Options = ReturnType<typeof parse>;

async function server(options: Options, signal: AbortSignal, trace?: Trace) {
  const others = [...CLIENT, "udp", "json", "raw", "ipv4", "ipv6"];
  refuse(options, others, "is a client option: leave out --serve");
  const { quiet, host, _: [word] } = options;
  if (word !== undefined) {
    throw new Failure(2, `--serve takes no HOST: "${word}"`);
  }
  const port = parsePort(options.port ?? `${PORT}`);
  const { listener, socket } = openPort(port, host);
  await announce(listener.addr, quiet);
  if (!quiet) await announce(socket.addr as Deno.NetAddr, quiet);
  const rest = { trace, log: quiet ? undefined : limited(log) };
  const total = await serve({ listener, socket, signal, ...rest });
  if (quiet) return;
  log(`served ${total.connections} over TCP, ${total.datagrams} over UDP`);
}

async function client(options: Options, signal: AbortSignal, trace?: Trace) {
  refuse(options, [...SERVER, "quiet"], "is a server option: add --serve");
  const { udp, json, raw, _: words } = options;
  if (json && raw) throw new Failure(2, "--json and --raw cannot be combined");
  const given = words.length > 0 ? words : ["time.nist.gov"];
  const target = parseTarget({ ...options, _: given }, DAYTIME);
  const timeout = parseSeconds(options, "timeout", 5) || Infinity;
  const exchange = await ask({ ...target, udp, timeout, signal, trace });
  const answer = interpret(target.hostname, exchange);
  if (json) await output(`${JSON.stringify(answer)}\n`);
  else if (raw) await output(exchange.bytes);
  else if (!Deno.stdout.isTerminal()) await output(toLines(exchange.bytes));
  else await output(`${answer.text}\n${inWords(answer)}\n`);
}

/** Ends lines as Unix does; NIST's empty first line goes. Other bytes stay. */
function toLines(bytes: Uint8Array): Uint8Array {
  const start = bytes.findIndex((byte) => byte !== 13 && byte !== 10);
  const lines = bytes.slice(start)
    .filter((byte, i, all) => byte !== 13 || all[i + 1] !== 10);
  return lines.at(-1) === 10 ? lines : Uint8Array.of(...lines, 10);
}

/** Runs a command line. Returns the exit status. */
export function main(args: string[]): Promise<number> {
  const script = { name: "daytime", usage: USAGE, parse };
  return run(script, args, async (options, signal, trace) => {
    await (options.serve ? server : client)(options, signal, trace);
  });
}

// Deno.exitCode would wait for timers that still run: exit now.
if (import.meta.main) Deno.exit(await main(Deno.args));
