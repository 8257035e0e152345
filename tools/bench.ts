#!/usr/bin/env -S deno run --allow-run --allow-write=/tmp
/**
 * Measures the echo servers beside a server in C and beside Node's `net` and
 * `dgram`, and http_get beside curl. All get the same loads in turn, round
 * after round.
 *
 *     deno task bench             tables, in some minutes
 *     deno task bench tcp         one of them: tcp, udp, http
 *     deno task bench --json      the same for programs
 *
 * The load comes from load.c, the server in C is echo.c: it needs Linux and a
 * C compiler. For HTTP, see bench_http.ts.
 *
 * @module
 */
import { parseArgs } from "jsr:@std/cli@^1/parse-args";
import { counted, Failure, type Log, log, output } from "../utils.ts";
import { parseNumber, parseSeconds, refuseUnknown, run } from "../utils.ts";
import { benchHttp, type Download } from "./bench_http.ts";
import { type Effort, head, HOST, inTurn, machine } from "./workbench.ts";
import { median, ours, type Peer, row, type Runs } from "./workbench.ts";
import { type Server, Workbench } from "./workbench.ts";

// Where there is no Node, Deno takes the name for its own.
const NODE = `
  if (globalThis.Deno) throw new Error("Node is not installed");`;

const NODE_TCP = `${NODE}
  const options = { allowHalfOpen: true, noDelay: true };
  const server = require("node:net").createServer(options, (socket) => {
    socket.on("error", () => socket.destroy());
    socket.pipe(socket);
  });
  const at = { port: 0, host: process.argv[1], backlog: 4096 };
  server.listen(at, () => console.log(server.address().port));`;

const NODE_UDP = `${NODE}
  const echo = (data, from) => socket.send(data, from.port, from.address);
  const socket = require("node:dgram").createSocket("udp6", echo);
  const tell = () => console.log(socket.address().port);
  socket.bind(0, process.argv[1], tell);`;

type Transport = "tcp" | "udp";

function peers(transport: Transport, c: string): Peer[] {
  const script = transport === "tcp" ? NODE_TCP : NODE_UDP;
  return [
    ours(`echo_${transport}.ts`, "--quiet"),
    { name: "C", program: c, args: [transport, HOST] },
    { name: "Node", program: "node", args: ["-e", script, HOST] },
  ];
}

/** What is asked of a server: see load.c. */
interface Load {
  kind: "tcp" | "connect" | "udp";
  /** connections, or over UDP sockets that ask in turn */
  count: number;
  /** in a message */
  bytes: number;
  /** connections on which nothing happens */
  idle?: number;
  /** datagrams under way */
  window?: number;
}

const LOADS: Record<Transport, Load[]> = {
  tcp: [
    { kind: "tcp", count: 1, bytes: 64 },
    { kind: "tcp", count: 64, bytes: 64 },
    { kind: "tcp", count: 64, bytes: 64, idle: 5000 },
    { kind: "tcp", count: 8, bytes: 65_536 },
    { kind: "connect", count: 64, bytes: 64 },
  ],
  udp: [
    { kind: "udp", count: 1, bytes: 64, window: 1 },
    { kind: "udp", count: 1, bytes: 64, window: 32 },
    { kind: "udp", count: 1, bytes: 8192, window: 8 },
    { kind: "udp", count: 1000, bytes: 64, window: 128 },
  ],
};

const TITLES = { tcp: "TCP connections", udp: "UDP under way" };
const PATIENCE = 15_000; // milliseconds that a load may last beyond its time

function label({ kind, count, bytes, idle, window }: Load): string {
  const size = bytes < 1024 ? `${bytes} B` : `${bytes / 1024} KiB`;
  if (kind === "connect") return "connect, echo, close";
  if (idle) return `${count} x ${size}, ${idle} idle`;
  if (kind === "udp" && count > 1) return `${count} peers x ${size}`;
  return `${window ?? count} x ${size}`;
}

/** What load.c prints. */
interface Numbers {
  messages: number;
  lost: number;
  seconds: number;
  busy: number;
  p50: number;
  p99: number;
  p999: number;
}

/** What a server did under a load: medians over the rounds. */
export interface Result extends Load {
  server: string;
  /** why it could not be measured; then there are no numbers */
  note?: string;
  messagesPerSecond?: number;
  /** of 10^6 bytes, counted in one direction */
  megabytesPerSecond?: number;
  /** datagrams, over all rounds */
  lost?: number;
  /** percentiles of the round trips, in milliseconds */
  p50?: number;
  p99?: number;
  p999?: number;
  /** the share of a processor that the load took: near 1, it is the limit */
  loaderBusy?: number;
}

function sum(load: Load, server: string, found: Runs<Numbers>): Result {
  const { runs, note } = found;
  if (note) return { ...load, server, note };
  const middle = (of: (run: Numbers) => number) => median(runs.map(of));
  const rate = middle(({ messages, seconds }) => messages / seconds);
  return {
    ...load,
    server,
    messagesPerSecond: Math.round(rate),
    megabytesPerSecond: Number((rate * load.bytes / 1e6).toFixed(1)),
    lost: runs.reduce((lost, run) => lost + run.lost, 0),
    ...load.kind !== "udp" && {
      p50: middle((run) => run.p50),
      p99: middle((run) => run.p99),
      p999: middle((run) => run.p999),
    },
    loaderBusy: Number(middle((run) => run.busy).toFixed(2)),
  };
}

function rate(result: Result): string {
  const { note, bytes, messagesPerSecond, megabytesPerSecond } = result;
  if (note) return note;
  return bytes < 1024
    ? `${messagesPerSecond!.toLocaleString("en-US")}/s`
    : `${megabytesPerSecond!.toLocaleString("en-US")} MB/s`;
}

function times({ note, p50, p99, p999 }: Result): string {
  if (note) return note;
  const short = (time?: number) => Number(time!.toPrecision(3));
  return [p50, p99, p999].map(short).join("/");
}

/** A run of the benchmark: what it starts, and what it has found. */
class Bench {
  readonly results: Result[] = [];

  constructor(
    readonly workbench: Workbench,
    readonly effort: Effort,
    readonly log: Log,
  ) {}

  /** Measures over these transports, and prints tables. */
  async runAll(transports: Transport[]): Promise<void> {
    if (transports.length === 0) return;
    const loader = await this.workbench.compile("load");
    const c = await this.workbench.compile("echo");
    for (const transport of transports) await this.run(transport, c, loader);
  }

  /** Measures all servers of a transport, and prints a table row by row. */
  async run(transport: Transport, c: string, loader: string): Promise<void> {
    const { workbench, log } = this;
    const servers = await workbench.serveAll(peers(transport, c), log);
    log(head(TITLES[transport], servers.map(({ name }) => name)));
    for (const load of LOADS[transport]) {
      const found = await this.measure(load, servers, loader);
      this.results.push(...found);
      log(row(label(load), found.map(rate)));
    }
    log("");
    if (transport === "tcp") this.printTimes();
  }

  async measure(load: Load, servers: Server[], loader: string) {
    const { workbench, effort } = this;
    const { kind, count, bytes, idle = 0, window } = load;
    const { milliseconds } = effort;
    const run = async ({ port }: Server): Promise<Numbers> => {
      const numbers = [port, count, bytes, milliseconds / 1000, window ?? idle];
      const args = [kind, ...numbers.map(String)];
      const limit = milliseconds + PATIENCE;
      return JSON.parse(await workbench.run(loader, args, limit));
    };
    const all = await inTurn(servers, effort, workbench.signal, run);
    return all.map((found, i) => sum(load, servers[i].name, found));
  }

  /** Prints how long the round trips took that 64 connections made. */
  printTimes(): void {
    const shown = this.results.filter(({ kind, count }) =>
      kind === "tcp" && count === 64
    );
    const names = new Set(shown.map(({ server }) => server));
    this.log(head("ms: p50/p99/p99.9", [...names]));
    for (const [name, cells] of Map.groupBy(shown, label)) {
      this.log(row(name, cells.map(times)));
    }
    this.log("");
  }

  /** Prints what has to be known beside the tables. */
  printRemarks(): void {
    for (const result of this.results) {
      const what = `${label(result)}, ${result.server}`;
      const { lost, loaderBusy = 0 } = result;
      if (lost) this.log(`${what}: ${counted(lost, "datagram")} lost`);
      if (loaderBusy > 0.9) this.log(`${what}: the load itself was the limit`);
    }
  }

  /** Fails with status 1 if one of our servers failed. */
  check(): void {
    for (const { server, note, ...load } of this.results) {
      if (!note || !server.endsWith(".ts")) continue;
      throw new Failure(1, `${server}, ${label(load)}: ${note}`);
    }
  }
}

const TOPICS = ["tcp", "udp", "http"] as const;

/** What the command line asks for. */
interface Order extends Effort {
  topics: typeof TOPICS[number][];
  mebibytes: number;
}

async function measureAll(workbench: Workbench, order: Order, log: Log) {
  const { topics, mebibytes, ...effort } = order;
  const { versions, ...on } = await machine();
  const programs = Object.entries(versions).map((pair) => pair.join(" "));
  log([`${on.cpu}, ${on.cores} cores`, on.os, ...programs].join("; "));
  const seconds = effort.milliseconds / 1000;
  const rounds = counted(effort.rounds, "round");
  log(`medians of ${rounds} of ${seconds} s; 1 MB: 10^6 bytes, one way\n`);
  const bench = new Bench(workbench, effort, log);
  await bench.runAll(topics.filter((topic) => topic !== "http"));
  const downloads: Download[] = [];
  if (topics.includes("http")) {
    downloads.push(...await benchHttp(workbench, effort, mebibytes, log));
  }
  bench.printRemarks();
  bench.check();
  const { results } = bench;
  return { machine: { ...on, versions }, ...effort, results, downloads };
}

const USAGE = `bench: measures the echo servers beside C and Node, and http_get
beside curl

usage: deno task bench [options] [tcp] [udp] [http]

      --seconds SECONDS  put each load on each echo server for so long (0.4)
      --size MEBIBYTES   download so much over HTTP (1024)
      --rounds N         do so many times; the median counts (5)
      --json             print one JSON object
  -h, --help             print this text
`;

function parse(args: string[]) {
  const options = parseArgs(args, {
    string: ["_", "seconds", "size", "rounds"],
    boolean: ["help", "version", "json"],
    alias: { h: "help" },
    unknown: refuseUnknown,
  });
  return { ...options, verbose: [] };
}

/** Runs a command line. Returns the exit status. */
export function main(args: string[]): Promise<number> {
  const script = { name: "bench", usage: USAGE, parse };
  return run(script, args, async (options, signal) => {
    const milliseconds = parseSeconds(options, "seconds", 0.4);
    if (milliseconds < 10) throw new Failure(2, "--seconds is 0.01 or more");
    const rounds = parseNumber(options, "rounds", 5, [1, 1000]);
    const mebibytes = parseNumber(options, "size", 1024, [1, 1e5]);
    const topics = TOPICS.filter((topic) => options._.includes(topic));
    if (topics.length < options._.length) {
      throw new Failure(2, "topics are tcp, udp and http");
    }
    if (topics.length === 0) topics.push(...TOPICS);
    await using workbench = new Workbench(signal);
    const print = options.json ? () => {} : log;
    const order = { topics, mebibytes, rounds, milliseconds };
    const results = await measureAll(workbench, order, print);
    if (options.json) await output(`${JSON.stringify(results, null, 2)}\n`);
  });
}

if (import.meta.main) Deno.exit(await main(Deno.args));
