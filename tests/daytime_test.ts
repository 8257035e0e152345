/** The daytime client and server, as people, servers of every kind, and hostile peers meet them. */
import {
  assert,
  assertAlmostEquals,
  assertEquals,
  assertGreater,
  assertGreaterOrEqual,
  assertLess,
  assertLessOrEqual,
  assertMatch,
  assertNotMatch,
  assertRejects,
  assertStringIncludes,
} from "jsr:@std/assert@^1";
import {
  type Answer,
  ask,
  daytime,
  daytimeUdp,
  formatDaytime,
  main,
  parseDaytime,
  serve as answer,
  type ServeOptions,
} from "../daytime.ts";
import { Failure, Trace, VERSION } from "../utils.ts";
import { type Finished, missing, network, repeat, ROOT, run, Running, serve, soon, start, test } from "./helpers.ts";

const LINUX = Deno.build.os === "linux", WINDOWS = Deno.build.os === "windows";
const ROOTED = !WINDOWS && Deno.uid() === 0;
const LINE = /^[A-Z][a-z]+day, [A-Z][a-z]+ \d{1,2}, \d{4} \d\d:\d\d:\d\d-UTC\r\n$/;
const OURS = "Monday, November 23, 2026 13:17:05-UTC\r\n";
const NIST = "\n61367 26-11-23 13:17:05 00 0 0  50.0 UTC(NIST) * \n";

const bytesOf = (text: string) => Uint8Array.from(new TextEncoder().encode(text));
const textOf = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
const delay = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));
const at = (port: number, hostname = "127.0.0.1"): Deno.NetAddr => ({ transport: "udp", hostname, port });

/** Whether a network namespace of one's own, with its own ports and hosts file, cannot be had. */
function confined(): boolean {
  if (!LINUX || !ROOTED || ["unshare", "ip", "mount"].some(missing)) return true;
  const args = ["-nm", "sh", "-c", network("192.0.2.1/24")];
  return !new Deno.Command("unshare", { args, stderr: "null" }).outputSync().success;
}

/** A TCP server that does as it is told with each connection, which is closed in the end. */
function tcpServer(handle: (conn: Deno.TcpConn) => unknown, hostname = "127.0.0.1") {
  const listener = Deno.listen({ hostname, port: 0 }), sessions: Promise<void>[] = [], conns: Deno.TcpConn[] = [];
  let accepted = 0;
  const done = (async () => {
    for await (const conn of listener) {
      accepted++, conns.push(conn);
      sessions.push(
        (async () => {
          try {
            await handle(conn);
          } catch { /* the client is gone */ }
          conn[Symbol.dispose]();
        })(),
      );
    }
  })();
  return {
    port: listener.addr.port,
    get accepted() {
      return accepted;
    },
    [Symbol.asyncDispose]: async () => {
      listener.close();
      await done;
      for (const conn of conns) conn[Symbol.dispose]();
      await Promise.all(sessions);
    },
  };
}

/** A TCP server that sends this, and closes. */
const says = (text: string | Uint8Array) =>
  tcpServer(async (conn) => {
    const bytes = typeof text === "string" ? bytesOf(text) : text;
    for (let sent = 0; sent < bytes.length;) sent += await conn.write(bytes.subarray(sent));
  });

type Answering = string | Uint8Array | undefined;

/** A UDP server that answers the nth question (1 is the first) with this; undefined: not at all. */
function udpServer(answer: (n: number) => Answering | Promise<Answering>, hostname = "127.0.0.1") {
  const socket = Deno.listenDatagram({ transport: "udp", hostname, port: 0 });
  const questions: { bytes: number; from: Deno.NetAddr; time: number }[] = [];
  const done = (async () => {
    for await (const [bytes, from] of socket) {
      questions.push({ bytes: bytes.length, from: from as Deno.NetAddr, time: performance.now() });
      const text = await answer(questions.length);
      if (text !== undefined) await socket.send(typeof text === "string" ? bytesOf(text) : text, from);
    }
  })();
  return {
    port: (socket.addr as Deno.NetAddr).port,
    questions,
    [Symbol.asyncDispose]: async () => {
      socket.close();
      await done;
    },
  };
}

/** Runs a command line without a process; `terminal` is whether its standard output passes for one. */
async function cli(args: (string | number)[], terminal = false): Promise<Omit<Finished, "signal">> {
  const { log, error } = console, said: string[] = [], printed: Uint8Array[] = [];
  console.log = (line: string) => void printed.push(bytesOf(`${line}\n`));
  console.error = (...line: unknown[]) => void said.push(`${line.length > 1 ? line[2] : line[0]}\n`);
  Object.assign(Deno.stdout, {
    isTerminal: () => terminal,
    write: (bytes: Uint8Array) => Promise.resolve((printed.push(bytes.slice()), bytes.length)),
  });
  try {
    const code = await main(args.map(String));
    return { code, stdout: printed.map(textOf).join(""), stderr: said.join("") };
  } finally {
    Object.assign(console, { log, error });
    for (const name of ["isTerminal", "write"]) Reflect.deleteProperty(Deno.stdout, name);
  }
}

/** The status and message of a failure. */
async function failure(work: Promise<unknown>): Promise<string> {
  const error = await assertRejects(() => work, Failure);
  return `${error.status} ${error.message}`;
}

const localhost = { hostname: "127.0.0.1", timeout: 5000 };

// --- reading lines

test("daytime reads RFC 867's own examples, though the name of the day is wrong in the first", () => {
  assertEquals(parseDaytime("Tuesday, February 22, 1982 17:37:43-PST").time, "1982-02-23T01:37:43.000Z");
  assertEquals(parseDaytime("02 FEB 82 07:59:01 PST").time, "1982-02-02T15:59:01.000Z");
});

test("daytime reads the formats of RFC 867, with every zone that means one thing", () => {
  for (
    const [line, time] of [
      [OURS, "2026-11-23T13:17:05"],
      ["Monday, November 23, 2026 13:17:05-GMT", "2026-11-23T13:17:05"],
      ["Monday, November 23, 2026 13:17:05 UTC", "2026-11-23T13:17:05"],
      ["monday, november 23, 2026 13:17:05-utc\n", "2026-11-23T13:17:05"],
      ["Monday, November 23, 2026 13:17:05-0800", "2026-11-23T21:17:05"],
      ["Monday, November 23, 2026 13:17:05+05:30", "2026-11-23T07:47:05"],
      ["Sunday, March 1, 2026 00:59:59+0100", "2026-02-28T23:59:59"],
      ["Thursday, December 31, 2026 23:00:00-EST", "2027-01-01T04:00:00"],
      ["Tuesday, February 29, 2000 00:00:00-UTC", "2000-02-29T00:00:00"],
      ["23 NOV 2026 13:17:05 UTC\r\n", "2026-11-23T13:17:05"], // xinetd's
      ["3 Nov 2026 13:17:05 EDT", "2026-11-03T17:17:05"],
      ["Mon, 23 Nov 2026 13:17:05 +0000", "2026-11-23T13:17:05"],
      ["Mon, 23 Nov 2026 13:17:05 GMT", "2026-11-23T13:17:05"],
      ["01 Jan 49 00:00:00 Z", "2049-01-01T00:00:00"],
      ["01 Jan 50 00:00:00 UT", "1950-01-01T00:00:00"],
      ...["PST 21", "PDT 20", "MST 20", "MDT 19", "CST 19", "CDT 18", "EST 18", "EDT 17"].map((each) => {
        const [zone, hour] = each.split(" ");
        return [`Monday, November 23, 2026 13:17:05-${zone}`, `2026-11-23T${hour}:17:05`];
      }),
    ]
  ) assertEquals(parseDaytime(line), { time: `${time}.000Z`, nist: null }, line);
});

test("daytime does not guess what a line does not say", () => {
  for (
    const line of [
      "",
      " \r\n",
      "Mon Nov 23 13:17:05 2026\r\n", // inetd's: no zone
      "Monday, November 23, 2026 13:17:05",
      "Monday, November 23, 2026 13:17:05-CET", // not of RFC 5322: three zones have some of these names, or none
      "Monday, November 23, 2026 13:17:05-IST",
      "Monday, November 23, 2026 13:17:05-A",
      "Monday, November 23, 2026 13:17:05-CONSTRUCTOR",
      "Monday, November 23, 2026 13:17-UTC",
      "Monday, November 23, 2026 1:17:05 PM-UTC",
      "Monday, November 31, 2026 13:17:05-UTC",
      "Monday, November 0, 2026 13:17:05-UTC",
      "Monday, February 29, 2026 13:17:05-UTC",
      "Monday, February 30, 2024 13:17:05-UTC",
      "Monday, February 29, 1900 13:17:05-UTC",
      "Monday, Novembre 23, 2026 13:17:05-UTC",
      "Monday, Nov, 2026 13:17:05-UTC",
      "Monday, November 23, 26 13:17:05-UTC",
      "Monday, November 23, 12026 13:17:05-UTC",
      "Monday, November 23, 2026 24:00:00-UTC",
      "Monday, November 23, 2026 13:60:05-UTC",
      "Monday, November 23, 2026 13:17:61-UTC",
      "Monday, November 23, 2026 13:17:60-UTC", // no leap second then
      "Monday, November 23, 2026 13:17:05+0060",
      "Monday, November 23, 2026 13:17:05+3000",
      "Monday, November 23, 2026 13:17:05-UTC and more",
      "now: Monday, November 23, 2026 13:17:05-UTC",
      "32 NOV 2026 13:17:05 UTC",
      "23 11 2026 13:17:05 UTC",
      "11/23/2026 13:17:05",
      "13:17:05 23.11.2026", // Windows, in German
    ]
  ) assertEquals(parseDaytime(line), { time: null, nist: null }, line);
});

test("daytime reads NIST's line, and all that it says beside the time", () => {
  assertEquals(parseDaytime(NIST), {
    time: "2026-11-23T13:17:05.000Z",
    nist: { mjd: 61367, dst: 0, leapSecond: 0, health: 0, advanceMs: 50 },
  });
  assertEquals(parseDaytime("57616 16-08-16 06:22:17 50 1 4 895.5 UTC(NIST) *"), {
    time: "2016-08-16T06:22:17.000Z",
    nist: { mjd: 57616, dst: 50, leapSecond: 1, health: 4, advanceMs: 895.5 },
  });
});

test("daytime takes the century of NIST's line from the day number, and no time where the two disagree", () => {
  assertEquals(parseDaytime("45022 82-02-22 17:37:43 00 0 0 50.0 UTC(NIST) *").time, "1982-02-22T17:37:43.000Z");
  assertEquals(parseDaytime("81547 82-02-22 17:37:43 00 0 0 50.0 UTC(NIST) *").time, "2082-02-22T17:37:43.000Z");
  for (
    const line of [
      "61368 26-11-23 13:17:05 00 0 0 50.0 UTC(NIST) *",
      "61367 26-11-24 13:17:05 00 0 0 50.0 UTC(NIST) *",
      "61367 26-11-23 25:17:05 00 0 0 50.0 UTC(NIST) *",
      "00000 26-11-23 13:17:05 00 0 0 50.0 UTC(NIST) *",
      "99999 26-02-30 13:17:05 00 0 0 50.0 UTC(NIST) *",
    ]
  ) {
    const { time, nist } = parseDaytime(line);
    assertEquals([time, nist?.advanceMs], [null, 50], line);
  }
  for (
    const line of [
      "61367 26-11-23 13:17:05 00 0 0 50.0 UTC(NIST)",
      `61367 26-11-23 13:17:05 00 0 0 ${"9".repeat(400)} UTC(NIST) *`,
      "61367 26-11-23 13:17:05 00 0 50.0 UTC(NIST) *",
      "61367 26-11-23 13:17:05 00 0 0 -50.0 UTC(NIST) *",
      "61367 26-11-23 13:17:05 00 0 0 50.0 UTC(USNO) *",
      "x61367 26-11-23 13:17:05 00 0 0 50.0 UTC(NIST) *",
    ]
  ) assertEquals(parseDaytime(line), { time: null, nist: null }, line);
});

test("daytime knows a leap second where there can be one: at the end of a month, in UTC", () => {
  assertEquals(
    parseDaytime("57753 16-12-31 23:59:60 00 1 0 50.0 UTC(NIST) *").time,
    "2016-12-31T23:59:60.000Z",
  );
  assertEquals(parseDaytime("Saturday, December 31, 2016 23:59:60-UTC").time, "2016-12-31T23:59:60.000Z");
  assertEquals(parseDaytime("Sunday, January 1, 2017 00:59:60+0100").time, "2016-12-31T23:59:60.000Z");
  for (
    const line of [
      "57752 16-12-30 23:59:60 00 1 0 50.0 UTC(NIST) *",
      "57753 16-12-31 22:59:60 00 1 0 50.0 UTC(NIST) *",
      "Sunday, January 1, 2017 23:59:60+0100",
      "Saturday, December 31, 2016 23:59:60-PST",
    ]
  ) assertEquals(parseDaytime(line).time, null, line);
});

test("daytime reads whatever comes without stumbling, and says a time only when it is one", () => {
  let seed = 1982;
  const below = (n: number) => (seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31) % n;
  const good = [OURS, NIST, "02 FEB 82 07:59:01 PST", "Mon, 23 Nov 2026 13:17:05 +0000"];
  const alphabet = "0123456789 :-+,*()ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz\0\x1b\r\n\u00e9\u2028";
  for (let i = 0; i < 20_000; i++) {
    const noise = i % 2 === 0;
    let text = noise ? textOf(crypto.getRandomValues(new Uint8Array(below(80)))) : good[below(good.length)];
    for (let j = noise ? 0 : 1 + below(3); j > 0; j--) {
      const where = below(text.length), c = alphabet[below(alphabet.length)];
      text = text.slice(0, where) + [c, "", c + text[where]][below(3)] + text.slice(where + 1);
    }
    const { time } = parseDaytime(text);
    if (time !== null) assertMatch(time, /^\d{4}-\d\d-\d\dT\d\d:\d\d:(\d\d)\.000Z$/, JSON.stringify(text));
    if (time !== null && !time.endsWith("60.000Z")) assertEquals(new Date(time).toISOString(), time);
  }
});

test("daytime reads back every line that its own server writes, in the format of RFC 867", () => {
  assertEquals(formatDaytime(new Date(Date.UTC(2026, 10, 23, 13, 17, 5, 999))), OURS);
  assertEquals(formatDaytime(new Date(Date.UTC(2024, 1, 1))), "Thursday, February 1, 2024 00:00:00-UTC\r\n");
  for (let day = 0; day < 3000; day++) {
    const date = new Date(Date.UTC(2020, 0, 1 + 5 * day, day % 24, day % 60, (7 * day) % 60));
    assertMatch(formatDaytime(date), LINE);
    assertEquals(parseDaytime(formatDaytime(date)).time, date.toISOString());
  }
});

// --- asking over TCP

test("daytime joins a line that arrives byte by byte", async () => {
  const bytes = bytesOf(OURS);
  let i = 0;
  const read = (buffer: Uint8Array) => {
    if (i === bytes.length) return Promise.resolve(null);
    buffer[0] = bytes[i++];
    return Promise.resolve(1);
  };
  assertEquals(textOf(await daytime({ read })), OURS);
  await using server = tcpServer(async (conn) => {
    conn.setNoDelay(true);
    for (const byte of bytes) await conn.write(Uint8Array.of(byte));
  });
  const [{ text, time }, raw] = await ask({ ...localhost, port: server.port });
  assertEquals([text, time, textOf(raw)], [OURS.trim(), "2026-11-23T13:17:05.000Z", OURS]);
});

test("daytime tells who answered, what, and how long it took", async () => {
  await using server = says(OURS);
  const [answer] = await ask({ ...localhost, port: server.port });
  const { offsetMs, roundTripMs, ...rest } = answer;
  assertEquals(rest, {
    server: "127.0.0.1",
    address: "127.0.0.1",
    port: server.port,
    transport: "tcp",
    text: OURS.trim(),
    time: "2026-11-23T13:17:05.000Z",
    nist: null,
  });
  assert(offsetMs !== null && Number.isInteger(offsetMs));
  assertGreater(roundTripMs, 0);
});

/** What NIST's server would send now, to say a time that is `ahead` milliseconds ahead of ours. */
function nistNow(ahead: number): string {
  const now = Date.now() + ahead, next = Math.ceil(now / 1000) * 1000;
  const date = new Date(next).toISOString(), mjd = Math.floor(next / 86_400_000) + 40_587;
  return `\n${mjd} ${date.slice(2, 10)} ${date.slice(11, 19)} 00 0 0 ${(next - now).toFixed(1)} UTC(NIST) * \n`;
}

test("daytime takes half the round trip into account, and how early NIST's line is sent", async () => {
  await Promise.all(([[0, 0], [123_456, 300], [-4321, -300]] as const).map(async ([ahead, lag]) => {
    await using server = udpServer(async () => { // as if the way there, or the way back, were the longer one
      await delay(Math.max(0, lag));
      const line = nistNow(ahead);
      await delay(Math.max(0, -lag));
      return line;
    });
    const [{ offsetMs, nist }] = await ask({ ...localhost, port: server.port, udp: true });
    assertAlmostEquals(Number(offsetMs), ahead + lag / 2, 100);
    assert(nist);
  }));
});

test("daytime takes a line to the second for the middle of that second", async () => {
  for (const [ahead, udp] of [[0, false], [7_200_000, true], [-60_000, false]] as const) {
    const line = () => formatDaytime(new Date(Date.now() + ahead));
    await using server = udp ? udpServer(line) : tcpServer((conn) => conn.write(bytesOf(line())));
    const [{ offsetMs, roundTripMs }] = await ask({ ...localhost, port: server.port, udp });
    assertAlmostEquals(Number(offsetMs), ahead, 600 + roundTripMs);
  }
});

test("daytime counts the round trip from the question to the first byte, not to the end", async () => {
  await using server = tcpServer(async (conn) => {
    await delay(60);
    await conn.write(bytesOf("x"));
    await delay(400);
  });
  const [{ roundTripMs }] = await ask({ ...localhost, port: server.port });
  assertGreater(roundTripMs, 30);
  assertLess(roundTripMs, 400);
});

test("daytime accepts 512 bytes, and no more, over TCP and UDP", async () => {
  const line = `${"x".repeat(510)}\r\n`;
  await using exact = says(line), more = says(`${line}y`);
  await using exactUdp = udpServer(() => line), moreUdp = udpServer(() => `${line}y`);
  for (const [good, bad, udp] of [[exact, more, false], [exactUdp, moreUdp, true]] as const) {
    assertEquals((await ask({ ...localhost, port: good.port, udp }))[1].length, 512);
    assertEquals(
      await failure(ask({ ...localhost, port: bad.port, udp })),
      `63 127.0.0.1:${bad.port} sent more than 512 bytes`,
    );
  }
});

test("daytime leaves a server that never stops sending", async () => {
  let sent = 0;
  await using server = tcpServer(async (conn) => {
    for (const noise = new Uint8Array(65_536).fill(120);;) sent += await conn.write(noise);
  });
  assertMatch(await failure(ask({ ...localhost, port: server.port })), /^63 .* sent more than 512 bytes$/);
  assertGreater(sent, 0);
});

test("daytime calls an empty answer by its name, over TCP and UDP", async () => {
  await using server = says(""), udp = udpServer(() => "");
  assertEquals(
    await failure(ask({ ...localhost, port: server.port })),
    `52 127.0.0.1:${server.port} gave an empty answer`,
  );
  assertMatch(await failure(ask({ ...localhost, port: udp.port, udp: true })), /^52 /);
});

test("daytime gives up in time on a server that is silent, or trickles, or does not end", async () => {
  await using silent = tcpServer((conn) => conn.read(new Uint8Array(1)));
  await using trickling = tcpServer(async (conn) => {
    for (;;) {
      await conn.write(bytesOf("x"));
      await delay(20);
    }
  });
  await using open = tcpServer(async (conn) => {
    await conn.write(bytesOf(OURS));
    await conn.read(new Uint8Array(1));
  });
  const started = performance.now();
  await Promise.all([silent, trickling, open].map(async ({ port }) =>
    assertEquals(
      await failure(ask({ ...localhost, port, timeout: 300 })),
      `28 no complete answer from 127.0.0.1:${port} within 0.3 s`,
    )
  ));
  assertGreaterOrEqual(performance.now() - started, 299);
});

test("daytime stops when it is told to", async () => {
  let stop = new AbortController();
  const abort = () => stop.abort(new Failure(130, "stopped"));
  await using silent = tcpServer(abort), silentUdp = udpServer(abort as () => undefined);
  for (const [{ port }, udp] of [[silent, false], [silentUdp, true]] as const) {
    stop = new AbortController();
    assertEquals(await failure(ask({ ...localhost, port, udp, signal: stop.signal })), "130 stopped");
    assertEquals(await failure(ask({ ...localhost, port, udp, signal: stop.signal })), "130 stopped");
  }
});

test({
  name: "daytime says that receiving failed when the server resets in the middle of the line",
  ignore: missing("python3"),
  async fn() {
    const script = `import socket, struct
s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1], flush=True)
c, _ = s.accept(); c.send(b"Monday, Nov"); input()
c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)); c.close()`;
    await using python = new Running("python3", ["-c", script]);
    const [port] = await python.until(/\d+/), trace = new Trace("daytime", false);
    trace.data = () => void python.type("now\n");
    assertEquals(
      await failure(ask({ ...localhost, port: Number(port), trace })),
      `56 receiving failed from 127.0.0.1:${port}: connection reset`,
    );
  },
});

test("daytime says when nobody listens", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 }), { port } = listener.addr;
  listener.close();
  const refused = `7 cannot connect to 127.0.0.1:${port}: connection refused`;
  assertEquals(await failure(ask({ ...localhost, port })), refused);
});

test({
  name: "daytime says when there is no such host, or none of that family",
  sanitizeResources: false, // Deno 2.4 keeps something of a lookup that failed
  async fn() {
    for (const udp of [false, true]) {
      const hostname = "no-such-host.invalid", asking = ask({ hostname, port: 13, udp });
      assertEquals(await failure(asking), `6 cannot resolve ${hostname}: no such name`);
      assertMatch(await failure(ask({ ...localhost, port: 13, udp, family: 6 })), /^6 .* no IPv6 address$/);
    }
  },
});

// --- asking over UDP

/** A socket as {@linkcode daytimeUdp} sees it, without a network. */
function fake(receive: Deno.DatagramConn["receive"], send: (n: number) => Promise<number> = () => Promise.resolve(0)) {
  const times: number[] = [];
  const sent = () => send(times.push(performance.now()));
  return { times, socket: { receive, send: sent } as unknown as Deno.DatagramConn };
}

test("daytime asks again over UDP, waiting longer each time", async () => {
  const { promise, resolve } = Promise.withResolvers<[Uint8Array<ArrayBuffer>, Deno.Addr]>();
  const { times, socket } = fake(() => promise, (n) => {
    if (n === 5) resolve([bytesOf(OURS), at(1313)]);
    return Promise.resolve(0);
  });
  assertEquals(textOf(await daytimeUdp(socket, at(1313), 8)), OURS);
  assertEquals(times.length, 5);
  times.slice(1).forEach((time, i) => assertGreaterOrEqual(time - times[i], 8 * 2 ** i - 1));
});

test("daytime asks with an empty datagram, and again when the answer was lost", async () => {
  await using server = udpServer((n) => n < 3 ? undefined : OURS);
  const [{ text, transport, address }] = await ask({ ...localhost, port: server.port, udp: true, timeout: 1500 });
  assertEquals([text, transport, address], [OURS.trim(), "udp", "127.0.0.1"]);
  assertEquals(server.questions.map(({ bytes }) => bytes), [0, 0, 0]);
  const [first, second, third] = server.questions.map(({ time }) => time);
  assertGreater(third - second, second - first);
});

test("daytime counts the round trip of the question that was answered, not of the ones lost before", async () => {
  await using server = udpServer((n) => n < 2 ? undefined : OURS);
  const [{ roundTripMs }] = await ask({ ...localhost, port: server.port, udp: true, timeout: 4000 });
  assertLess(roundTripMs, 750); // the answer came after 800 ms
});

test("daytime believes only whom it asked: forged answers change nothing", async () => {
  using forger = Object.assign(Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 }), {
    [Symbol.dispose]: () => forger.close(),
  });
  const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  const { port } = socket.addr as Deno.NetAddr;
  const serving = (async () => {
    const [, from] = await socket.receive();
    for (let i = 0; i < 3; i++) await forger.send(bytesOf("Friday, January 1, 1999 00:00:00-UTC\r\n"), from);
    await socket.receive(); // the question is repeated all the same
    await socket.send(bytesOf(OURS), from);
  })();
  const { code, stdout, stderr } = await cli(["-u", "-v", "-w", 1, "127.0.0.1", port]);
  await serving;
  socket.close();
  assertEquals([code, stdout], [0, OURS]);
  assertEquals(stderr.match(/ \* ignored: 127\.0\.0\.1:\d+ was not asked\n/g)?.length, 3);
});

test("daytime waits for an answer over UDP only so long, and says so", async () => {
  await using server = udpServer(() => undefined);
  assertEquals(
    await failure(ask({ ...localhost, port: server.port, udp: true, timeout: 300 })),
    `28 no answer from 127.0.0.1:${server.port} within 0.3 s`,
  );
  assertGreaterOrEqual(server.questions.length, 2);
  assertLessOrEqual(server.questions.length, 3);
});

test("daytime asks NIST's servers at most once in 4 s", async () => {
  await using server = udpServer(() => undefined);
  const { resolveDns } = Deno;
  Deno.resolveDns = (() => Promise.resolve(["127.0.0.1"])) as unknown as typeof resolveDns;
  try {
    for (const hostname of ["time.nist.gov", "TIME-A-G.NIST.GOV"]) {
      const asking = ask({ hostname, port: server.port, udp: true, timeout: 300, family: 4 });
      assertMatch(await failure(asking), /^28 no answer/);
    }
    assertEquals(server.questions.length, 2);
  } finally {
    Deno.resolveDns = resolveDns;
  }
});

test("daytime says at once when a question cannot be sent", async () => {
  const { socket } = fake(() => new Promise(() => {}), () => Promise.reject(new Error("Network is unreachable")));
  await assertRejects(() => daytimeUdp(socket, at(13)), Error, "Network is unreachable");
});

test("daytime over UDP reaches a server by its name, though it listens on IPv4 alone", async () => {
  await using server = udpServer(() => OURS);
  const [{ server: name, address }] = await ask({ hostname: "localhost", port: server.port, udp: true, timeout: 5000 });
  assertEquals([name, address], ["localhost", "127.0.0.1"]);
});

// --- the client's command line

test("daytime prints help and version, and asks nobody", async () => {
  for (const flag of ["-h", "--help"]) {
    const { code, stdout, stderr } = await cli([flag]);
    assertEquals([code, stderr], [0, ""]);
    for (
      const word of ["--udp", "--timeout", "--json", "--serve", "--host", "--port", "--diagram", "(5;", "(1313)"]
        .concat(
          ["time.nist.gov", "examples:", "exit status:", "--reuse-port", "--quiet", "--verbose", "--ipv4", "--ipv6"],
        )
    ) assertStringIncludes(stdout, word);
  }
  assertEquals(await cli(["-V"]), { code: 0, stdout: `daytime ${VERSION}\n`, stderr: "" });
  assertEquals((await cli(["--version"])).stdout, `daytime ${VERSION}\n`);
});

test("daytime refuses a bad command line in one line that names what is wrong, before anything is sent", async () => {
  await using server = says(OURS);
  const { port } = server, here = ["127.0.0.1", port];
  for (
    const [args, words] of [
      [[...here, "--jsn"], "unknown option --jsn: did you mean --json?"],
      [[...here, "--tiemout=1"], "did you mean --timeout?"],
      [[...here, "-x"], "-x"],
      [[...here, "third"], 'too many words: "third"'],
      [["", port], "an empty word"],
      [["127.0.0.1", ""], "an empty word"],
      [["127.0.0.1", "70000"], '"70000" is not a port'],
      [["127.0.0.1", "-1"], "-1"],
      [["127.0.0.1", "1e3"], '"1e3" is not a port'],
      [["127.0.0.1", "no-such-service"], '"no-such-service" is not a port'],
      [["bad host", port], '"bad host" is not a host'],
      [[`127.0.0.1:${port}`, port], `more than one port: ${port}, ${port}`],
      [["127.0.0.1:", port], '"" is not a port'],
      [[...here, "-p", port], "more than one port"],
      [[...here, "-w"], "--timeout needs a value"],
      [[...here, "-w", "soon"], '--timeout wants seconds up to 1000000, not "soon"'],
      [[...here, "--timeout=-1"], '--timeout wants seconds up to 1000000, not "-1"'],
      [[...here, "--diagram"], "--diagram needs a value"],
      [[...here, "--json=yes"], "--json takes no value"],
      [[...here, "-4", "-6"], "-4 and -6 exclude each other"],
      [[...here, "--host", "127.0.0.1"], "--host is for the server: it needs --serve"],
      [[...here, "--reuse-port"], "--reuse-port is for the server"],
      [["--serve", "127.0.0.1"], 'too many words: "127.0.0.1"'],
      [["--serve", "-u"], "--udp is for the client"],
      [["--serve", "--json"], "--json is for the client"],
      [["--serve", "--diagram", "x.md"], "--diagram is for the client"],
      [["--serve", "-w", "1"], "--timeout is for the client"],
      [["--serve", "-p", "70000"], '"70000" is not a port'],
      [["--serve", "-p"], "--port needs a value"],
      [["--serve", "--host", "127.0.0.1", "-6"], "--host 127.0.0.1 is not an IPv6 address"],
      [["--serve", "--host", "::1", "-4"], "--host ::1 is not an IPv4 address"],
      [["--serve", "--host", ""], "--host needs a value"],
    ] as const
  ) {
    const { code, stdout, stderr } = await cli([...args]);
    assertEquals([code, stdout], [2, ""], stderr);
    assertStringIncludes(stderr, words);
    assertMatch(stderr, /^daytime: [^\n]*\n$/);
  }
  assertEquals(server.accepted, 0);
});

test("daytime takes the port as a second word, with the host, as an option, and by the name of its service", async () => {
  await using server = says(OURS), udp = udpServer(() => OURS);
  for (const [{ port }, flags] of [[server, []], [udp, ["-u"]]] as const) {
    for (const args of [["127.0.0.1", port], [`127.0.0.1:${port}`], ["127.0.0.1", "--port", port]]) {
      assertEquals(await cli([...flags, ...args]), { code: 0, stdout: OURS, stderr: "" });
    }
  }
});

test("daytime prints the line as it came, byte for byte, where it is no terminal", async () => {
  for (const text of [OURS, NIST, "no line end", "\x1b[2J\x07 caf\u00e9\r\n\n", "two\nlines\n"]) {
    await using server = says(text), udp = udpServer(() => text);
    assertEquals(await cli(["127.0.0.1", server.port]), { code: 0, stdout: text, stderr: "" });
    assertEquals(await cli(["-u", "127.0.0.1", udp.port]), { code: 0, stdout: text, stderr: "" });
  }
});

test("daytime prints bytes that are no text as they came, too", async () => {
  const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
  await using server = says(bytes);
  assertEquals((await ask({ ...localhost, port: server.port }))[1], bytes);
});

test("daytime lets no server drive the terminal", async () => {
  const hostile = "\x1b]0;owned\x07\x1b[2Jnoon\x9b31m \u202egnp\u200b\r\nsecond \x08line\r\n";
  await using server = says(hostile);
  const { code, stdout } = await cli(["127.0.0.1", server.port], true);
  assertEquals(code, 0);
  const [first, second, ...rest] = stdout.split("\n");
  assertEquals(first, "\\x1b]0;owned\\x07\\x1b[2Jnoon\\x9b31m \\x202egnp\\x200b");
  assertEquals(second, "second \\x08line");
  assertMatch(rest.join("\n"), /^not to be compared with our clock; round trip [\d.]+ ms\n$/);
  const { stdout: json } = await cli(["127.0.0.1", server.port, "--json", "-v"], true);
  assertEquals(JSON.parse(json).text, hostile.trim());
  assertNotMatch(json, /[^\n\x20-\x7e]/);
});

test("daytime adds a line for people on a terminal: when, how far apart the clocks are, how long it took", async () => {
  const { now } = Date;
  Date.now = () => Date.UTC(2026, 10, 23, 13, 17, 5, 500);
  try {
    for (
      const [text, words] of [
        [OURS, /; our clocks agree; round trip [\d.]+ ms$/],
        [OURS.replace(":05", ":04"), /; their clock is (0\.[5-9]|1\.0) s behind ours; round trip/],
        [OURS.replace("2026", "1982"), /; their clock is \d{5} days behind ours; round trip/],
        [OURS.replace("13:", "14:"), /; their clock is 3600\.\d s ahead of ours; round trip/],
        [NIST, /; their clock is 0\.[1-5]\d\d s behind ours; round trip [\d.]+ ms$/],
        [NIST.replace("00 0 0", "00 0 1"), /; their clock, they say, is up to 5 s off$/],
        [NIST.replace("00 0 0", "00 0 3"), /; their clock, they say, is faulty$/],
        [NIST.replace("00 0 0", "00 0 9"), /; their clock, they say, is not good$/],
      ] as const
    ) {
      await using server = says(text);
      const { code, stdout, stderr } = await cli(["127.0.0.1", server.port], true);
      assertEquals([code, stderr], [0, ""]);
      const [printed, people, ...rest] = stdout.split("\n");
      assertEquals([printed, rest], [text.trim(), [""]]);
      assertMatch(people, words);
      assertMatch(people, /^that is \w{3} Nov 2[34] (2026|1982) \d\d:\d\d:\d\d GMT[+-]\d{4} here; /);
    }
  } finally {
    Date.now = now;
  }
});

test("daytime --json prints one object with all that is known, over TCP and UDP", async () => {
  await using server = says(NIST), udp = udpServer(() => "Mon Nov 23 13:17:05 2026\r\n");
  const tcp = await cli(["--json", "localhost", server.port]);
  assertEquals([tcp.code, tcp.stderr], [0, ""]);
  assertMatch(tcp.stdout, /^\{.*\}\n$/);
  const { offsetMs, roundTripMs, ...rest } = JSON.parse(tcp.stdout) as Answer;
  assertEquals(rest, {
    server: "localhost",
    address: "127.0.0.1",
    port: server.port,
    transport: "tcp",
    text: NIST.trim(),
    time: "2026-11-23T13:17:05.000Z",
    nist: { mjd: 61367, dst: 0, leapSecond: 0, health: 0, advanceMs: 50 },
  });
  assertEquals([typeof offsetMs, typeof roundTripMs], ["number", "number"]);
  const answer = JSON.parse((await cli(["--json", "-u", "127.0.0.1", udp.port])).stdout) as Answer;
  assertGreater(answer.roundTripMs, 0);
  assertEquals({ ...answer, roundTripMs: 0 }, {
    server: "127.0.0.1",
    address: "127.0.0.1",
    port: udp.port,
    transport: "udp",
    text: "Mon Nov 23 13:17:05 2026",
    time: null,
    offsetMs: null,
    roundTripMs: 0,
    nist: null,
  });
  assertEquals(Object.keys(answer).join(), "server,address,port,transport,text,time,offsetMs,roundTripMs,nist");
});

test("daytime asks by IPv4 or IPv6 as it is told", async () => {
  await using four = says("four"), six = tcpServer((conn) => conn.write(bytesOf("six")), "::1");
  assertEquals((await cli(["-4", "localhost", four.port])).stdout, "four");
  assertEquals((await cli(["-6", "localhost", six.port])).stdout, "six");
  assertEquals((await cli(["::1", six.port])).stdout, "six");
  assertEquals((await cli([`[::1]:${six.port}`])).stdout, "six");
  await using udp = udpServer(() => "six", "::1");
  assertEquals((await cli(["-u", "-6", "localhost", udp.port])).stdout, "six");
  assertEquals(JSON.parse((await cli(["-u", "--json", "::1", udp.port])).stdout).address, "::1");
  for (const [flag, host] of [["-6", "127.0.0.1"], ["-4", "::1"]]) {
    const { code, stderr } = await cli([flag, host, 13]);
    assertEquals([code, stderr], [6, `daytime: cannot resolve ${host}: no IPv${flag[1]} address\n`]);
  }
});

test("daytime -v shows the exchange as it happens, a line an event", async () => {
  await using server = says(OURS), udp = udpServer((n) => n < 2 ? undefined : "\x1b[2J");
  const masked = (text: string) =>
    text.replace(/^\d+\.\d+/gm, "T").replace(/port \d+/g, "port P").replace(/for \d\.\d s/g, "for S s");
  const tcp = await cli(["-v", "127.0.0.1", server.port]);
  assertEquals(tcp.stdout, OURS);
  assertEquals(
    masked(tcp.stderr),
    `T * connected to 127.0.0.1:${server.port}
T < 40 bytes "Monday, November 23, 2026 13:17:05-UTC\\r\\n"
T * half-closed by the peer
T * closed
`,
  );
  const datagrams = await cli(["-v", "-u", "-w", 1, "127.0.0.1", udp.port]);
  assertEquals(
    masked(datagrams.stderr),
    `T * asking 127.0.0.1:${udp.port} from port P
T > 0 bytes ""
T * no answer for S s: asking again
T > 0 bytes ""
T < 4 bytes "\\x1b[2J"
T * closed
`,
  );
  await using silent = tcpServer((conn) => conn.read(new Uint8Array(1)));
  const { stderr } = await cli(["-v", "-w", 0.1, "127.0.0.1", silent.port]);
  assertMatch(
    stderr,
    /\* no complete answer from \S+ within 0\.1 s\ndaytime: no complete answer from \S+ within 0\.1 s\n$/,
  );
});

test("daytime --diagram draws the exchange into a file, whichever way it ends", async () => {
  const folder = await Deno.makeTempDir(), file = `${folder}/exchange.md`;
  try {
    await using server = says(OURS), udp = udpServer((n) => n < 2 ? undefined : "noon");
    assertEquals((await cli(["--diagram", file, "127.0.0.1", server.port])).code, 0);
    let drawing = await Deno.readTextFile(file);
    assertMatch(drawing, /^```mermaid\nsequenceDiagram\n/);
    assertMatch(
      drawing,
      /client-->>s1: SYN\n\s+s1-->>client: SYN, ACK\n\s+client-->>s1: ACK\n\s+s1->>client: 40 bytes/,
    );
    assertMatch(drawing, /s1-->>client: FIN\n/);
    assertEquals((await cli(["--diagram", file, "-u", "-w", 1, "127.0.0.1", udp.port])).code, 0);
    drawing = await Deno.readTextFile(file);
    assertEquals(drawing.match(/client-\)s1: 0 bytes/g)?.length, 2);
    assertMatch(drawing, /s1-\)client: 4 bytes "noon"/);
    await using silent = udpServer(() => undefined);
    assertEquals((await cli(["--diagram", file, "-u", "-w", 0.1, "127.0.0.1", silent.port])).code, 28);
    assertStringIncludes(await Deno.readTextFile(file), "no answer from 127.0.0.1");
    const { code, stderr } = await cli(["--diagram", `${folder}/no/such/folder`, "127.0.0.1", server.port]);
    assertEquals(code, 23);
    assertMatch(stderr, /^daytime: cannot write .*\n$/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

// --- the server, by its functions

/** The server on loopback, without a process. */
function serving(options: Partial<ServeOptions> = {}, hostname = "127.0.0.1") {
  const stop = new AbortController(), lines: string[] = [];
  const listeners = options.listeners ?? [Deno.listen({ hostname, port: 0 })], { port } = listeners[0].addr;
  const sockets = options.sockets ?? [Deno.listenDatagram({ transport: "udp", hostname, port })];
  let changed = Promise.withResolvers<void>();
  const log = (line: string) => (lines.push(line), changed.resolve(), changed = Promise.withResolvers());
  const done = answer({ listeners, sockets, signal: stop.signal, log, ...options });
  return {
    port,
    lines,
    /** Waits until a line matches. */
    async logged(pattern: RegExp): Promise<string> {
      for (;;) {
        const line = lines.find((line) => pattern.test(line));
        if (line) return line;
        await soon(changed.promise, `${pattern} in the log`, { seen: () => lines });
      }
    },
    stop: () => (stop.abort(), done),
    [Symbol.asyncDispose]: async () => (stop.abort(), void await done),
  };
}

/** A UDP socket that sends and waits for answers. */
function peer(hostname = "127.0.0.1", port = 0) {
  const socket = Deno.listenDatagram({ transport: "udp", hostname, port });
  return {
    port: (socket.addr as Deno.NetAddr).port,
    send: (bytes: Uint8Array, to: Deno.NetAddr) => socket.send(bytes, to),
    receive: async () => textOf((await soon(socket.receive(new Uint8Array(65_535)), "a datagram"))[0]),
    [Symbol.dispose]: () => socket.close(),
  };
}

/** All that comes over a connection until its end. */
async function all(conn: Deno.TcpConn): Promise<string> {
  const parts: Uint8Array[] = [];
  for (const buffer = new Uint8Array(4096);;) {
    const n = await soon(conn.read(buffer), "the end of the line", { seen: () => parts.map(textOf) });
    if (n === null) return parts.map(textOf).join("");
    parts.push(buffer.slice(0, n));
  }
}

const dial = (port: number, hostname = "127.0.0.1") => Deno.connect({ hostname, port });

test("daytime --serve answers every datagram with the line, an empty one and the largest too", async () => {
  await using server = serving();
  using client = peer();
  for (const size of [0, 1, 512, 1500, 65_507]) {
    assertGreaterOrEqual(await client.send(new Uint8Array(size), at(server.port)), 0);
    assertMatch(await client.receive(), LINE, `${size} bytes`);
  }
  assertEquals(await server.stop(), { connections: 0, datagrams: 5 });
});

test("daytime --serve writes the line and closes, without being asked", async () => {
  await using server = serving();
  using conn = await dial(server.port);
  const line = await all(conn);
  assertMatch(line, LINE);
  assertAlmostEquals(Date.parse(parseDaytime(line).time ?? ""), Date.now(), 5000);
  conn.close();
  assertMatch(await server.logged(/./), RegExp(`^tcp 127\\.0\\.0\\.1:\\d+ ${line.length} bytes in \\d+\\.\\d{3} s$`));
});

test("daytime --serve gives the line also to a client that talks first: no reset takes it away", async () => {
  await using server = serving();
  for (const size of [5, 300_000]) {
    using conn = await dial(server.port);
    const noise = new Uint8Array(size);
    for (let sent = 0; sent < size;) sent += await conn.write(noise.subarray(sent));
    assertMatch(await all(conn), LINE);
  }
});

test("daytime --serve parts with a client that does not close, after a second", async () => {
  await using server = serving();
  using conn = await dial(server.port);
  assertMatch(await all(conn), LINE);
  assertMatch(await server.logged(/^tcp/), /^tcp 127\.0\.0\.1:\d+ \d+ bytes in [1-4]\.\d{3} s$/);
});

test("daytime --serve outlives clients that reset, hundreds of them, and serves others meanwhile", async () => {
  await using server = serving();
  await Promise.all(Array.from({ length: 300 }, async (_, i) => {
    using conn = await dial(server.port); // closed with the line unread, which is a reset
    if (i % 3 === 0) await conn.write(bytesOf("hello\r\n"));
  }));
  using conn = await dial(server.port);
  assertMatch(await all(conn), LINE);
});

test("daytime --serve looks after the others while some do not read", async () => {
  await using server = serving();
  const idle = await Promise.all(Array.from({ length: 200 }, () => dial(server.port)));
  using conn = await dial(server.port);
  assertMatch(await all(conn), LINE);
  using client = peer();
  await client.send(new Uint8Array(), at(server.port));
  assertMatch(await client.receive(), LINE);
  for (const each of idle) each.close();
});

test({
  name: "daytime --serve answers no port that would answer in turn, nor its own number at any address",
  ignore: !LINUX || !ROOTED,
  async fn() {
    await using server = serving();
    using honest = peer("127.0.0.9");
    for (const port of [7, 9, 13, 17, 19, 37, 1313, 7777, server.port]) {
      using forged = peer("127.0.0.9", port);
      for (let i = 0; i < 3; i++) await forged.send(bytesOf("x"), at(server.port));
      await honest.send(new Uint8Array(), at(server.port));
      assertMatch(await honest.receive(), LINE); // by now the forged ones have been passed over
      await honest.send(bytesOf("end"), at(port, "127.0.0.9"));
      assertEquals(await forged.receive(), "end", `port ${port}`);
    }
    const said = server.lines.filter((line) => /not answered/.test(line));
    assertMatch(said[0], /^udp 127\.0\.0\.9:7 not answered: \S/);
    assertLessOrEqual(said.length, 2);
    assertEquals(await server.stop(), { connections: 0, datagrams: 9 });
  },
});

/** A socket of the server's without a network: receives what is given, then waits; `done` when all was dealt with. */
function scripted(port: number, given: (Deno.NetAddr | Error)[], send: (to: Deno.NetAddr) => Promise<number>) {
  const closed = Promise.withResolvers<never>(), done = Promise.withResolvers<void>();
  const socket = {
    addr: at(port),
    receive(): Promise<[Uint8Array, Deno.Addr]> {
      const next = given.shift();
      if (next === undefined) return done.resolve(), closed.promise;
      return next instanceof Error ? Promise.reject(next) : Promise.resolve([new Uint8Array(), next]);
    },
    send: (_: Uint8Array, to: Deno.NetAddr) => send(to),
    close: () => closed.reject(new Deno.errors.BadResource("closed")),
  };
  return { sockets: [socket as unknown as Deno.DatagramConn], done: done.promise };
}

/** The server with such a socket, until it has dealt with everything; then who was answered, and what it logged. */
async function script(given: (Deno.NetAddr | Error)[], send = (_: Deno.NetAddr) => Promise.resolve(40)) {
  const listeners = [Deno.listen({ hostname: "127.0.0.1", port: 0 })], { port } = listeners[0].addr, to: string[] = [];
  const { sockets, done } = scripted(port, given, (addr) => {
    to.push(`${addr.hostname}:${addr.port}`);
    return send(addr);
  });
  await using server = serving({ listeners, sockets });
  await done;
  const total = await server.stop();
  return { port, to, lines: server.lines, total };
}

test("daytime --serve answers neither multicast nor broadcast sources, and says so once a second at most", async () => {
  const many = ["224.0.0.1", "239.255.255.250", "::ffff:224.0.0.251", "255.255.255.255", "ff02::1", "0.0.0.0"];
  const forged = Array.from({ length: 3000 }, (_, i) => at(40_000, many[i % many.length]));
  const started = performance.now();
  const { to, lines, total } = await script([...forged, at(40_000)]);
  assertEquals([to, total.datagrams], [["127.0.0.1:40000"], 1]);
  const said = lines.filter((line) => /not answered/.test(line));
  assertMatch(said[0], /^udp 224\.0\.0\.1:40000 not answered: /);
  assertLessOrEqual(said.length, 1 + (performance.now() - started) / 1000);
});

test("daytime --serve goes on when sending fails or news of an ICMP error comes in, and says so sparingly", async () => {
  const reset = () => new Deno.errors.ConnectionReset("Connection reset by peer (os error 104)");
  const given = [reset(), at(40_000), reset(), ...Array.from({ length: 50 }, (_, i) => at(41_000 + i)), at(40_001)];
  const { to, lines } = await script(
    given,
    ({ port }) =>
      port < 41_000 ? Promise.resolve(40) : Promise.reject(new Error("Network is unreachable (os error 101)")),
  );
  assertEquals([to[0], to.at(-1), to.length], ["127.0.0.1:40000", "127.0.0.1:40001", 52]);
  assertEquals(lines.filter((line) => /^cannot answer: /.test(line)).length, 1);
});

test("daytime --serve logs a line a peer, and is not made to flood its log", async () => {
  const one = Array.from({ length: 1000 }, () => at(40_000)),
    more = Array.from({ length: 900 }, (_, i) => at(50_000 + i));
  const started = performance.now();
  const { lines, total } = await script([...one, ...more]);
  assertEquals(total.datagrams, 1900);
  assertMatch(lines[0], /^udp 127\.0\.0\.1:40000 40 bytes in 0\.\d{3} s$/);
  assertLessOrEqual(lines.length, 100 * (1 + Math.floor((performance.now() - started) / 1000)));
});

test("daytime --serve answers whoever has asked before it ends, and nobody after", async () => {
  await using server = serving();
  using client = peer();
  for (let i = 0; i < 50; i++) await client.send(new Uint8Array(), at(server.port));
  using conn = await dial(server.port);
  await conn.write(bytesOf("hello"));
  const line = await all(conn);
  conn.close();
  assertEquals(await server.stop(), { connections: 1, datagrams: 50 });
  assertMatch(line, LINE);
  for (let i = 0; i < 50; i++) assertMatch(await client.receive(), LINE);
  await assertRejects(() => dial(server.port), Deno.errors.ConnectionRefused);
});

test("daytime --serve -6 turns away IPv4", async () => {
  await using server = serving({ family: 6 }, "::");
  using four = await dial(server.port), six = await dial(server.port, "::1");
  assertEquals(await all(four), "");
  assertMatch(await all(six), LINE);
  using silent = peer(), heard = peer("::1");
  await silent.send(new Uint8Array(), at(server.port));
  await heard.send(new Uint8Array(), at(server.port, "::1"));
  assertMatch(await heard.receive(), LINE);
  six.close();
  assertEquals(await server.stop(), { connections: 1, datagrams: 1 });
});

// --- processes

test("daytime --serve says where it listens, logs who came, and ends well when told", async () => {
  await using one = await serve("daytime", ["-s"]);
  await using two = await serve("daytime", ["--serve", "-q", "-v", "--host", "127.0.0.1"]);
  const { port } = one;
  assertMatch(one.stdout, /^listening on tcp:\/\/\[::\]:\d+\n/);
  await one.until(RegExp(`listening on udp://\\[::\\]:${port}\n`));
  for (const target of [{ port }, { port, hostname: "::1" }, { port: two.port }]) {
    for (const udp of [false, true]) {
      const [{ time, offsetMs, roundTripMs }] = await ask({ ...localhost, ...target, udp });
      assert(time);
      assertAlmostEquals(Number(offsetMs), 0, 600 + roundTripMs);
    }
  }
  await one.until(/^udp \[::1\]:\d+ \d+ bytes in \d\.\d{3} s$/m);
  await one.until(/^tcp 127\.0\.0\.1:\d+ \d+ bytes in \d\.\d{3} s$/m);
  for (
    const event of [
      / \* 127\.0\.0\.1:\d+ accepted\n/,
      / > 127\.0\.0\.1:\d+ \d+ bytes "\w+day, [^"]*"(\.\.\.)?\n/,
      / \* 127\.0\.0\.1:\d+ closed\n/,
      / < 127\.0\.0\.1:\d+ 0 bytes ""\n/,
    ]
  ) await two.until(event, "stderr");
  one.kill(WINDOWS ? "SIGBREAK" : "SIGTERM"), two.kill("SIGINT");
  const [first, second] = await Promise.all([one.finish(), two.finish()]);
  assertEquals([first.code, first.stderr, second.code], [0, "", 0]);
  assertMatch(first.stdout, /\nserved 2 over TCP, 2 over UDP\n$/);
  assertEquals(second.stdout, `listening on tcp://127.0.0.1:${two.port}\n`);
});

test("daytime --serve says what to do when the port is taken, by TCP or by UDP", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  using socket = peer();
  for (const { port } of [listener.addr, socket]) {
    const { code, stdout, stderr } = await run("daytime", ["-s", "--host", "127.0.0.1", "-p", `${port}`]);
    assertEquals([code, stdout], [1, ""]);
    assertEquals(stderr, `daytime: cannot listen on 127.0.0.1:${port}: address already in use: try --port 0\n`);
  }
});

/** Runs the server in a process in which Deno's own functions have been changed first. */
async function meddled(change: string): Promise<Finished & { port: number }> {
  const code = `${change}
    const { main } = await import(${JSON.stringify(new URL("daytime.ts", ROOT).href)});
    Deno.exit(await main(["-s", "-p", "0"]));`;
  await using server = new Running(Deno.execPath(), ["eval", "--unstable-net", code], { cwd: ROOT });
  const port = Number((await server.until(/listening on udp:\/\/\S+:(\d+)\n/))[1]);
  const answers = await Promise.all([false, true].map((udp) => ask({ ...localhost, port, udp })));
  for (const [, bytes] of answers) assertMatch(textOf(bytes), LINE);
  server.kill(WINDOWS ? "SIGBREAK" : "SIGTERM");
  return { ...await server.finish(), port };
}

test("daytime --serve falls back to IPv4 where there is no IPv6", async () => {
  const { code, stdout, port } = await meddled(`for (const name of ["listen", "listenDatagram"]) {
    const real = Deno[name];
    Deno[name] = (options) => {
      if (options.hostname === "::") throw new Error("Address family not supported by protocol (os error 97)");
      return real(options);
    };
  }`);
  assertEquals(code, 0);
  assertStringIncludes(stdout, `listening on tcp://0.0.0.0:${port}\n`);
  assertStringIncludes(stdout, `listening on udp://0.0.0.0:${port}\n`);
});

test("daytime --serve --port 0 looks for a port that is free for TCP and UDP", async () => {
  const { code, stdout, port } = await meddled(`const real = Deno.listenDatagram;
  let taken = 2;
  Deno.listenDatagram = (options) => {
    if (taken-- > 0) throw new Deno.errors.AddrInUse("Address already in use (os error 98)");
    return real(options);
  };`);
  assertEquals(code, 0);
  assertMatch(stdout, RegExp(`^listening on tcp://\\S+:${port}\n`));
});

test({
  name: "daytime --serve lets processes share a port with --reuse-port",
  ignore: !LINUX,
  async fn() {
    await using one = await serve("daytime", ["-s", "--reuse-port", "--host", "127.0.0.1"]);
    const args = ["-s", "--reuse-port", "--host", "127.0.0.1", "--port", `${one.port}`];
    await using two = start("daytime", args);
    await two.until(/listening on udp/);
    const served = /tcp \S+ \d+ bytes/;
    const both = () => served.test(one.stdout) && served.test(two.stdout);
    const seen = () => [one.stdout, two.stdout];
    await repeat(() => ask({ ...localhost, port: one.port }), both, "an answer from each process", { seen });
    await ask({ ...localhost, port: one.port, udp: true });
  },
});

test({
  name: "daytime --serve outlives a shortage of descriptors, and serves all who waited",
  ignore: !LINUX || missing("prlimit"),
  async fn() {
    const script = new URL("daytime.ts", ROOT).href;
    const args = ["--nofile=64", Deno.execPath(), "run", "-A", script, "-s", "-p", "0", "--host", "127.0.0.1"];
    await using server = new Running("prlimit", args, { cwd: ROOT });
    const port = Number((await server.until(/listening on udp:\S+:(\d+)/))[1]);
    const conns = await Promise.all(Array.from({ length: 120 }, () => dial(port)));
    await Promise.all(conns.map(async (conn) => {
      assertMatch(await all(conn), LINE);
      conn.close();
    }));
    assertEquals(server.stdout.match(/cannot accept: /g)?.length, 1);
    server.kill("SIGTERM");
    assertEquals((await server.finish()).code, 0);
  },
});

test("daytime without --unstable-net names the flag where it needs UDP, and asks over TCP all the same", async () => {
  await using server = says(OURS);
  const script = new URL("daytime.ts", ROOT).href, map = new URL("mirror/import_map.json", ROOT).href;
  const bare = (...args: string[]) =>
    new Running(Deno.execPath(), ["run", "-A", "--no-config", "--import-map", map, script, ...args]).finish();
  const [tcp, ...others] = await Promise.all([
    bare("127.0.0.1", `${server.port}`),
    bare("-u", "127.0.0.1"),
    bare("-s"),
  ]);
  assertEquals([tcp.code, tcp.stdout], [0, OURS]);
  for (const { code, stdout, stderr } of others) {
    assertEquals([code, stdout], [1, ""]);
    assertMatch(stderr, /^daytime: .*--unstable-net.*\n$/);
  }
});

test("daytime runs with the permissions of its first line alone, and its process ends with the answer", async () => {
  const [first] = (await Deno.readTextFile(new URL("daytime.ts", ROOT))).split("\n", 1);
  assertMatch(first, /^#!\/usr\/bin\/env -S deno run .*--unstable-net/);
  assertNotMatch(first, /-A|--allow-all|--allow-(read|write|run|env|ffi)/);
  const flags = first.split("deno run ")[1].split(" "), script = new URL("daytime.ts", ROOT).href;
  const bare = (...args: (string | number)[]) =>
    new Running(Deno.execPath(), ["run", "--no-prompt", ...flags, script, ...args.map(String)], { cwd: ROOT });
  await using server = bare("-s", "-p", 0);
  const port = Number((await server.until(/listening on udp:\S+:(\d+)/))[1]), started = performance.now();
  for (const args of [["localhost", port], ["-u", "localhost", port]]) {
    const { code, stdout, stderr } = await bare("-w", 60, ...args).finish();
    assertEquals([code, stderr], [0, ""]);
    assertMatch(stdout, LINE);
  }
  assertLess(performance.now() - started, 30_000); // not when the 60 s are over
});

test({
  name: "daytime is interrupted with status 130, and says nothing more",
  ignore: WINDOWS,
  async fn() {
    for (const udp of [[], ["-u"]]) {
      const asked = Promise.withResolvers<void>();
      await using silent = udp.length
        ? udpServer(() => void asked.resolve())
        : tcpServer((conn) => (asked.resolve(), conn.read(new Uint8Array(1))));
      await using client = start("daytime", [...udp, "127.0.0.1", `${silent.port}`]);
      await asked.promise;
      client.kill("SIGINT");
      const { code, stdout, stderr } = await client.finish();
      assertEquals([code, stdout, stderr], [130, "", ""]);
    }
  },
});

test({
  name: "daytime says when its output cannot be written",
  ignore: !LINUX,
  async fn() {
    await using server = says(OURS);
    const script = new URL("daytime.ts", ROOT).href;
    for (const flag of ["-4", "--json"]) {
      const command = `"${Deno.execPath()}" run -A "${script}" ${flag} 127.0.0.1 ${server.port} > /dev/full`;
      const { code, stderr } = await new Running("sh", ["-c", command], { cwd: ROOT }).finish();
      assertEquals(code, 23);
      assertMatch(stderr, /^daytime: cannot write the output: no space left on device\n$/);
    }
  },
});

test({
  name: "daytime on a real terminal escapes what could drive it, and adds the line for people",
  ignore: WINDOWS || missing("python3"),
  async fn() {
    await using server = says("\x1b[31m12 o'clock\x07\r\n");
    const script = new URL("daytime.ts", ROOT).href;
    const command = [Deno.execPath(), "run", "-A", script, "127.0.0.1", `${server.port}`];
    const python = `import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(${JSON.stringify(command)})))`;
    const { code, stdout } = await new Running("python3", ["-c", python], { cwd: ROOT }).finish();
    assertEquals(code, 0);
    assertMatch(stdout, /\\x1b\[31m12 o'clock\\x07\r\nnot to be compared .*; round trip [\d.]+ ms\r\n/);
  },
});

// --- beside the tools of the field

test({
  name: "nc reads our server, over TCP with and without input, and over UDP",
  ignore: missing("nc"),
  async fn() {
    await using server = serving();
    const nc = (input: string, ...args: string[]) => {
      const running = new Running("nc", [...args, "127.0.0.1", `${server.port}`]);
      return running.type(input).then(() => running);
    };
    await using quiet = await nc(""), talking = await nc("what time is it?\n"), udp = await nc("\n", "-u");
    for (const each of [quiet, talking, udp]) assertMatch((await each.until(/\n/)).input ?? "", LINE);
  },
});

test({
  name: "daytime reads what nc serves",
  ignore: missing("nc"),
  async fn() {
    await using nc = new Running("nc", ["-l", "-v", "-N", "127.0.0.1", "0"]);
    const [, port] = await nc.until(/Listening on \S+ (\d+)/i, "stderr");
    await nc.type(OURS);
    const asking = ask({ ...localhost, port: Number(port) });
    await nc.until(/Connection received/, "stderr");
    await nc.stdin.close();
    assertEquals((await asking)[0].text, OURS.trim());
  },
});

test({
  name: "Python's sockets read our server, and ours read theirs",
  ignore: missing("python3"),
  async fn() {
    await using server = serving();
    const script = `import socket
t = socket.create_connection(("127.0.0.1", ${server.port})); print(t.makefile().read().strip())
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u.sendto(b"", ("127.0.0.1", ${server.port}))
print(u.recv(100).decode().strip())
s = socket.create_server(("127.0.0.1", 0)); v = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
v.bind(("127.0.0.1", 0)); print("ports", s.getsockname()[1], v.getsockname()[1], flush=True)
c, _ = s.accept(); c.sendall(b"tcp from Python"); c.close()
_, a = v.recvfrom(100); v.sendto(b"udp from Python", a)`;
    await using python = new Running("python3", ["-c", script]);
    const [, tcp, udp] = await python.until(/ports (\d+) (\d+)/);
    const [first, second] = python.stdout.split("\n");
    for (const line of [first, second]) assertMatch(`${line}\r\n`, LINE);
    assertEquals((await ask({ ...localhost, port: Number(tcp) }))[0].text, "tcp from Python");
    assertEquals((await ask({ ...localhost, port: Number(udp), udp: true }))[0].text, "udp from Python");
    assertEquals((await python.finish()).code, 0);
  },
});

/** Runs a shell script with a network and a hosts file of its own; `$daytime` is the command. */
async function apart(script: string): Promise<Finished> {
  const daytime = `${Deno.execPath()} run -A ${new URL("daytime.ts", ROOT).href}`;
  const setup = `set -e; ip link set lo up; mount -t tmpfs none /run
    echo "127.0.0.1 localhost time.nist.gov" > /run/hosts; mount --bind /run/hosts /etc/hosts; daytime="${daytime}"
    trap '[ -z "$server" ] || kill $server' EXIT
    ready() { timeout 9 sh -c 'until ss -Hlun | grep -q ":$0 "; do sleep 0.01; done' $1; }`;
  const { NO_COLOR: _, ...env } = Deno.env.toObject();
  return await new Running("unshare", ["-nm", "sh", "-c", `${setup}\n${script}`], { cwd: ROOT, env }).finish();
}

test({
  name: "daytime asks time.nist.gov on port 13 when nothing else is said, over TCP and UDP",
  ignore: confined(),
  async fn() {
    const { code, stdout, stderr } = await apart(`$daytime -s -q -p 13 > /dev/null & server=$!; ready 13
      $daytime --json; $daytime --json -u; $daytime -w 1 localhost daytime`);
    assertEquals([code, stderr], [0, ""]);
    const [tcp, udp, named] = stdout.split("\n");
    for (const [line, transport] of [[tcp, "tcp"], [udp, "udp"]]) {
      const { server, address, port, transport: by, time } = JSON.parse(line) as Answer;
      assertEquals([server, address, port, by], ["time.nist.gov", "127.0.0.1", 13, transport]);
      assert(time);
    }
    assertMatch(`${named}\n`, LINE);
  },
});

test({
  name: "a name in the hosts file is not looked up anywhere else, for the family that is not there neither",
  ignore: confined(),
  async fn() {
    // A DNS server that has an IPv6 address for every name: the question, and one answer that points back to its name.
    const liar = `const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 53 });
      for await (const [query, from] of socket) {
        const end = query.indexOf(0, 12) + 5, six = query[end - 3] === 28;
        const head = [query[0], query[1], 0x81, 0x80, 0, 1, 0, six ? 1 : 0, 0, 0, 0, 0];
        const answer = [0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 9, 0, 16, ...new Uint8Array(15), 1];
        await socket.send(new Uint8Array([...head, ...query.subarray(12, end), ...six ? answer : []]), from);
      }`;
    const { code, stdout, stderr } = await apart(`echo nameserver 127.0.0.1 > /run/resolv
      mount --bind /run/resolv "$(readlink -f /etc/resolv.conf)"
      ${Deno.execPath()} eval --unstable-net '${liar}' & server=$!; ready 53
      for name in other.test time.nist.gov; do $daytime -v -w 1 $name 1 2>&1 | grep resolved; done`);
    assertEquals([code, stderr], [0, ""]);
    assertMatch(stdout, /resolved other\.test to ::1\n.*resolved time\.nist\.gov to 127\.0\.0\.1\n$/);
  },
});

test({
  name: "daytime says at once that there is no way to the server, over UDP too",
  ignore: confined(),
  async fn() {
    const { stdout, stderr } = await apart(`for flag in -4 -u; do $daytime $flag 192.0.2.1 || echo $?; done`);
    assertEquals(stdout, "7\n7\n");
    assertEquals(
      stderr,
      `daytime: cannot connect to 192.0.2.1:13: network is unreachable
daytime: cannot ask 192.0.2.1:13: network is unreachable
`,
    );
  },
});

test({
  name: "daytime reads inetd's own daytime, which says no zone, over TCP and UDP",
  ignore: confined() || missing("inetd"),
  async fn() {
    // Over UDP inetd answers nobody on loopback.
    const { code, stdout, stderr } = await apart(`${network("192.0.2.13/24")}
      echo '192.0.2.13:daytime stream tcp nowait root internal' > /run/inetd.conf
      echo '192.0.2.13:daytime dgram udp wait root internal' >> /run/inetd.conf
      inetd -i /run/inetd.conf & server=$!; ready 13
      $daytime --json 192.0.2.13; $daytime --json -u 192.0.2.13`);
    assertEquals([code, stderr], [0, ""]);
    const lines = stdout.trim().split("\n");
    assertEquals(lines.length, 2);
    for (const line of lines) {
      const { text, time, offsetMs, nist, roundTripMs } = JSON.parse(line) as Answer;
      assertMatch(text, /^[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \d{4}$/);
      assertEquals([time, offsetMs, nist], [null, null, null]);
      assertGreater(roundTripMs, 0);
    }
  },
});
