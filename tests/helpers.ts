/** What the tests share: running a script as a process, waiting for its lines, and finding the tools of the field. */

/** The root of the project. */
export const ROOT = new URL("..", import.meta.url);

/** What a process left behind. */
export interface Finished {
  code: number;
  signal: string | null;
  stdout: string;
  stderr: string;
}

/** A process under way; its output is collected, and can be waited for. `await using` kills it in the end. */
export class Running implements AsyncDisposable {
  stdout = "";
  stderr = "";
  readonly #child: Deno.ChildProcess;
  readonly #reading: Promise<unknown>;
  #changed = Promise.withResolvers<void>();
  #over = false;

  constructor(command: string, args: string[], options: Deno.CommandOptions = {}) {
    this.#child = new Deno.Command(command, { stdin: "piped", ...options, args, stdout: "piped", stderr: "piped" })
      .spawn();
    const read = async (from: ReadableStream<Uint8Array>, name: "stdout" | "stderr") => {
      const decoder = new TextDecoder();
      for await (const bytes of from) {
        this[name] += decoder.decode(bytes, { stream: true });
        this.#tell();
      }
    };
    this.#reading = Promise.all([read(this.#child.stdout, "stdout"), read(this.#child.stderr, "stderr")])
      .finally(() => (this.#over = true, this.#tell()));
  }

  #tell() {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
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
    await writer.write(new TextEncoder().encode(text));
    writer.releaseLock();
  }

  /** Waits until the output matches, and returns the match; throws when the process ends without. */
  async until(pattern: RegExp, from: "stdout" | "stderr" = "stdout"): Promise<RegExpMatchArray> {
    for (;;) {
      const match = this[from].match(pattern);
      if (match) return match;
      if (this.#over) throw new Error(`ended without ${pattern}: ${JSON.stringify([this.stdout, this.stderr])}`);
      await this.#changed.promise;
    }
  }

  kill(signal: Deno.Signal = "SIGTERM"): void {
    this.#child.kill(signal);
  }

  /** Waits for its end; closes its standard input first. */
  async finish(): Promise<Finished> {
    await this.stdin.close().catch(() => {});
    const [{ code, signal }] = await Promise.all([this.#child.status, this.#reading]);
    // On a fresh machine Deno may still be fetching what it needs, and says so.
    // deno-lint-ignore no-control-regex
    const stderr = this.stderr.replace(/^(\x1b\[\d*m)*Download(\x1b\[\d*m)* https?:\S+\n/gm, "");
    return { code, signal, stdout: this.stdout, stderr };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      this.#child.kill("SIGKILL");
    } catch { /* it has ended */ }
    await this.finish();
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
