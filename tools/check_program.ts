/** What check.ts examines: a program, how it is reached, and its faults. */
import { Buffer } from "node:buffer";
import { setTimeout as delay } from "node:timers/promises";
import { counted, Failure, reason } from "../utils.ts";

const WINDOWS = Deno.build.os === "windows";
export const LOOPBACK = { hostname: "127.0.0.1", port: 0 };

/** What a program does wrong; or why a case cannot be tried here. */
export class Fault extends Error {
  constructor(
    readonly sent: string,
    readonly came: string,
    readonly expected = "", // else what the case asks
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
  const quoted = JSON.stringify(isLong ? text.slice(0, 20) : text);
  return `${counted(text.length, "byte")} ${quoted}${isLong ? "..." : ""}`;
}

/** Whether a server has opened a port. Asking it would cost it a client. */
async function isOpen(transport: string, port: number): Promise<boolean> {
  if (Deno.build.os !== "linux") return await delay(1500, true);
  const read = (path: string) => Deno.readTextFile(path).catch(() => "");
  const path = `/proc/net/${transport}`;
  const sockets = await read(path) + await read(`${path}6`);
  const hex = port.toString(16).toUpperCase().padStart(4, "0");
  return new RegExp(`:${hex} 0+:0000 0[A7] `).test(sockets);
}

/** A UDP socket as a connection: with a server, or with the last client. */
export class UdpConn {
  readonly #socket: Deno.DatagramConn;

  constructor(at: typeof LOOPBACK, public remoteAddr?: Deno.NetAddr) {
    this.#socket = Deno.listenDatagram({ transport: "udp", ...at });
  }

  get port(): number {
    return (this.#socket.addr as Deno.NetAddr).port;
  }

  async read(buffer: Uint8Array): Promise<number> {
    const [data, from] = await this.#socket.receive(buffer);
    this.remoteAddr = from as Deno.NetAddr;
    return data.length;
  }

  async write(data: Uint8Array): Promise<number> {
    return await this.#socket.send(data, this.remoteAddr!);
  }

  async closeWrite(): Promise<void> {} // UDP has no FIN

  close(): void {
    this.#socket.close();
  }
}

export type Conn = Deno.TcpConn | UdpConn;
/** What a program is, after the transport that it uses. */
export type Kind = "tcp server" | "udp server" | "tcp client" | "udp client";

/** The program that is examined in a case. */
export class Program {
  #child?: Deno.ChildProcess;
  #output?: Promise<Deno.CommandOutput>;
  readonly #sockets = new Set<{ close(): void }>();

  constructor(
    readonly kind: Kind,
    public hostname: string,
    public port: number, // 0 until a server is started
    readonly command: string[],
  ) {}

  /** Runs the command. Gives what it has printed, once it has ended. */
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

  /** Starts a server, unless it runs already; waits until it listens. */
  async start(): Promise<void> {
    const isClient = this.kind.endsWith("client");
    if (isClient || this.command.length === 0) return;
    if (this.port === 0) {
      using free = Deno.listen(LOOPBACK);
      this.port = free.addr.port;
    }
    const output = this.run(this.port);
    const wanted = "a socket that listens";
    const started = performance.now();
    while (!await isOpen(this.kind.slice(0, 3), this.port)) {
      const hasEnded = await within(output, 20);
      if (hasEnded) throw new Fault("", "its end", wanted);
      const isLate = performance.now() - started > 4000;
      if (isLate) {
        throw new Fault("", `nothing listens on port ${this.port}`, wanted);
      }
    }
  }

  /** Connects to a server. Over UDP, from a port of ours. */
  async connect(ourPort = 0): Promise<Conn> {
    if (this.kind === "udp server") return this.#connectUdp(ourPort);
    const { hostname, port } = this;
    const conn = await Deno.connect({ hostname, port }).catch(reason);
    if (typeof conn === "object") return this.keep(conn);
    throw new Fault("a SYN", conn, "the connection is accepted");
  }

  #connectUdp(ourPort: number): Conn {
    const { hostname, port } = this;
    const any = hostname.includes(":") ? "::" : "0.0.0.0";
    const ours = hostname === "::1" ? hostname : any; // there may be no IPv6
    const server = { transport: "udp", hostname, port } as const;
    try {
      return this.keep(new UdpConn({ hostname: ours, port: ourPort }, server));
    } catch (error) { // no right to open a low port, say
      throw new Fault("", reason(error), "a socket of ours", "skipped");
    }
  }

  /** Opens a server of ours for a client. */
  listen() {
    if (this.kind === "udp client") {
      const conn = this.keep(new UdpConn(LOOPBACK));
      return { port: conn.port, accept: () => Promise.resolve(conn) };
    }
    const listener = this.keep(Deno.listen(LOOPBACK));
    const accept = async () => this.keep(await listener.accept());
    return { port: listener.addr.port, accept };
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
    const { pid } = this.#child ?? {};
    try {
      if (pid) Deno.kill(WINDOWS ? pid : -pid, name);
    } catch { /* all of them have ended, or Windows has no such signal */ }
  }

  /** Ends it. Gives what it has printed, and how it ended if by itself. */
  async end(): Promise<{ printed: string; ended?: string }> {
    this.signal("SIGKILL");
    const output = this.#output && await within(this.#output);
    this.release(); // not before: who ends first has to wait for its port
    if (!output) return { printed: "" }; // or a child of its own holds it
    const { stdout, stderr, signal, code } = output;
    const printed = `${Buffer.concat([stdout, stderr])}`;
    if (signal === "SIGKILL" || this.port === 0) return { printed };
    const lines = printed.trimEnd().split("\n");
    const isError = (line: string) => /(error|exception)\b.*: /i.test(line);
    const last = lines.findLast(isError) ?? lines.at(-1);
    const how = signal ?? `status ${code}`;
    return { printed, ended: last ? `${how}: ${last}` : how };
  }
}
