/**
 * Mistreats the servers for minutes or days, and prints how much memory each of
 * them has. Connections come and go, are reset at every stage, are never read
 * from or written to byte by byte, and 3,000 are idle. Datagrams come in floods
 * from many ports. All the while other clients behave well, and compare each
 * byte. What a server did wrong ends the soak.
 *
 * @module
 */
import { parseArgs } from "jsr:@std/cli@^1/parse-args";
import { once } from "node:events";
import { connect } from "node:net";
import { aborted, delay, Failure, log, parseNumber, reason } from "../utils.ts";
import { refuseUnknown, run, writeAll } from "../utils.ts";
import { ask, head, ours, row, type Server, Workbench } from "./workbench.ts";

const HOSTNAME = "127.0.0.1";
const PAUSE = 30; // seconds between two rows of the table

let open = 0; // connections

/** Up to so many random bytes, which are 65,536 at most. */
function random(most: number): Uint8Array<ArrayBuffer> {
  const length = Math.ceil(Math.random() * most);
  return crypto.getRandomValues(new Uint8Array(length));
}

/** Fails with status 8 if the bytes are not the same. */
function compare(answer: Uint8Array, sent: Uint8Array): void {
  const isSame = answer.length === sent.length &&
    answer.every((byte, i) => byte === sent[i]);
  if (!isSame) throw new Failure(8, "what came back is not what was sent");
}

/** Connects, for 30 s at most, and closes in the end. */
async function visit(
  { port }: Server,
  use: (conn: Deno.TcpConn) => Promise<unknown>,
): Promise<void> {
  using conn = await Deno.connect({ hostname: HOSTNAME, port });
  const timer = setTimeout(() => conn[Symbol.dispose](), 30_000);
  open++;
  try {
    await use(conn);
  } finally {
    open--;
    clearTimeout(timer);
  }
}

/** A well-behaved client: what it sends comes back, and then the end. */
async function exchange(conn: Deno.TcpConn): Promise<void> {
  const sent = random(65_536);
  const reading = new Response(conn.readable).bytes();
  await writeAll(conn, sent);
  await conn.closeWrite();
  compare(await reading, sent);
}

/** Resets a connection at a random stage, or else closes it there. */
async function reset({ port }: Server): Promise<void> {
  const socket = connect(port, HOSTNAME); // Deno's own cannot reset
  socket.on("error", () => {}); // the server may close it meanwhile
  await once(socket, "connect");
  open++;
  const stage = Math.floor(Math.random() * 5);
  if (stage > 0) socket.write(random(10_000));
  if (stage > 1) await delay(10 * Math.random());
  if (stage > 2) socket.end();
  if (stage > 3) await delay(10 * Math.random());
  if (Math.random() < 0.2) socket.destroy();
  else socket.resetAndDestroy();
  open--;
}

/** Sends for 4 s, and never reads: the server can soon send no more. */
async function neverRead(conn: Deno.TcpConn): Promise<void> {
  const bytes = random(65_536);
  const send = async () => {
    for (;;) await writeAll(conn, bytes);
  };
  await Promise.race([send(), delay(4000)]);
}

async function writeSlowly(conn: Deno.TcpConn): Promise<void> {
  const answer = new Uint8Array(1);
  for (let i = 0; i < 40; i++) {
    const byte = random(1);
    await conn.write(byte);
    await conn.read(answer);
    compare(answer, byte);
    await delay(100);
  }
}

/** Opens a UDP port: each one is another peer. */
async function withSocket(
  { port }: Server,
  use: (socket: Deno.DatagramConn, to: Deno.NetAddr) => Promise<unknown>,
): Promise<void> {
  const at = { hostname: HOSTNAME, transport: "udp" } as const;
  const socket = Deno.listenDatagram({ ...at, port: 0 });
  try {
    await use(socket, { ...at, port });
  } finally {
    socket.close();
  }
}

async function flood(socket: Deno.DatagramConn, to: Deno.NetAddr) {
  for (let i = 0; i < 50; i++) await socket.send(random(100), to);
  await delay(10);
}

/** Sends a datagram again and again, as it may be lost, until it is back. */
async function exchangeUdp(socket: Deno.DatagramConn, to: Deno.NetAddr) {
  const sent = random(60_000);
  const receiving = socket.receive(new Uint8Array(65_535));
  for (let i = 0; i < 20; i++) {
    await socket.send(sent, to);
    const received = await Promise.race([receiving, delay(500)]);
    if (received) return compare(received[0], sent);
  }
  throw new Failure(28, "no answer");
}

async function askTime(conn: Deno.TcpConn): Promise<void> {
  const line = await new Response(conn.readable).text();
  if (!/^\w+day, .*UTC\r\n$/.test(line)) throw new Failure(8, line);
}

/** What is done, by how many at once. */
type Abuse = [name: string, workers: number, work: () => Promise<unknown>];

/** Does it until the signal aborts. Returns how often it was done. */
async function repeat([name, workers, work]: Abuse, signal: AbortSignal) {
  let done = 0;
  const worker = async () => {
    while (!signal.aborted) {
      await work();
      done++;
    }
  };
  try {
    await Promise.all(Array.from({ length: workers }, worker));
  } catch (error) {
    throw new Failure(1, `${name}: ${reason(error)}`, error);
  }
  return `${name}: ${done} times`;
}

function plan([tcp, udp, time]: Server[]): Abuse[] {
  const idle = () => delay(20_000 * Math.random());
  return [
    ["TCP, all bytes compared", 8, () => visit(tcp, exchange)],
    ["TCP, reset at some stage", 8, () => reset(tcp)],
    ["TCP, never read", 8, () => visit(tcp, neverRead)],
    ["TCP, byte by byte", 50, () => visit(tcp, writeSlowly)],
    ["TCP, idle for up to 20 s", 3000, () => visit(tcp, idle)],
    ["UDP, all bytes compared", 4, () => withSocket(udp, exchangeUdp)],
    ["UDP, 50 datagrams", 4, () => withSocket(udp, flood)],
    ["daytime, line compared", 4, () => visit(time, askTime)],
    ["daytime, reset at some stage", 4, () => reset(time)],
    ["daytime, 50 datagrams", 2, () => withSocket(time, flood)],
  ];
}

/** A server's memory, and how much it logs. */
class Watched {
  #lines = 0;
  #told = performance.now();

  constructor(readonly server: Server) {
    this.#count();
  }

  async #count(): Promise<void> {
    for await (const text of this.server.log) {
      this.#lines += text.split("\n").length - 1;
    }
  }

  /** Returns a cell of the table. Throws if the server has ended. */
  async tell(): Promise<string> {
    const { name, pid } = this.server;
    const kilobytes = await ask("ps", "-o", "rss=", "-p", `${pid}`);
    if (!kilobytes) throw new Failure(1, `${name} has ended`);
    const now = performance.now();
    const rate = Math.round(1000 * this.#lines / (now - this.#told));
    this.#told = now;
    this.#lines = 0;
    return `${Math.round(Number(kilobytes) / 1024)} MiB, ${rate}/s`;
  }
}

/** Prints a table of the servers' memory, and of their lines a second. */
async function watch(servers: Server[], signal: AbortSignal): Promise<never> {
  const watched = servers.map((server) => new Watched(server));
  log(head("memory, log", servers.map(({ name }) => name)));
  for (let seconds = 0;; seconds += PAUSE) {
    const label = `${seconds / 60} min, ${open} open`;
    const cells = await Promise.all(watched.map((each) => each.tell()));
    log(row(label, cells));
    await Promise.race([delay(1000 * PAUSE), aborted(signal)]);
  }
}

const USAGE = `soak: mistreats the servers, and prints their memory

usage: deno task soak [--minutes N]    for so many minutes (15)
`;

const OPTIONS = {
  string: ["_", "minutes"],
  boolean: ["help", "version"],
  unknown: refuseUnknown,
} as const;

/** Runs a command line. Returns the exit status. */
export function main(args: string[]): Promise<number> {
  const parse = (args: string[]) => ({
    ...parseArgs(args, OPTIONS),
    verbose: [],
  });
  const script = { name: "soak", usage: USAGE, parse };
  return run(script, args, async (options, signal) => {
    const minutes = parseNumber(options, "minutes", 15, [0, 1e4]);
    await using workbench = new Workbench(signal);
    const time = ours("daytime.ts", "--serve");
    const peers = [ours("echo_tcp.ts"), ours("echo_udp.ts"), time];
    const servers = await workbench.serveAll(peers, log);
    const watching = watch(servers, signal);
    const limit = AbortSignal.timeout(60_000 * minutes);
    const working = plan(servers).map((abuse) => repeat(abuse, limit));
    const lines = await Promise.race([Promise.all(working), watching]);
    await Promise.race([delay(120_000), watching]); // all are closed now
    for (const line of lines) log(line);
  });
}

if (import.meta.main) Deno.exit(await main(Deno.args));
