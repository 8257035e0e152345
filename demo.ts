#!/usr/bin/env -S deno run --unstable-net --allow-net
/**
 * All four exercises on this machine, without the internet: in one process it starts the daytime, echo TCP and echo UDP
 * servers and a small HTTP server on free ports of the loopback interface, runs each client against them as a person
 * would, with `-v`, and ends with a line for each.
 *
 *     deno task demo
 *
 * @module
 */
import { delay } from "jsr:@std/async@^1/delay";
import * as daytime from "./daytime.ts";
import * as echoTcp from "./echo_tcp.ts";
import * as echoUdp from "./echo_udp.ts";
import * as httpGet from "./http_get.ts";
import {
  connect,
  listen,
  needsUnstableNet,
  openDatagram,
  output,
  reason,
  run,
  say,
  Trace,
} from "./utils.ts";

const loopback = { hostname: "127.0.0.1", port: 0 };
const quiet = { log: () => {} };

/** Servers under way: the port of each, and when they have ended. */
export type Running = {
  tcp: number;
  udp: number;
  time: number;
  web: number;
  ends: Promise<unknown>[];
};

/** The servers, until the signal aborts; each gives the port that it got. */
export function servers(signal: AbortSignal): Running {
  const tcp = () => listen((at) => Deno.listen(at), loopback);
  const udp = (port = 0) =>
    listen((at) => Deno.listenDatagram({ transport: "udp", ...at }), {
      ...loopback,
      port,
    });
  const [echoes, datagrams, times] = [tcp(), udp(), tcp()];
  // In two pieces, and without a length: so the answer is chunked.
  const pieces = async function* () {
    yield "<h1>It works</h1>\n";
    await delay(20);
    yield "<p>in two chunks\n";
  };
  const page = () =>
    new Response(
      ReadableStream.from(pieces()).pipeThrough(new TextEncoderStream()),
    );
  const web = Deno.serve({ ...loopback, signal, onListen: () => {} }, page);
  const ends = [
    echoTcp.serve({ ...quiet, listeners: echoes, signal }),
    echoUdp.serve({ ...quiet, sockets: datagrams, signal }),
    daytime.serve({
      ...quiet,
      listeners: times,
      sockets: udp(times[0].addr.port),
      signal,
    }),
    web.finished,
  ];
  const udpPort = (datagrams[0].addr as Deno.NetAddr).port;
  return {
    tcp: echoes[0].addr.port,
    udp: udpPort,
    time: times[0].addr.port,
    web: web.addr.port,
    ends,
  };
}

type Talk = {
  input: ReadableStream<Uint8Array>;
  output: (bytes: Uint8Array) => Promise<void>;
  timeout: number;
};

const LINE = "Bonjour !";

/** Sends a line through the client of an echo script, and checks that it comes back. */
async function echoed(talk: (options: Talk) => Promise<void>): Promise<void> {
  const line = `${LINE}\n`,
    input = ReadableStream.from([new TextEncoder().encode(line)]);
  let back = "";
  const show = (
    bytes: Uint8Array,
  ) => (back += new TextDecoder().decode(bytes), output(bytes));
  await talk({ input, output: show, timeout: 5000 });
  if (back !== line) throw new Error(`"${back}" came back`);
}

/** Runs a script's own command line. */
async function command(
  main: (args: string[]) => Promise<number>,
  ...args: string[]
): Promise<void> {
  const status = await main(args);
  if (status !== 0) throw new Error(`exit status ${status}`);
}

/** A script, what a person would type after it, and what that runs here. */
export type Exercise = [
  script: string,
  words: string,
  run: () => Promise<void>,
];

/** All the exercises, against the servers. */
export function exercises({ tcp, udp, time, web }: Running): Exercise[] {
  const { hostname } = loopback, url = `http://${hostname}:${web}/`;
  return [
    [
      "daytime",
      `-v ${hostname} ${time}`,
      () => command(daytime.main, "-v", hostname, `${time}`),
    ],
    [
      "daytime",
      `-v -u ${hostname} ${time}`,
      () => command(daytime.main, "-v", "-u", hostname, `${time}`),
    ],
    ["http_get", `-v ${url}`, () => command(httpGet.main, "-v", url)],
    ["echo_tcp", `-v -c ${hostname}:${tcp}`, () =>
      echoed(async (talk) => {
        const trace = new Trace("echo_tcp"),
          conn = await connect({ hostname, port: tcp, trace });
        await echoTcp.talk({ ...talk, conn: trace.stream(conn) });
      })],
    ["echo_udp", `-v -c ${hostname}:${udp}`, () =>
      echoed(async (talk) => {
        const trace = new Trace("echo_udp"),
          { socket, to } = await openDatagram({ hostname, port: udp, trace });
        await echoUdp.talk({
          ...talk,
          socket: trace.datagrams(socket, to),
          to,
        });
      })],
  ];
}

/** Runs the demonstration. Returns 0, or 1 when an exercise failed. */
export function main(
  args: string[],
  list: typeof exercises = exercises,
): Promise<number> {
  const usage =
    "demo: all the exercises on this machine, each with its exchange\n\nusage: demo\n\n  -h, --help  this text\n";
  return run({ name: "demo", usage, words: 0 }, args, async ({ signal }) => {
    needsUnstableNet("UDP");
    const stop = new AbortController(), results = new Map<string, string>();
    const running = servers(AbortSignal.any([signal, stop.signal]));
    for (const [script, words, exercise] of list(running)) {
      const typed = words.includes("-c ") ? `echo "${LINE}" | ` : "";
      say(
        `%c$ ${typed}deno run -A ${script}.ts ${words}`,
        (line) => console.log(line, "font-weight: bold"),
      );
      const failure = await exercise().then(() => "", reason);
      say(failure ? `failed: ${failure}\n` : "");
      results.set(script, results.get(script) || failure);
      signal.throwIfAborted();
    }
    stop.abort();
    await Promise.all(running.ends);
    for (const [script, failure] of results) {
      const [word, color] = failure
        ? ["FAILED", "color: red"]
        : ["ok", "color: green"];
      say(
        `%c${word}%c ${script}${failure && `: ${failure}`}`,
        (line) => console.log(line, color, ""),
      );
    }
    return [...results.values()].some((failure) => failure) ? 1 : 0;
  });
}

// Not by way of exitCode: what is left of a timeout would hold the process.
if (import.meta.main) Deno.exit(await main(Deno.args));
