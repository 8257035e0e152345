/** What the tests share: running a script as a process, waiting for its lines, and finding the tools of the field. */

/** The root of the project. */
export const ROOT = new URL("..", import.meta.url);

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
export function test(first: string | Deno.TestDefinition, second?: Options | Body, third?: Body): void {
  if (typeof first !== "string") return Deno.test({ timeout: TIMEOUT, ...first, fn: telling(first.fn) });
  if (typeof second === "function") return Deno.test(first, { timeout: TIMEOUT }, telling(second));
  Deno.test(first, { timeout: TIMEOUT, ...second }, telling(third!));
}

/**
 * A test that throws what went wrong first. When cleaning up after an error fails
 * too, Deno shows neither of the two.
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

function waitedInVain(expected: string, { seconds = PATIENCE, seen }: Patience): Error {
  const shown = seen ? `; seen: ${Deno.inspect(seen(), { strAbbreviateSize: 2000 })}` : "";
  return new Error(`waited ${seconds} s in vain for ${expected}${shown}`);
}

/**
 * Waits for a promise, for 10 s at most; then throws with what was expected, and
 * what has been seen instead.
 */
export async function soon<T>(promise: Promise<T>, expected: string, patience: Patience = {}): Promise<T> {
  const { promise: late, resolve } = Promise.withResolvers<typeof LATE>();
  const timer = setTimeout(resolve, 1000 * (patience.seconds ?? PATIENCE), LATE);
  const first = await Promise.race([promise, late]).finally(() => clearTimeout(timer));
  if (first === LATE) throw waitedInVain(expected, patience); // here, where the stack leads to the test
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

/** The processes that no test has seen end: of a test that timed out, for instance. */
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

  constructor(command: string, args: string[], options: Deno.CommandOptions = {}) {
    this.#command = [command, ...args].join(" ");
    this.#child = new Deno.Command(command, { stdin: "piped", ...options, args, stdout: "piped", stderr: "piped" })
      .spawn();
    underWay.add(this.#child);
    this.#child.status.finally(() => underWay.delete(this.#child));
    const reading = [this.#read(this.#child.stdout, "stdout"), this.#read(this.#child.stderr, "stderr")];
    this.#reading = Promise.all(reading).finally(() => {
      this.#over = true;
      this.#tell();
    });
  }

  async #read(from: ReadableStream<Uint8Array>, name: "stdout" | "stderr"): Promise<void> {
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
    return { command: this.#command, stdout: this.stdout.slice(-2000), stderr: this.stderr.slice(-2000) };
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
    await soon(writing, "a program to read its input", { seen: () => this.#seen() });
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
    return await soon(this.#match(pattern, from), `${pattern} on ${from}`, { seconds, seen });
  }

  async #match(pattern: RegExp, from: "stdout" | "stderr"): Promise<RegExpMatchArray> {
    for (;;) {
      const match = this[from].match(pattern);
      if (match) return match;
      if (this.#over) throw new Error(`ended without ${pattern} on ${from}: ${Deno.inspect(this.#seen())}`);
      await this.#changed.promise;
    }
  }

  kill(signal: Deno.Signal = "SIGTERM"): void {
    this.#child.kill(signal);
  }

  /** Closes its standard input, and waits for its end; what has not ended in time is killed. */
  async finish(seconds = PATIENCE): Promise<Finished> {
    const finishing = this.#finish();
    try {
      return await soon(finishing, "the end of a program", { seconds, seen: () => this.#seen() });
    } catch (error) {
      end(this.#child);
      throw error;
    }
  }

  async #finish(): Promise<Finished> {
    await this.stdin.close().catch(() => {});
    const [{ code, signal }] = await Promise.all([this.#child.status, this.#reading]);
    // On a fresh machine Deno may still be fetching what it needs, and says so.
    // deno-lint-ignore no-control-regex
    const stderr = this.stderr.replace(/^(\x1b\[\d*m)*Download(\x1b\[\d*m)* https?:\S+\n/gm, "");
    return { code, signal, stdout: this.stdout, stderr };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    end(this.#child);
    await this.finish(3); // longer when a process that it started holds its output open
  }
}

/** Starts a script of the project, `echo_tcp` for instance, in a process of its own. */
export function start(name: string, args: string[] = [], options: Deno.CommandOptions = {}): Running {
  const script = new URL(`${name}.ts`, ROOT).href;
  return new Running(Deno.execPath(), ["run", "-A", "--no-prompt", script, ...args], { cwd: ROOT, ...options });
}

/** Runs a script to its end, with `input` on its standard input. */
export async function run(
  name: string,
  args: string[],
  input = "",
  options: Deno.CommandOptions = {},
): Promise<Finished> {
  const running = start(name, args, { ...options, env: { NO_COLOR: "1", ...options.env } });
  if (input) await running.type(input).catch(() => {});
  return await running.finish();
}

/** Starts a server script on a free port, and waits until it listens. */
export async function serve(name: string, args: string[] = [], options: Deno.CommandOptions = {}) {
  const server = start(name, ["--port", "0", ...args], options);
  const port = Number((await server.until(/listening on \w+:\/\/\S+:(\d+)\n/))[1]);
  return Object.assign(server, { port });
}

/** Whether a program is not installed: for `ignore`, so that the test is skipped by name. */
export function missing(program: string): boolean {
  const [look, ...args] = Deno.build.os === "windows" ? ["where", program] : ["sh", "-c", `command -v ${program}`];
  const found = new Deno.Command(look, { args, stdout: "null", stderr: "null" }).outputSync().success;
  if (!found && Deno.env.get("CI")) throw new Error(`${program} is not installed, and nothing is skipped in CI`);
  return !found;
}

/** Shell commands that give a network namespace an interface with this address: one end of a veth pair. */
export function network(address: string): string {
  const pair = "ip link set lo up && ip link add eth0 type veth peer name eth1";
  return `${pair} && ip address add ${address} dev eth0 && ip link set eth0 up && ip link set eth1 up`;
}
