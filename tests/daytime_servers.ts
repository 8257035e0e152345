/** Servers to ask and clients to be asked by, for the tests of daytime.ts. */
import { assertRejects } from "jsr:@std/assert@^1";
import { ask as askFor, interpret, main } from "../daytime.ts";
import { Failure, type Target } from "../utils.ts";
import { captured, type Finished, missing, network, ROOT } from "./helpers.ts";
import { Running, soon } from "./helpers.ts";

export const LINUX = Deno.build.os === "linux";
export const WINDOWS = Deno.build.os === "windows";

/** The line of our server, whatever the day. */
export const LINE =
  /^[A-Z][a-z]+day, [A-Z][a-z]+ \d{1,2}, \d{4} \d\d:\d\d:\d\d-UTC\r?\n$/;
export const OURS = "Monday, November 23, 2026 13:17:05-UTC\r\n";
export const NIST = "\n61367 26-11-23 13:17:05 00 0 0  50.0 UTC(NIST) * \n";

export function bytesOf(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(new TextEncoder().encode(text));
}

export function textOf(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

export function address(port: number, hostname = "127.0.0.1"): Deno.NetAddr {
  return { transport: "udp", hostname, port };
}

/** A TCP server that does this with each connection, and then closes it. */
export function tcpServer(
  handle: (conn: Deno.TcpConn) => unknown,
  hostname = "127.0.0.1",
) {
  const listener = Deno.listen({ hostname, port: 0 });
  const conns: Deno.TcpConn[] = [];
  const sessions: Promise<void>[] = [];

  async function session(conn: Deno.TcpConn): Promise<void> {
    try {
      await handle(conn);
    } catch { /* the client is gone */ }
    conn[Symbol.dispose]();
  }

  async function accept(): Promise<void> {
    for await (const conn of listener) {
      conns.push(conn);
      sessions.push(session(conn));
    }
  }

  const accepting = accept();
  return {
    port: listener.addr.port,
    conns,
    [Symbol.asyncDispose]: async () => {
      listener.close();
      await accepting;
      for (const conn of conns) conn[Symbol.dispose]();
      await Promise.all(sessions);
    },
  };
}

/** A TCP server that sends this, and closes. */
export function says(text: string | Uint8Array, hostname?: string) {
  const bytes = typeof text === "string" ? bytesOf(text) : text;
  return tcpServer(async (conn) => {
    let sent = 0;
    while (sent < bytes.length) sent += await conn.write(bytes.subarray(sent));
  }, hostname);
}

/** A UDP server that answers the nth question so; undefined: not at all. */
export function udpServer(
  answer: (n: number) => string | undefined,
  hostname = "127.0.0.1",
) {
  const socket = Deno.listenDatagram({ transport: "udp", hostname, port: 0 });
  const questions: { bytes: number; time: number }[] = [];

  async function serve(): Promise<void> {
    for await (const [{ length }, from] of socket) {
      questions.push({ bytes: length, time: performance.now() });
      const text = answer(questions.length);
      if (text !== undefined) await socket.send(bytesOf(text), from);
    }
  }

  const serving = serve();
  return {
    port: (socket.addr as Deno.NetAddr).port,
    questions,
    [Symbol.asyncDispose]: async () => {
      socket.close();
      await serving;
    },
  };
}

/** Asks a server on this machine, and reads its answer. */
export async function ask(
  { hostname = "127.0.0.1", timeout = 5000, ...more }:
    & Partial<Target>
    & { port: number; udp?: boolean; timeout?: number },
) {
  const { signal } = new AbortController();
  const asking = askFor({ signal, hostname, timeout, ...more });
  const exchange = await soon(asking, "an answer");
  return { ...interpret(hostname, exchange), bytes: exchange.bytes };
}

/** The status and message of a failure. */
export async function failure(work: Promise<unknown>): Promise<string> {
  const error = await assertRejects(() => work, Failure);
  return `${error.status} ${error.message}`;
}

/** Runs a command line without a process. */
export async function cli(
  args: (string | number)[],
): Promise<Omit<Finished, "signal">> {
  const work = () => main(args.map(String));
  const { value: code, out: stdout, err: stderr } = await captured(work);
  return { code, stdout, stderr };
}

/** Whether a network namespace of one's own cannot be had. */
export function confined(): boolean {
  if (!LINUX || Deno.uid() !== 0) return true;
  if (["unshare", "ip", "mount"].some(missing)) return true;
  const args = ["-nm", "sh", "-c", network("192.0.2.1/24")];
  const command = new Deno.Command("unshare", { args, stderr: "null" });
  return !command.outputSync().success;
}

/**
 * Runs a shell script with a network and a hosts file of its own. `$daytime`
 * is the command, and `ready PORT` waits for a UDP socket.
 */
export async function apart(script: string): Promise<Finished> {
  const file = new URL("daytime.ts", ROOT).href;
  const setup = `set -e
    ip link set lo up
    mount -t tmpfs none /run
    echo "::1 localhost" > /run/hosts
    echo "127.0.0.1 localhost time.nist.gov" >> /run/hosts
    mount --bind /run/hosts /etc/hosts
    daytime="${Deno.execPath()} run -A ${file}"
    trap '[ -z "$server" ] || kill $server' EXIT
    ready() {
      timeout 9 sh -c 'until ss -Hlun | grep -q ":$0 "; do sleep 0.01; done' $1
    }`;
  const args = ["-nm", "sh", "-c", `${setup}\n${script}`];
  const options = { cwd: ROOT, env: { NO_COLOR: "1" } };
  await using running = new Running("unshare", args, options);
  return await running.finish(30);
}
