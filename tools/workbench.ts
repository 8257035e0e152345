/**
 * What the benchmarks share: starting programs and ending them, compiling C,
 * measuring several servers in turn, and tables.
 *
 * @module
 */
import { Failure, type Log, reason } from "../utils.ts";

const ROOT = new URL("..", import.meta.url);

/** The path of one of the project's files. */
export function path(name: string): string {
  const { pathname } = new URL(name, ROOT);
  return decodeURIComponent(pathname).replace(/^\/(?=[A-Z]:)/, "");
}

/** How often to measure, and how long each time. */
export interface Effort {
  rounds: number;
  milliseconds: number;
}

/** A server to start. Its first line ends with its port. */
export interface Peer {
  name: string;
  program: string;
  args: string[];
}

/** A server that listens. */
export interface Server extends Peer {
  port: number;
  pid: number;
  /** what it prints after its first line */
  log: ReadableStream<string>;
}

/**
 * Where the servers listen: on a socket as they open it by default, IPv6 that
 * takes IPv4 as well, but out of the network's reach.
 */
export const HOST = "::ffff:127.0.0.1";
const TIMEOUT = 15_000; // milliseconds that a server may take to get going

/** One of this project's servers, as a user starts it. */
export function ours(name: string, ...more: string[]): Peer {
  const rights = ["--no-prompt", "--allow-net", "--unstable-net"];
  const options = [...more, "--port", "0", "--host", HOST];
  const args = ["run", "--quiet", ...rights, path(name), ...options];
  return { name, program: Deno.execPath(), args };
}

/** Runs a program; gives what it prints, or undefined if it fails. */
export async function ask(
  program: string,
  ...args: string[]
): Promise<string | undefined> {
  const options = { args, env: { LC_ALL: "C" }, stderr: "null" } as const;
  try {
    const done = await new Deno.Command(program, options).output();
    const text = new TextDecoder().decode(done.stdout).trim();
    return done.success ? text : undefined;
  } catch {
    return undefined; // there is no such program
  }
}

/** The machine that the numbers hold for, and the programs' versions. */
export async function machine() {
  const model = (await ask("lscpu"))?.match(/^Model name: +(\w.*)/m)?.[1];
  const system = (await ask("uname", "-sr"))?.match(/^\S+ [\d.]*\d/)?.[0];
  const node = (await ask("node", "--version"))?.match(/^v([\d.]+)$/)?.[1];
  const cc = await ask("cc", "-dumpfullversion");
  const curl = (await ask("curl", "--version"))?.match(/[\d.]+/)?.[0];
  return {
    cpu: model ?? Deno.build.arch,
    cores: navigator.hardwareConcurrency,
    os: system ?? Deno.build.os,
    versions: {
      deno: Deno.version.deno,
      ...node && { node },
      ...cc && { cc },
      ...curl && { curl },
    },
  };
}

function kill(child: Deno.ChildProcess): void {
  try {
    child.kill("SIGKILL");
  } catch { /* it has ended */ }
}

/**
 * What a benchmark starts, and the folder where that runs. In the end, however
 * it comes, nothing of it is left.
 */
export class Workbench implements AsyncDisposable {
  readonly folder = Deno.makeTempDirSync({ dir: "/tmp", prefix: "bench-" });
  #running = new Set<Deno.ChildProcess>();

  constructor(readonly signal: AbortSignal) {
    // A second Ctrl-C exits at once, and so does the end of the terminal.
    globalThis.addEventListener("unload", this.#clear);
    Deno.addSignalListener("SIGHUP", this.#hangUp);
  }

  /** Starts a program; it ends with the workbench. */
  start(
    program: string,
    args: string[],
    signal = this.signal,
  ): Deno.ChildProcess {
    signal.throwIfAborted();
    const io = { stdin: "null", stdout: "piped", stderr: "piped" } as const;
    const env = { NO_COLOR: "1" };
    const options = { args, cwd: this.folder, env, signal, ...io };
    const child = new Deno.Command(program, options).spawn();
    this.#running.add(child);
    child.status.then(() => this.#running.delete(child));
    return child;
  }

  /** Compiles a program. Fails with status 1. */
  async compile(name: string): Promise<string> {
    const program = `${this.folder}/${name}`;
    const args = ["-O2", "-o", program, path(`tools/${name}.c`)];
    if (await ask("cc", ...args) !== undefined) return program;
    const needs = "bench needs Linux and a C compiler";
    throw new Failure(1, `cannot compile tools/${name}.c: ${needs}`);
  }

  /**
   * Runs a program for so many milliseconds at most. Returns what it prints.
   * Fails with status 1 if it fails, or complains: of a pipeline the status
   * tells nothing.
   */
  async run(program: string, args: string[], limit: number): Promise<string> {
    const signal = AbortSignal.any([this.signal, AbortSignal.timeout(limit)]);
    const done = await this.start(program, args, signal).output();
    this.signal.throwIfAborted();
    const why = new TextDecoder().decode(done.stderr).trim();
    if (done.success && !why) return new TextDecoder().decode(done.stdout);
    throw new Failure(1, why || "no answer");
  }

  /** Starts a server. Fails with status 1. */
  async serve(peer: Peer): Promise<Server> {
    const child = this.start(peer.program, peer.args);
    const late = setTimeout(() => kill(child), TIMEOUT);
    const log = child.stdout.pipeThrough(new TextDecoderStream());
    let line = "";
    for await (const text of log.values({ preventCancel: true })) {
      line += text;
      if (line.includes("\n")) break;
    }
    clearTimeout(late);
    const port = Number(line.match(/(\d+)\n/)?.[1]);
    if (port) return { ...peer, port, pid: child.pid, log };
    this.signal.throwIfAborted();
    const errors = await new Response(child.stderr).text();
    const why = errors.match(/^.*error.*$/im)?.[0] ?? "it says nothing";
    throw new Failure(1, `cannot start ${peer.name}: ${why}`);
  }

  /** Starts servers. Those of others that do not start are left out. */
  async serveAll(peers: Peer[], log: Log): Promise<Server[]> {
    const servers: Server[] = [];
    for (const peer of peers) {
      try {
        servers.push(await this.serve(peer));
      } catch (error) {
        this.signal.throwIfAborted();
        if (peer.program === Deno.execPath()) throw error;
        log(`${peer.name} is left out: ${reason(error)}\n`);
      }
    }
    return servers;
  }

  #hangUp = () => Deno.exit(129);

  #clear = () => {
    this.#running.forEach(kill);
    Deno.removeSync(this.folder, { recursive: true });
  };

  async [Symbol.asyncDispose](): Promise<void> {
    const ending = [...this.#running].map((child) => child.status);
    globalThis.removeEventListener("unload", this.#clear);
    Deno.removeSignalListener("SIGHUP", this.#hangUp);
    this.#clear();
    await Promise.all(ending);
  }
}

/** What was measured of each, in turn; `note` says why it could not be. */
export interface Runs<Result> {
  runs: Result[];
  note?: string;
}

/**
 * Measures each of them in turn, round after round: what else the machine does
 * is then felt by all. The first round is to warm up, and does not count.
 */
export async function inTurn<Each, Result>(
  all: Each[],
  { rounds }: Effort,
  signal: AbortSignal,
  measure: (each: Each) => Promise<Result>,
): Promise<Runs<Result>[]> {
  const found = all.map((): Runs<Result> => ({ runs: [] }));
  for (let round = 0; round <= rounds; round++) {
    for (const [i, each] of all.entries()) {
      if (found[i].note) continue;
      try {
        const result = await measure(each);
        if (round > 0) found[i].runs.push(result);
      } catch (error) {
        signal.throwIfAborted();
        found[i].note = reason(error);
      }
    }
  }
  return found;
}

/** The middle one of the values. */
export function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1];
}

/** A line of a table within 80 columns: a load, and a cell a server. */
export function row(first: string, cells: string[]): string {
  const padded = cells.map((cell) => cell.padStart(15));
  return `| ${[first.padEnd(20), ...padded].join(" | ")} |`;
}

/** The first two lines of a table. */
export function head(title: string, names: string[]): string {
  const dashes = row("-".repeat(20), names.map(() => "-".repeat(14) + ":"));
  return `${row(title, names)}\n${dashes}`;
}
