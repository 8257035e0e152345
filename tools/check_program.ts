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
    readonly expected = "",
    readonly verdict: "FAILED" | "warning" | "skipped" = "FAILED",
  ) {
    super(came);
  }
}

/** Waits for something; gives undefined when that takes too long. */
export async function within<T>(promise: Promise<T>, milliseconds = 2000) {
  return await Promise.race([promise, delay(milliseconds, undefined)]);
}

/** Bytes as a person reads them: `6 bytes "hello\n"`. */
export function show(text: string): string {
  const isLong = text.length > 40;
  const start = isLong ? text.slice(0, 20) : text;
  const quoted = printable(start.replace(/["\\]/g, "\\$&"));
  return `${counted(text.length, "byte")} "${quoted}"${isLong ? "..." : ""}`;
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
  /** is resolved when the server listens, or the client asks */
  readonly ready = Promise.withResolvers<void>();
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
      const options = { args, ...piped, detached, env: { NO_COLOR: "1" } };
      this.#child = new Deno.Command(command, options).spawn();
    } catch (error) {
      throw new Failure(1, `cannot run ${command}: ${reason(error)}`);
    }
    this.#output = this.#child.output();
    return this.#output;
  }

  /** Starts a server if it is a command, once, and waits until it listens. */
  async start(transport: "tcp" | "udp" = "tcp"): Promise<void> {
    if (this.command.length > 0) this.#starting ??= this.#start(transport);
    await this.#starting;
    this.ready.resolve();
  }

  async #start(transport: string): Promise<void> {
    this.port ||= freePort();
    let hasEnded = false;
    this.run(this.port).then(() => hasEnded = true);
    while (!await isOpen(transport, this.port)) {
      const what = `${transport.toUpperCase()} port ${this.port} is opened`;
      if (hasEnded) throw new Fault("", "no such socket", what);
      await delay(20);
    }
  }

  /** Connects to a server. */
  async connect(): Promise<Deno.TcpConn> {
    await this.start();
    const { hostname, port } = this;
    try {
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
    try {
      const socket = this.keep(Deno.listenDatagram(at));
      await socket.send(Buffer.from(text), { ...at, hostname, port });
      return socket;
    } catch (error) { // no IPv6 here, say, or no right to open a low port
      throw new Fault("", `we cannot ask: ${reason(error)}`, "", "skipped");
    }
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

  /** Sends a signal to a program of ours, and to its children. */
  signal(name: "SIGSTOP" | "SIGCONT" | "SIGKILL"): void {
    try {
      if (WINDOWS && name === "SIGKILL") this.#child?.kill(name);
      else if (this.#child && !WINDOWS) Deno.kill(-this.#child.pid, name);
    } catch { /* all of them have ended */ }
  }

  /** Ends it. Gives what it has printed, and how it ended if by itself. */
  async end(): Promise<{ printed: string; ended?: string }> {
    this.signal("SIGKILL");
    this.release();
    this.#starting = undefined;
    const output = await this.#output;
    if (!output) return { printed: "" };
    const { stdout, stderr, signal, code } = output;
    const printed = new TextDecoder().decode(Buffer.concat([stdout, stderr]));
    const isServer = this.port > 0;
    if (signal === "SIGKILL" || !isServer) return { printed };
    const lines = printed.trimEnd().split("\n");
    const isError = (line: string) => /(error|exception)\b.*: /i.test(line);
    const last = lines.findLast(isError) ?? lines.at(-1);
    const how = signal ?? `status ${code}`;
    return { printed, ended: last ? `${how}: ${printable(last)}` : how };
  }
}
