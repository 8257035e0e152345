#!/usr/bin/env -S deno run --unstable-net --allow-net --allow-env=TERM
/**
 * All four scripts on this machine, without the internet. It starts the
 * servers and a small web server on free ports of the loopback interface, runs
 * each client against them with `-v`, and says in the end which ones worked.
 *
 *     deno task demo
 *
 * @module
 */
import { parseArgs } from "jsr:@std/cli@^1/parse-args";
import { setTimeout as delay } from "node:timers/promises";
import * as daytime from "../daytime.ts";
import * as echoTcp from "../echo_tcp.ts";
import * as echoUdp from "../echo_udp.ts";
import * as httpGet from "../http_get.ts";
import { Trace } from "../trace.ts";
import { complain, connect, Failure, formatAddress } from "../utils.ts";
import { needsUnstableNet, openUdp, output, reason } from "../utils.ts";
import { refuseUnknown, run } from "../utils.ts";

const FREE = { hostname: "127.0.0.1", port: 0 };
const TEXT = "Bonjour !\n";
const BOLD = "font-weight: bold";
const TIMEOUT = 5000; // milliseconds

/** An exercise: a command line, and what it shows. */
export interface Exercise {
  title: string;
  script: string;
  args: string;
  /** returns an exit status, or nothing if all is well */
  run: (args: string[]) => Promise<number | void>;
}

/** Where the servers listen. */
interface Servers {
  tcp: Deno.NetAddr;
  udp: Deno.NetAddr;
  daytime: Deno.NetAddr;
  web: Deno.NetAddr;
}

/** A page in two pieces of unknown length: the answer is chunked. */
function page(): Response {
  async function* pieces() {
    yield "<h1>It works</h1>\n";
    await delay(20);
    yield "<p>in two chunks\n";
  }
  const text = ReadableStream.from(pieces());
  return new Response(text.pipeThrough(new TextEncoderStream()));
}

/** Starts the servers; they end with the signal. */
function startServers(signal: AbortSignal): Servers {
  const open = (port = 0) =>
    Deno.listenDatagram({ ...FREE, port, transport: "udp" });
  const listener = Deno.listen(FREE);
  const socket = open();
  const clock = Deno.listen(FREE);
  const clockSocket = open(clock.addr.port);
  echoTcp.serve({ listener, signal });
  echoUdp.serve({ socket, signal });
  daytime.serve({ listener: clock, socket: clockSocket, signal });
  const web = Deno.serve({ ...FREE, signal, onListen: () => {} }, page);
  return {
    tcp: listener.addr,
    udp: socket.addr as Deno.NetAddr,
    daytime: clock.addr,
    web: web.addr,
  };
}

/** Sends a text as an echo client does, and checks that it comes back. */
async function sendText(
  talk: (options: {
    input: ReadableStream<Uint8Array>;
    output: (bytes: Uint8Array) => Promise<void>;
    timeout: number;
  }) => Promise<void>,
): Promise<void> {
  let back = "";
  const show = async (bytes: Uint8Array) => {
    back += new TextDecoder().decode(bytes);
    await output(bytes);
  };
  const input = ReadableStream.from([new TextEncoder().encode(TEXT)]);
  await talk({ input, output: show, timeout: TIMEOUT });
  if (back !== TEXT) throw new Failure(8, `"${back}" came back`);
}

async function talkTcp(to: Deno.NetAddr, signal: AbortSignal): Promise<void> {
  const trace = new Trace("echo_tcp", 1);
  using socket = await connect({ ...to, signal, trace });
  const conn = trace.stream(socket);
  await sendText((options) => echoTcp.talk({ ...options, conn }));
}

async function talkUdp(to: Deno.NetAddr, signal: AbortSignal): Promise<void> {
  const trace = new Trace("echo_udp", 1);
  const { socket } = await openUdp({ ...to, signal, trace });
  await sendText((options) => echoUdp.talk({ ...options, socket, to }));
}

/** The exercises, against these servers. */
function exercises(servers: Servers, signal: AbortSignal): Exercise[] {
  const { tcp, udp, web } = servers;
  const clock = formatAddress(servers.daytime);
  return [{
    title: "daytime over TCP: whoever connects is told the time",
    script: "daytime",
    args: `-v ${clock}`,
    run: daytime.main,
  }, {
    title: "daytime over UDP: an empty datagram is the question",
    script: "daytime",
    args: `-v -u ${clock}`,
    run: daytime.main,
  }, {
    title: "HTTP: the request is text, and this answer comes in chunks",
    script: "http_get",
    args: `-v http://${formatAddress(web)}/`,
    run: httpGet.main,
  }, {
    title: "echo over TCP: the half-close says that nothing more comes",
    script: "echo_tcp",
    args: `-v ${formatAddress(tcp)}`,
    run: () => talkTcp(tcp, signal),
  }, {
    title: "echo over UDP: no handshake, and no end",
    script: "echo_udp",
    args: `-v ${formatAddress(udp)}`,
    run: () => talkUdp(udp, signal),
  }];
}

/** Runs the exercises one by one. Returns whether all of them worked. */
export async function demonstrate(
  all: Exercise[],
  signal: AbortSignal,
): Promise<boolean> {
  const failures = new Map<string, string>();
  for (const { title, script, args, run } of all) {
    const typed = script.startsWith("echo") ? `echo '${TEXT.trim()}' | ` : "";
    console.log(`%c${title}`, `${BOLD}; color: cyan`);
    console.log(`%c$ ${typed}deno run -A ${script}.ts ${args}`, BOLD);
    try {
      const status = await run(args.split(" ")) ?? 0;
      if (status !== 0) throw new Failure(status, `exit status ${status}`);
    } catch (error) {
      failures.set(script, reason(error));
      complain(`failed: ${reason(error)}`, "color: red");
    }
    signal.throwIfAborted();
    console.log();
  }
  for (const script of new Set(all.map(({ script }) => script))) {
    const failure = failures.get(script);
    const [word, color] = failure ? ["FAILED", "red"] : ["ok", "green"];
    const why = failure ? `: ${failure}` : "";
    console.log(`%c${word}%c ${script}${why}`, `color: ${color}`, "");
  }
  return failures.size === 0;
}

const USAGE = `demo: all four scripts on this machine, with each exchange

usage: deno task demo

  -h, --help  print this text
`;

function parse(args: string[]) {
  const options = parseArgs(args, {
    string: ["_"],
    boolean: ["help", "version"],
    alias: { h: "help" },
    unknown: refuseUnknown,
  });
  return { ...options, verbose: [] };
}

/** Runs the demonstration. Returns 0, or 1 if an exercise failed. */
export function main(args: string[]): Promise<number> {
  const script = { name: "demo", usage: USAGE, parse };
  return run(script, args, async (_, signal) => {
    needsUnstableNet("UDP");
    const servers = startServers(signal);
    const isDone = await demonstrate(exercises(servers, signal), signal);
    if (!isDone) throw new Failure(1, "");
  });
}

// The servers are still there: nobody waits for them.
if (import.meta.main) Deno.exit(await main(Deno.args));
