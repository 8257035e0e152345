#!/usr/bin/env -S deno run --unstable-net --allow-net --allow-sys=networkInterfaces
/**
 * Asks a server for the date and time (RFC 867), over TCP and over UDP, and can be that server. Over TCP nothing is
 * asked at all: whoever connects is told, and the end of the connection is the end of the answer. The line is made for
 * people: every server writes it in its own way, and many do not say in which time zone.
 *
 * Try it in two terminals:
 *
 *     deno run -A --unstable-net daytime.ts --serve             listening on tcp://[::]:1313, and on udp://[::]:1313
 *     nc localhost 1313                                         Monday, November 23, 2026 13:17:05-UTC
 *
 *     deno run -A --unstable-net daytime.ts -v localhost 1313   the same, and what crosses the wire; -u: over UDP
 *     deno run -A --unstable-net daytime.ts                     asks time.nist.gov, and compares its clock with ours
 *
 * Install: deno install -g --unstable-net --allow-net --allow-sys=networkInterfaces daytime.ts
 * See also: echo_tcp.ts and echo_udp.ts, where the client has something to say too.
 *
 * @module
 */
import { delay } from "jsr:@std/async@^1/delay";
import {
  announce,
  closed,
  connect,
  connections,
  type Datagrams,
  Failure,
  formatAddress,
  type Given,
} from "./utils.ts";
import {
  isMapped,
  listen,
  listenAddress,
  needsUnstableNet,
  openDatagram,
  output,
  parseAddress,
} from "./utils.ts";
import {
  printable,
  reason,
  record,
  refuse,
  run,
  serverAddress,
  sparing,
  type Target,
  type Trace,
} from "./utils.ts";
import { unanswerable, within, writeAll } from "./utils.ts";

const PORT = 1313; // RFC 867 says 13, which only root may open
const LONGEST = 512; // bytes of an answer; the RFC wants one line

/** The protocol over TCP: says nothing, and reads until the server closes, or has sent more than `longest` bytes. */
export async function daytime(
  conn: Pick<Deno.Conn, "read">,
  longest = 512,
): Promise<Uint8Array> {
  const answer = new Uint8Array(longest + 1); // one byte more, to tell too much from just enough
  let length = 0;
  // TCP keeps no borders: one read may bring the line, or a letter of it. Only the end of the stream is its end.
  for (
    let n;
    length <= longest &&
    (n = await conn.read(answer.subarray(length))) !== null;
  ) length += n;
  return answer.subarray(0, length);
}

/** The protocol over UDP: an empty datagram asks; again after `wait` ms, then twice that, … until the socket is closed. */
export async function daytimeUdp(
  socket: Deno.DatagramConn,
  server: Deno.NetAddr,
  wait = 1000,
): Promise<Uint8Array> {
  const failing = Promise.withResolvers<never>();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const ask = () => { // nobody says what UDP lost: silence is all there is to go by
    socket.send(new Uint8Array(), server).catch(failing.reject);
    timer = setTimeout(ask, wait), wait = Math.min(2 * wait, 60_000);
  };
  ask();
  try {
    for (;;) {
      const [answer, from] = await Promise.race([
        socket.receive(new Uint8Array(65_535)),
        failing.promise,
      ]);
      const { hostname, port } = from as Deno.NetAddr; // anyone may send to our port: only who was asked is believed
      if (hostname === server.hostname && port === server.port) return answer;
    }
  } finally {
    clearTimeout(timer);
  }
}

const DAYS = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday".split(
  " ",
);
const MONTHS =
  "January February March April May June July August September October November December"
    .split(" ");

/** The line of our server, in the RFC's own format and in UTC: `Monday, November 23, 2026 13:17:05-UTC`, CR, LF. */
export function formatDaytime(date: Date): string {
  const day = `${DAYS[date.getUTCDay()]}, ${
    MONTHS[date.getUTCMonth()]
  } ${date.getUTCDate()}, ${date.getUTCFullYear()}`;
  return `${day} ${date.toISOString().slice(11, 19)}-UTC\r\n`;
}

/** What a line says: the time as ISO 8601 in UTC, and what NIST adds, as it stands there; null is what it does not. */
export type Reading = {
  time: string | null;
  /** day since 1858-11-17; `TT`, 50: US summer time; `L`: leap second ahead; `H`, 0: healthy; how early it was sent */
  nist: {
    mjd: number;
    dst: number;
    leapSecond: number;
    health: number;
    advanceMs: number;
  } | null;
};

const NIST =
  /^(\d{5}) (\d\d-\d\d-\d\d) (\d\d:\d\d:\d\d) (\d\d) (\d) (\d) +(\d{1,6}(?:\.\d{1,6})?) UTC\(NIST\) \*$/;
// RFC 867 suggests two formats: one of its own, and that of mail.
const FORMATS = [
  "[a-z]+day, MONTH DAY, (?<year>[0-9]{4})",
  "([a-z]{3}, )?DAY MONTH (?<year>[0-9]{2}|[0-9]{4})",
]
  .map((date) =>
    date.replace("MONTH", "(?<month>[a-z]{3,})").replace(
      "DAY",
      "(?<day>[0-9]{1,2})",
    )
  )
  .map((date) =>
    RegExp(
      String
        .raw`^${date} (?<clock>\d\d:\d\d:\d\d)[ -]?(?<zone>[a-z]+|[+-][0-2]\d:?[0-5]\d)$`,
    )
  );
const ZONES: Record<string, number> = { // RFC 5322, section 4.3; any other name stands for several zones, or for none
  ...{
    z: 0,
    ut: 0,
    utc: 0,
    gmt: 0,
    edt: -4,
    est: -5,
    cdt: -5,
    cst: -6,
    mdt: -6,
    mst: -7,
    pdt: -7,
    pst: -8,
  },
};

/** ISO 8601 in UTC from `2026-11-23T13:17:05`, so many minutes ahead; null where the calendar has no such time. */
function toUTC(text: string, ahead = 0): string | null {
  const leap = text.endsWith(":60"),
    plain = `${leap ? text.slice(0, -2) + 59 : text}.000Z`,
    local = Date.parse(plain);
  if (isNaN(local - ahead) || new Date(local).toISOString() !== plain) {
    return null; // February 30 would become March 2
  }
  const utc = (seconds: number) =>
    new Date(local + (seconds - 60 * ahead) * 1000).toISOString();
  if (leap && !utc(1).endsWith("-01T00:00:00.000Z")) return null; // a leap second ends a month, in UTC
  return leap ? utc(0).replace("59.000", "60.000") : utc(0);
}

/**
 * Reads a line: NIST's, or one in a format of RFC 867. Any other is free text, and so is one without a zone, as inetd
 * writes it: nothing is guessed. The name of the day is passed over: it is wrong in the RFC's own example.
 */
export function parseDaytime(text: string): Reading {
  const line = text.trim(),
    [, days, date, clock, ...rest] = line.match(NIST) ?? [];
  if (days) {
    const [mjd, dst, leapSecond, health, advanceMs] = [days, ...rest].map(
      Number,
    );
    const full = new Date((mjd - 40_587) * 86_400_000).toISOString().slice(
      0,
      10,
    ); // the date alone has no century
    const time = full.endsWith(date) ? toUTC(`${full}T${clock}`) : null;
    return { time, nist: { mjd, dst, leapSecond, health, advanceMs } };
  }
  const found = FORMATS.map((format) =>
    line.toLowerCase().match(format)?.groups
  ).find(Boolean);
  if (!found) return { time: null, nist: null };
  const [, sign, hours, minutes] = found.zone.match(/^(.)(\d\d):?(\d\d)$/) ??
    [];
  const ahead = sign
    ? Number(sign + 1) * (60 * Number(hours) + Number(minutes))
    : 60 * ZONES[found.zone];
  const month = `${
    1 + MONTHS.findIndex((name) => name.toLowerCase().startsWith(found.month))
  }`.padStart(2, "0");
  const year = found.year.length === 4
    ? found.year
    : (found.year < "50" ? "20" : "19") + found.year; // RFC 5322, 4.3
  return {
    time: toUTC(
      `${year}-${month}-${found.day.padStart(2, "0")}T${found.clock}`,
      ahead,
    ),
    nist: null,
  };
}

/**
 * What `--json` prints: beside the reading, the line without its end, their clock minus ours (null where the line does
 * not say), and the time from the question to the first byte of the answer.
 */
export type Answer =
  & { server: string; address: string; port: number; transport: "tcp" | "udp" }
  & { text: string; offsetMs: number | null; roundTripMs: number }
  & Reading;

async function askTcp(target: Target) {
  using socket = await connect(target);
  // The last segment of the handshake is the question: from here to the answer it is one round trip.
  const asked = performance.now(),
    conn = target.trace?.stream(socket) ?? socket;
  let arrived = 0;
  const read = (buffer: Uint8Array) =>
    conn.read(buffer).finally(() => arrived ||= performance.now());
  const bytes = await daytime({ read }, LONGEST);
  conn.close();
  return { bytes, from: socket.remoteAddr, asked, arrived };
}

async function askUdp(target: Target, wait: number) {
  const { socket: bare, to } = await openDatagram(target),
    socket = target.trace?.datagrams(bare, to) ?? bare;
  let asked = 0; // the last time: should an earlier question be the one answered, the round trip comes out too short
  const send: Datagrams["send"] = (bytes, to) => {
    if (asked) {
      target.trace?.life(
        `no answer for ${
          ((performance.now() - asked) / 1000).toFixed(1)
        } s: asking again`,
      );
    }
    asked = performance.now();
    return socket.send(bytes, to);
  };
  const receive: Datagrams["receive"] = async (buffer) => {
    const [bytes, from] = await socket.receive(buffer),
      who = formatAddress(from as Deno.NetAddr);
    if (who !== formatAddress(to)) {
      target.trace?.life(`ignored: ${who} was not asked`);
    }
    return [bytes, from];
  };
  try {
    const bytes = await daytimeUdp(
      { send, receive } as Deno.DatagramConn,
      to,
      wait,
    );
    return { bytes, from: to, asked, arrived: performance.now() };
  } finally {
    if (!target.signal?.aborted) socket.close(); // else it is closed
  }
}

/**
 * Asks a daytime server. Throws a {@linkcode Failure} of 6 or 7 when it cannot be reached, 28 when `timeout`
 * milliseconds (0: none) pass, 52 when the answer is empty, 56 when it breaks off, 63 when it is longer than 512 bytes.
 */
export async function ask(
  { udp, timeout = 0, ...target }: Target & { udp?: boolean },
): Promise<[Answer, Uint8Array]> {
  const server = formatAddress(target),
    { hostname } = target,
    transport = udp ? "udp" : "tcp";
  const late = `no ${udp ? "" : "complete "}answer from ${server} within ${
    timeout / 1000
  } s`;
  using signal = within(timeout, late, target.signal);
  const asking = { ...target, signal };
  asking.signal.throwIfAborted();
  // NIST wants 4 s between two questions; elsewhere, three of them fit into the time.
  const wait = /(^|\.)nist\.gov$/i.test(hostname)
    ? 4000
    : Math.min(1000, (timeout || 5000) / 5);
  const { bytes, from, asked, arrived } =
    await (udp ? askUdp(asking, wait) : askTcp(asking)).catch((error) => {
      asking.signal.throwIfAborted();
      if (error instanceof Failure) throw error;
      const [status, what] = udp
        ? [7, "cannot ask"]
        : [56, "receiving failed from"];
      throw new Failure(status, `${what} ${server}: ${reason(error)}`, error);
    });
  if (bytes.length === 0) {
    throw new Failure(52, `${server} gave an empty answer`);
  }
  if (bytes.length > LONGEST) {
    throw new Failure(63, `${server} sent more than ${LONGEST} bytes`);
  }
  const text = new TextDecoder().decode(bytes).trim(),
    { time, nist } = parseDaytime(text),
    trip = arrived - asked;
  // NIST's line says how early it was sent; any other was sent in the second that it shows: at its middle, ± 0.5 s.
  const sent = Date.parse(time ?? "") + (nist ? -nist.advanceMs : 500);
  const offset = Math.round(
    sent + trip / 2 - (Date.now() - (performance.now() - arrived)),
  ) || 0;
  const offsetMs = isNaN(sent) ? null : offset,
    roundTripMs = Number(trip.toFixed(2));
  const { hostname: address, port } = parseAddress(formatAddress(from), 0);
  return [{
    server: hostname,
    address,
    port,
    transport,
    text,
    time,
    offsetMs,
    roundTripMs,
    nist,
  }, bytes];
}

const HEALTH = [
  "good",
  "up to 5 s off",
  "more than 5 s off",
  "faulty",
  "under maintenance",
];

/** The answer in a sentence, for people. */
function inWords({ time, offsetMs, roundTripMs, nist }: Answer): string {
  const away = Math.abs(offsetMs ?? 0),
    even = away <= (nist ? 0 : 500) + roundTripMs / 2; // nearer than can be told
  const far = away < 172_800_000
    ? `${(away / 1000).toFixed(nist ? 3 : 1)} s`
    : `${Math.round(away / 86_400_000)} days`;
  const apart = `${far} ${Number(offsetMs) < 0 ? "behind" : "ahead of"} ours`;
  const here = `that is ${new Date(time ?? 0)}`.replace(/ \(.*/, " here"); // without the long name of our zone
  const clocks = `${here}; ${
    even ? "our clocks agree" : `their clock is ${apart}`
  }`;
  const health = nist?.health
    ? `; their clock, they say, is ${HEALTH[nist.health] ?? "not good"}`
    : "";
  return `${
    offsetMs === null ? "not to be compared with our clock" : clocks
  }; round trip ${roundTripMs} ms${health}`;
}

const line = () => new TextEncoder().encode(formatDaytime(new Date()));
const since = (started: number) =>
  `${((performance.now() - started) / 1000).toFixed(3)} s`;

/** Gives a connection the line, and returns how that went. Never throws: a client's reset is the client's affair. */
async function session(conn: Deno.TcpConn, trace?: Trace): Promise<string> {
  const started = performance.now(),
    peer = formatAddress(conn.remoteAddr),
    answer = line();
  const timer = setTimeout(() => conn[Symbol.dispose](), 1000),
    buffer = new Uint8Array(1024);
  let sent = 0, ending = "";
  trace?.life(`${peer} accepted`);
  try {
    const stream = trace?.stream(conn, `${peer} `) ?? conn;
    await writeAll(stream, answer);
    sent = answer.length;
    await stream.closeWrite();
    // To close with bytes unread is a reset, which may destroy the line on its way: for a second, 1 MiB is read off.
    for (let left = 1024; left && await stream.read(buffer) !== null;) left--;
  } catch (error) {
    if (!closed(error)) ending = `: ${reason(error)}`;
  }
  clearTimeout(timer);
  conn[Symbol.dispose]();
  trace?.life(`${peer} closed`);
  return `tcp ${peer} ${sent} bytes in ${since(started)}${ending}`;
}

/** Answers every datagram that `admit` lets, an empty one too, until the socket is closed. */
async function reply(
  socket: Datagrams,
  admit: (from: Deno.NetAddr) => boolean,
  log: (line: string) => void,
) {
  const buffer = new Uint8Array(65_535),
    warn = sparing(1000, log),
    told = new Set<string>();
  for (let second = 0;;) {
    try {
      const [, from] = await socket.receive(buffer),
        started = performance.now(),
        peer = from as Deno.NetAddr;
      if (!admit(peer)) continue;
      const sent = await socket.send(line(), peer), who = formatAddress(peer);
      if (started - second >= 1000) second = started, told.clear();
      if (told.size === 100 || told.has(who)) continue; // a flood must not flood the log
      told.add(who), log(`udp ${who} ${sent} bytes in ${since(started)}`);
    } catch (error) {
      if (closed(error)) return;
      warn(`cannot answer: ${reason(error)}`); // one peer's trouble, or news of it (ICMP): the socket is still good
    }
  }
}

/** What {@linkcode serve} is told; `sockets` are on the listeners' port. */
export type ServeOptions = {
  listeners: Deno.TcpListener[];
  sockets: Deno.DatagramConn[];
  /** ends the service: who has asked is answered first, for at most 5 s */
  signal: AbortSignal;
  /** 6: turns away IPv4, which `::` takes as well */
  family?: 4 | 6;
  log?: (line: string) => void;
  trace?: Trace;
};

/** Tells everyone the time until the signal aborts. Returns how many connections and datagrams were answered. */
export async function serve(
  options: ServeOptions,
): Promise<{ connections: number; datagrams: number }> {
  const { listeners, sockets, signal, family, log = record, trace } = options;
  const total = { connections: 0, datagrams: 0 }, warn = sparing(1000, log);
  const barred = (from: Deno.NetAddr) => family === 6 && isMapped(from);
  let busy = 0;
  const accept = async (listener: Deno.TcpListener) => {
    for await (const conn of connections(listener, log)) {
      if (barred(conn.remoteAddr)) conn.close();
      else {busy++,
          total.connections++,
          session(conn, trace).then(log).finally(() => busy--);}
    }
  };
  const admit = (from: Deno.NetAddr) => {
    const why = unanswerable(from, listeners[0].addr.port);
    if (why) warn(`udp ${formatAddress(from)} not answered: ${why}`);
    if (why || barred(from)) return false;
    return total.datagrams++, true;
  };
  const replying = sockets.map((socket) =>
    reply(trace?.datagrams(socket) ?? socket, admit, log)
  );
  const accepting = listeners.map(accept);
  if (!signal.aborted) {
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
  }
  for (const listener of listeners) listener.close();
  // What has arrived is answered still: until nothing more does, or for 5 s.
  const end = performance.now() + 5000;
  for (
    let before = -1;
    (busy || before !== total.datagrams) && performance.now() < end;
    await delay(50)
  ) {
    before = total.datagrams;
  }
  for (const socket of sockets) socket.close();
  await Promise.all([...accepting, ...replying]);
  return total;
}

const USAGE =
  `daytime: asks a server for the date and time (RFC 867), or is that server

usage: daytime [options] [HOST [PORT]]   ask (time.nist.gov, port 13)
       daytime --serve [options]         be the server, over TCP and UDP

client:
  -u, --udp              ask over UDP, again and again until the time is up
  -w, --timeout SECONDS  wait this long for the whole exchange (5; 0: for ever)
      --json             print one object: the line, and what can be read in it
      --diagram FILE     draw the exchange into a Markdown file (Mermaid)

server:
  -s, --serve            be the server
      --host ADDRESS     listen on this address (::, both families)
  -p, --port PORT        listen on this port, 0 for a free one (1313)
      --reuse-port       let several processes open the port
  -q, --quiet            print the first line only

both:
  -4, --ipv4             IPv4 only
  -6, --ipv6             IPv6 only
  -v, --verbose          show what crosses the wire, on stderr
  -h, --help             print this text
  -V, --version          print the version

examples:
  daytime                        what time it is, and how far off our clock is
  daytime -u -v localhost 1313   ask our own server over UDP, and see how
  daytime --serve --port 0       be a server on a free port

exit status: 0 done, 1 cannot listen, 2 usage, 6 host not found,
7 cannot connect, 23 cannot write the output, 28 timed out, 52 empty answer,
56 receiving failed, 63 more than 512 bytes, 130 interrupted
`;

type Switches = {
  serve: boolean;
  udp: boolean;
  json: boolean;
  quiet: boolean;
  "reuse-port": boolean;
};
type Flags = Switches & { host?: string; port?: number; timeout?: number };

/** Opens TCP and UDP on one port; where any port will do, on one that is free for both. */
function open(
  at: { hostname: string; port: number; family?: 4 | 6 },
  reuse: boolean,
) {
  for (let tries = 1;; tries++) {
    const listeners = listen(
        (at) => Deno.listen({ ...at, reusePort: reuse }),
        at,
      ),
      { port } = listeners[0].addr;
    try {
      const datagram = { transport: "udp", reuseAddress: reuse } as const;
      return {
        listeners,
        sockets: listen((at) => Deno.listenDatagram({ ...at, ...datagram }), {
          ...at,
          port,
        }),
      };
    } catch (error) {
      for (const listener of listeners) listener.close();
      if (at.port || tries === 10) throw error;
    }
  }
}

async function server(given: Given<Flags>): Promise<void> {
  const { port = PORT, quiet, words, "reuse-port": reuse } = given;
  refuse(
    given,
    ["udp", "timeout", "json", "diagram"],
    "is for the client: not with --serve",
  );
  if (words.length) {
    throw new Failure(
      2,
      `too many words: "${words[0]}" (--host and --port say where to listen)`,
    );
  }
  needsUnstableNet("UDP");
  const hostname = await listenAddress(given);
  const { listeners, sockets } = open(
    { hostname, port, family: given.family },
    reuse,
  );
  await announce("tcp", listeners[0].addr, given);
  if (!quiet) await announce("udp", sockets[0].addr as Deno.NetAddr, given);
  const log = quiet ? () => {} : record;
  const { connections, datagrams } = await serve({
    ...given,
    listeners,
    sockets,
    log,
  });
  log(`served ${connections} over TCP, ${datagrams} over UDP`);
}

async function client(given: Given<Flags>): Promise<void> {
  const {
    words: [host = "time.nist.gov", word],
    timeout = 5000,
    family,
    udp,
    json,
    signal,
    trace,
  } = given;
  refuse(
    given,
    ["host", "reuse-port", "quiet"],
    "is for the server: it needs --serve",
  );
  const at = serverAddress(host, [word, given.port], 13);
  const [answer, bytes] = await ask({
    ...at,
    family,
    timeout,
    udp,
    signal,
    trace,
  });
  const print = (text: string) => output(`${text}\n`);
  const lines = answer.text.split(/\r?\n/).map(printable),
    people = [...lines, inWords(answer)].join("\n");
  // In JSON too, what could drive a terminal is escaped.
  const escaped = (c: string) =>
    c.split("").map((u) =>
      `\\u${u.charCodeAt(0).toString(16).padStart(4, "0")}`
    ).join("");
  if (json) {
    await print(
      JSON.stringify(answer).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, escaped),
    );
  } else await (Deno.stdout.isTerminal() ? print(people) : output(bytes));
}

/** Runs a command line. Returns the exit status. */
export function main(args: string[]): Promise<number> {
  const command = { name: "daytime", usage: USAGE, words: 2 };
  return run<Flags>(
    command,
    args,
    (given) => given.serve ? server(given) : client(given),
  );
}

// Not by way of exitCode: what is left of the timeout would hold the process.
if (import.meta.main) Deno.exit(await main(Deno.args));
