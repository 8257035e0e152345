#!/usr/bin/env -S deno run --unstable-net --allow-net --allow-sys=networkInterfaces
/**
 * A relay that stands between any client and any server, and shows what they
 * say. It can also do on purpose what networks do by chance: cut a stream into
 * pieces, and delay, lose, double and reorder datagrams.
 *
 * Try it with a server of yours on port 7777:
 *
 *     deno run -A tools/between.ts -v 7777    listening on tcp://[::]:8777
 *
 * A client of port 8777 now talks to that server, and you see both sides.
 *
 * @module
 */
import { parseArgs } from "jsr:@std/cli@^1/parse-args";
import { once } from "node:events";
import net, { type Socket } from "node:net"; // Deno's own sends no resets
import { setTimeout as startTimer } from "node:timers";
import { setTimeout as delay } from "node:timers/promises";
import {
  aborted,
  announce,
  counted,
  Failure,
  formatAddress,
} from "../utils.ts";
import { isClosed, limited, listen, log, needsUnstableNet } from "../utils.ts";
import {
  parseNumber,
  parsePort,
  parseTarget,
  reason,
  refuse,
} from "../utils.ts";
import { refuseUnknown, resolve, run, type Trace } from "../utils.ts";

const MOST_CLIENTS = 100; // over UDP, where nobody says that it leaves
const SILENCE = 60_000; // milliseconds, after which such a client is forgotten
const MOST_LANES = 6; // in a diagram

/** `>` goes to the server, `<` to the client. */
type Mark = ">" | "<";
const SENDER = { ">": "the client", "<": "the server" };

/** What is relayed, and what is to happen on the way. */
interface Relay {
  server: { hostname: string; port: number };
  chop: number; // bytes of a piece; 0: as they come
  wait: number; // milliseconds
  /** whether this happens to the next datagram */
  happens: (what: "lose" | "double" | "swap", mark: Mark) => boolean;
  /** begins the trace of a client */
  trace: (client: string) => Trace | undefined;
}

const warn = limited(log);

/** Passes on one direction of a connection, and its half-close in the end. */
async function pump(
  from: Socket,
  to: Socket,
  { chop, wait }: Relay,
  show: (piece: Uint8Array) => void,
): Promise<void> {
  const pause = wait || (chop ? 1 : 0); // so that pieces arrive one by one
  for await (const bytes of from.iterator({ destroyOnReturn: false })) {
    const size = chop || bytes.length;
    for (let start = 0; start < bytes.length; start += size) {
      const piece = bytes.subarray(start, start + size);
      if (pause > 0) await delay(pause);
      show(piece);
      // While this waits, nothing is read: TCP then slows the sender down.
      await new Promise<void>((resolve, reject) => {
        to.write(piece, (error) => error ? reject(error) : resolve());
      });
    }
  }
  await new Promise<void>((resolve) => to.end(resolve));
}

/** Relays a connection. A reset at one end becomes a reset at the other. */
async function relayConnection(client: Socket, relay: Relay): Promise<void> {
  const { remoteAddress: hostname = "?", remotePort = 0 } = client;
  const name = formatAddress({ hostname, port: remotePort });
  const trace = relay.trace(name);
  const { hostname: host, port } = relay.server;
  const server = net.connect({ host, port, allowHalfOpen: true });
  trace?.tcp("", ">SYN");
  server.on("connect", () => {
    trace?.tcp(`${name} connected`, "<SYN, ACK", ">ACK");
  });
  async function direction(mark: Mark, from: Socket, to: Socket) {
    from.setNoDelay(true); // each write is a segment
    from.on("error", (error) => {
      to.resetAndDestroy();
      const what = `${name} ${SENDER[mark]}: ${explain(error)}`;
      warn(what);
      trace?.tcp(what, `${mark}RST`);
    });
    await pump(from, to, relay, (piece) => {
      trace?.data(mark, piece, `${name} `);
    });
    trace?.tcp(`${name} half-closed by ${SENDER[mark]}`, `${mark}FIN`);
  }
  const both = [direction(">", client, server), direction("<", server, client)];
  await Promise.allSettled(both);
}

/** What the codes of Node's errors mean. */
const REASONS: Record<string, string> = {
  ...{ ECONNREFUSED: "connection refused", ECONNRESET: "connection reset" },
  ...{ EADDRINUSE: "it is in use", EACCES: "it needs more rights" },
  ...{ ETIMEDOUT: "no answer in time", EPIPE: "connection reset" },
};

function explain(error: Error & { code?: string }): string {
  return REASONS[error.code ?? ""] ?? reason(error);
}

async function listenTcp(port: number): Promise<net.Server> {
  const listener = net.createServer({ allowHalfOpen: true });
  const host = Deno.build.os === "windows" ? "0.0.0.0" : undefined;
  await once(listener.listen(port, host), "listening").catch((error) => {
    throw new Failure(1, `cannot listen on port ${port}: ${explain(error)}`);
  });
  return listener;
}

/** Relays connections side by side, or only the first. */
async function relayTcp(ports: number[], relay: Relay, isOnce: boolean) {
  const listener = await firstFree(ports, listenTcp);
  const { address: hostname, port } = listener.address() as net.AddressInfo;
  await announce({ transport: "tcp", hostname, port }, false);
  await new Promise<void>((resolve) => {
    listener.on("connection", async (client) => {
      if (isOnce) listener.close();
      await relayConnection(client, relay);
      if (isOnce) resolve();
    });
  });
}

/** One direction of a client's datagrams. */
class Path {
  #sending: Promise<unknown> = Promise.resolve(); // one after the other
  #next = Promise.withResolvers<void>(); // when the next datagram has passed

  constructor(
    readonly mark: Mark,
    readonly name: string,
    readonly relay: Relay,
    readonly send: (datagram: Uint8Array) => Promise<unknown>,
    readonly trace?: Trace,
  ) {}

  /** Passes on a datagram, or does to it what a network may do. */
  async pass(datagram: Uint8Array): Promise<void> {
    const { mark, name, relay: { happens, wait } } = this;
    const isLost = happens("lose", mark);
    const isDouble = happens("double", mark);
    const isSwapped = happens("swap", mark);
    const what = `${counted(datagram.length, "byte")} from ${SENDER[mark]}`;
    const tell = (fate: string) => this.trace?.event(`${name} ${what} ${fate}`);
    if (isLost) return tell("lost");
    if (isDouble) tell("doubled");
    if (isSwapped) tell("held back");
    if (wait > 0) await delay(wait);
    if (isSwapped) await Promise.race([this.#next.promise, delay(1000)]);
    for (let copies = isDouble ? 2 : 1; copies > 0; copies--) {
      this.trace?.data(mark, datagram, `${name} `, "-)");
      this.#sending = this.#sending.then(() => this.send(datagram))
        .catch((error) => warn(`${name} ${reason(error)}`));
    }
    this.#next.resolve();
    this.#next = Promise.withResolvers();
  }
}

/** A client over UDP. It has a socket of its own to the server. */
class Client {
  readonly #socket: Deno.DatagramConn;
  readonly #timer = startTimer(() => this.#socket.close(), SILENCE);
  readonly #questions: Path;
  readonly #answers: Path;

  constructor(name: string, readonly relay: Relay, back: Path["send"]) {
    const server = { transport: "udp", ...relay.server } as const;
    const hostname = server.hostname.includes(":") ? "::" : "0.0.0.0";
    const socket = openUdp({ hostname, port: 0 });
    const send = (question: Uint8Array) => socket.send(question, server);
    const trace = relay.trace(name);
    this.#socket = socket;
    this.#questions = new Path(">", name, relay, send, trace);
    this.#answers = new Path("<", name, relay, back, trace);
  }

  ask(question: Uint8Array): void {
    this.#timer.refresh();
    this.#questions.pass(question);
  }

  /** Passes on the answers, until nothing has passed for a minute. */
  async receive(): Promise<void> {
    const server = formatAddress(this.relay.server);
    for await (const [answer, from] of datagrams(this.#socket)) {
      if (formatAddress(from) !== server) continue; // it was not asked
      this.#timer.refresh();
      this.#answers.pass(answer);
    }
    this.#answers.trace?.event(`${this.#answers.name} forgotten`);
  }
}

function openUdp(at: { hostname: string; port: number }): Deno.DatagramConn {
  return Deno.listenDatagram({ transport: "udp", ...at });
}

/** Yields datagrams and their senders, until the socket is closed. */
async function* datagrams(socket: Deno.DatagramConn) {
  for (;;) {
    try {
      const [datagram, from] = await socket.receive(new Uint8Array(65_535));
      yield [datagram, from as Deno.NetAddr] as const;
    } catch (error) {
      if (isClosed(error)) return;
      // Otherwise one peer cannot be reached, as Windows tells here.
    }
  }
}

/** Relays datagrams between the server and all clients. */
async function relayUdp(ports: number[], relay: Relay): Promise<void> {
  const open = (port: number) => Promise.try(() => listen(openUdp, port));
  const socket = await firstFree(ports, open);
  await announce(socket.addr as Deno.NetAddr, false);
  const clients = new Map<string, Client>();
  for await (const [datagram, from] of datagrams(socket)) {
    const name = formatAddress(from);
    let client = clients.get(name);
    if (!client && clients.size >= MOST_CLIENTS) {
      warn(`${name} ignored: there are ${MOST_CLIENTS} clients`);
      continue;
    }
    if (!client) {
      client = new Client(name, relay, (answer) => socket.send(answer, from));
      clients.set(name, client);
      client.receive().then(() => clients.delete(name));
    }
    client.ask(datagram);
  }
}

/** Listens on the first of these ports that is free. */
async function firstFree<Listener>(
  [port, ...others]: number[],
  open: (port: number) => Promise<Listener>,
): Promise<Listener> {
  try {
    return await open(port);
  } catch (error) {
    if (others.length === 0) throw error;
    return firstFree(others, open);
  }
}

/** Lehmer's generator: numbers from 0 to 1, for a seed always the same. */
function random(seed: number): () => number {
  let state = 1 + seed * 48_271;
  return () => {
    state = (state * 48_271) % 2_147_483_647;
    return state / 2_147_483_647;
  };
}

const USAGE = `between: a relay that shows what a client and a server say

usage: between [options] HOST[:PORT] | PORT    where the server is (port 7777)

  -p, --port PORT       listen here (the server's port + 1000, else a free one)
  -u, --udp             relay datagrams
      --once            TCP: end after the first connection
      --chop N          TCP: pass on pieces of N bytes
      --delay MS        delay each piece or datagram
      --lose PERCENT    UDP: lose so many datagrams of a hundred
      --double PERCENT  UDP: send so many twice
      --swap PERCENT    UDP: hold so many back until the next one has passed
      --seed N          let chance decide as it did before
      --diagram FILE    draw the exchange into a Markdown file
  -v, --verbose         show what passes (-vv: every byte)
  -h, --help, -V, --version   print this text, or the version

examples: between 7777 -v --diagram mine.md   show what clients of 8777 do
          between --chop 1 example.com:80     each byte in its own segment
          between -u --lose 20 --seed 4 7777  lose a fifth of the datagrams
`;

const CHANCES = ["lose", "double", "swap"] as const;

function parse(args: string[]) {
  return parseArgs(args, {
    string: ["_", "port", "diagram", "chop", "delay", "seed", ...CHANCES],
    boolean: ["help", "version", "verbose", "udp", "once"],
    collect: ["verbose"],
    alias: { h: "help", p: "port", u: "udp", v: "verbose", V: "version" },
    unknown: refuseUnknown,
  });
}

type Options = ReturnType<typeof parse>;

/** Reads how often what is to happen to datagrams, and returns what decides. */
function parseChances(options: Options, seed: number): Relay["happens"] {
  const percent = (name: string) => parseNumber(options, name, 0, [0, 100]);
  const chances = Object.fromEntries(CHANCES.map((n) => [n, percent(n)]));
  // One direction decides without regard to the other.
  const draw = { ">": random(seed), "<": random(seed + 1e6) };
  return (what, mark) => 100 * draw[mark]() < chances[what];
}

/** Gives the clients lanes in the diagram: beyond six, they share one. */
function lanes(trace: Trace | undefined, chop: number, wait: number) {
  const names = new Set<string>();
  return (name: string) => {
    if (names.size < MOST_LANES) names.add(name);
    const lane = trace?.client(names.has(name) ? name : "others");
    if (chop) lane?.event(`${name} in pieces of ${counted(chop, "byte")}`);
    if (wait) lane?.event(`${name} delayed by ${wait} ms`);
    return lane;
  };
}

/** Reads where the server is: a port alone is one of this machine. */
function parseServer([word, ...rest]: (string | number)[]) {
  if (word === undefined) throw new Failure(2, "the server's port is missing");
  const isPort = /^\d+$/.test(`${word}`);
  return parseTarget(
    { _: [isPort ? `localhost:${word}` : word, ...rest] },
    7777,
  );
}

async function work(options: Options, signal: AbortSignal, trace?: Trace) {
  const isUdp = options.udp;
  if (isUdp) refuse(options, ["once", "chop"], "is for TCP");
  else refuse(options, [...CHANCES, "seed"], "is for UDP: add -u");
  const target = parseServer(options._);
  const usual = [target.port + 1000, 0].filter((port) => port <= 65_535);
  const ports = options.port ? [parsePort(options.port)] : usual;
  const chop = parseNumber(options, "chop", 0, [1, 65_536]);
  const wait = parseNumber(options, "delay", 0, [0, 60_000]);
  const any = Math.floor(1e6 * Math.random());
  const seed = parseNumber(options, "seed", any, [0, 1e6]);
  const happens = parseChances(options, seed);
  if (isUdp) needsUnstableNet("UDP");
  const found = await resolve({ ...target, signal, trace });
  const ipv4 = found.find((address) => !address.includes(":"));
  // Over TCP, Node tries all addresses of a name.
  const hostname = isUdp ? ipv4 ?? found[0] : target.hostname;
  const server = { hostname, port: target.port };
  if (trace) trace.peer = formatAddress(server);
  const begin = lanes(trace, chop, wait);
  const relay = { server, chop, wait, happens, trace: begin };
  const relaying = isUdp
    ? relayUdp(ports, relay)
    : relayTcp(ports, relay, options.once);
  await Promise.race([relaying, aborted(signal)]).catch((error) => {
    if (!signal.aborted) throw error; // Ctrl-C is the usual end
  });
  const isByChance = CHANCES.some((name) => options[name]);
  if (isByChance) log(`--seed ${seed} lets the same happen again`);
}

/** Runs a command line. Returns the exit status. */
export function main(args: string[]): Promise<number> {
  const script = { name: "between", usage: USAGE };
  return run(script, () => parse(args), work);
}

if (import.meta.main) Deno.exit(await main(Deno.args));
