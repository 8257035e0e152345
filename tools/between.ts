#!/usr/bin/env -S deno run --unstable-net --allow-net --allow-write
/**
 * A relay that stands between any client and any server, and shows what they
 * say. On purpose, it can do what networks do: cut a stream into pieces; delay,
 * lose, double and reorder datagrams.
 *
 *     deno run -A tools/between.ts 7777 -v   clients of port 8777 reach 7777
 *
 * @module
 */
import { parseArgs } from "jsr:@std/cli@^1/parse-args";
import { once } from "node:events";
import net from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import type { Datagrams, Stream } from "../trace.ts";
import { aborted, announce, Failure, formatAddress, listen } from "../utils.ts";
import { needsUnstableNet, parseNumber, parsePort } from "../utils.ts";
import { parseTarget, reason, refuseUnknown, resolve, run } from "../utils.ts";
import type { Trace } from "../utils.ts";

const CLIENTS = 100; // over UDP
const SILENCE = 60_000; // milliseconds; then a client over UDP is forgotten

/** What happens on the way; the last three are percentages. */
interface Faults {
  chop: number; // bytes
  delay: number; // milliseconds
  lose: number;
  double: number;
  swap: number;
  random: () => number; // 0 to 1
}

/** A connection of Node's, as Deno has them: only Node's can send a reset. */
class Connection implements Stream {
  #pieces: AsyncIterator<Uint8Array>;

  constructor(readonly socket: net.Socket) {
    socket.setNoDelay(true); // each write is a segment
    socket.on("error", () => {}); // `read` and `write` throw it
    this.#pieces = socket.iterator({ destroyOnReturn: false });
  }

  async read(buffer: Uint8Array): Promise<number | null> {
    const { value, done } = await this.#pieces.next().catch(fail);
    if (done) return null;
    buffer.set(value); // at most 64 KiB
    return value.length;
  }

  async write(bytes: Uint8Array): Promise<number> {
    await new Promise<void>((resolve, reject) => {
      this.socket.write(bytes, (error) => error ? reject(error) : resolve());
    }).catch(fail);
    return bytes.length;
  }

  closeWrite(): Promise<void> {
    return new Promise((resolve) => this.socket.end(resolve));
  }

  close(): void {
    this.socket.destroy();
  }
}

function fail(error: Error & { code?: string }): never {
  const isReset = error.code === "ECONNRESET" || error.code === "EPIPE";
  throw isReset ? new Deno.errors.ConnectionReset(error.message) : error;
}

/** Passes on one direction, until that end half-closes. */
async function pump(from: Stream, to: Stream, faults: Faults): Promise<void> {
  const buffer = new Uint8Array(65_536);
  for (;;) {
    const length = await from.read(buffer);
    if (length === null) return await to.closeWrite();
    const size = faults.chop || length;
    for (let start = 0; start < length; start += size) {
      const pause = faults.delay || (faults.chop ? 1 : 0); // pieces stay apart
      if (pause > 0) await delay(pause);
      // While this waits, nothing is read: that is backpressure.
      await to.write(buffer.slice(start, Math.min(start + size, length)));
    }
  }
}

/** What is relayed, and how. */
interface Relay {
  server: { hostname: string; port: number };
  ports: number[]; // to listen on the first that is free
  faults: Faults;
  isOnce: boolean;
  lane: (client: string) => Trace | undefined;
  signal: AbortSignal;
}

/** Relays a connection. A reset at one end becomes a reset at the other. */
async function relay(client: net.Socket, { server, faults, lane }: Relay) {
  const { hostname: host, port } = server;
  const { remoteAddress = "", remotePort = 0 } = client;
  const name = formatAddress({ hostname: remoteAddress, port: remotePort });
  const trace = lane(name);
  const near = new Connection(client);
  const bare = new Connection(net.connect({ host, port, allowHalfOpen: true }));
  const far = trace ? trace.stream(bare, `${name} `) : bare;
  trace?.tcp(`${name} connected`, ">SYN", "<SYN, ACK", ">ACK");
  try {
    await Promise.all([pump(near, far, faults), pump(far, near, faults)]);
    far.close();
  } catch {
    near.socket.resetAndDestroy();
    bare.socket.resetAndDestroy();
    trace?.event(`${name} ended with a reset`);
  }
}

/** Relays connections until the signal aborts, or just one. */
async function relayTcp(options: Relay): Promise<void> {
  const { ports: [port, ...others], isOnce, signal } = options;
  const listener = net.createServer({ allowHalfOpen: true });
  try {
    await once(listener.listen(port, "::"), "listening");
  } catch (error) {
    if (others.length > 0) return relayTcp({ ...options, ports: others });
    throw new Failure(1, `cannot listen on port ${port}: ${reason(error)}`);
  }
  const { address, port: own } = listener.address() as net.AddressInfo;
  await announce({ transport: "tcp", hostname: address, port: own }, false);
  const first = Promise.withResolvers<void>();
  listener.on("connection", async (client) => {
    await relay(client, options);
    if (isOnce) first.resolve();
  });
  await Promise.race([first.promise, aborted(signal)]).catch(() => {});
  listener.close();
}

/** Passes on a datagram, or does to it what a network may do. */
async function pass(
  send: () => Promise<unknown>,
  name: string,
  faults: Faults,
  trace?: Trace,
): Promise<void> {
  const happens = (percent: number) => 100 * faults.random() < percent;
  const isLost = happens(faults.lose);
  const isDouble = happens(faults.double);
  const isLate = happens(faults.swap);
  if (isLost) return trace?.event(`${name} lost`);
  if (isDouble) trace?.event(`${name} doubled`);
  if (isLate) trace?.event(`${name} held back: others overtake it`);
  const wait = faults.delay + (isLate ? 20 : 0);
  if (wait > 0) await delay(wait);
  await send();
  if (isDouble) await send();
}

/** A client over UDP. It has a socket of its own to the server. */
class UdpClient {
  readonly #server: Deno.NetAddr;
  readonly #socket: Datagrams;
  readonly #trace?: Trace;
  #timer?: ReturnType<typeof setTimeout>;

  /** Passes datagrams on with `give`, to the server and back. */
  constructor(
    readonly relay: Relay,
    readonly name: string,
    readonly give: (datagram: Uint8Array) => Promise<unknown>,
  ) {
    this.#server = { transport: "udp", ...relay.server };
    const hostname = relay.server.hostname.includes(":") ? "::" : "0.0.0.0";
    const bare = openUdp({ hostname, port: 0 });
    this.#trace = relay.lane(name);
    this.#socket = this.#trace?.datagrams(bare, this.#server) ?? bare;
    this.#answer().catch(() => {}); // closed
  }

  ask(datagram: Uint8Array): void {
    const send = () => this.#socket.send(datagram, this.#server);
    pass(send, this.name, this.relay.faults, this.#trace);
  }

  async #answer(): Promise<void> {
    for (;;) {
      const [answer] = await this.#socket.receive(new Uint8Array(65_535));
      const { faults } = this.relay;
      pass(() => this.give(answer), this.name, faults, this.#trace);
    }
  }

  /** Closes the socket after a minute, unless it is called again. */
  expire(forget: () => void): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#socket.close();
      forget();
    }, SILENCE);
  }
}

function openUdp(at: { hostname: string; port: number }): Deno.DatagramConn {
  return Deno.listenDatagram({ transport: "udp", ...at });
}

/** Relays datagrams until the signal aborts. */
async function relayUdp(relay: Relay): Promise<void> {
  const [port, ...ports] = relay.ports;
  let socket: Deno.DatagramConn;
  try {
    socket = listen(openUdp, port);
  } catch (error) {
    if (ports.length > 0) return relayUdp({ ...relay, ports });
    throw error;
  }
  await announce(socket.addr as Deno.NetAddr, false);
  const clients = new Map<string, UdpClient>();
  const stop = aborted(relay.signal);
  for (;;) {
    const receiving = socket.receive(new Uint8Array(65_535));
    const next = await Promise.race([receiving, stop]).catch(() => undefined);
    if (!next) break;
    const [datagram, from] = next;
    const name = formatAddress(from as Deno.NetAddr);
    if (clients.size >= CLIENTS && !clients.has(name)) continue;
    const client = clients.get(name) ??
      new UdpClient(relay, name, (answer) => socket.send(answer, from));
    clients.set(name, client);
    client.expire(() => clients.delete(name));
    client.ask(datagram);
  }
  socket.close();
}

/** A generator of random numbers from 0 to 1, the same ones for a seed. */
function generator(seed: number): () => number {
  let state = 1 + seed * 48_271;
  return () => {
    state = (state * 48_271) % 2_147_483_647;
    return state / 2_147_483_647;
  };
}

const USAGE = `between: a relay that shows what a client and a server say

usage: between [options] [HOST:]PORT    where the server is

  -p, --port PORT       listen here (the server's port + 1000, or a free one)
  -u, --udp             relay datagrams
      --once            end after the first connection
      --chop N          TCP: pass on pieces of N bytes
      --delay MS        wait so long before each piece or datagram
      --lose PERCENT    UDP: lose datagrams
      --double PERCENT  UDP: send datagrams twice
      --swap PERCENT    UDP: hold datagrams back: others overtake them
      --seed N          do the same again (1)
      --diagram FILE    draw the exchange into a Markdown file
  -v, --verbose         show what passes (-vv: every byte)
  -h, --help, -V, --version
`;

function parse(args: string[]) {
  return parseArgs(args, {
    string: [
      ...["_", "port", "diagram", "chop", "delay"] as const,
      ...["lose", "double", "swap", "seed"] as const,
    ],
    boolean: ["help", "version", "verbose", "udp", "once"],
    collect: ["verbose"],
    alias: { h: "help", p: "port", u: "udp", v: "verbose", V: "version" },
    unknown: refuseUnknown,
  });
}

type Options = ReturnType<typeof parse>;

async function work(options: Options, signal: AbortSignal, trace?: Trace) {
  const [word = "", ...rest] = options._.map(String);
  const text = /^\d+$/.test(word) ? `localhost:${word}` : word;
  const target = parseTarget({ _: [text, ...rest] }, 7777);
  const faults = {
    chop: parseNumber(options, "chop", 0, [1, 65_536]),
    delay: parseNumber(options, "delay", 0, [0, 60_000]),
    lose: parseNumber(options, "lose", 0, [0, 100]),
    double: parseNumber(options, "double", 0, [0, 100]),
    swap: parseNumber(options, "swap", 0, [0, 100]),
    random: generator(parseNumber(options, "seed", 1, [0, 1e6])),
  };
  const [hostname] = await resolve({ ...target, signal, trace });
  const server = { hostname, port: target.port };
  if (trace) trace.peer = formatAddress(server);
  const names = new Set<string>();
  const lane = (name: string) => {
    // Of more than six clients, the others share a lane in the diagram.
    if (names.size < 6) names.add(name);
    return trace?.client(names.has(name) ? name : "others");
  };
  const usual = [target.port + 1000, 0].filter((port) => port <= 65_535);
  const ports = options.port ? [parsePort(options.port)] : usual;
  const relay = { server, ports, faults, isOnce: options.once, lane, signal };
  if (options.udp) needsUnstableNet("UDP");
  await (options.udp ? relayUdp : relayTcp)(relay);
}

if (import.meta.main) {
  const script = { name: "between", usage: USAGE };
  Deno.exit(await run(script, () => parse(Deno.args), work));
}
