/**
 * The echo server over UDP and its client, as a demanding and as a hostile peer meets them.
 *
 * On loopback a datagram is in its receiver's queue when `send` returns, and a queue keeps its order: so that something
 * was *not* sent is seen by sending something else after it, and finding that first.
 */
import {
  assert,
  assertAlmostEquals,
  assertEquals,
  assertGreater,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertLess,
  assertLessOrEqual,
  assertMatch,
  assertNotMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "jsr:@std/assert@^1";
import { delay } from "jsr:@std/async@^1/delay";
import {
  echo,
  main,
  ping,
  type PingOptions,
  serve as answer,
  type ServeOptions,
  talk,
} from "../echo_udp.ts";
import {
  broadcasts,
  closed,
  Failure,
  formatAddress,
  listen,
  RoundTrips,
  sparing,
  unanswerable,
} from "../utils.ts";
import {
  type Finished,
  missing,
  network,
  repeat,
  ROOT,
  run,
  Running,
  serve,
  soon,
  start,
  test,
} from "./helpers.ts";

const LINUX = Deno.build.os === "linux", WINDOWS = Deno.build.os === "windows";
const ROOTED = !WINDOWS && Deno.uid() === 0;
const LARGEST = 65_507,
  SIZES = [
    0,
    1,
    2,
    1024,
    1025,
    1472,
    1473,
    1500,
    1501,
    8192,
    9217,
    32_768,
    65_506,
    LARGEST,
  ];

/** Whether no network namespace of one's own can be had, with its own loopback, ports and addresses. */
function confined(): boolean {
  if (!LINUX || !ROOTED || ["unshare", "nsenter", "ip"].some(missing)) {
    return true;
  }
  const args = ["-n", "sh", "-c", network("192.0.2.1/24")];
  return !new Deno.Command("unshare", { args, stderr: "null" }).outputSync()
    .success;
}

/** Whether there is no IPv6 here, as in many containers. */
function withoutIPv6(): boolean {
  try {
    Deno.listenDatagram({ transport: "udp", hostname: "::1", port: 0 }).close();
    return false;
  } catch {
    return true;
  }
}
const NO_IPV6 = withoutIPv6();

const bytesOf = (text: string) =>
  Uint8Array.from(new TextEncoder().encode(text));
const textOf = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

/** Bytes that no compression, text decoding or terminal leaves as they are. */
function noise(size: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(size);
  for (let i = 0; i < size; i += 65_536) {
    crypto.getRandomValues(bytes.subarray(i, i + 65_536));
  }
  return bytes;
}

/** As assertEquals, for many bytes: no endless difference is printed. */
function assertSame(
  actual: Uint8Array,
  expected: Uint8Array,
  what = "the bytes",
): void {
  assertEquals(actual.length, expected.length, `the length of ${what}`);
  assertEquals(
    actual.findIndex((byte, i) => byte !== expected[i]),
    -1,
    `where ${what} differ`,
  );
}

/** A clock that can be put forward, in place of `performance.now`; `using` gives the true one back. */
function clock() {
  const now = performance.now.bind(performance);
  let ahead = 0;
  performance.now = () => now() + ahead;
  return {
    advance: (ms: number) => void (ahead += ms),
    [Symbol.dispose]: () => void Reflect.deleteProperty(performance, "now"),
  };
}

/** A socket somewhere on loopback. */
class Peer implements Disposable {
  readonly socket: Deno.DatagramConn;
  readonly #buffer = new Uint8Array(65_535);
  constructor(hostname = "127.0.0.1", port = 0) {
    this.socket = Deno.listenDatagram({ transport: "udp", hostname, port });
  }
  get addr(): Deno.NetAddr {
    return this.socket.addr as Deno.NetAddr;
  }
  async send(what: Uint8Array | string, to: Deno.NetAddr): Promise<void> {
    await this.socket.send(typeof what === "string" ? bytesOf(what) : what, to);
  }
  async receive(): Promise<[Uint8Array, Deno.NetAddr]> {
    const [bytes, from] = await soon(
      this.socket.receive(this.#buffer),
      `a datagram at ${formatAddress(this.addr)}`,
    );
    return [bytes.slice(), from as Deno.NetAddr];
  }
  /** Sends something, and returns what comes back. */
  async ask(what: Uint8Array | string, to: Deno.NetAddr): Promise<Uint8Array> {
    await this.send(what, to);
    return (await this.receive())[0];
  }
  /** Passes when nothing has arrived here until now. */
  async nothing(): Promise<void> {
    using other = new Peer(this.addr.hostname);
    const mark = noise(16);
    await other.send(mark, this.addr);
    assertEquals((await this.receive())[0], mark, "nothing was to be answered");
  }
  [Symbol.dispose](): void {
    try {
      this.socket.close();
    } catch { /* who was lent it closed it */ }
  }
}

const at = (port: number, hostname = "127.0.0.1"): Deno.NetAddr => ({
  transport: "udp",
  hostname,
  port,
});

/** The protocol alone, on a socket. */
function echoing(hostname = "127.0.0.1") {
  const socket = Deno.listenDatagram({ transport: "udp", hostname, port: 0 }),
    done = echo(socket);
  return {
    addr: socket.addr as Deno.NetAddr,
    [Symbol.asyncDispose]:
      async () => (socket.close(), await soon(done, "echo's end")),
  };
}

/** The server without a process. */
function serving(
  hostname = "127.0.0.1",
  port = 0,
  options: Partial<ServeOptions> = {},
) {
  const socket = Deno.listenDatagram({ transport: "udp", hostname, port }),
    stop = new AbortController();
  const lines: string[] = [];
  const log = (line: string) => void lines.push(line);
  const done = answer({
    sockets: [socket],
    signal: stop.signal,
    log,
    ...options,
  });
  const end = () => (stop.abort(), soon(done, "the server's end"));
  return {
    socket,
    addr: socket.addr as Deno.NetAddr,
    lines,
    end,
    [Symbol.asyncDispose]: async () => void await end(),
  };
}

type Reply = (bytes: Uint8Array) => Promise<unknown>;

/** A server that answers as the test says; it is told the how-manieth datagram each is, from 1. */
function acting(
  act: (datagram: Uint8Array, reply: Reply, n: number) => unknown,
  hostname = "127.0.0.1",
) {
  const socket = Deno.listenDatagram({ transport: "udp", hostname, port: 0 });
  const received: Uint8Array[] = [], froms: Deno.NetAddr[] = [];
  const acts = async () => {
    for (const buffer = new Uint8Array(65_535);;) {
      const [bytes, from] = await socket.receive(buffer);
      received.push(bytes.slice()), froms.push(from as Deno.NetAddr);
      await act(
        received.at(-1)!,
        (answer) => socket.send(answer, from),
        received.length,
      );
    }
  };
  const done = acts().catch((error) => {
    if (!closed(error)) throw error;
  });
  return {
    addr: socket.addr as Deno.NetAddr,
    port: (socket.addr as Deno.NetAddr).port,
    received,
    froms,
    [Symbol.asyncDispose]: async () => (socket.close(), await done),
  };
}

/** A program, fed with bytes; gives back the bytes that it wrote. */
async function feed(command: string, args: string[], input: Uint8Array) {
  const options = {
    args,
    cwd: ROOT,
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  } as const;
  const child = new Deno.Command(command, options).spawn();
  const fed = ReadableStream.from([input]).pipeTo(child.stdin).catch(() => {});
  try {
    const { code, stdout, stderr } = await soon(
      child.output(),
      `the end of ${command}`,
      { seconds: 20 },
    );
    await fed;
    return { code, stdout, stderr: textOf(stderr) };
  } catch (error) {
    child.kill("SIGKILL");
    throw error;
  }
}

const ECHO_UDP = ["run", "-A", "--no-prompt", "echo_udp.ts"];

/** A command line that is refused, without a process. Returns the exit status, and what it said. */
async function refused(...args: string[]) {
  const said: string[] = [], print = console.error;
  console.error = (line: string) => void said.push(line);
  try {
    return {
      status: await soon(main(args), `an end of ${args}`),
      said: said.join("\n"),
    };
  } finally {
    console.error = print;
  }
}

/** The end of a process that should end by itself; one that has begun to serve instead fails the test. */
async function ended(running: Running): Promise<Finished> {
  const serves = running.until(/listening on \S+/).then(
    ([line]) => assert(false, `it is ${line}`),
    () => {},
  );
  const end = running.finish();
  await soon(Promise.race([serves, end]), "an end");
  return await end;
}

/** Sockets that were never opened: `receive` and `send` do what the test says, then the socket is closed. */
function fake(receives: (() => Uint8Array)[], send: (n: number) => void) {
  const sent: Uint8Array[] = [], addr = at(7777);
  let sends = 0;
  const socket = {
    addr,
    receive: () => {
      const next = receives.shift();
      return Promise.resolve().then(
        (): [Uint8Array<ArrayBuffer>, Deno.Addr] => {
          if (!next) throw new Deno.errors.BadResource("closed");
          return [next() as Uint8Array<ArrayBuffer>, at(50_000)];
        },
      );
    },
    send: (bytes: Uint8Array) =>
      Promise.resolve().then(() => {
        send(++sends);
        sent.push(bytes.slice());
        return bytes.length;
      }),
    close: () => {},
  };
  return { socket: socket as unknown as Deno.DatagramConn, sent };
}

// The lab sheet's server

test("echo_udp does not end at the first empty datagram: it gives it back, and goes on", async () => {
  await using server = echoing();
  using peer = new Peer();
  for (const text of ["before", "", "", "after"]) {
    assertEquals(textOf(await peer.ask(text, server.addr)), text);
  }
});

test("echo_udp does not cut a datagram at 1500 bytes", async () => {
  await using server = echoing();
  using peer = new Peer();
  for (const size of [1500, 1501, 4000]) {
    const sent = noise(size);
    assertSame(await peer.ask(sent, server.addr), sent, `${size} bytes`);
  }
});

// Sizes and families

for (
  const [family, hostname, more] of [["IPv4", "127.0.0.1", []], [
    "IPv6",
    "::1",
    [65_508, 65_527],
  ]] as const
) {
  const ignore = family === "IPv6" && NO_IPV6;
  test(`echo_udp gives back every size byte for byte over ${family}`, {
    ignore,
  }, async () => {
    await using server = serving(hostname);
    using peer = new Peer(hostname);
    for (const size of [...SIZES, ...more]) {
      const sent = noise(size);
      assertSame(await peer.ask(sent, server.addr), sent, `${size} bytes`);
    }
    const { datagrams, bytes } = await server.end(),
      sizes = [...SIZES, ...more];
    assertEquals({ datagrams, bytes }, {
      datagrams: sizes.length,
      bytes: sizes.reduce((a, b) => a + b),
    });
  });
}

test("echo_udp answers both families on one socket", {
  ignore: WINDOWS || NO_IPV6,
}, async () => {
  await using server = serving("::");
  using four = new Peer(), six = new Peer("::1");
  const { port } = server.addr;
  assertEquals(textOf(await four.ask("over IPv4", at(port))), "over IPv4");
  assertEquals(
    textOf(await six.ask("over IPv6", at(port, "::1"))),
    "over IPv6",
  );
  await server.end();
  const lines = server.lines.map((line) => line.replace(/ in .*/, "")).sort();
  assertEquals(lines, [
    `127.0.0.1:${four.addr.port} 1 datagram, 9 bytes`,
    `[::1]:${six.addr.port} 1 datagram, 9 bytes`,
  ]);
});

test("echo_udp answers each datagram once, in order, and to its sender alone", async () => {
  await using server = echoing();
  const peers = Array.from({ length: 10 }, () => new Peer());
  try {
    const texts = peers.map((_, p) =>
      Array.from({ length: 20 }, (_, i) => `${p}:${i}`)
    );
    for (let i = 0; i < 20; i++) {
      for (const [p, peer] of peers.entries()) {
        await peer.send(texts[p][i], server.addr);
      }
    }
    for (const [p, peer] of peers.entries()) {
      const back = [];
      while (back.length < 20) back.push(textOf((await peer.receive())[0]));
      assertEquals(back, texts[p]);
    }
    for (const peer of peers) await peer.nothing();
  } finally {
    for (const peer of peers) peer[Symbol.dispose]();
  }
});

/** The lesson: the protocol alone. */
async function lesson(): Promise<string> {
  const source = await Deno.readTextFile(new URL("echo_udp.ts", ROOT));
  return source.match(/^export async function echo\([^]*?^}\n/m)![0];
}

test("echo_udp's protocol is said in 20 lines", async () => {
  assertLessOrEqual((await lesson()).trimEnd().split("\n").length, 20);
});

test("echo_udp's protocol can be pasted into another program", async () => {
  const file = await Deno.makeTempFile({ suffix: ".ts" });
  try {
    const program =
      `const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
console.log("port " + (socket.addr as Deno.NetAddr).port);
await echo(socket);`;
    await Deno.writeTextFile(file, await lesson() + program);
    await using running = new Running(Deno.execPath(), [
      "run",
      "-A",
      "--no-config",
      "--unstable-net",
      file,
    ]);
    const [, port] = await running.until(/port (\d+)/);
    using peer = new Peer();
    assertEquals(textOf(await peer.ask("pasted", at(Number(port)))), "pasted");
  } finally {
    await Deno.remove(file);
  }
});

// Survive

test("echo_udp goes on receiving after a peer's reset", async () => {
  const reset = () => {
    throw new Deno.errors.ConnectionReset("an ICMP message came");
  };
  const { socket, sent } = fake([
    reset,
    () => bytesOf("one"),
    reset,
    reset,
    () => bytesOf("two"),
  ], () => {});
  const failures: unknown[] = [];
  await echo(socket, undefined, (error) => failures.push(error));
  assertEquals(sent.map(textOf), ["one", "two"]);
  assertEquals(failures.length, 3);
  failures.forEach((error) =>
    assertInstanceOf(error, Deno.errors.ConnectionReset)
  );
});

test("echo_udp goes on after sends that fail", async () => {
  const errors = [
    new Error("Message too long (os error 90)"),
    new Error("Network is unreachable (os error 101)"),
    new Deno.errors.ConnectionRefused("Connection refused (os error 111)"),
    new Deno.errors.PermissionDenied("Permission denied (os error 13)"),
    new TypeError("Invalid argument (os error 22)"),
  ];
  const receives = Array.from({ length: 50 }, (_, i) => () => bytesOf(`${i}`)),
    failures: unknown[] = [];
  const { socket, sent } = fake(receives, (n) => {
    if (n <= 40) throw errors[n % errors.length];
  });
  await echo(socket, undefined, (error) => failures.push(error));
  assertEquals(failures.length, 40);
  assertEquals(sent.map(textOf), [
    "40",
    "41",
    "42",
    "43",
    "44",
    "45",
    "46",
    "47",
    "48",
    "49",
  ]);
});

test("echo_udp ends though a send goes on waiting", async () => {
  const asked = Promise.withResolvers<void>(), stop = new AbortController();
  const receives = [() => bytesOf("x")];
  const { socket } = fake(
    receives,
    () => (asked.resolve(), new Promise<never>(() => {})),
  );
  const ending = answer({ sockets: [socket], signal: stop.signal });
  await soon(asked.promise, "the answer");
  stop.abort();
  assertEquals((await soon(ending, "the end")).datagrams, 1);
});

test("echo_udp -n goes on where a send fails, and says so in the end", async () => {
  await using server = echoing();
  using peer = new Peer("0.0.0.0");
  let n = 0;
  const unreachable = new Error("Network is unreachable (os error 101)");
  const socket = {
    receive: (buffer?: Uint8Array) => peer.socket.receive(buffer),
    send: (bytes: Uint8Array, to: Deno.Addr) =>
      ++n === 2 ? Promise.reject(unreachable) : peer.socket.send(bytes, to),
    close: () => peer.socket.close(),
  };
  const trips = new RoundTrips(), { signal } = new AbortController();
  const given = {
    count: 4,
    size: 64,
    interval: 5,
    timeout: 100,
    log: () => Promise.resolve(),
  };
  const error = await assertRejects(
    () => ping({ socket, to: server.addr, signal, trips, ...given }),
    Error,
  );
  assertEquals([`${trips}`.split("\n")[0], error], [
    "4 sent, 3 received, 25% loss",
    unreachable,
  ]);
});

test("echo_udp -c does not take junk for the answers that are missing", async () => {
  await using server = acting(async (_, reply) => {
    for (;;) await reply(bytesOf("junk")), await delay(10);
  });
  const { error } = await talking(server.addr, [bytesOf("a\n")], 60);
  assertInstanceOf(error, Failure);
  assertEquals(error.status, 28);
});

test("echo_udp logs failing sends at most once a second", async () => {
  using time = clock();
  const receives = Array.from({ length: 3000 }, () => () => bytesOf("x"));
  const { socket } = fake(receives, (n) => {
    if (n === 1001 || n === 2001) time.advance(1000);
    throw new Error("Message too long (os error 90)");
  });
  const lines: string[] = [], stop = new AbortController();
  const done = answer({
    sockets: [socket],
    signal: stop.signal,
    log: (line) => void lines.push(line),
  });
  setTimeout(() => stop.abort());
  await done;
  const complaints = lines.filter((line) => line.includes("message too long"));
  assertGreaterOrEqual(complaints.length, 2);
  assertLessOrEqual(complaints.length, 3);
  assertEquals(complaints[0], "cannot answer: message too long");
  assertEquals(complaints[1], "cannot answer: message too long (and 999 more)");
});

test("echo_udp counts as answered only what was sent back", async () => {
  const { socket } = fake(
    Array.from({ length: 10 }, () => () => bytesOf("four")),
    (n) => {
      if (n <= 7) throw new Error("Message too long (os error 90)");
    },
  );
  const stop = new AbortController(),
    done = answer({ sockets: [socket], signal: stop.signal });
  setTimeout(() => stop.abort());
  assertEquals(await done, { datagrams: 3, bytes: 12 });
});

test("echo_udp survives thousands of peers that are gone before the answer comes", async () => {
  const started = performance.now();
  await using server = await serve("echo_udp", ["--host", "127.0.0.1"]);
  for (let i = 0; i < 3000; i++) {
    const peer = new Peer();
    await peer.send(`gone ${i}`, at(server.port));
    peer[Symbol.dispose]();
  }
  using peer = new Peer();
  assertEquals(
    textOf(await asks(peer, "still there", at(server.port))),
    "still there",
  );
  assertEquals(server.stderr, "");
  assertLessOrEqual(server.stdout.split("\n").length, mostLines(started));
});

/** How much a server may have logged since then: a hundred peers in three seconds. */
const mostLines = (started: number) =>
  100 * (2 + (performance.now() - started) / 3000);

/** Asks again until it is answered: the queue of a server that was flooded may be full. */
async function asks(
  peer: Peer,
  text: string,
  to: Deno.NetAddr,
): Promise<Uint8Array> {
  let answered = false;
  const asking = setInterval(() => answered || peer.send(text, to), 100);
  try {
    return await peer.ask(text, to);
  } finally {
    answered = true, clearInterval(asking);
  }
}

/** The resident memory of a process, in bytes. */
async function resident(pid: number): Promise<number> {
  const [, kib] = (await Deno.readTextFile(`/proc/${pid}/status`)).match(
    /VmRSS:\s*(\d+) kB/,
  )!;
  return Number(kib) * 1024;
}

test(
  "echo_udp answers after a flood, in bounded memory and with a bounded log",
  { ignore: !LINUX },
  async () => {
    await using server = await serve("echo_udp", ["--host", "127.0.0.1"]);
    using first = new Peer();
    const to = at(server.port), started = performance.now();
    await first.ask("warm", to);
    const before = await resident(server.pid), payload = noise(1000);
    for (let round = 0; round < 15; round++) { // 3,000 peers, 30,000 datagrams
      const peers = Array.from({ length: 200 }, () => new Peer());
      for (let i = 0; i < 10; i++) {
        await Promise.all(
          peers.map((peer) => peer.send(payload, to)),
        );
      }
      for (const peer of peers) peer[Symbol.dispose]();
    }
    using peer = new Peer();
    assertEquals(
      textOf(await asks(peer, "after the flood", to)),
      "after the flood",
    );
    assertLess(await resident(server.pid) - before, 64 * 1024 * 1024);
    server.kill("SIGTERM");
    const { code, stdout, stderr } = await server.finish();
    assertEquals({ code, stderr }, { code: 0, stderr: "" });
    assertLessOrEqual(stdout.split("\n").length, mostLines(started));
    assertMatch(stdout, /\nanswered \d{3,} datagrams, \d+ bytes\n$/);
  },
);

test("echo_udp goes on when the disk that holds its log is full", {
  ignore: confined() || missing("mount"),
}, async () => {
  const folder = await Deno.makeTempDir();
  const script =
    `mount -t tmpfs -o size=8k tmpfs "$0" && exec 3>&1 >>"$0/log" || exit
fill() {
  for i in $(seq 1000); do grep -qs listening "$0/log" && break; sleep 0.01; done
  cat "$0/log" >&3; head -c 20000 /dev/zero 2>&3
}
fill & exec "$@" 3>&-`;
  const command = [
    Deno.execPath(),
    ...ECHO_UDP,
    "--host",
    "127.0.0.1",
    "--port",
    "0",
  ];
  try {
    await using server = new Running("unshare", [
      "-m",
      "sh",
      "-c",
      script,
      folder,
      ...command,
    ], { cwd: ROOT });
    const [, port] = await server.until(/:(\d+)\n[^]*No space left/);
    const to = at(Number(port));
    using own = new Peer("127.0.0.2", to.port), peer = new Peer();
    await own.send("is not answered, which is logged", to);
    for (const text of ["still", "there"]) {
      assertEquals(textOf(await peer.ask(text, to)), text);
    }
    server.kill("SIGTERM");
    const { code, stderr } = await server.finish();
    assertNotMatch(stderr, /^ +at /m);
    assert(code === 0 || code === 23, `exit status ${code}`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

// Loop guards

test("echo_udp knows who must not be answered", () => {
  const own = 7777,
    peer = (hostname: string, port = 50_000) =>
      unanswerable(at(port, hostname), own);
  for (const port of [7, 9, 13, 17, 19, 37]) {
    assertMatch(peer("192.0.2.1", port)!, new RegExp(`port ${port}\\b`));
    assert(peer("2001:db8::1", port));
    assert(peer("127.0.0.1", port));
  }
  for (
    const host of [
      "127.0.0.1",
      "127.0.0.2",
      "192.0.2.1",
      "::1",
      "2001:db8::1",
      "::ffff:192.0.2.1",
    ]
  ) {
    assert(peer(host, own), `${host} has our own port`);
  }
  const many = [
    "224.0.0.1",
    "232.1.2.3",
    "239.255.255.255",
    "255.255.255.255",
    "0.0.0.0",
    "0.1.2.3",
  ];
  for (
    const host of [
      ...many,
      ...many.map((host) => `::ffff:${host}`),
      "ff02::1",
      "FF05::2",
      "ff0e::101",
    ]
  ) {
    assert(peer(host), `${host} is not one machine`);
  }
  assert(peer("192.0.2.1", 0), "nobody has port 0");
  const single = [
    "127.0.0.1",
    "192.0.2.1",
    "22.4.0.1",
    "223.255.255.255",
    "10.0.0.1",
    "::1",
    "fe80::1",
    "2001:db8::ff",
  ];
  for (const host of [...single, "::ffff:192.0.2.1", "fd00::1", "255.1.1.1"]) {
    assertEquals(peer(host), undefined, host);
  }
  for (const port of [1, 8, 53, 70, 1024, 7776, 7778, 65_535]) {
    assertEquals(peer("192.0.2.1", port), undefined);
  }
});

test("the broadcast addresses of networks are known, of whatever size they are", () => {
  const at = (
    address: string,
    netmask: string,
    family: "IPv4" | "IPv6" = "IPv4",
  ) => ({ address, netmask, family });
  const ones = [
    at("192.168.1.20", "255.255.255.0"),
    at("10.9.0.1", "255.255.0.0"),
    at("192.0.2.77", "255.255.255.192"),
  ];
  assertEquals(broadcasts(ones), [
    "192.168.1.255",
    "10.9.255.255",
    "192.0.2.127",
  ]);
  const none = [
    at("10.0.0.0", "255.255.255.254"),
    at("10.0.0.7", "255.255.255.255"),
    at("::1", "ffff::", "IPv6"),
  ];
  assertEquals(broadcasts(none), []);
});

test("echo_udp does not answer the broadcast address of loopback", () => {
  assert(unanswerable(at(50_000, "127.255.255.255"), 7777));
  assert(unanswerable(at(50_000, "::ffff:127.255.255.255"), 7777));
});

test("echo_udp does not answer ports that would answer in turn", {
  ignore: !LINUX || !ROOTED,
}, async () => {
  await using server = serving();
  using honest = new Peer();
  for (const port of [7, 9, 13, 17, 19, 37]) {
    using talkative = new Peer("127.0.0.77", port);
    await talkative.send("and you?", server.addr);
    assertEquals(textOf(await honest.ask("me", server.addr)), "me");
    await talkative.nothing();
  }
  assertEquals(await server.end(), { datagrams: 6, bytes: 12 });
  assertEquals(
    server.lines[0],
    "127.0.0.77:7 not answered: port 7 would answer in turn",
  );
});

test("echo_udp does not answer its own port number on another address", {
  ignore: !LINUX,
}, async () => {
  await using server = serving();
  const { port } = server.addr;
  using own = new Peer("127.0.0.2", port), honest = new Peer();
  await own.send("and you?", server.addr);
  assertEquals(textOf(await honest.ask("me", server.addr)), "me");
  await own.nothing();
  assertEquals(await server.end(), { datagrams: 1, bytes: 2 });
  assertEquals(
    server.lines[0],
    `127.0.0.2:${port} not answered: it has our own port, and would answer in turn`,
  );
});

test("two echo_udp servers on one port are not set on each other", {
  ignore: !LINUX,
}, async () => {
  await using one = serving();
  await using two = serving("127.0.0.2", one.addr.port);
  await two.socket.send(bytesOf("forged"), one.addr); // as one forged datagram would
  using peer = new Peer();
  assertEquals(textOf(await peer.ask("me", one.addr)), "me");
  assertEquals(await one.end(), { datagrams: 1, bytes: 2 });
  assertEquals(await two.end(), { datagrams: 0, bytes: 0 });
});

test("echo_udp says at most once a second whom it does not answer", {
  ignore: !LINUX,
}, async () => {
  using time = clock();
  await using server = serving();
  using own = new Peer("127.0.0.2", server.addr.port), honest = new Peer();
  for (let second = 0; second < 3; second++) {
    for (let i = 0; i < 100; i++) await own.send("again", server.addr);
    await honest.ask("me", server.addr);
    time.advance(1000);
  }
  await server.end();
  const lines = server.lines.filter((line) => line.includes("not answered"));
  assertEquals(lines.length, 3);
  assertEquals(lines.map((line) => line.match(/\(and (\d+) more\)/)?.[1]), [
    undefined,
    "99",
    "99",
  ]);
});

test("a sparing log says how much it left out, and starts anew after its time", () => {
  using time = clock();
  const lines: string[] = [],
    log = sparing(1000, (line) => void lines.push(line));
  log("a"), log("b"), log("c");
  time.advance(1001);
  log("d");
  time.advance(1001);
  log("e"), log("f");
  assertEquals(lines, ["a", "d (and 2 more)", "e"]);
});

const FORGE = `
import socket, struct, sys
def forge(source, sport, target, dport, data):
    udp = struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0,
                     socket.inet_aton(source), socket.inet_aton(target))
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(ip + udp, (target, 0))
port = int(sys.argv[1])
for source, sport in [("127.0.0.1", port), ("10.9.8.7", port), ("224.0.0.1", 5000), ("255.255.255.255", 5000),
                      ("127.0.0.1", 0), ("127.0.0.1", 19), ("192.0.2.1", 7), ("10.9.0.63", 5000)]:
    forge(source, sport, "127.0.0.1", port, b"forged")
honest = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
honest.settimeout(9)
honest.sendto(b"me", ("127.0.0.1", port))
print(honest.recv(10).decode())
`;

test("echo_udp does not answer forged datagrams, from itself or from many", {
  ignore: confined() || missing("python3"),
}, async () => {
  const shell = `${network("10.9.0.1/26")} && exec "$0" "$@"`;
  const command = [Deno.execPath(), ...ECHO_UDP, "--port", "7777"];
  await using server = new Running("unshare", [
    "-n",
    "sh",
    "-c",
    shell,
    ...command,
  ], { cwd: ROOT });
  await server.until(/listening on .*\n/);
  const inside = ["-t", `${server.pid}`, "-n", "python3", "-c", FORGE, "7777"];
  const { code, stdout, stderr } = await feed(
    "nsenter",
    inside,
    new Uint8Array(),
  );
  assertEquals({ code, stdout: textOf(stdout), stderr }, {
    code: 0,
    stdout: "me\n",
    stderr: "",
  });
  server.kill("SIGTERM");
  const finished = await server.finish();
  assertEquals({ code: finished.code, stderr: finished.stderr }, {
    code: 0,
    stderr: "",
  });
  assertMatch(
    finished.stdout,
    /^127\.0\.0\.1:7777 not answered: it has our own port, and would answer in turn$/m,
  );
  assertMatch(finished.stdout, /\nanswered 1 datagram, 2 bytes\n$/);
});

// What the server prints, and how it ends

test(
  "echo_udp says where it listens, each peer, and a summary, and ends with 0",
  { ignore: WINDOWS },
  async () => {
    for (const signal of ["SIGINT", "SIGTERM"] as const) {
      await using server = await serve("echo_udp", ["--host", "127.0.0.1"]);
      using one = new Peer(), two = new Peer();
      for (const text of ["abc", "", "defgh"]) {
        await one.ask(text, at(server.port));
      }
      await two.ask("x".repeat(2000), at(server.port));
      server.kill(signal);
      const { code, stdout, stderr } = await server.finish();
      const lines = stdout.split("\n");
      assertEquals({ code, stderr, lines: lines.length }, {
        code: 0,
        stderr: "",
        lines: 5,
      });
      assertEquals(lines[0], `listening on udp://127.0.0.1:${server.port}`);
      const peers = lines.slice(1, 3).sort((a) =>
        a.includes(`:${one.addr.port} `) ? -1 : 1
      );
      assertMatch(
        peers[0],
        new RegExp(
          `^127.0.0.1:${one.addr.port} 3 datagrams, 8 bytes in \\d+\\.\\d{3} s$`,
        ),
      );
      assertMatch(
        peers[1],
        new RegExp(
          `^127.0.0.1:${two.addr.port} 1 datagram, 2000 bytes in \\d+\\.\\d{3} s$`,
        ),
      );
      assertEquals(lines.slice(3), ["answered 4 datagrams, 2008 bytes", ""]);
    }
  },
);

test("echo_udp logs a peer once it is silent, and anew when it comes back", async () => {
  using time = clock();
  const logged = Promise.withResolvers<string>(), lines: string[] = [];
  const log = (line: string) => (lines.push(line), logged.resolve(line));
  await using server = serving("127.0.0.1", 0, { log });
  using peer = new Peer();
  await peer.ask("one", server.addr);
  await peer.ask("two", server.addr);
  time.advance(3000);
  const name = `127.0.0.1:${peer.addr.port}`;
  assertMatch(
    await soon(logged.promise, "the peer's line"),
    new RegExp(`^${name} 2 datagrams, 6 bytes in 0\\.\\d{3} s$`),
  );
  await peer.ask("three", server.addr);
  await server.end();
  assertEquals(lines.length, 2);
  assertMatch(
    lines[1],
    new RegExp(`^${name} 1 datagram, 5 bytes in 0\\.000 s$`),
  );
});

test("echo_udp logs a peer that never falls silent once a minute", async () => {
  using time = clock();
  const lines: string[] = [];
  await using server = serving("127.0.0.1", 0, {
    log: (line) => lines.push(line),
  });
  using peer = new Peer();
  await peer.ask("one", server.addr);
  time.advance(60_000);
  await repeat(
    () => peer.ask("again", server.addr),
    () => lines.length > 0,
    "the peer's line",
  );
  assertMatch(
    lines[0],
    new RegExp(
      `^127\\.0\\.0\\.1:${peer.addr.port} \\d+ datagrams, \\d+ bytes in 6\\d\\.\\d{3} s$`,
    ),
  );
});

test(
  "echo_udp says that anyone is answered where others can reach it, and how",
  { ignore: confined() },
  async () => {
    const command = [Deno.execPath(), ...ECHO_UDP, "--port", "7777"];
    const shell = `${network("192.168.1.20/24")} && exec "$0" "$@"`;
    await using server = new Running("unshare", [
      "-n",
      "sh",
      "-c",
      shell,
      ...command,
    ], { cwd: ROOT });
    await server.until(/whoever.*\n/);
    const lines = server.stdout.trimEnd().split("\n");
    assertMatch(lines[0], /^listening on udp:\/\/(\[::\]|0\.0\.0\.0):7777$/);
    assertEquals(lines[1], "from the local network: udp://192.168.1.20:7777");
    assertMatch(lines[2], /^whoever reaches this port is answered/);
    assertEquals(lines.length, 3);
  },
);

test("echo_udp does not ask for what it may do without: the address in the local network", async () => {
  const may = [
    "run",
    "--no-prompt",
    "--unstable-net",
    "--allow-net",
    "echo_udp.ts",
    "--port",
    "0",
  ];
  await using server = new Running(Deno.execPath(), may, { cwd: ROOT });
  await server.until(/whoever.*\n/);
  assertEquals(server.stdout.split("\n").length, 3);
  assertEquals(server.stderr, "");
});

for (const host of ["127.0.0.1", "::1", "localhost", "127.0.0.9"]) {
  test(
    `echo_udp prints no warning when only this machine reaches it, by ${host}`,
    {
      ignore: WINDOWS || host === "::1" && NO_IPV6 ||
        host === "127.0.0.9" && !LINUX,
    },
    async () => {
      await using server = await serve("echo_udp", ["--host", host]);
      const { stdout } = await interrupted(server);
      assertMatch(
        stdout,
        /^listening on udp:\/\/(127\.0\.0\.\d|\[::1\]):\d+\nanswered 0 datagrams, 0 bytes\n$/,
      );
    },
  );
}

/** Ends a server by Ctrl-C. */
async function interrupted(server: Running): Promise<Finished> {
  server.kill("SIGINT");
  return await server.finish();
}

test(
  "echo_udp --quiet prints the first line only",
  { ignore: WINDOWS },
  async () => {
    for (const host of ["127.0.0.1", "::"]) {
      await using server = await serve("echo_udp", ["--quiet", "--host", host]);
      using peer = new Peer();
      await peer.ask("hello", at(server.port));
      const { code, stdout, stderr } = await interrupted(server);
      assertEquals({ code, stderr }, { code: 0, stderr: "" });
      assertEquals(
        stdout,
        `listening on udp://${host === "::" ? "[::]" : host}:${server.port}\n`,
      );
    }
  },
);

test("echo_udp gives back what it had received when it is told to end", {
  ignore: !LINUX,
}, async () => {
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    await using server = await serve("echo_udp", ["--host", "127.0.0.1"]);
    using peer = new Peer();
    server.kill("SIGSTOP");
    for (let i = 0; i < 50; i++) await peer.send(`${i}`, at(server.port));
    server.kill(signal);
    server.kill("SIGCONT");
    for (let i = 0; i < 50; i++) {
      assertEquals(textOf((await peer.receive())[0]), `${i}`);
    }
    const { code, stdout, stderr } = await server.finish();
    assertEquals({ code, stderr }, { code: 0, stderr: "" });
    assertMatch(stdout, /\nanswered 50 datagrams, 90 bytes\n$/);
  }
});

test("echo_udp ends within 5 s though datagrams keep coming", async () => {
  using time = clock();
  await using server = serving();
  using peer = new Peer();
  let over = false;
  const asking = (async () => {
    for (let n = 0; !over; n++) {
      await peer.send("more", server.addr);
      if (n % 8 === 0) await new Promise((resolve) => setTimeout(resolve));
    }
  })();
  try {
    await peer.receive();
    const end = server.end();
    await peer.receive();
    time.advance(5000);
    assertGreater((await end).datagrams, 1);
    assertEquals(server.lines.filter((line) => line.includes("cannot")), []);
  } finally {
    over = true;
    await asking;
  }
});

test(
  "echo_udp ends at once at a second signal",
  { ignore: WINDOWS },
  async () => {
    // The first one is followed by datagrams, which keep the server; each attempt but the rarest ends with the second.
    for (let attempt = 1;; attempt++) {
      await using server = await serve("echo_udp", ["--host", "127.0.0.1"]);
      using peer = new Peer();
      let over = false;
      server.kill("SIGINT");
      const end = server.finish().finally(() => over = true);
      while (!over) {
        await Promise.race([peer.ask("busy", at(server.port)), end]).catch(
          () => {},
        );
        if (!over) server.kill("SIGINT");
      }
      const { code, stdout } = await end;
      if (code === 0 && attempt < 5) continue;
      assertEquals(code, 130);
      assertNotMatch(stdout, /answered/);
      return;
    }
  },
);

test("echo_udp ends when it was told to before it had begun", async () => {
  const socket = Deno.listenDatagram({
    transport: "udp",
    hostname: "127.0.0.1",
    port: 0,
  });
  const done = answer({ sockets: [socket], signal: AbortSignal.abort() });
  try {
    assertEquals(await soon(done, "the server's end", { seconds: 2 }), {
      datagrams: 0,
      bytes: 0,
    });
  } catch (error) {
    socket.close();
    throw error;
  }
});

test("echo_udp -v shows what crosses the wire, and with whom", {
  ignore: WINDOWS,
}, async () => {
  await using server = await serve("echo_udp", ["--host", "127.0.0.1", "-v"]);
  using peer = new Peer();
  await peer.ask('a "quoted"\n\x1b[2J\x00\xff', at(server.port));
  const { code, stderr } = await interrupted(server),
    who = `127\\.0\\.0\\.1:${peer.addr.port}`;
  assertEquals(code, 0);
  const shown =
    '18 bytes "a \\\\"quoted\\\\"\\\\n\\\\x1b\\[2J\\\\x00\\\\xc3\\\\xbf"';
  assertMatch(stderr, new RegExp(`^\\d+\\.\\d+ < ${who} ${shown}$`, "m"));
  assertMatch(stderr, new RegExp(`^\\d+\\.\\d+ > ${who} ${shown}$`, "m"));
  // deno-lint-ignore no-control-regex
  assertNotMatch(stderr, /[\x00-\x09\x0b-\x1f]/);
});

// Where the server listens

test(
  "echo_udp -4 answers IPv4 only",
  { ignore: WINDOWS || NO_IPV6 },
  async () => {
    await using server = await serve("echo_udp", ["-4"]);
    assertStringIncludes(
      server.stdout,
      `listening on udp://0.0.0.0:${server.port}\n`,
    );
    using four = new Peer(), six = new Peer("::1");
    await six.send("not answered", at(server.port, "::1"));
    assertEquals(
      textOf(await four.ask("answered", at(server.port))),
      "answered",
    );
    await six.nothing();
  },
);

test(
  "echo_udp -6 answers IPv6 only",
  { ignore: WINDOWS || NO_IPV6 },
  async () => {
    await using server = await serve("echo_udp", ["-6"]);
    assertStringIncludes(
      server.stdout,
      `listening on udp://[::]:${server.port}\n`,
    );
    using four = new Peer(), six = new Peer("::1");
    await four.send("not answered", at(server.port));
    assertEquals(
      textOf(await six.ask("answered", at(server.port, "::1"))),
      "answered",
    );
    await four.nothing();
    const { stdout } = await interrupted(server);
    assertMatch(stdout, /\nanswered 1 datagram, 8 bytes\n$/);
    assertNotMatch(stdout, /udp:\/\/\d/, "no address where it does not answer");
  },
);

for (const [family, host] of [["-4", "::1"], ["-6", "127.0.0.1"]]) {
  test(`echo_udp ${family} does not listen on ${host}`, async () => {
    await using server = start("echo_udp", [
      "--port",
      "0",
      family,
      "--host",
      host,
    ]);
    const { code, stderr } = await ended(server);
    assert(code > 0);
    assertMatch(stderr, /^echo_udp: .*\n$/);
    assertStringIncludes(stderr, host);
  });
}

for (const [family, address] of [["-4", "127.0.0.1"], ["-6", "[::1]"]]) {
  test(
    `echo_udp ${family} --host localhost listens on ${address}`,
    { ignore: family === "-6" && NO_IPV6 },
    async () => {
      await using server = await serve("echo_udp", [
        family,
        "--host",
        "localhost",
      ]);
      assertEquals(
        server.stdout.split("\n")[0],
        `listening on udp://${address}:${server.port}`,
      );
    },
  );
}

test("echo_udp --host localhost is found by -c localhost", async () => {
  await using server = await serve("echo_udp", ["--host", "localhost"]);
  const { code, stdout } = await run("echo_udp", [
    "-w",
    "1",
    "-c",
    `localhost:${server.port}`,
  ], "hello\n");
  assertEquals({ code, stdout }, { code: 0, stdout: "hello\n" });
});

test("echo_udp --host with a name that does not exist is 6", async () => {
  const { status, said } = await refused(
    "--host",
    "no-such-host.invalid",
    "--port",
    "0",
  );
  assertMatch(said, /^echo_udp: cannot .*no-such-host\.invalid.*$/);
  assertEquals(status, 6);
});

test("echo_udp --host with an address of another machine is one line and 1", async () => {
  const { status, said } = await refused(
    "--host",
    "192.0.2.200",
    "--port",
    "0",
  );
  assertMatch(said, /^echo_udp: cannot listen on 192\.0\.2\.200:0: .+$/);
  assertEquals(status, 1);
});

test("echo_udp falls back to IPv4 where there is no IPv6", async () => {
  const asked: string[] = [];
  const open = (where: { hostname: string; port: number }) => {
    asked.push(where.hostname);
    if (where.hostname === "::") {
      throw new Error("Address family not supported by protocol (os error 97)");
    }
    return Deno.listenDatagram({ transport: "udp", ...where });
  };
  const sockets = listen(open, { hostname: "::", port: 0 }),
    stop = new AbortController();
  assertEquals(asked, ["::", "0.0.0.0"]);
  assertEquals(sockets.map(({ addr }) => (addr as Deno.NetAddr).hostname), [
    "0.0.0.0",
  ]);
  const done = answer({ sockets, signal: stop.signal });
  using peer = new Peer();
  assertEquals(
    textOf(await peer.ask("hello", at((sockets[0].addr as Deno.NetAddr).port))),
    "hello",
  );
  stop.abort();
  await soon(done, "the server's end");
});

/** Runs the script in a Deno whose kernel has no IPv6, as far as it can tell. */
async function inIPv4(...args: string[]): Promise<Running & AsyncDisposable> {
  const file = await Deno.makeTempFile({ suffix: ".ts" });
  await Deno.writeTextFile(
    file,
    `const { listenDatagram } = Deno;
Deno.listenDatagram = ((options: Deno.UdpListenOptions & { transport: "udp" }) => {
  if (options.hostname?.includes(":")) throw new Error("Address family not supported by protocol (os error 97)");
  return listenDatagram(options);
}) as typeof listenDatagram;
const { main } = await import(${
      JSON.stringify(new URL("echo_udp.ts", ROOT).href)
    });
Deno.exit(await main(Deno.args));
`,
  );
  const flags = [
    "run",
    "-A",
    "--no-prompt",
    "--no-check",
    "--unstable-net",
    "--config",
    "deno.json",
  ];
  const running = new Running(Deno.execPath(), [...flags, file, ...args], {
    cwd: ROOT,
  });
  const dispose = running[Symbol.asyncDispose].bind(running);
  running[Symbol.asyncDispose] =
    async () => (await dispose(), await Deno.remove(file));
  return running;
}

test("echo_udp serves IPv4 where there is no IPv6, and says so", async () => {
  await using server = await inIPv4("--port", "0");
  const [, port] = await server.until(
    /listening on udp:\/\/0\.0\.0\.0:(\d+)\n/,
  );
  using peer = new Peer();
  assertEquals(textOf(await peer.ask("hello", at(Number(port)))), "hello");
});

test("echo_udp -6 does not serve IPv4 instead where there is no IPv6", async () => {
  await using server = await inIPv4("-6", "--port", "0");
  const { code, stderr } = await ended(server);
  assertEquals(code, 1);
  assertMatch(
    stderr,
    /^echo_udp: cannot listen on \[::\]:0: address family not supported by protocol.*\n$/,
  );
});

test("echo_udp asks localhost over IPv4 where there is no IPv6", async () => {
  await using server = echoing();
  await using client = await inIPv4("-c", `localhost:${server.addr.port}`);
  await client.type("hello\n");
  const { code, stdout, stderr } = await client.finish();
  assertEquals({ code, stdout, stderr }, {
    code: 0,
    stdout: "hello\n",
    stderr: "",
  });
});

test("echo_udp serves, and asks localhost, where IPv6 is disabled", {
  ignore: confined() || missing("sysctl"),
}, async () => {
  const shell =
    "ip link set lo up; sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.lo.disable_ipv6=1;\n" +
    'exec "$0" "$@"';
  const args = ["-n", "sh", "-c", shell, Deno.execPath(), ...ECHO_UDP];
  await using server = new Running("unshare", args, { cwd: ROOT });
  await server.until(/listening on udp:\/\/\S+:7777\n/);
  const inside = ["-t", `${server.pid}`, "-n", Deno.execPath(), ...ECHO_UDP];
  const direct = await feed(
    "nsenter",
    [...inside, "-c", "127.0.0.1"],
    bytesOf("direct\n"),
  );
  assertEquals({ ...direct, stdout: textOf(direct.stdout) }, {
    code: 0,
    stdout: "direct\n",
    stderr: "",
  });
  const named = await feed(
    "nsenter",
    [...inside, "-c", "localhost"],
    bytesOf("by name\n"),
  );
  assertEquals({ ...named, stdout: textOf(named.stdout) }, {
    code: 0,
    stdout: "by name\n",
    stderr: "",
  });
});

test("echo_udp says that its port is busy, and what to do", async () => {
  using other = new Peer("127.0.0.1");
  const { status, said } = await refused(
    "--host",
    "127.0.0.1",
    "--port",
    `${other.addr.port}`,
  );
  assertEquals(status, 1);
  const reason = WINDOWS ? ".+" : "address already in use";
  assertMatch(
    said,
    new RegExp(
      `^echo_udp: cannot listen on 127\\.0\\.0\\.1:${other.addr.port}: ${reason}: try --port 0$`,
    ),
  );
  using both = new Peer("0.0.0.0");
  assertEquals((await refused("--port", `${both.addr.port}`)).status, 1);
});

test("echo_udp says which port to take where low ones need more rights", () => {
  const open = () => {
    throw new Deno.errors.PermissionDenied("Permission denied (os error 13)");
  };
  const error = assertThrows(
    () => listen(open, { hostname: "::", port: 7 }),
    Failure,
  ) as Failure;
  assertEquals(
    error.message,
    "cannot listen on [::]:7: permission denied: port 7 needs more rights: try --port 1307",
  );
  assertEquals(error.status, 1);
});

test(
  "echo_udp --reuse-port lets two processes open a port, and one answers when the other ends",
  {
    ignore: !LINUX,
  },
  async () => {
    const shared = ["--host", "127.0.0.1", "--reuse-port"];
    await using one = await serve("echo_udp", shared);
    await using two = start("echo_udp", [...shared, "--port", `${one.port}`]);
    await two.until(/listening on .*\n/);
    using peer = new Peer();
    assertEquals(
      textOf(await peer.ask("one of you", at(one.port))),
      "one of you",
    );
    assertEquals((await interrupted(two)).code, 0);
    assertEquals(
      textOf(await peer.ask("the other", at(one.port))),
      "the other",
    );
  },
);

test("a copied echo_udp without --unstable-net names the flag", async () => {
  const folder = await Deno.makeTempDir(),
    map = new URL("mirror/import_map.json", ROOT).pathname;
  try {
    for (const name of ["echo_udp.ts", "utils.ts"]) {
      await Deno.copyFile(new URL(name, ROOT), `${folder}/${name}`);
    }
    const launch = (flags: string[], ...args: string[]) =>
      new Running(Deno.execPath(), [
        "run",
        "-A",
        ...flags,
        `--import-map=${map}`,
        `${folder}/echo_udp.ts`,
        ...args,
      ], {
        cwd: folder,
        env: { NO_COLOR: "1" },
      });
    for (
      const args of [["--port", "0"], ["-c", "127.0.0.1:9"], [
        "-c",
        "127.0.0.1:9",
        "-n",
        "1",
      ]]
    ) {
      await using running = launch([], ...args);
      const { code, stdout, stderr } = await ended(running);
      assertEquals({ code, stdout }, { code: 1, stdout: "" });
      assertMatch(stderr, /^echo_udp: .*deno run .*--unstable-net.*\n$/);
    }
    await using server = launch(
      ["--unstable-net"],
      "--port",
      "0",
      "--host",
      "127.0.0.1",
    );
    const [, port] = await server.until(
      /listening on udp:\/\/127\.0\.0\.1:(\d+)\n/,
    );
    using peer = new Peer();
    assertEquals(textOf(await peer.ask("copied", at(Number(port)))), "copied");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

// The command line

test("echo_udp --help and --version go to stdout, and are 0", async () => {
  const [help, h, version, V] = await Promise.all(
    ["--help", "-h", "--version", "-V"].map((o) => run("echo_udp", [o])),
  );
  for (const { code, stderr } of [help, h, version, V]) {
    assertEquals({ code, stderr }, { code: 0, stderr: "" });
  }
  assertEquals(h.stdout, help.stdout);
  assertEquals(V.stdout, version.stdout);
  assertEquals(version.stdout, "echo_udp 1.0.0\n");
  for (
    const part of [
      "usage: echo_udp",
      "(7777)",
      "(5",
      "(64)",
      "(1",
      "examples:",
      "exit status:",
    ]
  ) {
    assertStringIncludes(help.stdout, part);
  }
  const options = [
    "host",
    "port",
    "reuse-port",
    "quiet",
    "connect",
    "timeout",
    "count",
    "size",
    "interval",
    "diagram",
  ];
  for (
    const option of [...options, "ipv4", "ipv6", "verbose", "help", "version"]
  ) {
    assertMatch(help.stdout, new RegExp(`^ +(-\\w, )?--${option}\\b`, "m"));
  }
});

for (
  const [args, offender] of [
    [["--prot", "1"], "--prot: did you mean --port"],
    [["--sizes", "1"], "--size"],
    [["-Z"], "-Z"],
    [["--port"], "--port"],
    [["--port", "65536"], "65536"],
    [["--port", "-1"], "-1"],
    [["--port", "nosuch"], "nosuch"],
    [["--port", ""], "--port"],
    [["--host", ""], "--host"],
    [["--host", "a b"], "a b"],
    [["--max-connections", "4"], "--max-connections"],
    [["--host", "nosuch.invalid", "-n", "5"], "--count"],
    [["-c", "HERE", "-p", "5"], "more than one port"],
    [["-c", "HERE", "-q"], "--quiet"],
    [["-c", "HERE", "-i", "5"], "--interval"],
    [["-c", "HERE", "--size", "5"], "--size"],
    [["one"], "one"],
    [["-4", "-6"], "-4 and -6"],
    [["--quiet=yes"], "--quiet"],
    [["-c"], "--connect"],
    [["-c", ""], "--connect"],
    [["-c", "127.0.0.1:"], "not a port"],
    [["-c", "127.0.0.1:99999"], "99999"],
    [["-c", "[::1"], "[::1"],
    [["-c", "HERE", "extra"], "extra"],
    [["-c", "HERE", "-n", "x"], "--count"],
    [["-c", "HERE", "-n", "1.5"], "--count"],
    [["-c", "HERE", "-n", "0"], "--count"],
    [["-c", "HERE", "-n", "1", "--size", "3"], "--size"],
    [["-c", "HERE", "-n", "1", "--size", "65508"], "65508"],
    [["-c", "HERE", "-n", "1", "-i", "soon"], "--interval"],
    [["-c", "HERE", "-w", "x"], "--timeout"],
    [["-c", "HERE", "-n", "1", "--bogus"], "--bogus"],
  ] as [string[], string][]
) {
  test(
    `echo_udp refuses "${args.join(" ")}", and sends nothing`,
    { ignore: args.includes("0") && false },
    async () => {
      using peer = new Peer();
      const here = `127.0.0.1:${peer.addr.port}`;
      const { status, said } = await refused(
        ...args.map((arg) => arg === "HERE" ? here : arg),
      );
      assertMatch(said, /^echo_udp: .*$/);
      assertStringIncludes(said, offender);
      assertEquals(status, 2);
      await peer.nothing();
    },
  );
}

// The client

/** Runs `talk` without a process. Returns what it wrote, and what it throws. */
async function talking(
  to: Deno.NetAddr,
  input: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
  timeout = 5000,
  slow = () => Promise.resolve(),
) {
  using peer = new Peer(to.hostname.includes(":") ? "::" : "0.0.0.0");
  const written: Uint8Array[] = [];
  const output = async (bytes: Uint8Array) => {
    const copy = bytes.slice();
    await slow();
    written.push(copy);
  };
  let error: unknown;
  try {
    await soon(
      talk({
        socket: peer.socket,
        to,
        input: ReadableStream.from(input),
        output,
        timeout,
      }),
      "the client's end",
    );
  } catch (thrown) {
    error = thrown;
  }
  return { error, written, text: written.map(textOf).join("") };
}

test("echo_udp -c sends a datagram a line, an empty line too, and the rest without a line end", async () => {
  await using server = acting((datagram, reply) => reply(datagram));
  const { error, text } = await talking(server.addr, [
    bytesOf("one\n\n\ntwo\r\n"),
    bytesOf("thr"),
    bytesOf("ee\nlast"),
  ]);
  assertEquals(error, undefined);
  assertEquals(server.received.map(textOf), [
    "one\n",
    "\n",
    "\n",
    "two\r\n",
    "three\n",
    "last",
  ]);
  assertEquals(text, "one\n\n\ntwo\r\nthree\nlast");
});

test("echo_udp -c without any input sends nothing, and is done", async () => {
  await using server = acting((datagram, reply) => reply(datagram));
  assertEquals((await talking(server.addr, [])).error, undefined);
  assertEquals(
    (await talking(server.addr, [new Uint8Array()])).error,
    undefined,
  );
  assertEquals(server.received.length, 0);
});

for (const hostname of ["127.0.0.1", "::1"]) {
  test(
    `echo_udp -c cuts a line that no datagram holds, and gets it back from ${hostname}`,
    {
      ignore: hostname === "::1" && NO_IPV6,
    },
    async () => {
      await using server = echoing(hostname);
      const line = noise(200_000).map((byte) => byte === 10 ? 11 : byte),
        sizes: number[] = [];
      line[150_000] = 10;
      const { error, written } = await talking(server.addr, [
        line.subarray(0, 70_000),
        line.subarray(70_000),
      ]);
      assertEquals(error, undefined);
      assertSame(
        new Uint8Array(await new Blob(written as BlobPart[]).arrayBuffer()),
        line,
        "the long line",
      );
      written.forEach(({ length }) => sizes.push(length));
      assertEquals(sizes, [LARGEST, LARGEST, 150_001 - 2 * LARGEST, 49_999]);
    },
  );
}

test("echo_udp -c gets a megabyte of binary back from a server in a process of its own", async () => {
  await using server = await serve("echo_udp", ["--host", "127.0.0.1"]);
  const sent = noise(1_000_000); // its lines are of every length, 256 bytes on average
  const connect = [...ECHO_UDP, "-c", `127.0.0.1:${server.port}`];
  const { code, stdout, stderr } = await feed(Deno.execPath(), connect, sent);
  assertEquals({ code, stderr }, { code: 0, stderr: "" });
  assertSame(stdout, sent, "the megabyte");
});

test("echo_udp -c loses nothing of a long line by sending more at once than sockets hold", async () => {
  await using server = await serve("echo_udp", ["--host", "127.0.0.1"]);
  const sent = new Uint8Array(3_000_000).fill(97),
    connect = [...ECHO_UDP, "-w", "1", "-c", `127.0.0.1:${server.port}`];
  for (let round = 0; round < 2; round++) {
    const { code, stdout, stderr } = await feed(Deno.execPath(), connect, sent);
    assertEquals({ code, stderr }, { code: 0, stderr: "" });
    assertSame(stdout, sent, "3 MB");
  }
});

test("echo_udp -c waits at the end of its input for what is outstanding", async () => {
  const held: [Uint8Array, Reply][] = [], over = Promise.withResolvers<void>();
  await using server = acting(async (datagram, reply, n) => {
    held.push([datagram, reply]);
    if (n < 3) return;
    await over.promise;
    for (const [bytes, send] of held) await send(bytes);
  });
  const input = async function* () {
    yield bytesOf("a\nb\nc\n");
    setTimeout(over.resolve); // after the end was seen
  };
  const { error, text } = await talking(server.addr, input());
  assertEquals({ error, text }, { error: undefined, text: "a\nb\nc\n" });
});

test("echo_udp -c waits for what is outstanding though an earlier answer came twice", async () => {
  const over = Promise.withResolvers<void>();
  await using server = acting(async (datagram, reply, n) => {
    if (n === 1) return void (await reply(datagram), await reply(datagram));
    await over.promise;
    await reply(datagram);
  });
  const input = async function* () {
    yield bytesOf("a\nb\n");
    setTimeout(over.resolve, 50);
  };
  const { text } = await talking(server.addr, input());
  assertEquals(text, "a\na\nb\n");
});

test("echo_udp -c without an answer is 28", async () => {
  await using server = acting(() => {});
  const { error, text } = await talking(server.addr, [bytesOf("hello\n")], 30);
  assertInstanceOf(error, Failure);
  assertEquals([error.status, text], [28, ""]);
  assertMatch(error.message, /^no answer within 0\.03 s.*\b1 outstanding$/);
});

test("echo_udp -c is 28 when one of several answers is missing, and passes on the others", async () => {
  await using server = acting((datagram, reply, n) =>
    n !== 2 && reply(datagram)
  );
  const { error, text } = await talking(
    server.addr,
    [bytesOf("a\nb\nc\n")],
    100,
  );
  assertInstanceOf(error, Failure);
  assertEquals([error.status, text], [28, "a\nc\n"]);
});

test("echo_udp -c is 28 when nothing is answered, though more and more is sent", async () => {
  await using server = acting(() => {});
  let typed = 0, typing: ReturnType<typeof setTimeout> | undefined;
  const input = async function* () {
    for (; typed < 12; typed++) {
      yield bytesOf("hello?\n");
      await new Promise((resolve) => typing = setTimeout(resolve, 50));
    }
  };
  const { error } = await talking(server.addr, input(), 200);
  clearTimeout(typing);
  assertInstanceOf(error, Failure);
  assertEquals(error.status, 28);
  assertLess(typed, 12, "lines typed before it was noticed");
});

test("echo_udp -c waits for a person who types nothing", async () => {
  await using server = echoing();
  const input = async function* () {
    for (const line of ["a\n", "b\n"]) {
      await new Promise((resolve) => setTimeout(resolve, 150));
      yield bytesOf(line);
    }
  };
  const { error, text } = await talking(server.addr, input(), 100);
  assertEquals({ error, text }, { error: undefined, text: "a\nb\n" });
});

test("echo_udp -c does not take its own slow output for a silent server", async () => {
  await using server = echoing();
  const pager = () => new Promise<void>((resolve) => setTimeout(resolve, 150));
  const long = "x".repeat(40_000) + "\n"; // so that each is sent when the one before it came back
  const { error, text } = await talking(
    server.addr,
    [bytesOf("a\nb\n"), bytesOf(long), bytesOf(long)],
    100,
    pager,
  );
  assertEquals({ error, length: text.length }, {
    error: undefined,
    length: 4 + 2 * long.length,
  });
});

test("echo_udp -c has written everything when it ends, though its output is slow", async () => {
  await using server = echoing();
  const writing = Promise.withResolvers<void>();
  const pager =
    () => (writing.resolve(),
      new Promise<void>((resolve) => setTimeout(resolve, 50)));
  const input = async function* () {
    yield bytesOf("a\n");
    await writing.promise;
  };
  const { error, text } = await talking(server.addr, input(), 5000, pager);
  assertEquals({ error, text }, { error: undefined, text: "a\n" });
});

test("echo_udp -c reads on only as answers come back", async () => {
  await using server = acting(() => {});
  let read = 0;
  const input = function* () {
    for (;; read++) yield bytesOf("endless\n");
  };
  const { error } = await talking(server.addr, input(), 100);
  assertInstanceOf(error, Failure);
  assertEquals(error.status, 28);
  assertLess(read, 100);
});

test("echo_udp -c passes over what others send to its port", async () => {
  using stranger = new Peer(), neighbour = new Peer("127.0.0.1");
  await using server = acting(async (datagram, reply) => {
    const { port } = server.froms[0];
    await stranger.send("strange", at(port));
    await neighbour.send(datagram, at(port));
    await reply(datagram);
  });
  const { error, text } = await talking(server.addr, [bytesOf("mine\n")]);
  assertEquals({ error, text }, { error: undefined, text: "mine\n" });
});

test("echo_udp -c passes over its server's port on another address", {
  ignore: !LINUX,
}, async () => {
  await using server = acting(async (datagram, reply) => {
    using other = new Peer("127.0.0.2", server.port);
    await other.send("strange", at(server.froms[0].port));
    await reply(datagram);
  });
  const { error, text } = await talking(server.addr, [bytesOf("mine\n")]);
  assertEquals({ error, text }, { error: undefined, text: "mine\n" });
});

test("echo_udp -c receives an answer after a reset", async () => {
  const asked = Promise.withResolvers<void>(),
    closed = Promise.withResolvers<never>();
  let receives = 0;
  const socket = {
    receive: async (): Promise<[Uint8Array<ArrayBuffer>, Deno.Addr]> => {
      await asked.promise;
      if (++receives === 1) {
        throw new Deno.errors.ConnectionReset("an ICMP message came");
      }
      return receives === 2
        ? [bytesOf("hello\n"), at(7777)]
        : await closed.promise;
    },
    send: (
      bytes: Uint8Array,
    ) => (asked.resolve(), Promise.resolve(bytes.length)),
    close: () => closed.reject(new Deno.errors.BadResource("closed")),
  };
  const input = ReadableStream.from([bytesOf("hello\n")]),
    written: string[] = [];
  const output = (
    bytes: Uint8Array,
  ) => (written.push(textOf(bytes)), Promise.resolve());
  await soon(
    talk({ socket, to: at(7777), input, output, timeout: 1000 }),
    "the answer",
  );
  assertEquals(written, ["hello\n"]);
});

test("echo_udp -c ends when its output cannot be written", async () => {
  await using server = echoing();
  using peer = new Peer();
  const output = () =>
    Promise.reject(new Failure(23, "cannot write the output"));
  const input = ReadableStream.from([bytesOf("hello\n")]);
  const error = await assertRejects(() =>
    talk({ socket: peer.socket, to: server.addr, input, output, timeout: 1000 })
  );
  assertEquals((error as Failure).status, 23);
});

test("echo_udp -c gives back its input, and with -v shows the exchange on stderr", async () => {
  await using server = echoing();
  const name = `127.0.0.1:${server.addr.port}`;
  const { code, stdout, stderr } = await run(
    "echo_udp",
    ["-v", "-c", name],
    "hello\n\nlast",
  );
  assertEquals({ code, stdout }, { code: 0, stdout: "hello\n\nlast" });
  const lines = stderr.trimEnd().split("\n");
  for (const line of lines) assertMatch(line, /^\d+\.\d+ [*<>] \S/);
  assertMatch(stderr, new RegExp(`\\* .*${name}`));
  for (const mark of ["<", ">"]) {
    for (
      const data of ['6 bytes "hello\\\\n"', '1 byte "\\\\n"', '4 bytes "last"']
    ) {
      assertMatch(stderr, new RegExp(`${mark} (${name} )?${data}$`, "m"));
    }
  }
});

test("echo_udp -v and --diagram do not show as the server's what a stranger sent", async () => {
  using stranger = new Peer();
  await using server = acting(async (datagram, reply) => {
    await stranger.send("stranger", at(server.froms[0].port));
    await reply(datagram);
  });
  const { code, stdout, stderr } = await run("echo_udp", [
    "-v",
    "-c",
    `127.0.0.1:${server.port}`,
  ], "mine\n");
  assertEquals({ code, stdout }, { code: 0, stdout: "mine\n" });
  const shown = stderr.split("\n").find((line) => line.includes('"stranger"'));
  if (shown) assertStringIncludes(shown, `127.0.0.1:${stranger.addr.port}`);
});

test("echo_udp -c never lets a server drive the terminal", {
  ignore: WINDOWS || !LINUX || missing("script"),
}, async () => {
  await using server = acting((_, reply) =>
    reply(bytesOf("\x1b]0;owned\x07\x1b[2Jevil\x9b1m\n"))
  );
  const command = [
    Deno.execPath(),
    ...ECHO_UDP,
    "-c",
    `127.0.0.1:${server.port}`,
  ].join(" ");
  await using terminal = new Running("script", ["-qec", command, "/dev/null"], {
    cwd: ROOT,
  });
  await terminal.type("hello\n");
  await terminal.until(/evil/);
  // deno-lint-ignore no-control-regex
  assertNotMatch(terminal.stdout, /[\x1b\x07\x9b]/);
});

for (const outcome of ["done", "without an answer", "interrupted"]) {
  test(`echo_udp --diagram draws the exchange that is ${outcome}`, {
    ignore: WINDOWS && outcome === "interrupted",
  }, async () => {
    const file = await Deno.makeTempFile({ suffix: ".md" }),
      asked = Promise.withResolvers<void>();
    await using server = acting((
      datagram,
      reply,
    ) => (asked.resolve(), outcome === "done" && reply(datagram)));
    try {
      const wait = outcome === "interrupted" ? "0" : "0.2";
      await using client = start("echo_udp", [
        "-w",
        wait,
        "-c",
        `127.0.0.1:${server.port}`,
        "--diagram",
        file,
      ]);
      await client.type("hello\n");
      await soon(asked.promise, "the question");
      if (outcome === "interrupted") client.kill("SIGINT");
      const { code, stderr } = await client.finish();
      assertEquals(
        code,
        { done: 0, "without an answer": 28, interrupted: 130 }[outcome],
      );
      if (outcome === "done") assertEquals(stderr, "");
      const drawing = await Deno.readTextFile(file);
      assertMatch(drawing, /^```mermaid\nsequenceDiagram\n[^]*\n```\n$/);
      assertMatch(drawing, /participant client as echo_udp\n/);
      assertMatch(
        drawing,
        new RegExp(`participant s1 as 127\\.0\\.0\\.1.*${server.port}\n`),
      );
      assertMatch(drawing, /client-\)s1: .*6 bytes .*hello/);
      if (outcome === "done") {
        assertMatch(drawing, /s1-\)client: .*6 bytes .*hello/);
      }
      if (outcome === "without an answer") {
        assertMatch(drawing, /Note left of .*no answer/);
      }
      if (outcome === "interrupted") {
        assertMatch(drawing, /Note left of client: interrupted\n/);
      }
    } finally {
      await Deno.remove(file);
    }
  });
}

test("echo_udp -c with nobody there is 28, in one line", async () => {
  const gone = new Peer(), { port } = gone.addr;
  gone[Symbol.dispose]();
  const { code, stdout, stderr } = await run("echo_udp", [
    "-w",
    "0.2",
    "-c",
    `127.0.0.1:${port}`,
  ], "hello\n");
  assertEquals({ code, stdout }, { code: 28, stdout: "" });
  assertMatch(stderr, /^echo_udp: no answer .*\n$/);
});

test("echo_udp -c with an unknown host is 6", async () => {
  const { status, said } = await refused(
    "-c",
    "no-such-host.invalid",
    "-n",
    "1",
  );
  assertMatch(said, /^echo_udp: cannot resolve no-such-host\.invalid: .+$/);
  assertEquals(status, 6);
});

for (const [family, address] of [["-4", "::1"], ["-6", "127.0.0.1"]]) {
  test(`echo_udp ${family} does not ask ${address}`, async () => {
    const { status, said } = await refused(family, "-c", address, "-n", "1");
    assertMatch(said, /^echo_udp: cannot resolve .+: no IPv[46] address$/);
    assertEquals(status, 6);
  });
}

for (const [family, address] of [["-4", "127.0.0.1"], ["-6", "[::1]"]]) {
  test(`echo_udp ${family} asks localhost at ${address}`, {
    ignore: family === "-6" && NO_IPV6,
  }, async () => {
    await using server = echoing(address.replace(/[[\]]/g, ""));
    const { code, stdout } = await run("echo_udp", [
      family,
      "-c",
      `localhost:${server.addr.port}`,
      "-n",
      "1",
    ]);
    assertEquals(code, 0);
    assertStringIncludes(
      stdout,
      `64 bytes from ${address}:${server.addr.port}: seq=1 `,
    );
  });
}

for (const address of ["[::ffff:127.0.0.1]", "0.0.0.0", "[::]"]) {
  test(
    `echo_udp -c knows the answer from ${address}, which has another name`,
    { ignore: !LINUX || NO_IPV6 },
    async () => {
      await using server = serving("::");
      const to = `${address}:${server.addr.port}`;
      const { code, stdout, stderr } = await run("echo_udp", [
        "-w",
        "1",
        "-c",
        to,
      ], "hello\n");
      assertEquals({ code, stdout, stderr }, {
        code: 0,
        stdout: "hello\n",
        stderr: "",
      });
    },
  );
}

test("echo_udp -c with port 0 is one line, and no stack trace", async () => {
  for (const more of [[], ["-n", "1"]]) {
    const { code, stderr } = await run("echo_udp", [
      "-w",
      "0.2",
      "-c",
      "127.0.0.1:0",
      ...more,
    ], "hello\n");
    assert(code > 0);
    assertMatch(stderr, /^echo_udp: .*\n$/);
  }
});

for (
  const [more, statuses] of [[[], [7, 56]], [["-n", "1"], [28]]] as [
    string[],
    number[],
  ][]
) {
  const name = `echo_udp -c ${
    more.join(" ")
  } names the host that it cannot send to, and is ${statuses.join(" or ")}`;
  test(name.replace("  ", " "), { ignore: confined() }, async () => {
    const command = [...ECHO_UDP, "-c", "192.0.2.1:7", ...more]; // from a machine without any network
    const { code, stderr } = await feed("unshare", [
      "-n",
      Deno.execPath(),
      ...command,
    ], bytesOf("hello\n"));
    assertMatch(
      stderr,
      /^echo_udp: .*192\.0\.2\.1:7: network is unreachable\n$/,
    );
    assert(statuses.includes(code), `exit status ${code}`);
  });
}

test(
  "echo_udp -c ends with 130 at Ctrl-C, without a word",
  { ignore: WINDOWS },
  async () => {
    const asked = Promise.withResolvers<void>();
    await using server = acting(() => asked.resolve());
    await using client = start("echo_udp", ["-c", `127.0.0.1:${server.port}`]);
    await client.type("hello\n");
    await soon(asked.promise, "the question");
    client.kill("SIGINT");
    const { code, stdout, stderr } = await client.finish();
    assertEquals({ code, stdout, stderr }, {
      code: 130,
      stdout: "",
      stderr: "",
    });
  },
);

test("echo_udp -c ends at the end of its input, not before, and not only when stdin is closed", async () => {
  await using server = echoing();
  await using client = start("echo_udp", [
    "-c",
    `127.0.0.1:${server.addr.port}`,
  ]);
  await client.type("one\n");
  await client.until(/^one\n/);
  await client.type("two\n");
  await client.until(/^one\ntwo\n/);
  assertEquals((await client.finish()).code, 0);
});

test(
  "echo_udp -c into a closed pipe ends quietly",
  { ignore: WINDOWS },
  async () => {
    await using server = echoing();
    const command = `yes | "$0" ${
      ECHO_UDP.join(" ")
    } -c 127.0.0.1:${server.addr.port}`;
    const piped = await feed("sh", [
      "-c",
      `{ ${command}; echo $? >&2; } | head -n 1`,
      Deno.execPath(),
    ], new Uint8Array());
    assertEquals([textOf(piped.stdout), piped.stderr], ["y\n", "23\n"]);
  },
);

for (
  const [how, more, input] of [["-c", "", "yes | "], ["-n", "-n 2 -i 0", ""]]
) {
  test(
    `echo_udp ${how} onto a full disk is 23`,
    { ignore: !LINUX },
    async () => {
      await using server = echoing();
      const shell = `${input}"$0" ${
        ECHO_UDP.join(" ")
      } -c 127.0.0.1:${server.addr.port} ${more} >/dev/full`;
      const { code, stderr } = await feed(
        "sh",
        ["-c", shell, Deno.execPath()],
        new Uint8Array(),
      );
      assertMatch(
        stderr,
        /^(yes: .*\n)?echo_udp: cannot write the output: no space left on device\n$/,
      );
      assertEquals(code, 23);
    },
  );
}

// Round trips

/** Runs `ping` without a process. */
async function pinging(to: Deno.NetAddr, options: Partial<PingOptions> = {}) {
  using peer = new Peer(to.hostname.includes(":") ? "::" : "0.0.0.0");
  const trips = new RoundTrips(), lines: [number, number][] = [];
  const log = (
    seq: number,
    ms: number,
  ) => (lines.push([seq, ms]), Promise.resolve());
  const { signal } = new AbortController(),
    given = { count: 3, size: 64, interval: 0, timeout: 2000, ...options };
  await soon(
    ping({ socket: peer.socket, to, signal, trips, log, ...given }),
    "the round trips",
  );
  return { trips, lines, seqs: lines.map(([seq]) => seq), summary: `${trips}` };
}

const seqOf = (datagram: Uint8Array) =>
  new DataView(datagram.buffer, datagram.byteOffset).getUint32(0);

for (const hostname of ["127.0.0.1", "::1"]) {
  test(
    `echo_udp -n prints a line each and a summary, as ping does, for ${hostname}`,
    {
      ignore: hostname === "::1" && NO_IPV6,
    },
    async () => {
      await using server = echoing(hostname);
      const name = formatAddress(server.addr),
        host = name.replace(/[[\].]/g, "\\$&");
      const { code, stdout, stderr } = await run("echo_udp", [
        "-c",
        name,
        "-n",
        "3",
        "-i",
        "0.01",
      ]);
      assertEquals({ code, stderr }, { code: 0, stderr: "" });
      const ms = "\\d+\\.\\d\\d",
        lines = [1, 2, 3].map((seq) =>
          `64 bytes from ${host}: seq=${seq} time=${ms} ms\n`
        );
      const summary =
        `3 sent, 3 received, 0% loss\nmin/avg/max/mdev = ${ms}/${ms}/${ms}/${ms} ms\n`;
      assertMatch(stdout, new RegExp(`^${lines.join("")}${summary}$`));
    },
  );
}

test("echo_udp -n without any answer says so, and is 28", async () => {
  await using server = acting(() => {});
  const args = [
    "-c",
    `127.0.0.1:${server.port}`,
    "-n",
    "2",
    "-i",
    "0.01",
    "-w",
    "0.1",
  ];
  const { code, stdout, stderr } = await run("echo_udp", args);
  assertEquals({ code, stdout }, {
    code: 28,
    stdout: "2 sent, 0 received, 100% loss\n",
  });
  assertMatch(stderr, /^echo_udp: no answer .*\n$/);
  assertEquals(server.received.length, 2);
});

test("echo_udp -n is 0 when at least one answer came back", async () => {
  await using server = acting((datagram, reply, n) =>
    n === 2 && reply(datagram)
  );
  const args = [
    "-c",
    `127.0.0.1:${server.port}`,
    "-n",
    "3",
    "-i",
    "0.01",
    "-w",
    "0.2",
  ];
  const { code, stdout } = await run("echo_udp", args);
  assertEquals(code, 0);
  assertMatch(
    stdout,
    /^64 bytes from \S+: seq=2 .*\n3 sent, 1 received, 66\.[67]+% loss\nmin\/avg\/max\/mdev = .*\n$/,
  );
});

test("echo_udp -n interrupted prints the summary so far, and is 130", {
  ignore: WINDOWS,
}, async () => {
  await using server = echoing();
  await using client = start("echo_udp", [
    "-c",
    `127.0.0.1:${server.addr.port}`,
    "-n",
    "100",
  ]);
  await client.until(/seq=1 .*\n/);
  client.kill("SIGINT");
  const { code, stdout, stderr } = await client.finish();
  assertEquals({ code, stderr }, { code: 130, stderr: "" });
  assertMatch(
    stdout,
    /^64 bytes .*\n1 sent, 1 received, 0% loss\nmin\/avg\/max\/mdev = .*\n$/,
  );
});

test("echo_udp -n counts answers that are lost, doubled, out of order, damaged and late, each apart", async () => {
  using time = clock();
  using stranger = new Peer();
  const held: Uint8Array[] = [],
    seqs: number[] = [],
    last = Promise.withResolvers<void>();
  await using server = acting(async (datagram, reply, n) => {
    if (n === 2) return; // lost
    if (n === 3 || n === 7) return void held.push(datagram); // overtaken by the next; late
    if (n === 5) datagram[20] ^= 1; // damaged
    if (n === 6) datagram = datagram.subarray(0, 63); // cut
    if (n === 9) await stranger.send(datagram, at(server.froms[0].port)); // not even an answer
    await reply(datagram);
    if (n === 4) await reply(held.shift()!);
    if (n === 8) await reply(datagram); // doubled
    if (n < 10) return;
    await soon(last.promise, "the last answer");
    time.advance(500); // by the asker's own clock
    await reply(held.shift()!);
  });
  const log = (seq: number) => {
    seqs.push(seq);
    if (seq === 10) last.resolve();
    return Promise.resolve();
  };
  const { trips, summary } = await pinging(server.addr, {
    count: 10,
    timeout: 500,
    log,
  });
  assertEquals({ sent: trips.sent, received: trips.received }, {
    sent: 10,
    received: 6,
  });
  assertEquals(seqs, [1, 4, 3, 8, 9, 10]);
  const [counts] = summary.split("\n");
  assertEquals(counts.split(", ").slice(0, 3), [
    "10 sent",
    "6 received",
    "40% loss",
  ]);
  assertEquals(counts.split(", ").slice(3).sort(), [
    "1 duplicate",
    "1 late",
    "1 out of order",
    "2 damaged",
  ]);
});

test("echo_udp -n counts an answer out of order once, and not those after it", async () => {
  const held: Uint8Array[] = [];
  await using server = acting(async (datagram, reply, n) => {
    if (n <= 2) return void held.push(datagram);
    await reply(datagram); // 3, then 1, then 2, then 4 in order
    while (held.length) await reply(held.shift()!);
  });
  const { seqs, summary } = await pinging(server.addr, { count: 4 });
  assertEquals(seqs, [3, 1, 2, 4]);
  assertMatch(summary, /^4 sent, 4 received, 0% loss, 2 out of order\n/);
});

test("echo_udp -n is not fooled by answers that were never asked for", async () => {
  await using server = acting(async (datagram, reply, n) => {
    const invented = datagram.slice();
    new DataView(invented.buffer).setUint32(0, 1000 + n);
    for (
      const bytes of [
        invented,
        new Uint8Array(),
        new Uint8Array(3),
        noise(65_000),
      ]
    ) await reply(bytes);
    await reply(datagram);
  });
  const { seqs, summary } = await pinging(server.addr, { count: 2 });
  assertEquals(seqs, [1, 2]);
  assertMatch(summary, /^2 sent, 2 received, 0% loss, 8 damaged\n/);
});

test("echo_udp -n sends on without waiting for answers, and numbers what it sends", async () => {
  await using server = acting(() => {});
  const started = performance.now();
  const { trips } = await pinging(server.addr, {
    count: 4,
    interval: 20,
    timeout: 50,
    size: 100,
  });
  assertGreaterOrEqual(performance.now() - started, 3 * 20 + 50 - 5);
  assertEquals(server.received.map(seqOf), [1, 2, 3, 4]);
  assertEquals(server.received.map(({ length }) => length), [
    100,
    100,
    100,
    100,
  ]);
  assertEquals({ sent: trips.sent, received: trips.received }, {
    sent: 4,
    received: 0,
  });
});

for (const size of [4, 5, 1472, LARGEST]) {
  test(`echo_udp -n takes --size ${size}`, async () => {
    await using server = echoing();
    const args = [
      "-c",
      `127.0.0.1:${server.addr.port}`,
      "-n",
      "2",
      "-i",
      "0",
      "--size",
      `${size}`,
    ];
    const { code, stdout } = await run("echo_udp", args);
    assertEquals(code, 0);
    assertMatch(
      stdout,
      new RegExp(
        `^(${size} bytes from \\S+: seq=\\d .*\n){2}2 sent, 2 received, 0% loss\n`,
      ),
    );
  });
}

test("echo_udp -i 0 sends as fast as answers come back", async () => {
  await using server = echoing();
  const started = performance.now();
  const { seqs } = await pinging(server.addr, { count: 2000 });
  assertEquals(seqs, Array.from({ length: 2000 }, (_, i) => i + 1));
  assertLess(performance.now() - started, 5000); // by the clock alone it would be 20 s
});

test("echo_udp -n ends when the signal aborts", async () => {
  await using server = acting(() => {});
  using peer = new Peer();
  const stop = new AbortController(),
    trips = new RoundTrips(),
    { signal } = stop;
  const given = {
    count: 9,
    size: 64,
    interval: 60_000,
    timeout: 0,
    log: () => Promise.resolve(),
  };
  const done = ping({
    socket: peer.socket,
    to: server.addr,
    signal,
    trips,
    ...given,
  });
  stop.abort(new Failure(130, ""));
  const error = await soon(assertRejects(() => done), "the end");
  assertEquals((error as Failure).status, 130);
});

test("round trips are summed up as ping does it", () => {
  const trips = new RoundTrips();
  assertEquals(`${trips}`, "0 sent, 0 received, 0% loss");
  trips.sent = 5;
  assertEquals(`${trips}`, "5 sent, 0 received, 100% loss");
  for (const ms of [1, 2, 3, 4]) trips.add(ms);
  assertEquals(
    `${trips}`,
    "5 sent, 4 received, 20% loss\nmin/avg/max/mdev = 1.00/2.50/4.00/1.12 ms",
  );
  trips.note("duplicate"), trips.note("late"), trips.note("duplicate");
  assertMatch(
    `${trips}`,
    /^5 sent, 4 received, 20% loss, 2 duplicate, 1 late\nmin/,
  );
});

test("round trips keep their accuracy: one, equal ones, long ones, many", () => {
  const one = new RoundTrips(),
    equal = new RoundTrips(),
    many = new RoundTrips();
  one.sent = equal.sent = 3, one.add(0.1234);
  assertEquals(
    `${one}`,
    "3 sent, 1 received, 66.7% loss\nmin/avg/max/mdev = 0.12/0.12/0.12/0.00 ms",
  );
  for (let i = 0; i < 3; i++) equal.add(1234.567);
  assertEquals(
    `${equal}`,
    "3 sent, 3 received, 0% loss\nmin/avg/max/mdev = 1234.57/1234.57/1234.57/0.00 ms",
  );
  for (let i = 0; i < 100_000; i++) {
    many.sent++, many.add(i % 2 ? 10_000.25 : 10_000.75);
  }
  const [, mdev] = `${many}`.match(
    /mdev = 10000\.25\/10000\.50\/10000\.75\/(\S+) ms/,
  )!;
  assertAlmostEquals(Number(mdev), 0.25, 0.01);
});

test("round trips never call it no loss when something was lost", () => {
  const trips = new RoundTrips();
  trips.sent = 100_000;
  for (let i = 1; i < 100_000; i++) trips.add(1);
  assertNotMatch(`${trips}`, / 0% loss/);
});

// The tools of the field

const MEGABYTES = noise(3_000_000);

/** Sends 3 MB through a tool and the server, a datagram at a time, and compares what comes back byte by byte. */
async function through(
  command: string,
  args: (port: number) => string[],
  chunk: number,
  hostname = "127.0.0.1",
) {
  await using server = echoing(hostname);
  const options = {
    args: args(server.addr.port),
    stdin: "piped",
    stdout: "piped",
    stderr: "inherit",
  } as const;
  const child = new Deno.Command(command, options).spawn();
  const writer = child.stdin.getWriter(),
    reader = child.stdout.getReader(),
    back = new Uint8Array(MEGABYTES.length);
  try {
    for (let sent = 0, got = 0; sent < MEGABYTES.length; sent += chunk) {
      const part = MEGABYTES.subarray(sent, sent + chunk);
      await writer.write(part);
      while (got < sent + part.length) {
        const { value, done } = await soon(
          reader.read(),
          `${command}'s output`,
        );
        assert(!done, `${command} ended early`);
        back.set(value, got), got += value.length;
      }
    }
    assertSame(back, MEGABYTES, "3 MB");
  } finally {
    await writer.close().catch(() => {});
    try {
      child.kill();
    } catch { /* it has ended */ }
    for (;;) if ((await reader.read()).done) break;
    await child.status;
  }
}

test(
  "echo_udp gives 3 MB back through nc",
  { ignore: missing("nc") },
  () => through("nc", (port) => ["-u", "127.0.0.1", `${port}`], 8192),
);

test(
  "echo_udp gives 3 MB back through nc over IPv6",
  { ignore: NO_IPV6 || missing("nc") },
  () => through("nc", (port) => ["-6", "-u", "::1", `${port}`], 8192, "::1"),
);

test(
  "echo_udp gives 3 MB back through ncat",
  { ignore: missing("ncat") },
  () => through("ncat", (port) => ["-u", "127.0.0.1", `${port}`], 8192),
);

test(
  "echo_udp gives 3 MB back through socat",
  { ignore: missing("socat") },
  () =>
    through(
      "socat",
      (port) => ["-b", "65507", "-", `UDP4:127.0.0.1:${port}`],
      60_000,
    ),
);

const ASK = `
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(9)
s.connect(("127.0.0.1", int(sys.argv[1])))
while True:
    part = sys.stdin.buffer.read(65507)
    if not part:
        break
    s.send(part)
    sys.stdout.buffer.write(s.recv(65535))
`;

test("echo_udp gives 3 MB back to python3, in datagrams of the largest size", {
  ignore: missing("python3"),
}, async () => {
  await using server = echoing();
  const { code, stdout, stderr } = await feed("python3", [
    "-c",
    ASK,
    `${server.addr.port}`,
  ], MEGABYTES);
  assertEquals({ code, stderr }, { code: 0, stderr: "" });
  assertSame(stdout, MEGABYTES, "3 MB");
});

const LAB_SHEET = `
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind(("", 0))
print("port", s.getsockname()[1], flush=True)
while True:
    data, peer = s.recvfrom(1500)
    if data == b"": break
    s.sendto(data, peer)
`;

test("echo_udp -c and -n ask the lab sheet's own server", {
  ignore: NO_IPV6 || missing("python3"),
}, async () => {
  await using server = new Running("python3", ["-c", LAB_SHEET]);
  const [, port] = await server.until(/port (\d+)\n/);
  const lines = await run(
    "echo_udp",
    ["-c", `localhost:${port}`],
    "one\n\ntwo",
  );
  assertEquals(lines, {
    code: 0,
    signal: null,
    stdout: "one\n\ntwo",
    stderr: "",
  });
  const trips = await run("echo_udp", [
    "-c",
    `127.0.0.1:${port}`,
    "-n",
    "2",
    "-i",
    "0",
    "--size",
    "1500",
  ]);
  assertMatch(trips.stdout, /2 sent, 2 received, 0% loss\n/);
  const cut = await run("echo_udp", [
    "-c",
    `127.0.0.1:${port}`,
    "-n",
    "1",
    "-w",
    "0.2",
    "--size",
    "1501",
  ]);
  assertEquals([cut.code, cut.stdout], [
    28,
    "1 sent, 0 received, 100% loss, 1 damaged\n",
  ]);
});

test("echo_udp -c and -n ask inetd's own echo", {
  ignore: confined() || missing("inetd"),
}, async () => {
  const config = await Deno.makeTempFile();
  try {
    await Deno.writeTextFile(
      config,
      "10.9.8.7:echo dgram udp wait root internal\n",
    );
    // Its port, 7, in a network of its own; loopback's addresses it does not answer.
    const shell = `${network("10.9.8.7/32")} && exec inetd -d -i "$0"`;
    await using inetd = new Running("unshare", [
      "-n",
      "sh",
      "-c",
      shell,
      config,
    ]);
    await inetd.until(/ADD.*echo/, "stderr");
    const inside = [
      "-t",
      `${inetd.pid}`,
      "-n",
      Deno.execPath(),
      ...ECHO_UDP,
      "-c",
      "10.9.8.7:echo",
    ];
    const lines = await feed("nsenter", inside, bytesOf("one\n\ntwo"));
    assertEquals({ ...lines, stdout: textOf(lines.stdout) }, {
      code: 0,
      stdout: "one\n\ntwo",
      stderr: "",
    });
    const trips = await feed("nsenter", [
      ...inside,
      "-n",
      "3",
      "-i",
      "0",
      "--size",
      "1024",
    ], new Uint8Array());
    assertEquals({ code: trips.code, stderr: trips.stderr }, {
      code: 0,
      stderr: "",
    });
    assertMatch(
      textOf(trips.stdout),
      /^(1024 bytes from 10\.9\.8\.7:7: seq=\d .*\n){3}3 sent, 3 received, 0% loss\n/,
    );
  } finally {
    await Deno.remove(config);
  }
});
