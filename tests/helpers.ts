/**
 * What the tests share: processes, bounded waits, what a command line prints,
 * connections, and networks of a test's own.
 *
 * @module
 */
import { assertEquals } from "jsr:@std/assert@^1";
import { connect, createServer, type Socket } from "node:net";

if (Deno.permissions.querySync({ name: "run" }).state !== "granted") {
  console.error("The tests need all permissions. Run: deno task test");
  Deno.exit(1);
}

/** The root of the project. */
export const ROOT = new URL("..", import.meta.url);
const ROOT_PATH = `${import.meta.dirname}/..`;

export const LINUX = Deno.build.os === "linux";
/** Where a signal just ends a process, and where :: takes no IPv4. */
export const WINDOWS = Deno.build.os === "windows";

/** How long a test waits for an event, in seconds. */
const PATIENCE = 10;

/** How long a test may take, in milliseconds. */
const TIMEOUT = 60_000;

type Body = Deno.TestDefinition["fn"];
type Options = Omit<Deno.TestDefinition, "name" | "fn">;

/** As `Deno.test`, but a test that takes longer than a minute fails. */
export function test(name: string, fn: Body): void;
export function test(name: string, options: Options, fn: Body): void;
export function test(definition: Deno.TestDefinition): void;
export function test(
  first: string | Deno.TestDefinition,
  second?: Options | Body,
  third?: Body,
): void {
  if (typeof first !== "string") {
    return Deno.test({ timeout: TIMEOUT, ...first, fn: telling(first.fn) });
  }
  if (typeof second === "function") {
    return Deno.test(first, { timeout: TIMEOUT }, telling(second));
  }
  Deno.test(first, { timeout: TIMEOUT, ...second }, telling(third!));
}

/**
 * A test that throws what went wrong first. When cleaning up after an error
 * fails too, Deno shows neither of the two.
 */
function telling(fn: Body): Body {
  return async (context) => {
    try {
      await fn(context);
    } catch (error) {
      let first = error;
      while (first instanceof SuppressedError) first = first.suppressed;
      throw first;
    }
  };
}

/** How long to wait, and what to show of what has happened until then. */
export interface Patience {
  seconds?: number;
  seen?: () => unknown;
}

const LATE = Symbol("late");

function waitedInVain(
  expected: string,
  { seconds = PATIENCE, seen }: Patience,
): Error {
  const shown = seen
    ? `; seen: ${Deno.inspect(seen(), { strAbbreviateSize: 2000 })}`
    : "";
  return new Error(`waited ${seconds} s in vain for ${expected}${shown}`);
}

/**
 * Waits for a promise, for 10 s at most; then throws with what was expected,
 * and what was seen instead.
 */
export async function soon<T>(
  promise: Promise<T>,
  expected: string,
  patience: Patience = {},
): Promise<T> {
  const { promise: late, resolve } = Promise.withResolvers<typeof LATE>();
  const timer = setTimeout(
    resolve,
    1000 * (patience.seconds ?? PATIENCE),
    LATE,
  );
  const first = await Promise.race([promise, late]).finally(() =>
    clearTimeout(timer)
  );
  // Here, where the stack leads to the test.
  if (first === LATE) throw waitedInVain(expected, patience);
  return first;
}

/** Does something again and again until a condition holds, for 10 s at most. */
export async function repeat(
  work: () => Promise<unknown>,
  done: () => boolean,
  expected: string,
  patience: Patience = {},
): Promise<void> {
  const end = performance.now() + 1000 * (patience.seconds ?? PATIENCE);
  while (!done()) {
    if (performance.now() > end) throw waitedInVain(expected, patience);
    await soon(work(), expected, patience);
  }
}

/** What a process left behind. */
export interface Finished {
  code: number;
  signal: string | null;
  stdout: string;
  stderr: string;
}

// On a fresh machine Deno may still be fetching what it needs, and says so.
// deno-lint-ignore no-control-regex
const DOWNLOADS = /^(\x1b\[\d*m)*Download(\x1b\[\d*m)* https?:\S+\n/gm;

/** Processes that no test has seen end, of a test that timed out say. */
const underWay = new Set<Deno.ChildProcess>();
globalThis.addEventListener("unload", () => underWay.forEach(end));

function end(child: Deno.ChildProcess): void {
  try {
    child.kill("SIGKILL");
  } catch { /* it has ended */ }
}

/**
 * A process under way; its output is collected, and can be waited for.
 * `await using` kills it in the end.
 */
export class Running implements AsyncDisposable {
  stdout = "";
  stderr = "";
  readonly #command: string;
  readonly #child: Deno.ChildProcess;
  readonly #reading: Promise<unknown>;
  #changed = Promise.withResolvers<void>();
  #over = false;

  constructor(
    command: string,
    args: string[],
    options: Deno.CommandOptions = {},
  ) {
    this.#command = [command, ...args].join(" ");
    this.#child = new Deno.Command(command, {
      stdin: "piped",
      ...options,
      args,
      stdout: "piped",
      stderr: "piped",
    })
      .spawn();
    underWay.add(this.#child);
    this.#child.status.finally(() => underWay.delete(this.#child));
    const reading = [
      this.#read(this.#child.stdout, "stdout"),
      this.#read(this.#child.stderr, "stderr"),
    ];
    this.#reading = Promise.all(reading).finally(() => {
      this.#over = true;
      this.#tell();
    });
  }

  async #read(
    from: ReadableStream<Uint8Array>,
    name: "stdout" | "stderr",
  ): Promise<void> {
    const decoder = new TextDecoder();
    for await (const bytes of from) {
      this[name] += decoder.decode(bytes, { stream: true });
      this.#tell();
    }
  }

  #tell(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }

  /** What it has printed, the end of it where it is much. */
  #seen() {
    return {
      command: this.#command,
      stdout: this.stdout.slice(-2000),
      stderr: this.stderr.slice(-2000),
    };
  }

  get pid(): number {
    return this.#child.pid;
  }

  get stdin(): WritableStream<Uint8Array> {
    return this.#child.stdin;
  }

  /** Writes to its standard input, and leaves it open. */
  async type(text: string): Promise<void> {
    const writer = this.stdin.getWriter();
    const writing = writer.write(new TextEncoder().encode(text));
    await soon(writing, "a program to read its input", {
      seen: () => this.#seen(),
    });
    writer.releaseLock();
  }

  /**
   * Waits, for 10 s at most, until the output matches, and returns the match.
   * Throws when the process ends without.
   */
  async until(
    pattern: RegExp,
    from: "stdout" | "stderr" = "stdout",
    seconds = PATIENCE,
  ): Promise<RegExpMatchArray> {
    const seen = () => this.#seen();
    return await soon(this.#match(pattern, from), `${pattern} on ${from}`, {
      seconds,
      seen,
    });
  }

  async #match(
    pattern: RegExp,
    from: "stdout" | "stderr",
  ): Promise<RegExpMatchArray> {
    for (;;) {
      const match = this[from].match(pattern);
      if (match) return match;
      if (this.#over) {
        throw new Error(
          `ended without ${pattern} on ${from}: ${Deno.inspect(this.#seen())}`,
        );
      }
      await this.#changed.promise;
    }
  }

  kill(signal: Deno.Signal = "SIGTERM"): void {
    this.#child.kill(signal);
  }

  /** Closes its input, and waits for its end. Kills it if it does not end. */
  async finish(seconds = PATIENCE): Promise<Finished> {
    const finishing = this.#finish();
    try {
      return await soon(finishing, "the end of a program", {
        seconds,
        seen: () => this.#seen(),
      });
    } catch (error) {
      end(this.#child);
      throw error;
    }
  }

  async #finish(): Promise<Finished> {
    await this.stdin.close().catch(() => {});
    const [{ code, signal }] = await Promise.all([
      this.#child.status,
      this.#reading,
    ]);
    const stderr = this.stderr.replace(DOWNLOADS, "");
    return { code, signal, stdout: this.stdout, stderr };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    end(this.#child);
    // Longer when a process that it started holds its output open.
    await this.finish(3);
  }
}

/** Starts a script of the project, such as `echo_tcp`, as a process. */
export function start(
  name: string,
  args: string[] = [],
  options: Deno.CommandOptions = {},
): Running {
  const script = new URL(`${name}.ts`, ROOT).href;
  return new Running(Deno.execPath(), [
    "run",
    "-A",
    "--no-prompt",
    script,
    ...args,
  ], { cwd: ROOT, ...options });
}

/** Runs a script to its end, with `input` on its standard input. */
export async function run(
  name: string,
  args: string[],
  input = "",
  options: Deno.CommandOptions = {},
): Promise<Finished> {
  const running = start(name, args, {
    ...options,
    env: { NO_COLOR: "1", ...options.env },
  });
  if (input) await running.type(input).catch(() => {});
  return await running.finish();
}

/** Starts a server script on a free port, and waits until it listens. */
export async function serve(
  name: string,
  args: string[] = [],
  options: Deno.CommandOptions = {},
) {
  const server = start(name, ["--port", "0", ...args], options);
  const port = Number(
    (await server.until(/listening on \w+:\/\/\S+:(\d+)\n/))[1],
  );
  return Object.assign(server, { port });
}

/**
 * Makes a folder Deno's cache, with the packages of npm alone in it, or with
 * these folders of the cache as far as they exist.
 */
export async function freshCache(
  folder: string,
  deno = Deno.execPath(),
  kept = (_cache: string) => ["npm"],
) {
  const { stdout } = await new Running(deno, ["info", "--json"]).finish();
  const { denoDir } = JSON.parse(stdout);
  const type = WINDOWS ? { type: "junction" } as const : undefined;
  Deno.mkdirSync(`${folder}/dl`);
  for (const path of kept(denoDir)) {
    Deno.symlinkSync(`${denoDir}/${path}`, `${folder}/${path}`, type);
  }
  return { DENO_DIR: folder, NO_COLOR: "1" };
}

/** Whether a program is not installed: for `ignore`. Throws in CI then. */
export function missing(program: string): boolean {
  const [look, ...args] = Deno.build.os === "windows"
    ? ["where", program]
    : ["sh", "-c", `command -v ${program}`];
  const found = new Deno.Command(look, { args, stdout: "null", stderr: "null" })
    .outputSync().success;
  if (!found && Deno.env.get("CI")) {
    throw new Error(
      `${program} is not installed, and nothing is skipped in CI`,
    );
  }
  return !found;
}

/** Whether a command fails here, for want of rights say: for `ignore`. */
export function barred(program: string, ...args: string[]): boolean {
  if (missing(program)) return true;
  return !new Deno.Command(program, { args, stdout: "null", stderr: "null" })
    .outputSync().success;
}

/** Whether no network namespace can be made and entered: for `ignore`. */
export function noNamespaces(): boolean {
  return !LINUX || missing("ip") || missing("nsenter") ||
    barred("unshare", "-n", "true");
}

/** Whether there is no nc, or another one than OpenBSD's: for `ignore`. */
export function noNc(): boolean {
  return missing("nc") || barred("sh", "-c", "nc -h 2>&1 | grep -q OpenBSD");
}

/** Whether no bash can run Deno, as WSL's cannot: for `ignore`. */
export function noBash(): boolean {
  return barred("bash", "-c", '[ -x "$0" ]', Deno.execPath());
}

/** Whether python3 can make no terminal, as on Windows: for `ignore`. */
export function noPty(): boolean {
  return barred("python3", "-c", "import pty");
}

/** Shell commands that give a network namespace an interface: one of a pair. */
export function network(address: string): string {
  const pair = "ip link set lo up && ip link add eth0 type veth peer name eth1";
  return `${pair} && ip address add ${address} dev eth0 && ` +
    "ip link set eth0 up && ip link set eth1 up";
}

/** A network of a test's own, with files of its own in /etc if need be. */
export class Namespace implements AsyncDisposable {
  readonly #shell: Running;

  private constructor(shell: Running) {
    this.#shell = shell;
  }

  /** Makes one with shell commands, such as `ip link set lo up`. */
  static async make(commands: string): Promise<Namespace> {
    const line = `${commands} && echo ready && exec cat`;
    const shell = new Running("unshare", ["-nm", "sh", "-c", line]);
    await shell.until(/^ready\n/);
    return new Namespace(shell);
  }

  /** The arguments with which nsenter runs a program inside. */
  command(program: string, ...args: string[]): string[] {
    const inside = ["-t", `${this.#shell.pid}`, "-n", "-m", `-w${ROOT_PATH}`];
    return [...inside, program, ...args];
  }

  /** Starts a program inside. */
  start(program: string, ...args: string[]): Running {
    return new Running("nsenter", this.command(program, ...args));
  }

  /** Starts a script of the project inside. */
  script(name: string, ...args: string[]): Running {
    const flags = ["run", "-A", "--no-prompt", `${ROOT_PATH}/${name}.ts`];
    return this.start(Deno.execPath(), ...flags, ...args);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#shell[Symbol.asyncDispose]();
  }
}

/** Runs a shell command on a terminal; what would be seen there. */
export async function terminal(
  command: string,
  options: Deno.CommandOptions = {},
): Promise<string> {
  const args = ["-qec", command, "/dev/null"];
  await using script = new Running("script", args, { cwd: ROOT, ...options });
  return (await script.finish()).stdout;
}

/** Runs a program with these bytes as its input; what it writes, as bytes. */
export async function pipe(
  program: string,
  args: string[],
  input: Uint8Array<ArrayBuffer>,
) {
  const child = new Deno.Command(program, {
    ...{ args, cwd: ROOT },
    ...{ stdin: "piped", stdout: "piped", stderr: "piped" },
  }).spawn();
  const writing = new Response(input).body!.pipeTo(child.stdin).catch(() => {});
  const ending = Promise.all([child.output(), writing]);
  const [{ code, stdout, stderr }] = await soon(ending, `${program} to end`);
  return { code, stdout, stderr: text(stderr) };
}

/** What some work in this process returns, and prints meanwhile. */
export async function captured<T>(work: () => T | Promise<T>) {
  const { error } = console;
  const { write, isTerminal } = Deno.stdout;
  let out = "";
  let err = "";
  console.error = (_format = "", _style = "", line = "") => {
    err += `${line}\n`;
  };
  Deno.stdout.isTerminal = () => false;
  Deno.stdout.write = (part) => {
    out += text(part);
    return Promise.resolve(part.length);
  };
  try {
    const value = await soon(Promise.try(work), "the end of a command line", {
      seen: () => ({ out, err }),
    });
    return { value, out, err };
  } finally {
    console.error = error;
    Object.assign(Deno.stdout, { write, isTerminal });
  }
}

/** Text in UTF-8. */
export function bytes(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text);
}

/** UTF-8 as text. */
export function text(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

/** Bytes in no order, so that one lost, doubled or moved shows. */
export function random(length: number): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(length);
  for (let at = 0; at < length; at += 65_536) {
    crypto.getRandomValues(all.subarray(at, at + 65_536));
  }
  return all;
}

/** As assertEquals, for megabytes, which it does not print. */
export function assertSame(actual: Uint8Array, expected: Uint8Array): void {
  const first = expected.findIndex((byte, i) => byte !== actual[i]);
  const what = "length, and the first byte that differs";
  assertEquals([actual.length, first], [expected.length, -1], what);
}

/** Writes all of the bytes to a connection. */
export async function send(
  conn: Pick<Deno.Conn, "write">,
  all: Uint8Array,
): Promise<void> {
  let sent = 0;
  while (sent < all.length) sent += await conn.write(all.subarray(sent));
}

/** Reads so many bytes, or until the peer half-closes. */
export async function receive(
  conn: Pick<Deno.Conn, "read">,
  most = Infinity,
): Promise<Uint8Array<ArrayBuffer>> {
  const parts: Uint8Array<ArrayBuffer>[] = [];
  let got = 0;
  while (got < most) {
    const buffer = new Uint8Array(Math.min(65_536, most - got));
    const seen = () => `${got} bytes`;
    const more = "more bytes, or the end";
    const length = await soon(conn.read(buffer), more, { seen });
    if (length === null) break;
    parts.push(buffer.subarray(0, length));
    got += length;
  }
  return await new Blob(parts).bytes();
}

/** The two ends of a connection on loopback. */
export async function pair(): Promise<[Deno.TcpConn, Deno.TcpConn]> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { hostname, port } = listener.addr;
  const ends = [Deno.connect({ hostname, port }), listener.accept()] as const;
  return await soon(Promise.all(ends), "a connection");
}

/** A port of loopback where nobody listens. */
export function unusedPort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

/** What a server of a test does with its one client. */
export type Handler = (
  conn: Deno.TcpConn,
  over: Promise<void>,
) => Promise<unknown>;

/** A server that treats its one client so; `over` is the end of the test. */
export function serveOnce(handler: Handler) {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const over = Promise.withResolvers<void>();
  const done = listener.accept().then(async (conn) => {
    await handler(conn, over.promise).finally(() => conn.close());
  });
  const { port } = listener.addr;
  return {
    ...{ port, at: `127.0.0.1:${port}` },
    async [Symbol.asyncDispose]() {
      over.resolve();
      listener.close();
      await soon(done.catch(() => {}), "the end of a test's server");
    },
  };
}

/** A server that resets each connection as soon as bytes come. */
export async function serveResets() {
  const reset = (socket: Socket) =>
    socket.on("data", () => socket.resetAndDestroy()).on("error", () => {});
  const server = createServer(reset).listen(0, "127.0.0.1");
  const listening = new Promise<void>((done) => server.on("listening", done));
  await soon(listening, "a server that resets");
  const { port } = server.address() as { port: number };
  const closed = () => new Promise<void>((done) => server.close(() => done()));
  return { port, at: `127.0.0.1:${port}`, [Symbol.asyncDispose]: closed };
}

/** Connects to a port of loopback, does something there, and resets. */
export async function reset(
  port: number,
  work: (socket: Socket) => Promise<unknown> = () => Promise.resolve(),
): Promise<void> {
  const socket = connect(port, "127.0.0.1").on("error", () => {});
  const event = (name: string) =>
    soon(new Promise<void>((done) => socket.once(name, done)), name);
  await event("connect");
  await work(socket);
  const closed = event("close");
  socket.resetAndDestroy();
  await closed;
}

/** A folder that is gone afterwards. */
export async function temporary(): Promise<{ path: string } & AsyncDisposable> {
  const path = await Deno.makeTempDir();
  const remove = () => Deno.remove(path, { recursive: true });
  return { path, [Symbol.asyncDispose]: remove };
}
