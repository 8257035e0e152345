#!/usr/bin/env -S deno run --allow-net --allow-sys=networkInterfaces
/**
 * A relay that stands between any client and any server, and shows what they
 * say. It can also do on purpose what networks do by chance: cut a stream into
 * pieces, and delay, lose, double and reorder datagrams.
 *
 * Try it with a server of yours on port 7777:
 *
 *     deno run -A tools/between.ts -v 7777    # listening on tcp://[::]:8777
 *
 * A client of port 8777 now talks to that server, and you see both sides.
 *
 * @module
 */
import { parseArgs } from "jsr:@std/cli@^1/parse-args";
import dgram from "node:dgram";
import { once } from "node:events";
import net, { type Socket } from "node:net"; // Deno's own sends no resets
import { Duplex, Transform } from "node:stream";
import { setTimeout } from "node:timers";
import { chance } from "../echo_udp.ts";
import { aborted, announce, counted, delay, Failure } from "../utils.ts";
import { formatAddress, limited, log, parseNumber } from "../utils.ts";
import { parsePort, parseTarget, refuse, refuseUnknown } from "../utils.ts";
import { resolveOne, run, type Trace } from "../utils.ts";

const MOST_CLIENTS = 100; // over UDP, where nobody says that it leaves
const SILENCE = 60_000; // milliseconds, after which a client is dropped
const MOST_LANES = 6; // in a diagram
const HOLD = 20; // milliseconds, in which other datagrams overtake one
// Where to listen. On Windows, :: would take no IPv4.
const ANY = Deno.build.os === "windows" ? "0.0.0.0" : "::";
const SENDER = { ">": "the client", "<": "the server" };
const REASONS: Record<string, string> = { // what Node's codes mean
  EACCES: "it needs more rights",
  EADDRINUSE: "it is in use",
  ECONNREFUSED: "connection refused",
  ECONNRESET: "connection reset",
  EPIPE: "it closed early",
  ETIMEDOUT: "no answer in time",
};
const warn = limited(log);

/** What is relayed where, and what is to happen on the way. */
export interface Relay extends Faults {
  server: { hostname: string; port: number };
  film: (client: string) => Trace | undefined; // begins the trace of a client
  silence: number; // milliseconds, after which a client over UDP is dropped
}

/** One direction of an exchange: `>` goes to the server, `<` to the client. */
interface Way {
  mark: ">" | "<";
  name: string; // of the client
  trace?: Trace;
}

/** The lesson over TCP: passes on bytes, half-closes and resets. */
async function relayTcp(client: Socket, relay: Relay): Promise<void> {
  const { hostname: host, port } = relay.server;
  const server = net.connect({ host, port, allowHalfOpen: true });
  const { remoteAddress: hostname = "?", remotePort = 0 } = client;
  const name = formatAddress({ hostname, port: remotePort });
  const trace = relay.film(name);
  trace?.tcp("", ">SYN");
  server.on("connect", () => {
    trace?.tcp("connected", "<SYN, ACK", ">ACK");
    // A pipe reads no faster than it can write. Its end is a half-close.
    client.pipe(pieces(relay, { mark: ">", name, trace }, server)).pipe(server);
    server.pipe(pieces(relay, { mark: "<", name, trace }, client)).pipe(client);
  });
  passReset(client, server, { mark: ">", name, trace });
  passReset(server, client, { mark: "<", name, trace });
  await Promise.allSettled([once(client, "close"), once(server, "close")]);
}

function passReset(from: Socket, to: Socket, { mark, name, trace }: Way) {
  from.setNoDelay(true); // so that a piece is a segment
  from.on("error", ({ code = "", message }: NodeJS.ErrnoException) => {
    const why = `${SENDER[mark]}: ${REASONS[code] ?? message}`;
    warn(`${name} ${why}`);
    trace?.tcp(why, `${mark}RST`);
    to.resetAndDestroy();
  });
}

/** Cuts a stream into pieces, delays them, and shows them. */
function pieces({ chop, wait }: Relay, way: Way, to: Socket): Transform {
  const { mark, trace } = way;
  return new Transform({
    async transform(bytes: Uint8Array, _encoding, done) {
      const size = chop || bytes.length;
      if (size < bytes.length) tell(way, bytes, `in pieces of ${chop}`);
      if (wait) tell(way, bytes, `delayed by ${wait} ms`);
      for (let start = 0; start < bytes.length; start += size) {
        // Without a pause, the system would join the pieces again.
        if (chop || wait) await delay(wait || 1);
        if (to.destroyed) break; // it was reset meanwhile
        const piece = bytes.subarray(start, start + size);
        trace?.data(mark, piece);
        this.push(piece);
      }
      done();
    },
    flush(done) {
      trace?.tcp(`half-closed by ${SENDER[mark]}`, `${mark}FIN`);
      done();
    },
  });
}

/** The lesson over UDP: each client has a socket of its own to the server. */
export function relayUdp(listener: dgram.Socket, relay: Relay): void {
  const clients = new Map<string, Duplex>();
  listener.on("error", () => {}); // Windows tells that a client is gone
  listener.on("message", (question, { address: hostname, port }) => {
    const name = formatAddress({ hostname, port });
    const isNew = !clients.has(name);
    if (isNew && clients.size === MOST_CLIENTS) {
      return warn(`${name} ignored: there are ${MOST_CLIENTS} clients`);
    }
    const client = clients.get(name) ?? peer(listener, hostname, port);
    clients.set(name, client);
    if (isNew) join(client, name, relay, () => clients.delete(name));
    if (client.readableLength < 1000) client.push(question); // else it is lost
  });
}

/** Joins a client and the server, until both have been silent for long. */
function join(client: Duplex, name: string, relay: Relay, over: () => void) {
  const { hostname, port } = relay.server;
  const socket = dgram.createSocket(hostname.includes(":") ? "udp6" : "udp4");
  const server = peer(socket, hostname, port);
  const trace = relay.film(name);
  const silence = setTimeout(() => socket.close(over), relay.silence);
  client.on("data", () => silence.refresh());
  server.on("data", () => silence.refresh());
  client.pipe(disturb(relay, { mark: ">", name, trace })).pipe(server);
  server.pipe(disturb(relay, { mark: "<", name, trace })).pipe(client);
  socket.on("error", () => {}); // Windows tells that no server is there
  socket.on("message", (answer, from) => {
    if (from.address === hostname && from.port === port) server.push(answer);
  });
}

/** A peer over UDP, as a stream whose chunks are datagrams. */
function peer(socket: dgram.Socket, host: string, port: number): Duplex {
  return new Duplex({
    objectMode: true,
    read() {}, // the socket pushes what it receives
    write(datagram, _encoding, done) {
      // One after the other: Deno reorders what is sent at once.
      socket.send(datagram, port, host, () => done());
    },
  });
}

/** Does to datagrams what networks do by chance, and shows them. */
function disturb(relay: Relay, way: Way): Transform {
  const { mark, trace } = way;
  const happens = relay.happens[mark];
  return new Transform({
    objectMode: true,
    async transform(datagram: Uint8Array, _encoding, done) {
      done(); // the next datagram does not wait; push() works later, too
      const isLost = happens(relay.lose);
      const isDouble = happens(relay.double);
      const isHeld = happens(relay.swap);
      if (isLost) return tell(way, datagram, "lost");
      if (isDouble) tell(way, datagram, "doubled");
      if (isHeld) tell(way, datagram, "held back");
      if (relay.wait) tell(way, datagram, `delayed by ${relay.wait} ms`);
      const pause = isHeld ? relay.wait + HOLD : relay.wait;
      if (pause) await delay(pause);
      for (let copies = isDouble ? 2 : 1; copies > 0; copies--) {
        trace?.data(mark, datagram, "-)");
        this.push(datagram);
      }
    },
  });
}

/** Notes what was done to bytes on their way. */
function tell({ mark, trace }: Way, bytes: Uint8Array, act: string) {
  const size = counted(bytes.length, "byte");
  trace?.event(`${size} from ${SENDER[mark]} ${act}`);
}

/** Opens a port for IPv6 and IPv4. Fails with status 1. */
async function open(
  transport: "tcp" | "udp",
  port: number,
  host = ANY,
): Promise<net.Server | dgram.Socket> {
  const listener = transport === "tcp"
    ? net.createServer({ allowHalfOpen: true }).listen(port, host)
    : dgram.createSocket(host === "::" ? "udp6" : "udp4").bind(port, host);
  try {
    await once(listener, "listening");
    return listener;
  } catch (error) {
    const { code = "", message } = error as NodeJS.ErrnoException;
    if (code === "EAFNOSUPPORT") return open(transport, port, "0.0.0.0");
    const why = REASONS[code] ?? message;
    throw new Failure(1, `cannot listen on port ${port}: ${why}`);
  }
}

const USAGE = `between: a relay that shows what a client and a server say

usage: between [options] HOST[:PORT] | PORT    where the server is (port 7777)

  -p, --port PORT       listen here (the server's port + 1000, else a free one)
  -u, --udp             relay datagrams
      --once            TCP: end after the first connection
      --chop N          TCP: pass on pieces of N bytes
      --delay MS        delay each piece or datagram
      --lose PERCENT    UDP: lose this percentage of the datagrams
      --double PERCENT  UDP: send this percentage twice
      --swap PERCENT    UDP: hold so many back for 20 ms
      --seed N          UDP: pick other datagrams (1)
      --diagram FILE    draw the exchange into a Markdown file
  -v, --verbose         show what passes (-vv: every byte)
  -h, --help, -V, --version   print this text, or the version

examples: between 7777 -v --diagram mine.md   show what clients of 8777 do
          between --chop 1 example.com:80     each byte in its own segment
          between -u --lose 20 --seed 4 7777  lose a fifth of the datagrams
`;

const CHANCES = ["lose", "double", "swap", "seed"];

function parse(args: string[]) {
  return parseArgs(args, {
    string: ["_", "port", "diagram", "chop", "delay", ...CHANCES],
    boolean: ["help", "version", "verbose", "udp", "once"],
    collect: ["verbose"],
    alias: { h: "help", p: "port", u: "udp", v: "verbose", V: "version" },
    unknown: refuseUnknown,
  });
}

type Options = ReturnType<typeof parse>;

/** Gives each client a trace. In a diagram, those after six share a lane. */
function filming(trace?: Trace): Relay["film"] {
  const names = new Set<string>();
  return (name) => {
    if (names.size < MOST_LANES) names.add(name);
    return trace?.client(name, names.has(name) ? name : "others");
  };
}

/** Reads where the server is: a port alone is one of this machine. */
function parseServer([word, ...rest]: (string | number)[]) {
  if (word === undefined) throw new Failure(2, "the server's port is missing");
  const first = /^\d+$/.test(`${word}`) ? `localhost:${word}` : word;
  return parseTarget({ _: [first, ...rest] }, 7777);
}

type Faults = ReturnType<typeof parseFaults>;

/** Reads what is to happen on the way. */
function parseFaults(options: Options) {
  if (options.udp) refuse(options, ["once", "chop"], "is for TCP");
  else refuse(options, CHANCES, "is for UDP: add -u");
  const seed = parseNumber(options, "seed", 1, [0, 1e6]);
  return {
    chop: parseNumber(options, "chop", 0, [1, 65_536]), // bytes; 0: whole
    wait: parseNumber(options, "delay", 0, [0, 10_000]), // milliseconds
    lose: parseNumber(options, "lose", 0, [0, 100]), // of a hundred
    double: parseNumber(options, "double", 0, [0, 100]),
    swap: parseNumber(options, "swap", 0, [0, 100]),
    happens: { ">": chance(seed), "<": chance(seed + 1e6) },
  };
}

async function work(options: Options, signal: AbortSignal, trace?: Trace) {
  const faults = parseFaults(options);
  const target = parseServer(options._);
  const transport = options.udp ? "udp" : "tcp";
  const address = await resolveOne({ ...target, signal, trace });
  // Over TCP, Node tries all addresses of a name.
  const hostname = options.udp ? address : target.hostname;
  const server = { hostname, port: target.port };
  const usual = target.port + 1000; // if it is free
  const listener = options.port
    ? await open(transport, parsePort(options.port))
    : await open(transport, usual).catch(() => open(transport, 0));
  if (trace) trace.peer = formatAddress(server);
  const relay = { server, film: filming(trace), silence: SILENCE, ...faults };
  const over = Promise.withResolvers<void>();
  if (listener instanceof dgram.Socket) relayUdp(listener, relay);
  listener.on("connection", async (client: Socket) => {
    if (options.once) listener.close();
    await relayTcp(client, relay);
    if (options.once) over.resolve();
  });
  const own = listener.address() as net.AddressInfo;
  await announce({ ...own, transport, hostname: own.address }, false);
  aborted(signal).catch(over.resolve); // Ctrl-C is the usual end
  await over.promise;
}

/** Runs a command line. Returns the exit status. */
export function main(args: string[]): Promise<number> {
  return run({ name: "between", usage: USAGE, parse }, args, work);
}

if (import.meta.main) Deno.exit(await main(Deno.args));
