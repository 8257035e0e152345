/** What check.ts examines: a program, how it is reached, and its faults. */
import { Buffer } from "node:buffer";
import { setTimeout as delay } from "node:timers/promises";
import { counted, Failure, printable, reason } from "../utils.ts";

const WINDOWS = Deno.build.os === "windows";

/** What a program does wrong; or why a case cannot be tried here. */
export class Fault extends Error {
  constructor(
    readonly sent: string,
    readonly came: string,
    readonly expected: string,
    readonly verdict: "FAILED" | "warning" | "skipped" = "FAILED",
  ) {
    super(came);
  }
}

/** A case: what is asked of a program, and where that is written. */
export interface Case {
  name: string;
  asks: string;
  rule: string;
  lesson: string; // a page in docs/ and a heading of it
  examine: (program: Program) => Promise<unknown>; // throws a Fault
}

/** The cases of a rule, each under `name: what the program has to do`. */
export function cases(
  rule: string,
  lesson: string,
  all: Record<string, Case["examine"]>,
): Case[] {
  return Object.entries(all).map(([title, examine]) => {
    const [name, asks] = title.split(": ");
    return { name, asks, rule, lesson, examine };
  });
}

/** Bytes as a person reads them: `6 bytes "hello\n"`. */
export function show(data: string | Uint8Array): string {
  const all = Buffer.from(data as string, "latin1");
  const start = all.toString("latin1", 0, 40).replace(/["\\]/g, "\\$&");
  const rest = all.length > 40 ? "..." : "";
  return `${counted(all.length, "byte")} "${printable(start)}"${rest}`;
}

/** Waits for something; gives undefined when that takes too long. */
export async function within<T>(promise: Promise<T>, milliseconds = 2000) {
  return await Promise.race([promise, delay(milliseconds, undefined)]);
}

/** A port that is free, and that no system gives away by itself. */
function freePort(): number {
  const port = 20_000 + Math.floor(12_000 * Math.random());
  try {
    Deno.listen({ hostname: "127.0.0.1", port }).close();
    return port;
  } catch {
    return freePort();
  }
}

/** Whether a server has opened this port. It must not cost it a client. */
async function isOpen(transport: string, port: number): Promise<boolean> {
  if (Deno.build.os !== "linux") return await delay(1500, true);
  const read = (path: string) => Deno.readTextFile(path).catch(() => "");
  const path = `/proc/net/${transport}`;
  const sockets = await read(path) + await read(`${path}6`);
  const hex = port.toString(16).toUpperCase().padStart(4, "0");
  return new RegExp(`:${hex} 0+:0000 0[A7] `).test(sockets);
}

/** The program that is examined in a case: a server, or a command. */
export class Program {
  readonly #sockets = new Set<{ close(): void }>();
  #child?: Deno.ChildProcess;
  #output?: Promise<Deno.CommandOutput>;
  #starting?: Promise<void>;

  constructor(
    public hostname: string,
    public port: number,
    readonly command: string[],
  ) {}

  /** Runs the command. Gives what it has printed when it has ended. */
  run(port: number): Promise<Deno.CommandOutput> {
    const [command, ...args] = this.command.map((word) =>
      word.replaceAll("{url}", "http://{host}:{port}/")
        .replaceAll("{host}", "127.0.0.1").replaceAll("{port}", `${port}`)
    );
    const piped = { stdin: "null", stdout: "piped", stderr: "piped" } as const;
    const detached = !WINDOWS; // a group of its own, to end its children too
    try {
      const options = { args, ...piped, detached };
      this.#child = new Deno.Command(command, options).spawn();
    } catch (error) {
      throw new Failure(1, `cannot run ${command}: ${reason(error)}`);
    }
    this.#output = this.#child.output();
    return this.#output;
  }

  /** Starts a server if it is a command, once, and waits until it listens. */
  start(transport = "tcp"): Promise<void> {
    if (this.command.length === 0) return Promise.resolve();
    return this.#starting ??= this.#start(transport);
  }

  async #start(transport: string): Promise<void> {
    this.port ||= freePort();
    let hasEnded = false;
    this.run(this.port).then(() => hasEnded = true);
    const started = performance.now();
    while (!await isOpen(transport, this.port)) {
      if (hasEnded || performance.now() - started > 4000) {
        const what = `${transport.toUpperCase()} port ${this.port} is opened`;
        throw new Fault("nothing", "nothing", what);
      }
      await delay(20);
    }
  }

  /** Connects to a server. */
  async connect(): Promise<Deno.TcpConn> {
    await this.start();
    try {
      const { hostname, port } = this;
      const signal = AbortSignal.timeout(2000);
      return this.keep(await Deno.connect({ hostname, port, signal }));
    } catch (error) {
      throw new Fault("a SYN", reason(error), "the connection is accepted");
    }
  }

  /** Sends a datagram to a server. Gives the socket where answers arrive. */
  async send(text: string, from = 0): Promise<Deno.DatagramConn> {
    await this.start("udp");
    const { hostname, port } = this;
    const any = hostname.includes(":") ? "::" : "0.0.0.0";
    const at = { transport: "udp", hostname: any, port: from } as const;
    const socket = this.keep(Deno.listenDatagram(at));
    await socket.send(Buffer.from(text), { ...at, hostname, port });
    return socket;
  }

  /** Has a socket closed when the case is over. */
  keep<Socket extends { close(): void }>(socket: Socket): Socket {
    this.#sockets.add(socket);
    return socket;
  }

  /** Closes our sockets. */
  release(): void {
    for (const socket of this.#sockets) socket.close();
    this.#sockets.clear();
  }

  /** Sends a signal to a program of ours and its children. */
  signal(name: "SIGSTOP" | "SIGCONT" | "SIGKILL"): void {
    try {
      if (WINDOWS && name === "SIGKILL") this.#child?.kill(name);
      else if (this.#child && !WINDOWS) Deno.kill(-this.#child.pid, name);
    } catch { /* all of them have ended */ }
  }

  /** Ends it. Gives what it has printed, and how it ended if by itself. */
  async end(): Promise<{ printed: string; ending: string }> {
    this.signal("SIGKILL");
    this.release();
    this.#starting = undefined;
    const output = await this.#output;
    if (!output) return { printed: "", ending: "" };
    const { stdout, stderr, signal, code } = output;
    const printed = new TextDecoder().decode(Buffer.concat([stdout, stderr]));
    if (signal === "SIGKILL") return { printed, ending: "" };
    const last = printable(printed.trimEnd().split("\n").at(-1) ?? "");
    const ending = `${signal ?? `status ${code}`}, ${show(last)}`;
    return { printed, ending };
  }
}
