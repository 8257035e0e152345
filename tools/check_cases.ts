/**
 * The cases of check.ts, a table for each exam. A row is `name: what is asked`
 * and a function; a heading is `rule: lesson`, a page in docs/ with a heading.
 */
import { Buffer } from "node:buffer";
import { once } from "node:events";
import { connect } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { formatAddress, reason, writeAll } from "../utils.ts";
import { type Conn, Fault, type Kind, type Program } from "./check_program.ts";
import { LOOPBACK, show, UdpConn, within } from "./check_program.ts";

type Examine = (program: Program) => Promise<unknown>; // throws a Fault

/** A case: what is asked of a program, and where that is written. */
export interface Case {
  kind: Kind;
  name: string;
  asks: string;
  rule: string;
  lesson: string;
  examine: Examine;
}

/** What can be examined. */
export const EXAMS: Record<string, Case[]> = {};

/** Reads a table of cases. */
function cases(kind: Kind, table: Record<string, Examine | null>): Case[] {
  let heading = {} as Pick<Case, "rule" | "lesson">;
  return Object.entries(table).flatMap(([title, examine]) => {
    const [, name, asks] = title.match(/^(.*?): (.*)$/)!;
    if (examine) return [{ kind, name, asks, ...heading, examine }];
    heading = { rule: name, lesson: asks };
    return [];
  });
}

/** So many bytes that are not the same where anybody's buffer ends. */
function pattern(length: number): string {
  const lines = Array.from({ length: 251 }, (_, i) => `line ${i}\n`).join("");
  return lines.repeat(length / lines.length + 1).slice(0, length);
}

const BYTES = String.fromCharCode(...Array(256).keys());
const FIN = ", then a FIN";
const TO_END = { end: FIN };
const LATE = { end: FIN, pause: 500 }; // milliseconds

/** Sends a text. An empty one is a datagram, which writeAll passes over. */
async function send(conn: Conn, text: string): Promise<void> {
  if (text === "") await conn.write(new Uint8Array());
  await writeAll(conn, Buffer.from(text, "latin1"));
}

/** Receives so many bytes, or a datagram; says how the stream ended. */
async function receive(conn: Conn, most: number) {
  const buffer = Buffer.alloc(most + 512); // room for too much
  let length = 0;
  let ending = "";
  const isUdp = conn instanceof UdpConn; // then one datagram is all
  do {
    const reading = conn.read(buffer.subarray(length)).catch(reason);
    const count = await within(reading);
    if (typeof count === "number") length += count;
    else if (count === undefined) ending = ", then nothing for 2 s";
    else ending = count ? `, then ${count}` : FIN;
  } while (!isUdp && !ending && length < most);
  return { came: buffer.toString("latin1", 0, length), ending };
}

/** Sends bytes, and a FIN if one is to come back; reads after a pause. */
async function exchange(
  conn: Conn,
  text: string,
  { end = "", pause = 0, verdict = "FAILED" as Fault["verdict"] } = {},
): Promise<void> {
  const server = formatAddress(conn.remoteAddr as Deno.NetAddr);
  const sending = send(conn, text).then(() => end ? conn.closeWrite() : null);
  sending.catch(() => {}); // the reader sees what became of it
  await delay(pause);
  const { came, ending } = await receive(conn, text.length + end.length);
  const from = formatAddress(conn.remoteAddr as Deno.NetAddr);
  if (came === text && ending === end && from === server) return;
  const isOther = came !== text && came.length === text.length;
  const what = show(came) + (isOther ? ", not the same" : "") + ending;
  const whence = from === server ? "" : `, from ${from}`;
  throw new Fault(show(text) + end, what + whence, show(text) + end, verdict);
}

/** One more client, which has to get back what it sends. */
function echoes(text: string, how = {}): Examine {
  return async (server) => await exchange(await server.connect(), text, how);
}

const servesNext = echoes("next\r\n");

/** Has a case skipped that needs more than a server which runs already. */
function needsCommand({ command }: Program): void {
  if (command.length > 0) return;
  throw new Fault("", "none", "a command that starts the server", "skipped");
}

/** A client that is served before and after others, who stay as it does. */
function servesBeside(others: number): Examine {
  return async (server) => {
    const first = await server.connect();
    await exchange(first, "first\r\n");
    for (let i = 0; i < others; i++) await servesNext(server);
    await exchange(first, "first\r\n");
  };
}

/** A client that says something, and resets; then the next one. */
async function reset(server: Program, says = ""): Promise<void> {
  const socket = connect(server.port, server.hostname);
  socket.on("error", () => {}); // the next client will tell
  socket.write(says);
  await within(once(socket, "data"), 300);
  socket.resetAndDestroy();
  await delay(100);
  server.signal("SIGCONT"); // if it was stopped
  await servesNext(server);
}

EXAMS.echo_tcp = cases("tcp server", {
  "RFC 862: echo_tcp: By hand": null,
  "line: a line comes back": echoes("hello\r\n"),
  "every-byte: bytes 0 to 255 come back": echoes(BYTES),
  "single-bytes: each comes back before the next": async (server) => {
    const conn = await server.connect();
    for (const byte of "one by one") await exchange(conn, byte);
  },
  "half-close: after a FIN all comes back": echoes(pattern(1e5), TO_END),
  "RFC 9293 3.8: echo_tcp: The script, part by part": null,
  "megabyte: 1 MB comes back while it is sent": echoes(pattern(1e6)),
  "late-reader: 10 MB come back in the end": echoes(pattern(1e7), LATE),
  "deaf-client: one that never reads stops nobody": async (server) => {
    const deaf = await server.connect();
    await within(send(deaf, pattern(1e7)).catch(() => {}), 500);
    await servesNext(server);
  },
  "RFC 862: echo_tcp: Ten lines, and how they fail": null,
  "two-clients: one is served beside another": servesBeside(1),
  "silent-client: one that says nothing stops nobody": async (server) => {
    await server.connect();
    await servesNext(server);
  },
  "hundred: a hundred are served side by side": servesBeside(99),
  "RFC 9293 3.5.2: echo_tcp: A reset kills it": null,
  "reset: one resets in the middle": (server) => reset(server, "hello\r\n"),
  "early-reset: one resets before it is accepted": async (server) => {
    server.signal("SIGSTOP");
    await reset(server);
  },
  "RFC 9293 3.6.1: echo_tcp: What the system knows": null,
  "restart: it listens on its port again at once": async (server) => {
    needsCommand(server);
    await servesNext(server);
    await server.end();
    await server.start();
    await servesNext(server);
  },
});

/** A client of another address of a server on this machine. */
async function askAt(server: Program, hostname: string, how = {}) {
  needsCommand(server);
  server.hostname = hostname;
  await exchange(await server.connect(), "hello", how);
}

EXAMS.echo_udp = cases("udp server", {
  "RFC 862: echo_udp: By hand": null,
  "datagram: one comes back": echoes("hello"),
  "families: IPv4 and IPv6 are answered": async (server) => {
    await askAt(server, "127.0.0.1");
    await askAt(server, "::1");
  },
  "gone-clients: nobody minds their closed ports": async (server) => {
    for (let i = 0; i < 20; i++) {
      await send(await server.connect(), "hello");
      server.release(); // ICMP will tell the server: port unreachable
    }
    await servesNext(server);
  },
  "RFC 768: echo_udp: Ten lines, and how they fail": null,
  "empty: a datagram without a byte comes back": echoes(""),
  "after-empty: so does one that follows it": async (server) => {
    await send(await server.connect(), "");
    await servesNext(server);
  },
  "1501-bytes: more than Ethernet carries": echoes(pattern(1501)),
  "8193-bytes: more than most buffers hold": echoes(pattern(8193)),
  "65507-bytes: the largest of IPv4": echoes(pattern(65_507)),
  "RFC 862: echo_udp: Questions of the lab sheet": null,
  "ten-clients: each gets its own datagram": (server) =>
    Promise.all(Array.from("0123456789", (text) => echoes(text)(server))),
  "RFC 1122 4.1.3.5: echo_udp: The script, part by part": null,
  "sender: the address that was asked answers": (server) =>
    askAt(server, "127.0.0.2", { verdict: "warning" }),
  "CVE-1999-0103: echo_udp: The script, part by part": null,
  "low-ports: no answer to port 19, which answers": async (server) => {
    const conn = await server.connect(19);
    await send(conn, "hello");
    const { came } = await receive(conn, 1);
    if (came) throw new Fault("", show(came), "nothing", "warning");
  },
});

const LINE = "Tuesday, February 22, 1982 17:37:43-PST"; // RFC 867's own

/** Reads a daytime server's line. Over UDP, an empty datagram asks for it. */
async function readLine(server: Program): Promise<string> {
  const conn = await server.connect();
  const isUdp = server.kind === "udp server";
  if (isUdp) await send(conn, "");
  const { came, ending } = await receive(conn, 512);
  const isLine = /^[\x20-\x7e]+\r\n$/.test(came);
  if (isLine && (isUdp || ending === FIN)) return came;
  throw new Fault("", show(came) + ending, "a line, CR LF, a FIN");
}

EXAMS.daytime = [
  ...cases("tcp server", {
    "RFC 867: daytime: By hand": null,
    "line: a line of ASCII, CR LF, then a FIN": readLine,
    "zone: the line says which time zone it means": async (server) => {
      const line = await readLine(server);
      const hasZone = /\d:\d\d.*([A-Z]{3}|[+-]\d\d)/.test(line);
      if (!hasZone) throw new Fault("", show(line), show(LINE), "warning");
    },
  }),
  ...cases("udp server", {
    "RFC 867: daytime: By hand": null,
    "udp: an empty datagram is answered by such a line": readLine,
  }),
];

const ASKED = Symbol("the client asks");
const FORGED = "Friday, April 1, 1983 00:00:00-UTC"; // another sends this
const HOLDS = 6000; // milliseconds, longer than a client may take

/** What our server does: it sends a text, waits (milliseconds), or hears. */
type Script = (string | number | typeof ASKED)[];

async function play(script: Script, client: Program, conn: Conn) {
  const forger = () => client.keep(new UdpConn(LOOPBACK, conn.remoteAddr));
  if ("setNoDelay" in conn) conn.setNoDelay();
  for (const step of script) {
    if (step === ASKED) await conn.read(new Uint8Array(65_536));
    else if (typeof step === "number") await delay(step);
    else await send(step === FORGED ? forger() : conn, step);
  }
  await conn.closeWrite();
}

/** Answers a client, which has to print something, or else to fail. */
function answers(script: Script, expected?: string): Examine {
  return async (client) => {
    const { port, accept } = client.listen();
    const running = client.run(port);
    const playing = accept().then((conn) => play(script, client, conn));
    playing.catch(() => {}); // the client is gone, or the case is over
    const result = await within(running, 4000);
    const stdout = Buffer.from(result?.stdout ?? "").toString("latin1");
    const isGood = result?.code === 0 && stdout.includes(expected ?? "");
    if (result && isGood === (expected !== undefined)) return;
    const how = result ? `status ${result.code}` : "no end for 4 s";
    const sent = script.filter((step) => typeof step === "string").join("");
    const what = expected === undefined ? "a failure" : show(expected);
    throw new Fault(show(sent), `${show(stdout)}, ${how}`, what);
  };
}

/** The same for a client that asks first. */
function asked(script: Script, expected?: string): Examine {
  return answers([ASKED, ...script], expected);
}

/** Cuts a text: so many milliseconds pass after each byte. */
function bytewise(text: string, milliseconds: number): Script {
  return [...text].flatMap((byte) => [byte, milliseconds]);
}

const SLOWLY = bytewise(`${LINE}\r\n`, 20);
const ENDLESS = bytewise("x".repeat(5000), 1);

EXAMS["daytime client"] = cases("tcp client", {
  "RFC 867: daytime: By hand": null,
  "line: it is printed": answers([`${LINE}\r\n`], LINE),
  "late: so it is when it comes after 1.5 s": answers([1500, LINE], LINE),
  "RFC 9293 2.2: daytime: Ten lines, and how they fail": null,
  "bytewise: so it is when it comes in bytes": answers(SLOWLY, LINE),
  "RFC 867: daytime: Ours, with the same server": null,
  "empty: a FIN and no line is a failure": answers([]),
  "endless: a line without an end is a failure": answers(ENDLESS),
});

EXAMS["daytime client over UDP"] = cases("udp client", {
  "RFC 867: daytime: By hand": null,
  "line: it is printed": asked([LINE], LINE),
  "late: so it is when it comes after 1.5 s": asked([1500, LINE], LINE),
  "empty: an empty answer is a failure": asked([""]),
  "RFC 768: daytime: The datagram that gets lost": null,
  "lost: one that is not answered asks again": asked([ASKED, LINE], LINE),
  "RFC 768: echo_udp: The script, part by part": null,
  "forged: another's line is not believed": asked([FORGED, 300, LINE], LINE),
});

const OK = "HTTP/1.1 200 OK\r\n";
const TEXT = "Hello, world!\n";
const PAGE = pattern(1e6);
const PNG = "\x89PNG\r\n\x1a\n\0\0\0\rIHDR"; // how each of them begins
const CHUNKED = `${OK}Transfer-Encoding: chunked\r\n\r\n`;
const CHUNKS = "7\r\nHello, \r\n7;a=b\r\nworld!\n\r\n0\r\nA: b\r\n\r\n";
const HINTS = "HTTP/1.1 103 Early Hints\r\n\r\n";
const NOT_MODIFIED = "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n";

/** An answer that says the length of its body. */
function sized(body: string, length = body.length, name = "Content-Length") {
  return `${OK}${name}: ${length}\r\n\r\n${body}`;
}

const CASE = sized(TEXT, TEXT.length, "cOnTeNt-LeNgTh");

EXAMS.http_get = cases("tcp client", {
  "RFC 9112 6.3: http_get: Where a body ends": null,
  "length: its length ends a body": asked([sized(TEXT), HOLDS], TEXT),
  "close: without one the close does": asked([`${OK}\r\n`, 50, TEXT], TEXT),
  "chunked: cut at each byte": asked(bytewise(CHUNKED + CHUNKS, 2), TEXT),
  "no-content: 204 has no body": asked(["HTTP/1.1 204 OK\r\n\r\n"], ""),
  "not-modified: nor has 304": asked([NOT_MODIFIED], ""),
  "interim: 103 comes first": asked([HINTS + sized(TEXT)], TEXT),
  "RFC 9112 8: http_get: Ours": null,
  "cut-length: half a body is a failure": asked([sized(TEXT, 99)]),
  "cut-chunk: half a chunk is a failure": asked([`${CHUNKED}99\r\n${TEXT}`]),
  "RFC 9110 5.1: http_get: By hand": null,
  "any-case: a header's name has no case": asked([CASE, HOLDS], TEXT),
  "RFC 9112 2.2: http_get: Ten lines, and how they fail": null,
  "megabyte: a page of 1 MB": asked([sized(PAGE)], PAGE),
  "png: bytes, not text": asked([sized(PNG)], PNG),
});
