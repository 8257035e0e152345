import {
  assert,
  assertEquals,
  assertGreaterOrEqual,
  assertInstanceOf,
  assertLess,
  assertMatch,
  assertNotMatch,
  assertStringIncludes,
} from "jsr:@std/assert@^1";
import { setTimeout as delay } from "node:timers/promises";
import { main, ping, type PingOptions, talk } from "../echo_udp.ts";
import { Failure, formatAddress, RoundTrips } from "../utils.ts";
import { assertSame, bytes, captured, LINUX, missing } from "./helpers.ts";
import { Namespace, noNamespaces, pipe, random, ROOT } from "./helpers.ts";
import { run, Running, serve, soon, start, temporary } from "./helpers.ts";
import { test, text, WINDOWS } from "./helpers.ts";
import { Actor, at, echoing, mute, Peer, type Reply } from "./udp_peers.ts";
import { withoutIPv6 } from "./udp_peers.ts";

const NO_IPV6 = withoutIPv6();
const LARGEST = 65_507;
const CLIENT = ["run", "-A", "--no-prompt", "echo_udp.ts"];

type Input = Iterable<Uint8Array> | AsyncIterable<Uint8Array>;

/** Runs `talk` in this process: what it writes, and what it throws. */
async function talking(
  { peer: { addr: to } }: Actor,
  input: Input,
  { timeout = 5000, slow = () => Promise.resolve() } = {},
) {
  using peer = new Peer(to.hostname);
  const written: Uint8Array<ArrayBuffer>[] = [];
  const output = async (bytes: Uint8Array) => {
    const copy = Uint8Array.from(bytes);
    await slow();
    written.push(copy);
  };
  const { socket } = peer;
  const from = ReadableStream.from(input);
  const conversation = talk({ socket, to, input: from, output, timeout });
  let error: unknown;
  await soon(conversation, "the client's end").catch((thrown) => {
    error = thrown;
  });
  return { error, written, back: written.map(text).join("") };
}

function assertFailure(error: unknown, status: number, message: RegExp) {
  assertInstanceOf(error, Failure);
  assertEquals(error.status, status);
  assertMatch(error.message, message);
}

// Lines

test("the client sends a datagram a line, and the rest without an end", async () => {
  await using server = echoing();
  const pieces = ["one\n\n\ntwo\r\n", "thr", "ee\nlast"];
  const { error, back } = await talking(server, pieces.map(bytes));
  assertEquals(error, undefined);
  const sent = ["one\n", "\n", "\n", "two\r\n", "three\n", "last"];
  assertEquals(server.received.map(text), sent);
  assertEquals(back, sent.join(""));
});

test("the client without any input sends nothing, and is done", async () => {
  await using server = echoing();
  assertEquals((await talking(server, [])).error, undefined);
  assertEquals((await talking(server, [bytes("")])).error, undefined);
  assertEquals(server.received.length, 0);
});

for (const hostname of ["127.0.0.1", "::1"]) {
  test(`the client cuts a line that no datagram holds, for ${hostname}`, {
    ignore: hostname === "::1" && NO_IPV6,
  }, async () => {
    await using server = echoing(hostname);
    const line = new Uint8Array(200_000).map((_, i) =>
      i % 251 === 10 ? 0 : i % 251
    );
    line[150_000] = 10;
    const input = [line.subarray(0, 70_000), line.subarray(70_000)];
    const { error, written } = await talking(server, input);
    assertEquals(error, undefined);
    assertSame(await new Blob(written).bytes(), line);
    const sizes = written.map(({ length }) => length);
    const last = 150_001 - 2 * LARGEST;
    assertEquals(sizes, [LARGEST, LARGEST, last, 49_999]);
  });
}

test("the client waits at the end of its input for what is outstanding", async () => {
  const isOver = Promise.withResolvers<void>();
  const held: [Uint8Array, Reply][] = [];
  await using server = new Actor(async (datagram, reply, n) => {
    held.push([datagram, reply]);
    if (n < 3) return;
    await isOver.promise;
    for (const [bytes, send] of held) await send(bytes);
  });
  const input = async function* () {
    yield bytes("a\nb\nc\n");
    setTimeout(isOver.resolve, 20); // when the end has been seen
  };
  const { error, back } = await talking(server, input());
  assertEquals([error, back], [undefined, "a\nb\nc\n"]);
});

test("the client waits on though an earlier answer comes twice", async () => {
  const isOver = Promise.withResolvers<void>();
  await using server = new Actor(async (datagram, reply, n) => {
    if (n === 2) await isOver.promise;
    await reply(datagram);
    if (n === 1) await reply(datagram);
  });
  const input = async function* () {
    yield bytes("a\nb\n");
    setTimeout(isOver.resolve, 50);
  };
  const { error, back } = await talking(server, input());
  assertEquals([error, back], [undefined, "a\na\nb\n"]);
});

test("the client says 28 when an answer is missing, and passes on others", async () => {
  await using server = new Actor((datagram, reply, n) =>
    n !== 2 && reply(datagram)
  );
  const lines = [bytes("a\nb\nc\n")];
  const { error, back } = await talking(server, lines, { timeout: 100 });
  assertFailure(
    error,
    28,
    /^1 line did not come back within 0\.1 s$/,
  );
  assertEquals(back, "a\nc\n");
});

test("the client's patience is not renewed by what it sends", async () => {
  await using server = mute();
  let typed = 0;
  const input = async function* () {
    for (; typed < 12; typed++) {
      yield bytes("hello?\n");
      await delay(50);
    }
  };
  const { error } = await talking(server, input(), { timeout: 200 });
  assertFailure(error, 28, /did not come back within/);
  assertLess(typed, 12);
  await delay(60); // the person's last pause
});

test("the client's patience is not renewed by damaged answers", async () => {
  await using server = new Actor(async (_, reply) => {
    for (let n = 0; n < 60; n++) {
      await reply(bytes("junk\n")).catch(() => {}); // the client has gone
      await delay(50);
    }
  });
  const started = performance.now();
  const { error } = await talking(server, [bytes("a\n")], { timeout: 200 });
  assertFailure(error, 8, /^1 line did not come back unchanged/);
  assertLess(performance.now() - started, 2000);
});

test("the client says 8 when only damaged answers come", async () => {
  for (const answer of ["junk", "hell", "hellO\n", ""]) {
    await using server = new Actor(async (_, reply) => {
      for (let i = 0; i < 9; i++) {
        await reply(bytes(answer));
        await delay(10);
      }
    });
    const options = { timeout: 300 };
    const { error } = await talking(server, [bytes("hello\n")], options);
    assertFailure(error, 8, /^1 line did not come back unchanged/);
  }
});

test("the client's own pauses and slow output are no silence", async () => {
  await using server = echoing();
  const input = async function* () {
    const long = "x".repeat(40_000) + "\n"; // sent one by one
    yield bytes("a\n");
    await delay(600);
    yield bytes(long);
    yield bytes(long);
  };
  const slow = () => delay(600);
  const options = { timeout: 400, slow };
  const { error, back } = await talking(server, input(), options);
  assertEquals([error, back.length], [undefined, 80_004]);
});

test("slow output is no silence, of answers that come twice too", async () => {
  await using server = new Actor(async (datagram, reply) => {
    await reply(datagram);
    await reply(datagram);
  });
  const slow = () => delay(300);
  const lines = [bytes("a\nb\n")];
  const { error } = await talking(server, lines, { timeout: 200, slow });
  assertEquals(error, undefined);
});

test("the client reads on only as answers come back", async () => {
  await using server = mute();
  let lines = 0;
  const input = function* () {
    for (; lines < 1000; lines++) yield bytes("endless\n");
  };
  const { error } = await talking(server, input(), { timeout: 100 });
  assertFailure(error, 28, /^16 lines did not come back/);
  assertEquals(server.received.length, 16);
  assertLess(lines, 100);
});

test("the client passes over what others send to its port", async () => {
  using stranger = new Peer();
  await using server = new Actor(async (datagram, reply) => {
    await stranger.send("strange", server.senders[0]);
    await stranger.send(datagram, server.senders[0]);
    if (LINUX) { // the same port, but another address
      using other = new Peer("127.0.0.2", server.port);
      await other.send("strange", server.senders[0]);
    }
    await reply(datagram);
  });
  using peer = new Peer("0.0.0.0");
  const written: string[] = [];
  const output = (bytes: Uint8Array) => {
    written.push(text(bytes));
    return Promise.resolve();
  };
  const input = ReadableStream.from([bytes("mine\n")]);
  const options = { to: server.peer.addr, input, output, timeout: 5000 };
  await soon(talk({ socket: peer.socket, ...options }), "the client's end");
  assertEquals(written, ["mine\n"]);
});

/** A socket as Windows has it: first news of a closed port, then an answer. */
class Resetting {
  #asked = Promise.withResolvers<void>();
  #receives = 0;

  async receive(): Promise<[Uint8Array<ArrayBuffer>, Deno.Addr]> {
    await this.#asked.promise;
    this.#receives++;
    if (this.#receives === 1) throw new Deno.errors.ConnectionReset("ICMP");
    if (this.#receives === 2) return [bytes("hello\n"), at(7777)];
    return await new Promise(() => {});
  }

  send(datagram: Uint8Array): Promise<number> {
    this.#asked.resolve();
    return Promise.resolve(datagram.length);
  }

  close(): void {}
}

test("the client waits on after news that nobody listens", async () => {
  const input = ReadableStream.from([bytes("hello\n")]);
  let back = "";
  const output = (bytes: Uint8Array) => {
    back += text(bytes);
    return Promise.resolve();
  };
  const socket = new Resetting();
  const options = { socket, to: at(7777), input, output, timeout: 5000 };
  await soon(talk(options), "the client's end");
  assertEquals(back, "hello\n");
});

test("the client passes on what goes wrong with its output", async () => {
  await using server = echoing();
  const full = new Failure(23, "the disk is full");
  const slow = () => Promise.reject(full);
  const { error } = await talking(server, [bytes("a\n")], { slow });
  assertEquals(error, full);
});

// Round trips

/** Runs `ping` in this process. */
async function pinging(server: Actor, options: Partial<PingOptions> = {}) {
  const to = server.peer.addr;
  using peer = new Peer(to.hostname);
  const trips = new RoundTrips();
  const seqs: number[] = [];
  const show = (seq: number) => {
    seqs.push(seq);
    return Promise.resolve();
  };
  const usual = { count: 3, size: 64, interval: 0, timeout: 2000 };
  const given = { socket: peer.socket, to, trips, show, ...usual, ...options };
  let error: unknown;
  await soon(ping(given), "the round trips").catch((thrown) => {
    error = thrown;
  });
  const [summary] = `${trips}`.split("\n");
  return { trips, seqs, error, summary };
}

function numberOf(datagram: Uint8Array): number {
  return parseInt(text(datagram), 36);
}

test("round trips tell lost, doubled, reordered, damaged and late apart", async () => {
  const now = performance.now.bind(performance);
  let ahead = 0;
  const held: Uint8Array[] = [];
  const last = Promise.withResolvers<void>();
  await using server = new Actor(async (datagram, reply, n) => {
    if (n === 2) return; // lost
    if (n === 3 || n === 7) { // reordered, late
      held.push(datagram);
      return;
    }
    if (n === 5) datagram[20] ^= 1; // changed
    await reply(n === 6 ? datagram.subarray(0, 63) : datagram); // cut
    if (n === 4) await reply(held.shift()!);
    if (n === 8) await reply(datagram); // doubled
    if (n < 10) return;
    await soon(last.promise, "the last answer");
    ahead = 500; // by the client's own clock
    await reply(held.shift()!);
  });
  const seqs: number[] = [];
  const show = (seq: number) => {
    seqs.push(seq);
    if (seq === 10) last.resolve();
    return Promise.resolve();
  };
  performance.now = () => now() + ahead;
  try {
    const options = { count: 10, timeout: 500, show };
    const { trips, error, summary } = await pinging(server, options);
    assertEquals([error, seqs], [undefined, [1, 4, 3, 8, 9, 10]]);
    assertMatch(summary, /^10 sent, 6 received, 40% loss, /);
    const odd = { damaged: 2, duplicate: 1, late: 1, reordered: 1 };
    assertEquals(trips.odd, odd);
  } finally {
    Reflect.deleteProperty(performance, "now");
  }
});

test("an answer overtaken by others is reordered, and they are not", async () => {
  const held: Uint8Array[] = [];
  await using server = new Actor(async (datagram, reply, n) => {
    if (n <= 2) {
      held.push(datagram);
      return;
    }
    await reply(datagram); // 3, then 1 and 2, then 4
    while (held.length > 0) await reply(held.shift()!);
  });
  const { seqs, summary } = await pinging(server, { count: 4 });
  assertEquals(seqs, [3, 1, 2, 4]);
  assertEquals(summary, "4 sent, 4 received, 0% loss, 2 reordered");
});

test("answers that were never asked for are damaged ones", async () => {
  await using server = new Actor(async (datagram, reply, n) => {
    const invented = (1000 + n).toString(36).padEnd(datagram.length, ".");
    const junk = [
      bytes(invented),
      new Uint8Array(0),
      new Uint8Array(3),
      random(65_000),
    ];
    for (const answer of junk) await reply(answer);
    await reply(datagram);
  });
  const { seqs, summary } = await pinging(server, { count: 2 });
  assertEquals(seqs, [1, 2]);
  assertEquals(summary, "2 sent, 2 received, 0% loss, 8 damaged");
});

test("round trips without a good answer are 28, or 8 if damaged", async () => {
  await using silent = mute();
  const none = await pinging(silent, { timeout: 50 });
  assertFailure(
    none.error,
    28,
    RegExp(`^no answer from ${silent.at} in time$`),
  );
  await using cutting = new Actor((datagram, reply) =>
    reply(datagram.subarray(0, 60))
  );
  const cut = await pinging(cutting, { timeout: 50 });
  assertFailure(cut.error, 8, /damaged/);
  assertEquals(cut.summary, "3 sent, 0 received, 100% loss, 3 damaged");
});

test("round trips do not wait for one another, and are numbered", async () => {
  await using server = mute();
  const started = performance.now();
  const options = { count: 4, interval: 20, timeout: 50, size: 100 };
  await pinging(server, options);
  assertGreaterOrEqual(performance.now() - started, 3 * 20 + 50 - 5);
  assertEquals(server.received.map(numberOf), [1, 2, 3, 4]);
  assert(server.received.every(({ length }) => length === 100));
});

test("round trips without an interval follow the answers", async () => {
  await using server = echoing();
  const started = performance.now();
  const { seqs } = await pinging(server, { count: 2000 });
  assertEquals(seqs, Array.from({ length: 2000 }, (_, i) => i + 1));
  assertLess(performance.now() - started, 10_000); // 20 s by the clock alone
});

test("round trips go on where sending fails, and say so in the end", async () => {
  await using server = echoing();
  using peer = new Peer("0.0.0.0");
  let sends = 0;
  const socket = {
    receive: (buffer?: Uint8Array) => peer.socket.receive(buffer),
    send(datagram: Uint8Array, to: Deno.Addr) {
      sends++;
      const error = new Error("Network is unreachable (os error 101)");
      if (sends === 2) return Promise.reject(error);
      return peer.socket.send(datagram, to);
    },
    close: () => peer.socket.close(),
  };
  const options = { socket, count: 4, interval: 5, timeout: 100 };
  const { error, summary } = await pinging(server, options);
  assertEquals(summary, "4 sent, 3 received, 25% loss");
  assertFailure(error, 56, /^cannot send to 127.*: network is unreachable$/);
});

test("round trips are no longer where their lines are printed slowly", async () => {
  await using server = echoing();
  const show = () => delay(50);
  const options = { count: 5, interval: 5, timeout: 5000, show };
  const { trips, error } = await pinging(server, options);
  assertEquals([error, trips.times.length], [undefined, 5]);
  assertLess(Math.max(...trips.times), 50);
});

test("round trips end when what is told of them fails", async () => {
  await using server = echoing();
  const show = () => Promise.reject(new Failure(23, "the disk is full"));
  assertFailure((await pinging(server, { show })).error, 23, /disk/);
});

// As a process

for (const hostname of ["127.0.0.1", "::1"]) {
  test(`echo_udp -c prints as ping does, for ${hostname}`, {
    ignore: hostname === "::1" && NO_IPV6,
  }, async () => {
    await using server = echoing(hostname);
    const args = [server.at, "-c", "3", "-i", "0.01"];
    const { value, out, err } = await captured(() => main(args));
    assertEquals([value, err], [0, ""]);
    const lines = out.replaceAll(/\d+\.\d\d\b/g, "T").split("\n");
    const line = `64 bytes from ${server.at}`;
    assertEquals(lines, [
      ...[1, 2, 3].map((seq) => `${line}: seq=${seq} time=T ms`),
      "3 sent, 3 received, 0% loss",
      "min/avg/max/mdev = T/T/T/T ms",
      "",
    ]);
  });
}

test("echo_udp -c --json prints the summary as one object", async () => {
  await using server = new Actor((datagram, reply, n) =>
    n !== 2 && reply(datagram)
  );
  const args = [server.at, "-c", "4", "-i", "0", "-w", "0.2", "--json"];
  const { value, out } = await captured(() => main(args));
  assertEquals(value, 0);
  const { sent, received, lossPercent, minMs, p50Ms } = JSON.parse(out);
  assertEquals([sent, received, lossPercent], [4, 3, 25]);
  assert(minMs > 0 && minMs <= p50Ms);
});

test("echo_udp -c is 0 when one came back, and 28 when none did", async () => {
  await using one = new Actor((datagram, reply, n) =>
    n === 2 && reply(datagram)
  );
  const args = ["-c", "3", "-i", "0.01", "-w", "0.1"];
  const some = await captured(() => main([one.at, ...args]));
  assertEquals([some.value, some.err], [0, ""]);
  assertMatch(some.out, /\n3 sent, 1 received, 66\.6667% loss\nmin/);
  await using silent = mute();
  const none = await captured(() => main([silent.at, ...args]));
  const why = `echo_udp: no answer from ${silent.at} in time\n`;
  assertEquals([none.value, none.err], [28, why]);
  assertEquals(none.out, "3 sent, 0 received, 100% loss\n");
});

for (const size of [4, 5, 1472, LARGEST]) {
  test(`echo_udp -c takes --size ${size}`, async () => {
    await using server = echoing();
    const args = [server.at, "-c", "2", "-i", "0", "--size", `${size}`];
    const { value, out } = await captured(() => main(args));
    assertEquals(value, 0);
    assertMatch(out, RegExp(`^${size} bytes .*\n.*\n2 sent, 2 received, 0%`));
    assert(server.received.every(({ length }) => length === size));
  });
}

test("echo_udp gets a megabyte of binary back, a datagram a line", async () => {
  await using server = await serve("echo_udp", ["--host", "127.0.0.1"]);
  const lines = random(1_000_000); // of every length, 256 bytes on average
  const long = new Uint8Array(1_000_000).fill(97); // cut into the largest
  const args = [...CLIENT, "127.0.0.1", `${server.port}`];
  for (const message of [lines, long]) {
    const { code, stdout, stderr } = await pipe(Deno.execPath(), args, message);
    assertEquals([code, stderr], [0, ""]);
    assertSame(stdout, message);
  }
});

test("echo_udp ends with its input, not before", async () => {
  await using server = echoing();
  await using client = start("echo_udp", [server.at]);
  await client.type("one\n");
  await client.until(/^one\n/);
  await client.type("two\n");
  await client.until(/^one\ntwo\n/);
  assertEquals((await client.finish()).code, 0);
});

test("Ctrl-C ends round trips with 130 and their summary", {
  ignore: WINDOWS,
}, async () => {
  await using server = echoing();
  await using pinger = start("echo_udp", [server.at, "-c", "100"]);
  await pinger.until(/seq=1 .*\n/);
  pinger.kill("SIGINT");
  const end = await pinger.finish();
  assertEquals([end.code, end.stderr], [130, ""]);
  assertMatch(end.stdout, /\n1 sent, 1 received, 0% loss\nmin.*\n$/);
});

test("echo_udp says to whom it cannot send, and why: 56", {
  ignore: noNamespaces(),
}, async () => {
  await using net = await Namespace.make("true"); // without any network
  for (const more of [[], ["-c", "2", "-i", "0"]]) {
    await using client = net.script("echo_udp", "192.0.2.1:7", ...more);
    await client.type("hello\n");
    const { code, stderr } = await client.finish();
    const line = "cannot send to 192.0.2.1:7: network is unreachable";
    assertEquals([code, stderr], [56, `echo_udp: ${line}\n`]);
  }
});

test("echo_udp asks a name over IPv4, over IPv6 with -6", {
  ignore: noNamespaces() || NO_IPV6,
}, async () => {
  const hosts = "printf '::1 both\\n127.0.0.1 both\\n' >/mnt/hosts";
  const mount = `mount -t tmpfs tmpfs /mnt && ${hosts}`;
  const bind = "mount --bind /mnt/hosts /etc/hosts";
  const commands = `ip link set lo up && ${mount} && ${bind}`;
  await using net = await Namespace.make(commands);
  await using server = net.script("echo_udp");
  await server.until(/listening on/);
  const families = { "-4": "127.0.0.1", "-6": "[::1]" };
  for (const [option, address] of Object.entries(families)) {
    const more = option === "-6" ? ["-6"] : [];
    await using client = net.script("echo_udp", "both", "-c", "1", ...more);
    const { code, stdout } = await client.finish();
    assertEquals(code, 0);
    assertStringIncludes(stdout, `64 bytes from ${address}:7777: seq=1 `);
  }
});

for (const host of ["[::ffff:127.0.0.1]", "0.0.0.0", "[::]"]) {
  test(`echo_udp knows the answer from ${host}, which has another name`, {
    ignore: !LINUX || NO_IPV6,
  }, async () => {
    await using server = echoing("::");
    const args = [`${host}:${server.port}`, "-c", "1", "-w", "5"];
    const { value, out, err } = await captured(() => main(args));
    assertEquals([value, err], [0, ""]);
    assertMatch(out, /^64 bytes from (127\.0\.0\.1|\[::1\]):\d+: seq=1 /);
  });
}

test("echo_udp ends quietly with 23 when nobody reads its output", {
  ignore: WINDOWS,
}, async () => {
  await using server = echoing();
  const command = `yes | "$0" ${CLIENT.join(" ")} ${server.at}`;
  const line = `{ ${command}; echo $? >&2; } | head -n 1`;
  const args = ["-c", line, Deno.execPath()];
  const { stdout, stderr } = await pipe("sh", args, bytes(""));
  assertEquals([text(stdout), stderr], ["y\n", "23\n"]);
});

test("echo_udp says 23 and why when its output cannot be written", {
  ignore: !LINUX,
}, async () => {
  await using server = echoing();
  for (const more of ["", "-c 2 -i 0"]) {
    const command = `${CLIENT.join(" ")} ${server.at} ${more}`;
    const line = `echo hello | "$0" ${command} >/dev/full`;
    const args = ["-c", line, Deno.execPath()];
    const { code, stderr } = await pipe("sh", args, bytes(""));
    const why = "cannot write the output: no space left on device";
    assertEquals([code, stderr], [23, `echo_udp: ${why}\n`]);
  }
});

test("what a server sends cannot drive the client's terminal", {
  ignore: !LINUX || missing("script"),
}, async () => {
  await using server = new Actor((_, reply) =>
    reply(bytes("\x1b]0;owned\x07\x1b[2Jevil\x9b1m\n"))
  );
  const command = `${Deno.execPath()} ${CLIENT.join(" ")} ${server.at}`;
  const args = ["-qec", command, "/dev/null"];
  await using terminal = new Running("script", args, { cwd: ROOT });
  await terminal.type("hello\n");
  await terminal.until(/evil/);
  // deno-lint-ignore no-control-regex
  assertNotMatch(terminal.stdout, /[\x1b\x07\x9b]/);
});

test("echo_udp -v shows the exchange, and what a stranger sends as ignored", async () => {
  using stranger = new Peer();
  await using server = new Actor(async (datagram, reply) => {
    await stranger.send("strange", server.senders[0]);
    await reply(datagram);
  });
  const args = ["-v", server.at];
  const { code, stdout, stderr } = await run("echo_udp", args, "mine\n");
  assertEquals([code, stdout], [0, "mine\n"]);
  const lines = stderr.replace(/^\d+\.\d+ /gm, "").split("\n");
  assertEquals(lines, [
    `* asking ${server.at} from port ${server.senders[0]}`,
    '> 5 bytes "mine\\n"',
    `* ignored 7 bytes from ${formatAddress(stranger.addr)}`,
    '< 5 bytes "mine\\n"',
    ...["* closed", ""],
  ]);
});

test("echo_udp draws round trips with their times, without their bytes", async () => {
  await using folder = await temporary();
  const file = `${folder.path}/trips.md`;
  await using server = echoing();
  const args = [server.at, "-c", "3", "-i", "0", "--diagram", file];
  assertEquals((await captured(() => main(args))).value, 0);
  const drawing = await Deno.readTextFile(file);
  assertEquals(drawing.match(/-\)p\d: 64 bytes\n/g)?.length, 6);
  const notes = drawing.match(/Note .*: seq=\d time=\d+\.\d\d ms\n/g);
  assertEquals(notes?.length, 3);
});

// Other servers

const LAB_SHEET = `
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind(("", 0))
print("port", s.getsockname()[1], flush=True)
while True:
    data, peer = s.recvfrom(1500)
    s.sendto(data, peer)
`;

test("echo_udp finds that a lab sheet's server cuts what is long", {
  ignore: WINDOWS || NO_IPV6 || missing("python3"),
}, async () => {
  await using server = new Running("python3", ["-c", LAB_SHEET]);
  const [, port] = await server.until(/port (\d+)\n/);
  const lines = await run("echo_udp", ["localhost", port], "one\n\ntwo");
  assertEquals([lines.code, lines.stdout], [0, "one\n\ntwo"]);
  const args = ["127.0.0.1", port, "-c", "1", "-w", "0.2", "--size"];
  const whole = await captured(() => main([...args, "1500"]));
  assertMatch(whole.out, /\n1 sent, 1 received, 0% loss\n/);
  const cut = await captured(() => main([...args, "1501"]));
  const summary = "1 sent, 0 received, 100% loss, 1 damaged\n";
  assertEquals([cut.value, cut.out], [8, summary]);
});

test("echo_udp asks inetd's own echo", {
  ignore: noNamespaces() || missing("inetd"),
}, async () => {
  await using folder = await temporary();
  const config = `${folder.path}/inetd.conf`;
  const service = "10.9.8.7:echo dgram udp wait root internal\n";
  await Deno.writeTextFile(config, service);
  // It does not answer loopback's own addresses.
  const address = "ip address add 10.9.8.7/32 dev lo";
  await using net = await Namespace.make(`ip link set lo up && ${address}`);
  await using inetd = net.start("inetd", "-d", "-i", config);
  await inetd.until(/ADD.*echo/, "stderr");
  await using talker = net.script("echo_udp", "10.9.8.7:echo");
  await talker.type("one\n\ntwo");
  const lines = await talker.finish();
  assertEquals([lines.code, lines.stdout], [0, "one\n\ntwo"]);
  const args = ["10.9.8.7:echo", "-c", "3", "-i", "0", "-s", "1024"];
  await using pinger = net.script("echo_udp", ...args);
  const { code, stdout } = await pinger.finish();
  assertEquals(code, 0);
  assertMatch(stdout, /\n3 sent, 3 received, 0% loss\n/);
});
