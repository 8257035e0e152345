/** The cases of check.ts for servers: echo (RFC 862) and daytime (RFC 867). */
import { Buffer } from "node:buffer";
import { once } from "node:events";
import { connect } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { formatAddress, reason, writeAll } from "../utils.ts";
import { cases, Fault, type Program, show, within } from "./check_program.ts";

const PARTS = "The script, part by part";
const FAIL = "Ten lines, and how they fail";

/** So many bytes that are not the same where anybody's buffer ends. */
function pattern(length: number): string {
  const lines = Array.from({ length: 251 }, (_, i) => `line ${i}\n`).join("");
  return lines.repeat(length / lines.length + 1).slice(0, length);
}

/** Says how what came differs from what should have come. */
function difference(came: string, expected: string): string {
  if (came === expected) return "all of it";
  if (came === "") return "nothing";
  if (came.length < 40) return show(came);
  if (!expected.startsWith(came)) return `${came.length} bytes, not the same`;
  return `the first ${came.length} bytes of it`;
}

/** Reads so many bytes, or to the end; says how it ended if it did. */
async function receive(conn: Deno.Conn, most: number, toEnd: boolean) {
  const buffer = Buffer.alloc(most + 1); // room for too much
  let length = 0;
  let ending = "";
  while (!ending && length <= most && (toEnd || length < most)) {
    const reading = conn.read(buffer.subarray(length)).catch(reason);
    const count = await within(reading);
    if (typeof count === "number") length += count;
    else if (count === undefined) ending = ", then nothing for 2 s";
    else ending = `, then ${count ?? "a FIN"}`;
  }
  return { came: buffer.toString("latin1", 0, length), ending };
}

/** How an exchange differs: its `pause` is before it reads. */
interface Exchange {
  who?: string;
  toEnd?: boolean; // half-close, and wait for a FIN
  pause?: number; // milliseconds
}

/** Sends bytes, and reads them back. */
async function exchange(
  connecting: Deno.TcpConn | Promise<Deno.TcpConn>,
  text: string,
  { who = "", toEnd = false, pause = 0 }: Exchange = {},
): Promise<void> {
  const conn = await connecting;
  const send = async () => {
    await writeAll(conn, Buffer.from(text, "latin1"));
    if (toEnd) await conn.closeWrite();
  };
  send().catch(() => {}); // the reader sees what became of it
  await delay(pause);
  const { came, ending } = await receive(conn, text.length, toEnd);
  const fin = toEnd ? ", then a FIN" : "";
  if (came === text && ending === fin) return;
  const what = difference(came, text) + ending;
  throw new Fault(show(text) + fin + who, what, show(text) + fin);
}

/** Has a new client exchange a text. */
function echoes(text: string, how: Exchange = {}) {
  return (server: Program) => exchange(server.connect(), text, how);
}

const serves = echoes("next\r\n", { who: " by the next client" });

/** Is a client that may say something, and resets its connection. */
async function reset(server: Program, text = ""): Promise<void> {
  await server.start();
  const socket = connect(server.port, server.hostname);
  socket.on("error", () => {}); // the next client will tell
  await within(once(socket, "connect"));
  if (text) socket.write(text);
  if (text) await within(once(socket, "data"), 300);
  socket.resetAndDestroy();
  await delay(100);
}

/** The same before the server accepts it: that is stopped meanwhile. */
async function resetEarly(server: Program): Promise<void> {
  await server.start();
  server.signal("SIGSTOP");
  await reset(server);
  server.signal("SIGCONT");
}

/** What an echo server over TCP has to do. */
export const ECHO_TCP = [
  ...cases("RFC 862", "echo_tcp: By hand", {
    "line: a line comes back": echoes("hello\r\n"),
    "every-byte: bytes 0 to 255 come back": echoes(
      String.fromCharCode(...Array(256).keys()),
    ),
    "single-bytes: each comes back before the next": async (server) => {
      const conn = await server.connect();
      for (const byte of "one by one") await exchange(conn, byte);
    },
    "half-close: after a FIN all comes back, then a FIN": echoes(
      pattern(1e5),
      { toEnd: true },
    ),
  }),
  ...cases("RFC 9293 3.8", `echo_tcp: ${PARTS}`, {
    "megabyte: 1 MB comes back while it is sent": echoes(pattern(1e6)),
    "backpressure: 10 MB come back to a late reader": echoes(
      pattern(1e7),
      { pause: 500, toEnd: true },
    ),
    "deaf-client: one that never reads stops nobody": async (server) => {
      const deaf = await server.connect();
      const writing = writeAll(deaf, Buffer.from(pattern(1e7)));
      await within(writing.catch(() => {}), 500);
      await serves(server);
    },
  }),
  ...cases("RFC 862", `echo_tcp: ${FAIL}`, {
    "two-clients: the second is served beside the first": async (server) => {
      const first = await server.connect();
      await exchange(first, "first\r\n");
      await serves(server);
      await exchange(first, "first\r\n");
    },
    "silent-client: one that says nothing stops nobody": async (server) => {
      await server.connect();
      await serves(server);
    },
    "hundred: a hundred are served side by side": async (server) => {
      const connecting = Array.from({ length: 100 }, () => server.connect());
      const conns = await Promise.all(connecting);
      const who = " by each of 100 clients";
      const all = conns.map((conn) => exchange(conn, "hello\r\n", { who }));
      await Promise.all(all);
    },
  }),
  ...cases("RFC 9293 3.5.2", "echo_tcp: A reset kills it", {
    "reset: one resets in the middle, the next is served": async (server) => {
      await reset(server, "hello\r\n");
      await serves(server);
    },
    "early-reset: one resets before it is accepted": async (server) => {
      await resetEarly(server);
      await serves(server);
    },
  }),
  ...cases("RFC 9293 3.6.1", "echo_tcp: What the system knows", {
    "restart: it can listen on its port again at once": async (server) => {
      if (server.command.length === 0) throw skipped("it needs a command");
      await exchange(server.connect(), "hello\r\n");
      await server.end();
      await serves(server);
    },
  }),
];

function skipped(why: string): Fault {
  return new Fault("", why, "", "skipped");
}

/** Receives a datagram: what it says, and who sent it. */
async function answer(socket: Deno.DatagramConn) {
  const receiving = socket.receive(new Uint8Array(65_535));
  const [data, from] = await within(receiving.catch(() => undefined)) ?? [];
  if (!data) return undefined;
  const text = Buffer.from(data).toString("latin1");
  return { text, from: formatAddress(from as Deno.NetAddr) };
}

/** Sends a datagram, and receives it. Gives who sent it. */
async function ask(server: Program, text: string): Promise<string> {
  const got = await answer(await server.send(text));
  const sent = `a datagram of ${show(text)}`;
  if (!got) throw new Fault(sent, "nothing for 2 s", "the same");
  if (got.text === text) return got.from;
  throw new Fault(sent, difference(got.text, text), "the same");
}

/** Asks a server of this machine at an address. Gives who answers. */
async function askAt(server: Program, hostname: string): Promise<string> {
  const isHere = server.hostname.startsWith("127.");
  if (!isHere) throw skipped("it needs a server on this machine");
  server.hostname = hostname;
  return await ask(server, "hello");
}

/** What an echo server over UDP has to do. */
export const ECHO_UDP = [
  ...cases("RFC 862", "echo_udp: By hand", {
    "datagram: one comes back": (server) => ask(server, "hello"),
    "gone-clients: nobody minds their closed ports": async (server) => {
      for (let i = 0; i < 20; i++) {
        await server.send("hello");
        server.release(); // ICMP will tell the server: port unreachable
      }
      await ask(server, "next");
    },
  }),
  ...cases("RFC 768", `echo_udp: ${FAIL}`, {
    "empty: a datagram without a byte comes back": (server) => ask(server, ""),
    "after-empty: one that follows it comes back": async (server) => {
      await server.send("");
      await ask(server, "next");
    },
    "1501-bytes: one byte more than Ethernet carries": (server) =>
      ask(server, pattern(1501)),
    "8193-bytes: one byte more than a usual buffer": (server) =>
      ask(server, pattern(8193)),
    "65507-bytes: the largest datagram of IPv4": (server) =>
      ask(server, pattern(65_507)),
  }),
  ...cases("RFC 862", "echo_udp: Questions of the lab sheet", {
    "ten-clients: each gets its own datagram": async (server) => {
      const asking = Array.from("0123456789", (name) => ask(server, name));
      await Promise.all(asking);
    },
  }),
  ...cases("RFC 862", "echo_tcp: By hand", {
    "families: IPv4 and IPv6 are answered": async (server) => {
      await askAt(server, "127.0.0.1");
      await askAt(server, "::1");
    },
  }),
  ...cases("RFC 1122 4.1.3.5", `echo_udp: ${PARTS}`, {
    "sender: the port that was asked answers": async (server) => {
      const from = await ask(server, "hello");
      const to = formatAddress(server);
      if (from !== to) throw new Fault(`a datagram to ${to}`, from, to);
    },
    "other-address: the address that was asked answers": async (server) => {
      const from = await askAt(server, "127.0.0.2");
      const to = formatAddress(server);
      const sent = `a datagram to ${to}`;
      if (from !== to) throw new Fault(sent, from, to, "warning");
    },
  }),
  ...cases("CVE-1999-0103", `echo_udp: ${PARTS}`, {
    "low-ports: no answer to port 19, which answers": async (server) => {
      await server.start("udp");
      const asking = server.send("hello", 19);
      const socket = await asking.catch((error) => skipped(reason(error)));
      if (socket instanceof Fault) throw socket;
      if (!await answer(socket)) return;
      const sent = "a datagram from port 19";
      throw new Fault(sent, "an answer", "nothing", "warning");
    },
  }),
];

const IS_LINE = /^[\x20-\x7e]+\r\n$/;
const ONE_LINE = "a line of ASCII and CR LF";

/** Reads a daytime server's line, after saying something, maybe. */
async function line(server: Program, says = ""): Promise<string> {
  const conn = await server.connect();
  await writeAll(conn, Buffer.from(says));
  if (says) await delay(100);
  const { came, ending } = await receive(conn, 512, true);
  if (IS_LINE.test(came) && ending === ", then a FIN") return came;
  throw new Fault(show(says), show(came) + ending, `${ONE_LINE}, then a FIN`);
}

/** What a daytime server has to do. */
export const DAYTIME_SERVER = [
  ...cases("RFC 867", "daytime: By hand", {
    "line: a line of ASCII and CR LF, then a FIN": (server) => line(server),
    "zone: the line says which time zone it means": async (server) => {
      const came = await line(server);
      if (/\d:\d\d.*([A-Z]{3}|[+-]\d\d)/.test(came)) return;
      throw new Fault("", show(came), "17:37:43-PST, say", "warning");
    },
    "udp: an empty datagram is answered by such a line": async (server) => {
      const got = await answer(await server.send(""));
      if (got && IS_LINE.test(got.text)) return;
      const came = got ? show(got.text) : "nothing for 2 s";
      throw new Fault("a datagram without a byte", came, ONE_LINE);
    },
  }),
  ...cases("RFC 867", `daytime: ${PARTS}`, {
    "talker: one that says something gets the line too": (server) =>
      line(server, "what time is it?\r\n"),
    "early-reset: one resets before it is accepted": async (server) => {
      await resetEarly(server);
      await line(server);
    },
  }),
];
