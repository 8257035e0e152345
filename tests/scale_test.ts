/** What docs/scale.md says of several servers, and of a balancer. */
import { assert, assertEquals, assertMatch } from "jsr:@std/assert@^1";
import { writeAll } from "../utils.ts";
import { missing, ROOT, Running, serve, soon, test } from "./helpers.ts";

const LOOPBACK = { hostname: "127.0.0.1", port: 0 };
const isLinux = Deno.build.os === "linux";

// assertEquals would show how random bytes differ, at length.
function isSame(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

function random(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at += 65_536) {
    crypto.getRandomValues(bytes.subarray(at, at + 65_536));
  }
  return bytes;
}

/** Whether bytes come back over TCP after a half-close, and then the end. */
async function comesBack(port: number, length: number): Promise<boolean> {
  const bytes = random(length);
  using conn = await Deno.connect({ ...LOOPBACK, port });
  const sending = writeAll(conn, bytes).then(() => conn.closeWrite());
  const answer = new Uint8Array(length + 1);
  let received = 0;
  for (;;) {
    const reading = conn.read(answer.subarray(received));
    const count = await soon(reading, "the bytes, or the end");
    if (count === null) break;
    received += count;
  }
  await sending.catch(() => {});
  return isSame(answer.subarray(0, received), bytes);
}

function openUdp(port = 0): Deno.DatagramConn {
  return Deno.listenDatagram({ ...LOOPBACK, port, transport: "udp" });
}

/** Sends a datagram from a port; false if that port cannot be had. */
async function sendFrom(from: number, port: number): Promise<boolean> {
  const { AddrInUse, PermissionDenied } = Deno.errors;
  try {
    const socket = openUdp(from);
    await socket.send(random(10), { ...LOOPBACK, port, transport: "udp" });
    socket.close();
    return true;
  } catch (error) {
    // Small ports need more rights.
    const isTaken = error instanceof AddrInUse;
    if (isTaken || error instanceof PermissionDenied) return false;
    throw error;
  }
}

test("two echo_tcp with --reuse-port share the connections to one port", {
  ignore: !isLinux,
}, async () => {
  await using one = await serve("echo_tcp", ["--reuse-port"]);
  const port = ["--port", `${one.port}`];
  await using two = await serve("echo_tcp", ["--reuse-port", ...port]);
  assertEquals(two.port, one.port);
  const asking = Array.from({ length: 64 }, () => comesBack(one.port, 1000));
  assertEquals((await Promise.all(asking)).includes(false), false);
  const shares: number[] = [];
  for (const server of [one, two]) {
    server.kill();
    const { code, stdout } = await server.finish();
    assertEquals(code, 0);
    shares.push(Number(stdout.match(/served (\d+) connections/)?.[1]));
  }
  assertEquals(shares[0] + shares[1], 64);
  // By chance, this fails once in 2^63 times.
  assert(!shares.includes(0), `one of them got nothing: ${shares}`);
});

const DOCUMENT = Deno.readTextFileSync(new URL("docs/scale.md", ROOT));
const CONFIGURATION = DOCUMENT.match(/```nginx\n(.*?)```/s)![1];

function isStreamMissing(): boolean {
  if (!isLinux || missing("nginx")) return true;
  const [, module] = CONFIGURATION.match(/load_module (\S+);/)!;
  try {
    return !Deno.statSync(module).isFile;
  } catch (error) {
    if (Deno.env.get("CI")) throw error;
    return true;
  }
}

/** A port that is free over TCP and UDP. */
function freePort(): number {
  for (;;) {
    using listener = Deno.listen({ hostname: "0.0.0.0", port: 0 });
    const { port } = listener.addr;
    try {
      openUdp(port).close();
      return port;
    } catch (error) {
      if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    }
  }
}

/** nginx and the four servers of docs/scale.md, on ports that are free. */
class Balanced implements AsyncDisposable {
  readonly port = freePort();
  readonly folder = Deno.makeTempDirSync();
  readonly socket = openUdp();
  #stack = new AsyncDisposableStack();

  async start() {
    const servers = [];
    for (const name of ["echo_tcp", "echo_tcp", "echo_udp", "echo_udp"]) {
      const server = await serve(name, ["--host", "127.0.0.1"]);
      servers.push(this.#stack.use(server));
    }
    const ports = servers.map(({ port }) => port);
    const nginx = await this.#startNginx(ports);
    const [tcp1, tcp2, udp1, udp2] = servers;
    return { tcp: [tcp1, tcp2], udp: [udp1, udp2], nginx };
  }

  /** Starts nginx with the document's configuration but for the ports. */
  async #startNginx(ports: number[]): Promise<Running> {
    let text = CONFIGURATION.replace(/(?<=listen \S*)\b7777/g, `${this.port}`);
    for (const [i, port] of [7771, 7772, 7781, 7782].entries()) {
      text = text.replace(`127.0.0.1:${port}`, `127.0.0.1:${ports[i]}`);
    }
    text = text.replace(/(?<=access_log )\S+/, "/dev/stdout");
    const { folder } = this;
    Deno.writeTextFileSync(`${folder}/nginx.conf`, text);
    const more = `daemon off; pid ${folder}/pid; error_log stderr notice;`;
    const files = ["-p", folder, "-c", `${folder}/nginx.conf`, "-e", "stderr"];
    const nginx = new Running("nginx", [...files, "-g", more]);
    this.#stack.defer(async () => {
      nginx.kill(); // not at once: its workers would live on
      await nginx.finish();
    });
    await nginx.until(/start worker process \d/, "stderr");
    return nginx;
  }

  /** Sends a datagram; returns what comes back, within 10 s. */
  async ask(bytes: Uint8Array): Promise<Uint8Array> {
    const { port, socket } = this;
    await socket.send(bytes, { ...LOOPBACK, port, transport: "udp" });
    const receiving = socket.receive(new Uint8Array(65_535));
    const [answer] = await soon(receiving, "an answer");
    return answer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.socket.close();
    await this.#stack.disposeAsync();
    await Deno.remove(this.folder, { recursive: true });
  }
}

const ignore = isStreamMissing();

test("the balancer of docs/scale.md gives both TCP servers connections", {
  ignore,
}, async () => {
  await using balanced = new Balanced();
  const { tcp, nginx } = await balanced.start();
  for (let i = 0; i < 6; i++) {
    assert(await comesBack(balanced.port, 300_000), "the end was lost");
  }
  const [log] = await nginx.until(/(^TCP .*\n){6}/m);
  for (const { port } of tcp) {
    const line = `to 127.0.0.1:${port}: 300000 bytes in, 300000 out`;
    assert(log.includes(line), log);
  }
  await tcp[0].until(/^127\.0\.0\.1:\d+ 300000 bytes/m); // the balancer
  tcp[0].kill();
  await tcp[0].finish();
  for (let i = 0; i < 4; i++) {
    assert(await comesBack(balanced.port, 10), "a server's end was noticed");
  }
});

test("the balancer of docs/scale.md gives both UDP servers datagrams", {
  ignore,
}, async () => {
  await using balanced = new Balanced();
  const { udp } = await balanced.start();
  for (const length of [64, 0, 1500, 20_000, 65_507, 1]) {
    const bytes = random(length);
    const answer = await balanced.ask(bytes);
    assert(isSame(answer, bytes), `${length} bytes did not come back`);
  }
  for (const server of udp) {
    server.kill();
    assertMatch((await server.finish()).stdout, /answered 3 datagrams/);
  }
});

test("the balancer of docs/scale.md gives nobody what a server may send", {
  ignore,
}, async () => {
  await using balanced = new Balanced();
  const { nginx } = await balanced.start();
  for (const port of [19, 123, 1023, 1313, 7777]) {
    if (!await sendFrom(port, balanced.port)) continue;
    const line = new RegExp(`^UDP 127\\.0\\.0\\.1:${port} to (.*),`, "m");
    const [, outcome] = await nginx.until(line);
    assertEquals(outcome, "-: 10 bytes in, 0 out");
  }
});
