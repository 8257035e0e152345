#!/usr/bin/env -S deno run --unstable-net --allow-net --allow-sys=networkInterfaces
/**
 * An echo server over UDP (RFC 862), and its client: every datagram goes back to where it came from, an empty one too.
 * UDP keeps the borders between datagrams, and promises nothing else: they may be lost, doubled, or overtake each other.
 *
 * Try it in two terminals:
 *
 *     deno run -A --unstable-net echo_udp.ts                   listening on udp://[::]:7777
 *     nc -u localhost 7777                                     type a line, and it comes back; Ctrl-C ends
 *
 *     deno run -A --unstable-net echo_udp.ts -c localhost -v   the same with our own client, and what crosses the wire
 *     deno run -A --unstable-net echo_udp.ts -c localhost -n 5 five round trips, timed as ping does it
 *
 * Install: deno install -g --unstable-net --allow-net --allow-sys=networkInterfaces echo_udp.ts
 * See also: echo_tcp.ts, its twin; `diff echo_tcp.ts echo_udp.ts` is the difference between TCP and UDP.
 *
 * @module
 */
import { delay } from "jsr:@std/async@^1/delay";
import {
  announce,
  atMost,
  closed,
  counted,
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
  reason,
  record,
} from "./utils.ts";
import {
  refuse,
  RoundTrips,
  run,
  say,
  serverAddress,
  sparing,
  type Trace,
  unanswerable,
  unless,
} from "./utils.ts";

const PORT = 7777; // RFC 862 says 7, which only root may open
const LARGEST = 65_507; // bytes: what an IPv4 packet leaves after its header and UDP's

/** The protocol: sends each datagram back to its sender, if `admit` lets it; `failed` is told of what goes wrong. */
export async function echo(
  socket: Pick<Deno.DatagramConn, "receive" | "send">,
  admit = (_bytes: number, _from: Deno.NetAddr) => true,
  failed = (_error: unknown, _unsent?: Uint8Array) => {},
): Promise<void> {
  const buffer = new Uint8Array(65_535); // a datagram that does not fit its buffer is cut short without a word
  for (;;) {
    let unsent: Uint8Array | undefined;
    try {
      const [datagram, from] = await socket.receive(buffer);
      if (!admit(datagram.length, from as Deno.NetAddr)) continue;
      await socket.send(unsent = datagram, from);
    } catch (error) {
      if (
        error instanceof Deno.errors.BadResource ||
        error instanceof Deno.errors.Interrupted
      ) return; // it was closed
      failed(error, unsent); // one peer's trouble, or news of it (ICMP): the socket is as good as before
    }
  }
}

/** A peer, who has no connection, only datagrams: how many, since when and until when (milliseconds). */
type Session = {
  peer: string;
  datagrams: number;
  bytes: number;
  started: number;
  moved: number;
};

/** The peers that were silent for `ms` milliseconds, and those that were not for a minute. */
function idle(sessions: Map<string, Session>, ms: number): Session[] {
  const now = performance.now();
  return [...sessions.values()].filter(({ started, moved }) =>
    now - moved >= ms || now - started >= 60_000
  );
}

/** Waits until no more datagrams are answered, for at most 5 s: what has arrived is in the buffers of the sockets. */
async function drain(total: { datagrams: number }): Promise<void> {
  const started = performance.now();
  for (
    let seen = -1;
    seen !== total.datagrams && performance.now() < started + 5000;
    await delay(50)
  ) {
    seen = total.datagrams;
  }
}

/** What {@linkcode serve} is told. */
export type ServeOptions = {
  sockets: Deno.DatagramConn[];
  /** ends the service: what was received is given back first, for at most 5 s */
  signal: AbortSignal;
  /** 6: passes over IPv4, which `::` takes as well */
  family?: 4 | 6;
  /** where lines go: without one, nothing is noted of the peers */
  log?: (line: string) => void;
  trace?: Trace;
};

/** Answers every peer until the signal aborts. Returns how many datagrams were answered, and their bytes. */
export async function serve(
  options: ServeOptions,
): Promise<{ datagrams: number; bytes: number }> {
  const { sockets, signal, family, log = () => {}, trace } = options;
  const sessions = new Map<string, Session>(),
    total = { datagrams: 0, bytes: 0 };
  const { port } = sockets[0].addr as Deno.NetAddr, warn = sparing(1000, log);
  const over = ({ peer, datagrams, bytes, started, moved }: Session) => {
    sessions.delete(peer);
    const seconds = ((moved - started) / 1000).toFixed(3);
    log(
      `${peer} ${counted(datagrams, "datagram")}, ${
        counted(bytes, "byte")
      } in ${seconds} s`,
    );
  };
  const note = (bytes: number, from: Deno.NetAddr) => {
    const peer = formatAddress(from), now = performance.now();
    let session = sessions.get(peer);
    // More at once are forged, as likely as not, and their log would be a flood.
    if (!session && sessions.size >= 100) {
      return warn("more than 100 peers at once: not all are listed");
    }
    if (!session) {
      sessions.set(
        peer,
        session = { peer, datagrams: 0, bytes: 0, started: now, moved: now },
      );
    }
    session.datagrams++, session.bytes += bytes, session.moved = now;
  };
  const admit = (bytes: number, from: Deno.NetAddr) => {
    const why = unanswerable(from, port);
    if (why) return warn(`${formatAddress(from)} not answered: ${why}`), false;
    if (family === 6 && isMapped(from)) return false;
    total.datagrams++, total.bytes += bytes;
    if (options.log) note(bytes, from);
    return true;
  };
  const failed = (error: unknown, unsent?: Uint8Array) => {
    if (unsent) total.datagrams--, total.bytes -= unsent.length;
    warn(`cannot answer: ${reason(error)}`);
  };
  const sweep = options.log
    ? setInterval(() => idle(sessions, 3000).forEach(over), 1000)
    : undefined;
  const echoing = sockets.map((socket) =>
    echo(trace?.datagrams(socket) ?? socket, admit, failed)
  );
  if (!signal.aborted) {
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
  }
  await drain(total);
  for (const socket of sockets) socket.close();
  await atMost(1000, Promise.all(echoing)); // a send that waits does not end with its socket
  clearInterval(sweep);
  sessions.forEach(over);
  return total;
}

/** What {@linkcode talk} is told. Times are milliseconds. */
export type TalkOptions = {
  socket: Datagrams;
  to: Deno.NetAddr;
  input: ReadableStream<Uint8Array>;
  output: (bytes: Uint8Array) => Promise<void>;
  /** how long to wait for a sign of what is still to come back (0: for ever) */
  timeout: number;
};

/** The lines of a stream, each with its line end; one longer than a datagram can be is cut into several. */
async function* lines(
  input: ReadableStream<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  const line = new Uint8Array(LARGEST);
  let length = 0;
  for await (let bytes of input) {
    while (bytes.length) {
      const lf = bytes.indexOf(10), end = lf < 0 ? bytes.length : lf + 1;
      const part = bytes.subarray(0, Math.min(end, LARGEST - length));
      line.set(part, length),
        length += part.length,
        bytes = bytes.subarray(part.length);
      if (part.at(-1) === 10 || length === LARGEST) {
        yield line.slice(0, length), length = 0;
      }
    }
  }
  if (length) yield line.slice(0, length);
}

/** The datagrams that come from the server asked. Anyone may send to our port: what others send is passed over. */
async function* answers(
  socket: Datagrams,
  to: Deno.NetAddr,
): AsyncGenerator<Uint8Array> {
  const buffer = new Uint8Array(65_535);
  for (;;) {
    try {
      const [datagram, from] = await socket.receive(buffer);
      if (formatAddress(from as Deno.NetAddr) === formatAddress(to)) {
        yield datagram;
      }
    } catch (error) { // on Windows, a port where nobody listens is reported here: an answer may come all the same
      if (!(error instanceof Deno.errors.ConnectionReset)) throw error;
    }
  }
}

/**
 * The client: sends each line of the input as a datagram, and passes on what comes back until nothing is outstanding.
 * Throws a {@linkcode Failure} of 28 when something does not come back in time: nobody else says what UDP lost.
 */
export async function talk(
  { socket, to, input, output, timeout }: TalkOptions,
): Promise<void> {
  const owed: Uint8Array[] = []; // the datagrams that have not come back
  const over = Promise.withResolvers<void>();
  let done = false,
    busy = false,
    timer: ReturnType<typeof setTimeout> | undefined,
    change = Promise.withResolvers<void>();
  // Only a sign of life from the server renews the patience with it: not what we send, nor that our output is slow.
  const late = () =>
    over.reject(
      new Failure(
        28,
        `no answer within ${timeout / 1000} s: ${owed.length} outstanding`,
      ),
    );
  const wait = () => {
    if (timeout && !busy && owed.length) timer ??= setTimeout(late, timeout);
    if (done && !busy && !owed.length) over.resolve();
  };
  const rest = () => (clearTimeout(timer), timer = undefined);
  const sending = async () => {
    for await (const line of lines(input)) {
      // More at once would only be lost on the way: the buffers of sockets are small.
      while (
        owed.length >= 16 ||
        owed.reduce((sum, each) => sum + each.length, line.length) > LARGEST
      ) {
        await change.promise;
      }
      owed.push(line), wait();
      await socket.send(line, to);
    }
    done = true, wait();
  };
  const receiving = async () => {
    for await (const datagram of answers(socket, to)) {
      busy = true;
      const i = owed.findIndex((each) =>
        each.length === datagram.length &&
        each.every((byte, i) => byte === datagram[i])
      );
      if (i >= 0) owed.splice(i, 1), rest(); // else it came twice, or was not asked for
      change.resolve(), change = Promise.withResolvers();
      await output(datagram);
      busy = false, wait();
    }
  };
  try {
    await Promise.race([over.promise, Promise.all([sending(), receiving()])]);
    socket.close();
  } catch (error) {
    throw error instanceof Failure ? error : new Failure(
      56,
      `cannot ask ${formatAddress(to)}: ${reason(error)}`,
      error,
    );
  } finally {
    rest();
  }
}

/** What {@linkcode ping} is told. Times are milliseconds; `size` is bytes, at least the 4 of the sequence number. */
export type PingOptions = {
  socket: Datagrams;
  to: Deno.NetAddr;
  count: number;
  size: number;
  /** from one datagram to the next; 0: the next one follows the answer */
  interval: number;
  timeout: number;
  signal: AbortSignal;
  trips: RoundTrips;
  log: (seq: number, ms: number) => Promise<void> | void;
};

/**
 * Measures `count` round trips, without waiting for one before the next. Each datagram begins with its sequence number:
 * so answers that are lost, doubled, late (after `timeout`), out of order or damaged are told apart in `trips`.
 */
export async function ping(
  { socket, to, count, size, interval, timeout, signal, trips, log }:
    PingOptions,
) {
  const message = new Uint8Array(size).map((_, i) => 33 + i % 94);
  const sent = new Map<number, number>(), answered = new Set<number>(); // sequence numbers, and when they left
  let highest = 0,
    answer = Promise.withResolvers<void>(),
    failed = 0,
    failure: unknown;
  const over = Promise.withResolvers<void>();
  const sort = async (datagram: Uint8Array) => {
    const seq = datagram.length === size
      ? new DataView(datagram.buffer, datagram.byteOffset).getUint32(0)
      : 0;
    const ms = performance.now() - (sent.get(seq) ?? NaN);
    if (isNaN(ms) || datagram.some((byte, i) => i > 3 && byte !== message[i])) {
      return trips.note("damaged");
    }
    if (answered.has(seq)) return trips.note("duplicate");
    answered.add(seq);
    if (timeout && ms > timeout) return trips.note("late");
    if (seq < highest) trips.note("out of order");
    highest = Math.max(highest, seq);
    trips.add(ms);
    await log(seq, ms);
    answer.resolve();
    if (trips.received === count) over.resolve();
  };
  const sending = async () => {
    await delay(0); // Deno's first timer takes milliseconds, which are not the network's
    for (let seq = 1; seq <= count; seq++) {
      new DataView(message.buffer).setUint32(0, seq);
      sent.set(seq, performance.now()), trips.sent++;
      sent.delete(seq - 100_000), answered.delete(seq - 100_000); // what is older than that is forgotten
      answer = Promise.withResolvers();
      await socket.send(message, to).catch((error) => { // a way that is gone may come back
        if (closed(error)) throw error;
        failed++, failure = error;
      });
      if (seq === count) break;
      if (interval) {
        await delay(interval, { signal });
      } else {
        const pause = setTimeout(answer.resolve, 10); // what is lost does not hold up the others
        await answer.promise.finally(() => clearTimeout(pause));
      }
    }
    if (failed === count) throw failure;
    const timer = timeout ? setTimeout(over.resolve, timeout) : undefined;
    await over.promise.finally(() => clearTimeout(timer));
    if (failed) throw failure;
  };
  const receiving = async () => {
    for await (const datagram of answers(socket, to)) await sort(datagram);
  };
  await Promise.race([sending(), receiving()]);
  socket.close();
}

const USAGE = `echo_udp: an echo server over UDP (RFC 862), and its client

usage: echo_udp [options]                      serve
       echo_udp [options] -c HOST[:PORT]       send lines, print what comes back
       echo_udp [options] -c HOST[:PORT] -n N  measure N round trips

server:
      --host ADDRESS          listen on this address (::, both families)
  -p, --port PORT             listen on this port, 0 for a free one (7777)
      --reuse-port            let processes share the port: the newest is asked
  -q, --quiet                 print the first line only

client:
  -c, --connect HOST          ask HOST[:PORT]
  -w, --timeout SECONDS       wait this long for an answer (5; 0: for ever)
  -n, --count N               measure N round trips
      --size BYTES            bytes in each, from 4 to 65507 (64)
  -i, --interval SECONDS      time between them (1; 0: as fast as they return)
      --diagram FILE          draw the exchange into a Markdown file (Mermaid)

both:
  -4, --ipv4                  IPv4 only
  -6, --ipv6                  IPv6 only
  -v, --verbose               show what crosses the wire, on stderr
  -h, --help                  print this text
  -V, --version               print the version

examples:
  echo_udp --port 0                 serve on a free port
  echo_udp -c localhost < file      send a file line by line and get it back
  echo_udp -c [::1]:7 -n 5 -i 0.2   five round trips, 0.2 s apart

exit status: 0 done, 1 cannot listen, 2 usage, 6 host not found,
23 cannot write the output, 28 timed out, 56 sending or receiving failed,
130 interrupted
`;

type Serving = {
  host?: string;
  port?: number;
  "reuse-port": boolean;
  quiet: boolean;
};
type Asking = {
  connect?: string;
  timeout?: number;
  count?: number;
  size?: number;
  interval?: number;
};
type Flags = Serving & Asking;

async function server(given: Given<Flags>): Promise<void> {
  const {
    port = PORT,
    family,
    quiet,
    signal,
    trace,
    "reuse-port": reuseAddress,
  } = given;
  refuse(
    given,
    ["timeout", "count", "size", "interval", "diagram"],
    "is for the client: it needs --connect",
  );
  needsUnstableNet("UDP");
  const hostname = await listenAddress(given), log = quiet ? undefined : record;
  const udp = { transport: "udp", reuseAddress } as const;
  const sockets = listen((at) => Deno.listenDatagram({ ...at, ...udp }), {
    hostname,
    port,
    family,
  });
  await announce("udp", sockets[0].addr as Deno.NetAddr, given);
  if (!/^(127\.|::1$)/.test(hostname)) {
    log?.(
      "whoever reaches this port is answered: --host 127.0.0.1 keeps it to this machine",
    );
  }
  const { datagrams, bytes } = await serve({
    sockets,
    signal,
    family,
    log,
    trace,
  });
  log?.(
    `answered ${counted(datagrams, "datagram")}, ${counted(bytes, "byte")}`,
  );
}

async function client(given: Given<Flags>): Promise<void> {
  const { timeout = 5000, count, size = 64, interval = 1000, signal, trace } =
    given;
  refuse(
    given,
    ["host", "reuse-port", "quiet"],
    "is for the server, not --connect",
  );
  if (count === undefined) {
    refuse(given, ["size", "interval"], "is for round trips: it needs --count");
  }
  if (count === 0) throw new Failure(2, "--count must be at least 1");
  if (size < 4 || size > LARGEST) {
    throw new Failure(2, `--size must be from 4 to ${LARGEST}, not ${size}`);
  }
  const { socket: bare, to } = await openDatagram({
    ...given,
    ...serverAddress(given.connect!, [given.port], PORT),
  });
  const socket = trace?.datagrams(bare, to) ?? bare,
    peer = formatAddress(to),
    trips = new RoundTrips();
  if (!count) {
    return await unless(
      signal,
      talk({ socket, to, input: Deno.stdin.readable, output, timeout }),
    );
  }
  const log = (seq: number, ms: number) =>
    output(`${size} bytes from ${peer}: seq=${seq} time=${ms.toFixed(2)} ms\n`);
  const error = await ping({
    socket,
    to,
    count,
    size,
    interval,
    timeout,
    signal,
    trips,
    log,
  }).catch((error) => error);
  await output(`${trips}\n`);
  const lost = trips.sent - trips.received;
  if (lost) trace?.life(`no answer to ${lost} of ${trips.sent}`);
  signal.throwIfAborted();
  if (!trips.received) {
    throw new Failure(
      28,
      `no answer from ${peer}${error ? `: ${reason(error)}` : ""}`,
      error,
    );
  }
  if (error) say(`echo_udp: ${reason(error)}`, console.error);
}

/** Runs a command line. Returns the exit status. */
export function main(args: string[]): Promise<number> {
  const command = { name: "echo_udp", usage: USAGE, words: 0 };
  return run<Flags>(
    command,
    args,
    (given) => given.connect ? client(given) : server(given),
  );
}

// Not by way of exitCode: a read of the terminal that still waits would hold the process.
if (import.meta.main) Deno.exit(await main(Deno.args));
