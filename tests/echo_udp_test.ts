import {
  assertEquals,
  assertGreater,
  assertLess,
  assertLessOrEqual,
  assertMatch,
  assertNotEquals,
  assertNotMatch,
  assertStringIncludes,
} from "jsr:@std/assert@^1";
import { setTimeout as delay } from "node:timers/promises";
import { echo, main, serve, type ServeOptions } from "../echo_udp.ts";
import { assertSame, barred, bytes, captured, LINUX } from "./helpers.ts";
import { missing, Namespace, noNamespaces, noNc, pipe } from "./helpers.ts";
import { random, repeat, ROOT, Running } from "./helpers.ts";
import { serve as serveProcess, soon, temporary } from "./helpers.ts";
import { test, text, WINDOWS } from "./helpers.ts";
import { at, Peer, withoutIPv6 } from "./udp_peers.ts";

const NO_IPV6 = withoutIPv6();
const LARGEST = 65_507;

/** A server in this process. */
class Local implements AsyncDisposable {
  readonly lines: string[] = [];
  readonly socket: Deno.DatagramConn;
  readonly #stop = new AbortController();
  readonly #total: ReturnType<typeof serve>;

  constructor(
    { hostname = "127.0.0.1", port = 0, ...options }:
      & Partial<ServeOptions>
      & { hostname?: string; port?: number } = {},
  ) {
    this.socket = options.socket ??
      Deno.listenDatagram({ transport: "udp", hostname, port });
    const { signal } = this.#stop;
    const log = (line: string) => void this.lines.push(line);
    this.#total = serve({ socket: this.socket, signal, log, ...options });
  }

  get port(): number {
    return (this.socket.addr as Deno.NetAddr).port;
  }

  /** Waits until the log has said how many lines it dropped. */
  async toldOfOthers(): Promise<void> {
    const seen = () => this.lines;
    const isTold = () => this.lines.some((line) => /more$/.test(line));
    await repeat(() => delay(20), isTold, "a line about the others", { seen });
  }

  /** Ends it. Returns how many datagrams went back, and how many bytes. */
  async stop(): Promise<[number, number]> {
    this.#stop.abort();
    const { datagrams, bytes } = await soon(this.#total, "the server's end");
    return [datagrams, bytes];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

/** A clock that can be put forward, in place of `performance.now`. */
function clock() {
  const now = performance.now.bind(performance);
  let ahead = 0;
  performance.now = () => now() + ahead;
  return {
    advance(milliseconds: number) {
      ahead += milliseconds;
    },
    [Symbol.dispose]: () => void Reflect.deleteProperty(performance, "now"),
  };
}

/**
 * A socket that was never opened. It receives so many datagrams, or throws
 * what is an error, and is closed then.
 */
function fake(received: (string | Error)[], send: (n: number) => unknown) {
  const sent: string[] = [];
  const { promise: over, reject } = Promise.withResolvers<never>();
  over.catch(() => {}); // it may end while nothing receives
  let sends = 0;
  const socket = {
    addr: at(7777),
    async receive(): Promise<[Uint8Array<ArrayBuffer>, Deno.Addr]> {
      const next = received.shift();
      if (next instanceof Error) throw next;
      if (next === undefined) return await over;
      return await Promise.resolve([bytes(next), at(50_000)]);
    },
    async send(datagram: Uint8Array) {
      sends++;
      await send(sends);
      sent.push(text(datagram));
      return datagram.length;
    },
    close: () => reject(new Deno.errors.BadResource("closed")),
  };
  return { socket: socket as unknown as Deno.DatagramConn, sent };
}

const reset = () => new Deno.errors.ConnectionReset("an ICMP message came");
const tooLong = () => new Error("Message too long (os error 90)");

// The protocol

test("echo sends each datagram back, an empty one too, until it is closed", async () => {
  const { socket, sent } = fake(["one", "", "two"], () => {});
  const done = echo(socket);
  await delay(0);
  assertEquals(sent, ["one", "", "two"]);
  socket.close();
  await soon(done, "its end");
});

test("echo goes on after news of peers that are gone", async () => {
  const received = ["one", reset(), reset(), "two"];
  const { socket, sent } = fake(received, () => {});
  const done = echo(socket);
  await delay(0);
  assertEquals(sent, ["one", "two"]);
  socket.close();
  await soon(done, "its end");
});

test("echo goes on after answers that cannot be sent", async () => {
  const errors = [
    ...[tooLong(), new Error("Network is unreachable (os error 101)")],
    ...[reset(), new Deno.errors.PermissionDenied("by a firewall")],
  ];
  const { socket, sent } = fake(["1", "2", "3", "4", "5"], (n) => {
    if (n <= errors.length) throw errors[n - 1];
  });
  const done = echo(socket);
  await delay(0);
  assertEquals(sent, ["5"]);
  socket.close();
  await soon(done, "its end");
});

async function protocol(): Promise<string> {
  const source = await Deno.readTextFile(new URL("echo_udp.ts", ROOT));
  return source.match(/^export async function echo\([^]*?^}\n/m)![0];
}

const TEXTBOOK = `export async function echo(socket) {
  while (true) {
    const [data, client] = await socket.receive();
    await socket.send(data, client);
  }
}
`;

test("a textbook's echo, put in its place, is served, guarded and logged", {
  ignore: WINDOWS,
}, async () => {
  await using folder = await temporary();
  const source = await Deno.readTextFile(new URL("echo_udp.ts", ROOT));
  const copy = source.replace(await protocol(), TEXTBOOK);
  await Deno.writeTextFile(`${folder.path}/echo_udp.ts`, copy);
  const utils = await Deno.readTextFile(new URL("utils.ts", ROOT));
  await Deno.writeTextFile(`${folder.path}/utils.ts`, utils);
  const map = new URL("mirror/import_map.json", ROOT).pathname;
  const flags = ["run", "-A", "--no-check", "--no-config", "--unstable-net"];
  const script = [`--import-map=${map}`, `${folder.path}/echo_udp.ts`];
  const args = ["--host", "127.0.0.1", "--port", "0"];
  const all = [...flags, ...script, ...args];
  await using server = new Running(Deno.execPath(), all, { cwd: folder.path });
  const [, port] = await server.until(/listening on \S+:(\d+)\n/);
  using peer = new Peer();
  for (const word of ["one", "", "three"]) {
    assertEquals(text(await peer.ask(word, Number(port))), word);
  }
  if (LINUX) {
    using twin = new Peer("127.0.0.2", Number(port));
    await twin.send("and you?", Number(port));
    await peer.ask("me", Number(port));
    await twin.nothing();
  }
  server.kill();
  const { code, stdout, stderr } = await server.finish();
  assertEquals([code, stderr], [0, ""]);
  const [datagrams, sum] = LINUX ? [4, 10] : [3, 8];
  const total = `${datagrams} datagrams, ${sum} bytes`;
  assertStringIncludes(stdout, `127.0.0.1:${peer.port} ${total} in `);
  assertStringIncludes(stdout, `\nanswered ${total}\n`);
});

// The server

const SIZES = [0, 1, 1024, 1025, 1472, 1473, 1501, 9217, 65_506, LARGEST];

for (const hostname of ["127.0.0.1", "::1"]) {
  test(`echo_udp gives back every size byte for byte at ${hostname}`, {
    ignore: hostname === "::1" && NO_IPV6,
  }, async () => {
    const sizes = hostname === "::1" ? [...SIZES, 65_508, 65_527] : SIZES;
    await using server = new Local({ hostname });
    using peer = new Peer(hostname);
    for (const size of sizes) {
      const sent = random(size);
      assertSame(await peer.ask(sent, at(server.port, hostname)), sent);
    }
    const sum = sizes.reduce((one, other) => one + other);
    assertEquals(await server.stop(), [sizes.length, sum]);
  });
}

test("echo_udp answers both families on one socket, and names each", {
  ignore: WINDOWS || NO_IPV6,
}, async () => {
  await using server = new Local({ hostname: "::" });
  using four = new Peer();
  using six = new Peer("::1");
  await four.ask("IPv4", server.port);
  await six.ask("over IPv6", at(server.port, "::1"));
  await server.stop();
  assertEquals(server.lines.map((line) => line.replace(/ in .*/, "")), [
    `127.0.0.1:${four.port} 1 datagram, 4 bytes`,
    `[::1]:${six.port} 1 datagram, 9 bytes`,
  ]);
});

test("echo_udp answers each datagram once, in order, its sender alone", async () => {
  await using server = new Local();
  using stack = new DisposableStack();
  const peers = Array.from({ length: 10 }, () => stack.use(new Peer()));
  const words = Array.from({ length: 20 }, (_, i) => `${i}`);
  for (const word of words) {
    for (const peer of peers) {
      await peer.send(`${peer.port} ${word}`, server.port);
    }
  }
  for (const peer of peers) {
    for (const word of words) {
      assertEquals(text(await peer.receive()), `${peer.port} ${word}`);
    }
    await peer.nothing();
  }
});

test("echo_udp counts, and logs each second, what cannot be sent", async () => {
  const received = Array.from({ length: 3003 }, () => "four");
  const { socket, sent } = fake(received, (n) => {
    if (n <= 3000) throw tooLong();
  });
  await using server = new Local({ socket });
  await repeat(() => delay(1), () => sent.length === 3, "three answers");
  await server.toldOfOthers();
  assertEquals(await server.stop(), [3, 12]);
  const lines = server.lines.filter((line) => !line.startsWith("127."));
  const line = "cannot answer: message too long";
  assertEquals(lines, [line, "... and 2999 more"]);
});

test("echo_udp ends though an answer never leaves", async () => {
  const sending = Promise.withResolvers<void>();
  const { socket } = fake(["x"], () => {
    sending.resolve();
    return new Promise<never>(() => {});
  });
  await using server = new Local({ socket });
  await soon(sending.promise, "the answer");
  assertEquals(await server.stop(), [0, 0]);
});

test("echo_udp that is stopped before it begins ends at once", async () => {
  await using server = new Local({ signal: AbortSignal.abort() });
  assertEquals(await server.stop(), [0, 0]);
});

test("echo_udp logs a peer once it is silent, and anew if it returns", async () => {
  using time = clock();
  await using server = new Local();
  using peer = new Peer();
  await peer.ask("one", server.port);
  await peer.ask("two", server.port);
  time.advance(3000);
  const { lines } = server;
  await repeat(() => delay(20), () => lines.length > 0, "the peer's line");
  await peer.ask("three", server.port);
  await server.stop();
  assertEquals(lines.length, 2);
  const name = `127\\.0\\.0\\.1:${peer.port}`;
  assertMatch(
    lines[0],
    RegExp(`^${name} 2 datagrams, 6 bytes in 0\\.\\d{3} s$`),
  );
  assertMatch(
    lines[1],
    RegExp(`^${name} 1 datagram, 5 bytes in 0\\.0\\d\\d s$`),
  );
});

test("echo_udp lists a hundred peers at most, and says so", async () => {
  await using server = new Local();
  using stack = new DisposableStack();
  for (let i = 0; i < 150; i++) {
    await stack.use(new Peer()).ask("hello", server.port);
  }
  assertEquals(await server.stop(), [150, 750]);
  const peers = server.lines.filter((line) => /^127\.\S+ 1 dat/.test(line));
  assertEquals(peers.length, 100);
  assertStringIncludes(server.lines.join("\n"), "not all peers are listed");
});

// Whom not to answer

test("echo_udp does not answer its own port on another address", {
  ignore: !LINUX,
}, async () => {
  await using server = new Local();
  using twin = new Peer("127.0.0.2", server.port);
  using honest = new Peer();
  await twin.send("and you?", server.port);
  assertEquals(text(await honest.ask("me", server.port)), "me");
  await twin.nothing();
  assertEquals(await server.stop(), [1, 2]);
  const line = `not answered: 127.0.0.2:${server.port} may be a server`;
  assertEquals(server.lines[0], line);
});

test("two echo_udp on one port are not set on each other", {
  ignore: !LINUX,
}, async () => {
  await using one = new Local();
  await using two = new Local({ hostname: "127.0.0.2", port: one.port });
  await two.socket.send(bytes("forged"), at(one.port)); // as a forger would
  using peer = new Peer();
  assertEquals(text(await peer.ask("me", one.port)), "me");
  assertEquals(await one.stop(), [1, 2]);
  assertEquals(await two.stop(), [0, 0]);
});

test("echo_udp says once a second whom it does not answer", {
  ignore: !LINUX,
}, async () => {
  await using server = new Local();
  using twin = new Peer("127.0.0.2", server.port);
  using honest = new Peer();
  for (let i = 0; i < 100; i++) await twin.send("again", server.port);
  await honest.ask("me", server.port);
  await server.toldOfOthers();
  await twin.send("again", server.port);
  await honest.ask("me", server.port);
  await server.stop();
  const lines = server.lines.filter((line) => !/^127\S* 2 /.test(line));
  const line = `not answered: 127.0.0.2:${server.port} may be a server`;
  assertEquals(lines, [line, "... and 99 more", line]);
});

const FORGE = `
import socket, struct
def forge(source, sport):
    udp = struct.pack("!HHHH", sport, 7000, 14, 0) + b"forged"
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 34, 1, 0, 64, 17, 0,
                     socket.inet_aton(source), socket.inet_aton("10.9.0.1"))
    raw.sendto(ip + udp, ("10.9.0.1", 0))
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for port in 0, 7, 13, 19, 53, 69, 123, 161, 1023, 1313, 7000, 7777:
    forge("127.0.0.1", port)
    forge("10.9.0.1", port)
    forge("192.0.2.1", port)
honest = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
honest.settimeout(9)
honest.sendto(b"me", ("10.9.0.1", 7000))
print(honest.recv(10).decode())
`;

for (const host of ["::", "0.0.0.0"]) {
  test(`echo_udp answers nobody who may be a server or many, at ${host}`, {
    ignore: noNamespaces() || missing("python3"),
  }, async () => {
    const address = "ip address add 10.9.0.1/26 dev lo";
    await using net = await Namespace.make(`ip link set lo up && ${address}`);
    const args = ["--port", "7000", "--host", host];
    await using server = net.script("echo_udp", ...args);
    await server.until(/listening on /);
    await using forger = net.start("python3", "-c", FORGE);
    assertEquals((await forger.finish()).stdout, "me\n");
    server.kill();
    const { code, stdout, stderr } = await server.finish();
    assertEquals([code, stderr], [0, ""]);
    assertMatch(stdout, /^not answered: 127\.0\.0\.1:0 may be a server$/m);
    assertMatch(stdout, /\nanswered 1 datagram, 2 bytes\n$/);
  });
}

test("echo_udp answers no well-known port of IPv6, nor a multicast group", async () => {
  const senders = [
    ...[at(53, "2001:db8::1"), at(1023, "::1"), at(1313, "fd00::1")],
    ...[at(50_000, "ff02::1"), at(50_000, "ff0e::101")],
    ...["::ffff:224.0.0.1", "::ffff:255.255.255.255"].map((host) =>
      at(50_000, host)
    ),
  ];
  const fine = [
    ...["fe80::1", "fd00::1", "2001:db8::ff", "::ffff:192.0.2.1", "22.4.0.1"],
    ...["223.255.255.255", "127.0.0.1", "255.1.1.1"],
  ].map((host) => at(1024, host));
  const queue = [...senders, ...fine];
  const answered: Deno.Addr[] = [];
  const { socket } = fake([], () => {});
  const { receive } = socket;
  socket.receive = () => {
    const sender = queue.shift();
    return sender ? Promise.resolve([bytes("?"), sender]) : receive();
  };
  socket.send = (_, to) => {
    answered.push(to);
    return Promise.resolve(1);
  };
  await using server = new Local({ socket });
  await repeat(() => delay(1), () => queue.length === 0, "all to be received");
  await server.stop();
  assertEquals(answered, fine);
});

// --lose

/** Which of 200 datagrams are answered. */
async function answered(options: { lose: number; seed?: number }) {
  await using server = new Local(options);
  using peer = new Peer();
  const numbers = Array.from({ length: 200 }, (_, i) => `${i}`);
  for (const number of numbers) await peer.send(number, server.port);
  const [datagrams] = await server.stop();
  const back: string[] = [];
  while (back.length < datagrams) back.push(text(await peer.receive()));
  await peer.nothing();
  return back;
}

test("echo_udp --lose loses about so many of a hundred, by chance", async () => {
  assertEquals((await answered({ lose: 0, seed: 1 })).length, 200);
  assertEquals((await answered({ lose: 100, seed: 1 })).length, 0);
  let sum = 0;
  for (let seed = 0; seed < 10; seed++) {
    sum += (await answered({ lose: 30, seed })).length;
  }
  assertGreater(sum, 1300); // of 2000, 1400 expected
  assertLess(sum, 1500);
});

test("echo_udp --seed loses the same ones again, another seed others", async () => {
  const first = await answered({ lose: 30, seed: 7 });
  assertEquals(await answered({ lose: 30, seed: 7 }), first);
  assertNotEquals(await answered({ lose: 30, seed: 8 }), first);
});

test("echo_udp takes --lose and --seed, and is seen to lose by its client", {
  ignore: WINDOWS,
}, async () => {
  const args = ["--host", "127.0.0.1", "--lose", "50", "--seed", "5", "-v"];
  const summaries: string[] = [];
  for (let i = 0; i < 2; i++) {
    await using server = await serveProcess("echo_udp", args);
    const client = ["127.0.0.1", `${server.port}`, "-c", "40", "-i", "0"];
    const { value, out } = await captured(() => main([...client, "-w", "0.1"]));
    assertEquals(value, 0);
    const [received, number] = out.match(/40 sent, (\d+) received/)!;
    summaries.push(received);
    server.kill();
    const { stdout, stderr } = await server.finish();
    assertMatch(
      stdout,
      RegExp(`\nanswered ${number} datagrams, \\d+ bytes\n$`),
    );
    const lost = 40 - Number(number);
    const shown = stderr.match(/ \* lost on purpose: the answer to 127/g);
    assertEquals(shown?.length, lost);
  }
  assertEquals(summaries[0], summaries[1]);
  assertNotMatch(summaries[0], / (0|40) received/);
});

// As a process

test("echo_udp logs its peers and a summary", {
  ignore: WINDOWS,
}, async () => {
  await using server = await serveProcess("echo_udp", ["--host", "127.0.0.1"]);
  using one = new Peer();
  using two = new Peer();
  for (const word of ["abc", "", "defgh"]) await one.ask(word, server.port);
  await two.ask("x".repeat(2000), server.port);
  server.kill();
  const { code, stdout } = await server.finish();
  assertEquals(code, 0);
  const lines = stdout.replace(/ in \d\.\d{3} s$/gm, "").split("\n");
  assertEquals(lines, [
    `listening on udp://127.0.0.1:${server.port}`,
    `127.0.0.1:${one.port} 3 datagrams, 8 bytes`,
    `127.0.0.1:${two.port} 1 datagram, 2000 bytes`,
    ...["answered 4 datagrams, 2008 bytes", ""],
  ]);
});

test("echo_udp gives back what it had received when it is told to end", {
  ignore: !LINUX,
}, async () => {
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    await using server = await serveProcess("echo_udp", [
      "--host",
      "127.0.0.1",
    ]);
    using peer = new Peer();
    server.kill("SIGSTOP");
    for (let i = 0; i < 50; i++) await peer.send(`${i}`, server.port);
    server.kill(signal);
    server.kill("SIGCONT");
    for (let i = 0; i < 50; i++) {
      assertEquals(text(await peer.receive()), `${i}`);
    }
    const { code, stdout } = await server.finish();
    assertEquals(code, 0);
    assertMatch(stdout, /\nanswered 50 datagrams, 90 bytes\n$/);
  }
});

test("echo_udp ends within 5 s though datagrams keep coming", async () => {
  using time = clock();
  await using server = new Local();
  using peer = new Peer();
  let isOver = false;
  const asking = (async () => {
    for (let n = 0; !isOver; n++) {
      await peer.send("more", server.port);
      if (n % 8 === 0) await delay(0);
    }
  })();
  try {
    await peer.receive();
    const ending = server.stop();
    await peer.receive();
    time.advance(5000);
    assertGreater((await ending)[0], 1);
  } finally {
    isOver = true;
    await asking;
  }
});

test("echo_udp ends at once at the second signal", {
  ignore: WINDOWS,
}, async () => {
  await using server = await serveProcess("echo_udp", ["--host", "127.0.0.1"]);
  using peer = new Peer();
  await peer.ask("hello", server.port);
  // What keeps coming keeps the server, after the first.
  let isOver = false;
  const asking = (async () => {
    for (let n = 0; !isOver; n++) {
      await peer.send("more", server.port);
      if (n % 8 === 0) await delay(0);
    }
  })();
  server.kill("SIGINT");
  await delay(60); // two within 20 ms count as one
  server.kill("SIGINT");
  const { code, stdout } = await server.finish().finally(() => isOver = true);
  await asking;
  assertEquals(code, 130);
  assertNotMatch(stdout, /answered/);
});

/** Datagrams of 3000 peers that are gone before the answer comes. */
async function flood(port: number): Promise<void> {
  const payload = random(1000);
  for (let i = 0; i < 3000; i++) {
    using peer = new Peer();
    for (let n = 0; n < 5; n++) await peer.send(payload, port);
  }
}

/** The memory of a process, in bytes. */
async function resident({ pid }: Running): Promise<number> {
  const status = await Deno.readTextFile(`/proc/${pid}/status`);
  return 1024 * Number(status.match(/VmRSS:\s*(\d+) kB/)![1]);
}

test("echo_udp takes a flood in bounded memory, with a bounded log", {
  ignore: !LINUX,
}, async () => {
  await using server = await serveProcess("echo_udp", ["--host", "127.0.0.1"]);
  using peer = new Peer();
  const started = performance.now();
  await peer.ask("warm", server.port);
  const before = await resident(server);
  await flood(server.port);
  assertEquals(await peer.insist("still there", server.port), "still there");
  assertLess(await resident(server) - before, 64 * 1024 * 1024);
  server.kill();
  const { code, stdout, stderr } = await server.finish();
  assertEquals([code, stderr], [0, ""]);
  const seconds = (performance.now() - started) / 1000;
  const most = 100 * (2 + seconds / 3) + 2 * seconds;
  assertLessOrEqual(stdout.split("\n").length, most);
  // What a second dropped may be told while the last lines are written.
  const last = /\nanswered \d{3,} datagrams, \d+ bytes\n(\.{3} and .*\n)?$/;
  assertMatch(stdout, last);
});

test("echo_udp goes on when the disk of its log is full", {
  ignore: noNamespaces() || missing("mount") || barred("test", "-w", "/proc"),
}, async () => {
  await using folder = await temporary();
  const mount = `mount -t tmpfs -o size=4k tmpfs ${folder.path}`;
  await using net = await Namespace.make(`ip link set lo up && ${mount}`);
  const log = `${folder.path}/log`;
  const line = `exec "$0" run -A echo_udp.ts --host 127.0.0.1 >${log} 2>&1`;
  await using server = net.start("sh", "-c", line, Deno.execPath());
  const wait = `until grep -q listening ${log}; do sleep 0.02; done`;
  const fill = `head -c 9000 /dev/zero >${folder.path}/rest`;
  await using full = net.start("sh", "-c", `${wait}; ${fill}; exit 0`);
  assertStringIncludes((await full.finish()).stderr, "No space left");
  const ask = `printf hello | "$0" run -A echo_udp.ts -w 9 127.0.0.1`;
  for (let i = 0; i < 2; i++) {
    await using client = net.start("sh", "-c", ask, Deno.execPath());
    const { code, stdout, stderr } = await client.finish();
    assertEquals([code, stdout, stderr], [0, "hello", ""]);
  }
  server.kill();
});

test("echo_udp serves, and asks localhost, where IPv6 is disabled", {
  ignore: noNamespaces() || missing("sysctl"),
}, async () => {
  const off = "sysctl -qw net.ipv6.conf.all.disable_ipv6=1";
  await using net = await Namespace.make(`ip link set lo up && ${off}`);
  await using server = net.script("echo_udp");
  await server.until(/listening on udp:\/\/(\[::\]|0\.0\.0\.0):7777\n/);
  for (const host of ["127.0.0.1", "localhost"]) {
    await using client = net.script("echo_udp", host);
    await client.type("hello\n");
    const { code, stdout, stderr } = await client.finish();
    assertEquals([code, stdout, stderr], [0, "hello\n", ""]);
  }
});

test("echo_udp -v shows what crosses the wire, and with whom", {
  ignore: WINDOWS,
}, async () => {
  const args = ["--host", "127.0.0.1", "-v"];
  await using server = await serveProcess("echo_udp", args);
  using peer = new Peer();
  await peer.ask('a "b"\n\x1b[2J', server.port);
  server.kill();
  const { code, stderr } = await server.finish();
  assertEquals(code, 0);
  const shown = String.raw`127.0.0.1:${peer.port} 10 bytes "a \"b\"\n\x1b[2J"`;
  for (const mark of ["<", ">"]) {
    assertStringIncludes(stderr, `${mark} ${shown}`);
  }
  // deno-lint-ignore no-control-regex
  assertNotMatch(stderr, /[\x00-\x09\x0b-\x1f]/);
});

// The tools of the field

const PYTHON = `
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(9)
s.connect(("127.0.0.1", int(sys.argv[1])))
while part := sys.stdin.buffer.read(65507):
    s.send(part)
    sys.stdout.buffer.write(s.recv(65535))
`;

test("3 MB go to echo_udp and back in python3's largest datagrams", {
  ignore: missing("python3"),
}, async () => {
  await using server = new Local();
  const message = random(3_000_000);
  const args = ["-c", PYTHON, `${server.port}`];
  const { code, stdout, stderr } = await pipe("python3", args, message);
  assertEquals([code, stderr], [0, ""]);
  assertSame(stdout, message);
});

const TOOLS: Record<string, (port: number) => string[]> = {
  nc: (port) => ["-u", "127.0.0.1", `${port}`],
  ncat: (port) => ["-u", "127.0.0.1", `${port}`],
  socat: (port) => ["-b", "65507", "-", `UDP4:127.0.0.1:${port}`],
};

for (const [tool, args] of Object.entries(TOOLS)) {
  test(`a conversation goes through ${tool} to echo_udp and back`, {
    ignore: tool === "nc" ? noNc() : missing(tool),
  }, async () => {
    await using server = new Local();
    await using client = new Running(tool, args(server.port));
    for (let i = 1; i < 100; i++) {
      const line = "abc".repeat(27 * i); // some are longer than a packet
      await client.type(`${i} ${line}\n`);
      await client.until(RegExp(`^${i} ${line}\n`, "m"));
    }
  });
}
