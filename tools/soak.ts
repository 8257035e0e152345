/**
 * Mistreats the servers for hours, and prints how much memory each of them
 * has. Connections come and go, are reset at every stage, are never read from
 * or written to byte by byte; datagrams come in floods from many ports. All
 * the while other clients behave well, and compare each byte.
 *
 * @module
 */
import { parseArgs } from "jsr:@std/cli@^1/parse-args";
import { setTimeout as delay } from "node:timers/promises";
import { Failure, log, parseNumber } from "../utils.ts";
import { refuseUnknown, run, writeAll } from "../utils.ts";
import { ask, ours, type Server, Workbench } from "./workbench.ts";

const HOSTNAME = "127.0.0.1";

/** Up to so many random bytes, which are 65,536 at most. */
function random(most: number): Uint8Array<ArrayBuffer> {
  const length = Math.ceil(Math.random() * most);
  return crypto.getRandomValues(new Uint8Array(length));
}

/** Throws a {@linkcode Failure} of 8 if the bytes are not the same. */
function compare(answer: Uint8Array, sent: Uint8Array): void {
  const isSame = answer.length === sent.length &&
    answer.every((byte, i) => byte === sent[i]);
  if (!isSame) throw new Failure(8, "what came back is not what was sent");
}

/** Connects, for 20 s at most, and closes in the end. */
async function visit(
  { port }: Server,
  use: (conn: Deno.TcpConn) => Promise<unknown>,
): Promise<void> {
  using conn = await Deno.connect({ hostname: HOSTNAME, port });
  const timer = setTimeout(() => conn[Symbol.dispose](), 20_000);
  try {
    await use(conn);
  } finally {
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

/** Closes at a random stage. What arrives later is answered by a reset. */
async function reset(conn: Deno.TcpConn): Promise<void> {
  const stage = Math.floor(Math.random() * 4);
  if (stage > 0) await conn.write(random(10_000));
  if (stage > 1) await delay(Math.random() * 10); // unread: close is a reset
  if (stage > 2) await conn.closeWrite();
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

async function exchangeUdp(socket: Deno.DatagramConn, to: Deno.NetAddr) {
  const sent = random(60_000);
  await socket.send(sent, to);
  const receiving = socket.receive(new Uint8Array(65_535));
  const received = await Promise.race([receiving, delay(1000)]);
  if (!received) throw new Error("it was lost");
  compare(received[0], sent);
}

async function askTime(conn: Deno.TcpConn): Promise<void> {
  const line = await new Response(conn.readable).text();
  if (!/^\w+day, .*UTC\r\n$/.test(line)) throw new Failure(8, line);
}

/** What is done, by how many at once. */
type Abuse = [name: string, workers: number, work: () => Promise<unknown>];

/** Does it until the signal aborts. Throws if an answer is wrong. */
async function repeat([name, workers, work]: Abuse, signal: AbortSignal) {
  let done = 0;
  let failed = 0;
  const worker = async () => {
    while (!signal.aborted) {
      try {
        await work();
        done++;
      } catch (error) {
        if (error instanceof Failure) throw error;
        failed++; // a lost datagram, say
        await delay(10);
      }
    }
  };
  await Promise.all(Array.from({ length: workers }, worker));
  return `${name}: ${done} times, ${failed} failed`;
}

function plan([tcp, udp, time]: Server[]): Abuse[] {
  return [
    ["TCP, all bytes compared", 8, () => visit(tcp, exchange)],
    ["TCP, closed at some stage", 8, () => visit(tcp, reset)],
    ["TCP, never read", 8, () => visit(tcp, neverRead)],
    ["TCP, byte by byte", 50, () => visit(tcp, writeSlowly)],
    ["TCP, idle for 10 s", 1000, () => visit(tcp, () => delay(10_000))],
    ["UDP, all bytes compared", 4, () => withSocket(udp, exchangeUdp)],
    ["UDP, 50 datagrams", 4, () => withSocket(udp, flood)],
    ["daytime, line compared", 4, () => visit(time, askTime)],
    ["daytime, closed at some stage", 4, () => visit(time, reset)],
    ["daytime, 50 datagrams", 2, () => withSocket(time, flood)],
  ];
}

/** Prints the servers' memory every 15 s. Throws if one of them has ended. */
async function watch(servers: Server[], signal: AbortSignal): Promise<never> {
  const started = performance.now();
  for (;;) {
    const seconds = Math.round((performance.now() - started) / 1000);
    let line = `${seconds} s:`;
    for (const { name, pid } of servers) {
      const kilobytes = await ask("ps", "-o", "rss=", "-p", `${pid}`);
      if (!kilobytes) throw new Failure(1, `${name} has ended`);
      line += ` ${name} ${Math.round(Number(kilobytes) / 1024)} MiB`;
    }
    log(line);
    await delay(15_000, undefined, { signal });
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
    log("all connections are closed");
    await Promise.race([delay(30_000), watching]);
    for (const line of lines) log(line);
  });
}

if (import.meta.main) Deno.exit(await main(Deno.args));
