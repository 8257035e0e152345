#!/usr/bin/env -S deno run --allow-run --allow-write=/tmp
/**
 * Measures the echo servers beside what one would otherwise run: Node's `net` and `dgram`, and the lab sheet's Python
 * servers. All get the same loads in turn, round after round, so that what else the machine does befalls all of them.
 *
 *     deno task bench          a table, within a minute
 *     deno task bench --json   the same for programs
 *
 * The load comes from load.c, compiled for the occasion, or where there is no C compiler from load.ts.
 *
 * @module
 */
import { Failure, reason, run, say } from "../utils.ts";

const ROOT = new URL("..", import.meta.url);
const path = (name: string) =>
  decodeURIComponent(new URL(name, ROOT).pathname.replace(/^\/(?=[A-Z]:)/, ""));

// Sockets like those that the servers open by default, IPv6 that takes IPv4 too, but out of the network's reach.
const HOSTS = ["::ffff:127.0.0.1", "127.0.0.1"]; // the second one where there is no IPv6

type Log = (line: string) => void;
type Transport = "tcp" | "udp";
/** A server to measure. The address to listen on follows its arguments; its first line ends with the port. */
type Peer = { name: string; program: string; args: string[]; clients?: number };

const ours = (name: string): Peer => ({
  name,
  program: Deno.execPath(),
  args: [
    "run",
    "--quiet",
    "--no-prompt",
    "--allow-net",
    "--unstable-net",
    path(name),
    "-q",
    "--port",
    "0",
    "--host",
  ],
});

const NODE_TCP = `
  const server = require("node:net").createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    socket.on("error", () => socket.destroy());
    socket.pipe(socket);
  });
  server.listen(0, process.argv[1], () => console.log(server.address().port));`;

const NODE_UDP = `
  const host = process.argv[1], type = host.includes(":") ? "udp6" : "udp4";
  const socket = require("node:dgram").createSocket(type, (data, from) => socket.send(data, from.port, from.address));
  socket.bind(0, host, () => console.log(socket.address().port));`;

const PYTHON = `
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET`;

const PYTHON_TCP = `${PYTHON}
listener = socket.socket(family, socket.SOCK_STREAM)
listener.bind((sys.argv[1], 0))
listener.listen(1)
print(listener.getsockname()[1], flush=True)
while True:
    client, address = listener.accept()
    while data := client.recv(1500):
        client.send(data)
    client.close()`;

const PYTHON_UDP = `${PYTHON}
server = socket.socket(family, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 0))
print(server.getsockname()[1], flush=True)
while True:
    data, address = server.recvfrom(1500)
    if not data: break
    server.sendto(data, address)`;

const PEERS: Record<Transport, Peer[]> = {
  tcp: [
    ours("echo_tcp.ts"),
    { name: "Node net", program: "node", args: ["-e", NODE_TCP] },
    {
      name: "Python (lab sheet)",
      program: "python3",
      args: ["-c", PYTHON_TCP],
      clients: 1,
    },
  ],
  udp: [
    ours("echo_udp.ts"),
    { name: "Node dgram", program: "node", args: ["-e", NODE_UDP] },
    {
      name: "Python (lab sheet)",
      program: "python3",
      args: ["-c", PYTHON_UDP],
    },
  ],
};

/** How many connections, or datagrams under way at a time, and of how many bytes the messages are. */
type Load = { count: number; bytes: number };
const LOADS: Record<Transport, Load[]> = {
  tcp: [{ count: 1, bytes: 64 }, { count: 64, bytes: 64 }, {
    count: 8,
    bytes: 65_536,
  }],
  udp: [{ count: 1, bytes: 64 }, { count: 32, bytes: 64 }, {
    count: 8,
    bytes: 8192,
  }],
};

/** What programs print, or undefined where there is no such program, or it fails. */
async function ask(
  program: string,
  ...args: string[]
): Promise<string | undefined> {
  try {
    const { success, stdout } = await new Deno.Command(program, {
      args,
      env: { LC_ALL: "C" },
      stderr: "null",
    })
      .output();
    return success ? new TextDecoder().decode(stdout).trim() : undefined;
  } catch {
    return undefined;
  }
}

/** The machine that the numbers hold for. */
async function machine() {
  const { os, arch } = Deno.build;
  const cpu = os === "darwin"
    ? await ask("sysctl", "-n", "machdep.cpu.brand_string")
    : (await ask("lscpu"))?.match(/^Model name: +(\w.*)/m)?.[1];
  const system = (await ask("uname", "-sr"))?.match(/^\S+ [\d.]*\d/)?.[0];
  // Where there is no `node`, Deno may run itself in its place: that says another version.
  const node = (await ask("node", "--version"))?.match(/^v([\d.]+)/)?.[1];
  const python3 = (await ask("python3", "--version"))?.match(/^Python ([\d.]+)/)
    ?.[1];
  const versions: Record<string, string | undefined> = {
    deno: Deno.version.deno,
    node,
    python3,
  };
  return {
    cpu: cpu ?? arch,
    cores: navigator.hardwareConcurrency,
    os: system ?? os,
    versions,
  };
}

function kill(child: Deno.ChildProcess): void {
  try {
    child.kill("SIGKILL");
  } catch { /* it has ended */ }
}

/** What this program starts, and where it puts what it compiles: in the end, however it comes, nothing of it is left. */
class Workbench implements AsyncDisposable {
  /** undefined where there is no such folder, or no right to it */
  readonly folder?: string;
  #running = new Set<Deno.ChildProcess>();

  constructor(readonly signal: AbortSignal) {
    try {
      this.folder = Deno.makeTempDirSync({ dir: "/tmp", prefix: "bench-" });
    } catch { /* nothing is compiled, then */ }
    globalThis.addEventListener("unload", this.#clear); // a second Ctrl-C exits at once
    if (Deno.build.os !== "windows") {
      Deno.addSignalListener("SIGHUP", this.#hangUp); // the terminal was closed
    }
  }

  #hangUp = () => Deno.exit(129);

  #clear = () => {
    this.#running.forEach(kill);
    if (this.folder) Deno.removeSync(this.folder, { recursive: true });
  };

  start(
    program: string,
    args: string[],
    signal = this.signal,
  ): Deno.ChildProcess {
    signal.throwIfAborted();
    const options = {
      args,
      cwd: ROOT,
      signal,
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    } as const;
    const child = new Deno.Command(program, options).spawn();
    this.#running.add(child);
    child.status.then(() => this.#running.delete(child));
    return child;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ending = [...this.#running].map((child) => child.status);
    globalThis.removeEventListener("unload", this.#clear);
    if (Deno.build.os !== "windows") {
      Deno.removeSignalListener("SIGHUP", this.#hangUp);
    }
    this.#clear();
    await Promise.all(ending);
  }
}

type Server = Peer & { port: number };

/** Starts a server, and waits until it says which port it has. Throws a {@linkcode Failure} of 1. */
async function listening(
  bench: Workbench,
  peer: Peer,
  hosts = HOSTS,
): Promise<Server> {
  const child = bench.start(peer.program, [...peer.args, hosts[0]]);
  const late = setTimeout(() => kill(child), 10_000);
  let line = "";
  for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
    line += text;
    if (line.includes("\n")) break;
  }
  clearTimeout(late);
  const port = Number(line.match(/(\d+)\r?\n/)?.[1]);
  if (port) return { ...peer, port };
  bench.signal.throwIfAborted();
  if (hosts.length > 1) return await listening(bench, peer, hosts.slice(1));
  const why =
    (await new Response(child.stderr).text()).match(/^.*error.*$/im)?.[0] ??
      "it says nothing";
  throw new Failure(1, `cannot start ${peer.name}: ${why}`);
}

/** A program that makes a load, without the arguments that say which load. */
type Loader = { name: string; program: string; args: string[] };

/** Compiles load.c; where that cannot be done, load.ts does the same. */
async function loader({ folder, signal }: Workbench): Promise<Loader> {
  const program = `${folder}/load`;
  const compiled = folder &&
    await ask("cc", "-O2", "-o", program, path("tools/load.c")) !== undefined;
  if (compiled && await ask(program) !== undefined) {
    return { name: "tools/load.c", program, args: [] };
  }
  signal.throwIfAborted();
  const args = [
    "run",
    "--quiet",
    "--no-prompt",
    "--allow-net=127.0.0.1",
    "--unstable-net",
    path("tools/load.ts"),
  ];
  return { name: "tools/load.ts", program: Deno.execPath(), args };
}

/** How often, and how long each time, in milliseconds. */
type Effort = { rounds: number; ms: number };

/** Puts a load on a server once, and returns the numbers that the loader prints. Throws a {@linkcode Failure} of 1. */
async function once(
  bench: Workbench,
  { program, args }: Loader,
  load: string[],
  ms: number,
): Promise<number[]> {
  const signal = AbortSignal.any([
    bench.signal,
    AbortSignal.timeout(ms + 15_000),
  ]);
  const { success, stdout, stderr } = await bench.start(program, [
    ...args,
    ...load,
    `${ms / 1000}`,
  ], signal).output();
  bench.signal.throwIfAborted();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
  if (!success) throw new Failure(1, text(stderr) || "no answer");
  return text(stdout).split(" ").map(Number);
}

/** What a server did under a load. Where it could not, `note` says why. */
export interface Result extends Load {
  transport: Transport;
  server: string;
  /** medians over the rounds; MB are 10^6 bytes, counted in one direction */
  messagesPerSecond?: number;
  megabytesPerSecond?: number;
  /** datagrams, over all rounds */
  lost?: number;
  /** the share of a processor that the loader used, where it is known: near 1, it may be the loader that was measured */
  loaderBusy?: number;
  note?: string;
}

const median = (values: number[]) =>
  values.sort((a, b) => a - b)[values.length >> 1];

function summary(runs: number[][], bytes: number): Partial<Result> {
  const perSecond = median(runs.map(([back, , seconds]) => back / seconds));
  const busy = median(runs.map(([, , seconds, used]) => used / seconds));
  return {
    messagesPerSecond: Math.round(perSecond),
    megabytesPerSecond: +(perSecond * bytes / 1e6).toFixed(1),
    lost: runs.reduce((sum, [, lost]) => sum + lost, 0),
    loaderBusy: isNaN(busy) ? undefined : +busy.toFixed(2),
  };
}

/** Measures all servers of a transport under one load, in turn. */
async function measure(
  bench: Workbench,
  { transport, servers, load, by, rounds, ms }: Effort & {
    transport: Transport;
    servers: Server[];
    load: Load;
    by: Loader;
  },
): Promise<Result[]> {
  const rows = servers.map(({ name, port, clients = Infinity }) => {
    const result: Result = { transport, ...load, server: name };
    if (load.count > clients) result.note = "one client at a time";
    return {
      result,
      args: [transport, port, load.count, load.bytes].map(String),
      runs: [] as number[][],
    };
  });
  for (let round = 0; round <= rounds; round++) { // the first one is for warming up
    for (const { result, args, runs } of rows) {
      if (result.note) continue;
      try {
        const numbers = await once(bench, by, args, ms);
        if (round) runs.push(numbers);
      } catch (error) {
        bench.signal.throwIfAborted();
        result.note = reason(error);
      }
    }
  }
  return rows.map(({ result, runs }) =>
    result.note ? result : { ...result, ...summary(runs, load.bytes) }
  );
}

const HEADS = {
  tcp: "TCP: connections x message",
  udp: "UDP: window x datagram",
};
const row = (first: string, rest: string[]) =>
  `| ${
    [first.padEnd(26), ...rest.map((cell) => cell.padStart(24))].join(" | ")
  } |`;
const label = ({ count, bytes }: Load) =>
  `${count} x ${bytes < 1024 ? `${bytes} B` : `${bytes / 1024} KiB`}`;

function cell(
  { note, messagesPerSecond = 0, megabytesPerSecond = 0 }: Result,
): string {
  const grouped = (n: number, digits: number) =>
    n.toLocaleString("en-US", { minimumFractionDigits: digits });
  return note ??
    `${grouped(messagesPerSecond, 0)}/s ${grouped(megabytesPerSecond, 1)} MB/s`;
}

/** Starts the servers of a transport; those that cannot be had are left out, with a line that says so. */
async function servers(
  bench: Workbench,
  peers: Peer[],
  installed: (program: string) => boolean,
  log: Log,
) {
  const starting = peers.map(async (peer) => {
    try {
      if (installed(peer.program)) return await listening(bench, peer);
      log(`${peer.name} is left out: ${peer.program} is not installed\n`);
    } catch (error) {
      bench.signal.throwIfAborted();
      if (peer.program === Deno.execPath()) throw error;
      log(`${peer.name} is left out: ${reason(error)}\n`);
    }
  });
  return (await Promise.all(starting)).filter((server) => server !== undefined);
}

/** What has to be known beside the table. */
function remark(results: Result[], by: Loader): string {
  const lossy = results.filter(({ lost }) => lost);
  const lines = lossy.map((each) =>
    `${each.server} lost ${each.lost} datagrams, ${label(each)}`
  );
  const [most] = results.toSorted((a, b) =>
    (b.loaderBusy ?? 0) - (a.loaderBusy ?? 0)
  );
  if (!most.loaderBusy) {
    lines.push(
      `${by.name} may itself be the bottleneck: load.c could not be compiled`,
    );
  } else {
    const share = `${Math.round(100 * most.loaderBusy)} % of a core (${
      label(most)
    }, ${most.server})`;
    lines.push(
      `${by.name} used at most ${share}; near 100 %, it would be what was measured`,
    );
  }
  return lines.join("\n");
}

/** Measures everything, and tells of it line by line as it comes. */
async function measureAll(bench: Workbench, effort: Effort, log: Log) {
  const on = await machine(),
    by = await loader(bench),
    { rounds, ms } = effort,
    results: Result[] = [];
  const versions = Object.entries(on.versions).filter(([, version]) => version)
    .map((pair) => pair.join(" "));
  const installed = (program: string) =>
    program === Deno.execPath() || !!on.versions[program];
  log([`${on.cpu}, ${on.cores} cores`, on.os, ...versions].join("; "));
  log(
    `load by ${by.name}; rounds: ${rounds} of ${
      ms / 1000
    } s, their median; 1 MB: 10^6 bytes, counted in one direction`,
  );
  for (const transport of ["tcp", "udp"] as const) {
    log("");
    const up = await servers(bench, PEERS[transport], installed, log);
    log(row(HEADS[transport], up.map(({ name }) => name)));
    log(row("-".repeat(26), up.map(() => "-".repeat(23) + ":")));
    for (const load of LOADS[transport]) {
      const found = await measure(bench, {
        transport,
        servers: up,
        load,
        by,
        ...effort,
      });
      results.push(...found);
      log(row(label(load), found.map(cell)));
    }
  }
  log(`\n${remark(results, by)}`);
  const failed = results.find(({ server, note }) =>
    note && /^echo_/.test(server)
  );
  if (failed) {
    throw new Failure(1, `${failed.server}, ${label(failed)}: ${failed.note}`);
  }
  return { machine: on, loader: by.name, rounds, seconds: ms / 1000, results };
}

const USAGE =
  `bench: measures the echo servers beside Node's, and beside a server for one client at a time

usage: deno task bench [options]

      --seconds SECONDS  put each load on each server for this long (0.4)
      --rounds N         and so many times; the median counts (5)
      --json             print one JSON object
  -h, --help             print this text
  -V, --version          print the version

exit status: 0 done, 1 something did not work, 2 usage, 130 interrupted
`;

/** Runs a command line. Returns the exit status. */
export function main(args: string[]): Promise<number> {
  const command = { name: "bench", usage: USAGE, words: 0 };
  return run<{ seconds?: number; rounds?: number; json: boolean }>(
    command,
    args,
    async (given) => {
      const { seconds: ms = 400, rounds = 5, json, signal } = given;
      if (ms < 10) throw new Failure(2, "--seconds must be at least 0.01");
      if (rounds < 1) throw new Failure(2, "--rounds must be at least 1");
      await using bench = new Workbench(signal);
      const all = await measureAll(
        bench,
        { ms, rounds },
        json ? () => {} : say,
      );
      if (json) say(JSON.stringify(all, null, 2));
    },
  );
}

if (import.meta.main) Deno.exit(await main(Deno.args));
