/** The cases of check.ts. To add one: a name, what it asks, a function. */
import { Buffer } from "node:buffer";
import { once } from "node:events";
import { connect } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { formatAddress, reason, writeAll } from "../utils.ts";
import { Fault, type Program, show, within } from "./check_program.ts";

type Examine = (program: Program) => Promise<unknown>; // throws a Fault

/** A case: what is asked of a program, and where that is written. */
export interface Case {
  name: string;
  asks: string;
  rule: string;
  lesson: string; // a page in docs/ and a heading of it
  examine: Examine;
}

/** The cases of a rule, each under `name: what the program has to do`. */
function cases(rule: string, lesson: string, all: Record<string, Examine>) {
  return Object.entries(all).map(([title, examine]): Case => {
    const [name, asks] = title.split(": ");
    return { name, asks, rule, lesson, examine };
  });
}

const FAIL = "Ten lines, and how they fail";
const PARTS = "The script, part by part";
const ELSEWHERE = "this needs a server on this machine";
const NO_COMMAND = "this needs the command of the server";
const BYTES = String.fromCharCode(...Array(256).keys());
const TO_END = { toEnd: true };
const LATE = { toEnd: true, pause: 500 }; // milliseconds

/** So many bytes that are not the same where anybody's buffer ends. */
function pattern(length: number): string {
  const lines = Array.from({ length: 251 }, (_, i) => `line ${i}\n`).join("");
  return lines.repeat(length / lines.length + 1).slice(0, length);
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

/** Sends bytes, and a FIN if it reads to the end; reads after a pause. */
async function exchange(
  conn: Deno.TcpConn,
  text: string,
  { toEnd = false, pause = 0 } = {},
): Promise<void> {
  const send = async () => {
    await writeAll(conn, Buffer.from(text, "latin1"));
    if (toEnd) await conn.closeWrite();
  };
  send().catch(() => {}); // the reader sees what became of it
  await delay(pause);
  const { came, ending } = await receive(conn, text.length, toEnd);
  const fin = toEnd ? ", then a FIN" : "";
  if (came === text && ending === fin) return;
  const isOther = came !== text && came.length === text.length;
  const what = show(came) + (isOther ? ", not the same" : "") + ending;
  throw new Fault(show(text) + fin, what, show(text) + fin);
}

/** Has a new client exchange a text. */
function echoes(text: string, how = {}): Examine {
  return async (server) => await exchange(await server.connect(), text, how);
}

const servesNext = echoes("next\r\n");

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

/** What an echo server over TCP has to do. */
const ECHO_TCP = [
  ...cases("RFC 862", "echo_tcp: By hand", {
    "line: a line comes back": echoes("hello\r\n"),
    "every-byte: bytes 0 to 255 come back": echoes(BYTES),
    "single-bytes: each comes back before the next": async (server) => {
      const conn = await server.connect();
      for (const byte of "one by one") await exchange(conn, byte);
    },
    "half-close: after a FIN all comes back": echoes(pattern(1e5), TO_END),
  }),
  ...cases("RFC 9293 3.8", `echo_tcp: ${PARTS}`, {
    "megabyte: 1 MB comes back while it is sent": echoes(pattern(1e6)),
    "late-reader: 10 MB come back in the end": echoes(pattern(1e7), LATE),
    "deaf-client: one that never reads stops nobody": async (server) => {
      const deaf = await server.connect();
      const writing = writeAll(deaf, Buffer.from(pattern(1e7)));
      await within(writing.catch(() => {}), 500);
      await servesNext(server);
    },
  }),
  ...cases("RFC 862", `echo_tcp: ${FAIL}`, {
    "two-clients: one is served beside another": async (server) => {
      const first = await server.connect();
      await exchange(first, "first\r\n");
      await servesNext(server);
      await exchange(first, "first\r\n");
    },
    "silent-client: one that says nothing stops nobody": async (server) => {
      await server.connect();
      await servesNext(server);
    },
    "hundred: a hundred are served side by side": async (server) => {
      const conns: Deno.TcpConn[] = [];
      while (conns.length < 100) {
        const conn = await server.connect();
        await exchange(conn, "hello\r\n"); // no queue is too short for one
        conns.push(conn);
      }
      await Promise.all(conns.map((conn) => exchange(conn, "again\r\n")));
    },
  }),
  ...cases("RFC 9293 3.5.2", "echo_tcp: A reset kills it", {
    "reset: one resets in the middle": async (server) => {
      await reset(server, "hello\r\n");
      await servesNext(server);
    },
    "early-reset: one resets before it is accepted": async (server) => {
      await server.start();
      server.signal("SIGSTOP");
      await reset(server);
      server.signal("SIGCONT");
      await servesNext(server);
    },
  }),
  ...cases("RFC 9293 3.6.1", "echo_tcp: What the system knows", {
    "restart: it listens on its port again at once": async (server) => {
      if (!server.command[0]) throw new Fault("", NO_COMMAND, "", "skipped");
      await exchange(await server.connect(), "hello\r\n");
      await server.end();
      await servesNext(server);
    },
  }),
];

/** Receives a datagram: what it says, and who sent it. */
async function answer(socket: Deno.DatagramConn) {
  const receiving = socket.receive(new Uint8Array(65_535));
  const [data, from] = await within(receiving.catch(() => undefined)) ?? [];
  const text = data && Buffer.from(data).toString("latin1");
  return { text, from: from && formatAddress(from as Deno.NetAddr) };
}

/** Sends a datagram, maybe to another address, and receives it. */
async function ask(
  server: Program,
  sent: string,
  hostname = server.hostname,
  verdict?: Fault["verdict"], // if another address answers
): Promise<void> {
  const isHere = server.hostname.startsWith("127.");
  if (server.hostname !== hostname && !isHere) {
    throw new Fault("", ELSEWHERE, "", "skipped");
  }
  server.hostname = hostname;
  const { text, from } = await answer(await server.send(sent));
  const what = `a datagram of ${show(sent)}`;
  const to = formatAddress(server);
  if (text === undefined) throw new Fault(what, "nothing for 2 s", "the same");
  if (text !== sent) throw new Fault(what, show(text), "the same");
  if (from !== to) {
    throw new Fault(what, `one from ${from}`, `one from ${to}`, verdict);
  }
}

/** Has a new client exchange a datagram. */
function returns(text: string): Examine {
  return async (server) => await ask(server, text);
}

/** What an echo server over UDP has to do. */
const ECHO_UDP = [
  ...cases("RFC 862", "echo_udp: By hand", {
    "datagram: one comes back": returns("hello"),
    "families: IPv4 and IPv6 are answered": async (server) => {
      await ask(server, "hello", "127.0.0.1");
      await ask(server, "hello", "::1");
    },
    "gone-clients: nobody minds their closed ports": async (server) => {
      for (let i = 0; i < 20; i++) {
        await server.send("hello");
        server.release(); // ICMP will tell the server: port unreachable
      }
      await ask(server, "next");
    },
  }),
  ...cases("RFC 768", `echo_udp: ${FAIL}`, {
    "empty: a datagram without a byte comes back": returns(""),
    "after-empty: so does one that follows it": async (server) => {
      await server.send("");
      await ask(server, "next");
    },
    "1501-bytes: more than Ethernet carries": returns(pattern(1501)),
    "8193-bytes: more than most buffers hold": returns(pattern(8193)),
    "65507-bytes: the largest of IPv4": returns(pattern(65_507)),
  }),
  ...cases("RFC 862", "echo_udp: Questions of the lab sheet", {
    "ten-clients: each gets its own datagram": async (server) => {
      await Promise.all(Array.from("0123456789", (text) => ask(server, text)));
    },
  }),
  ...cases("RFC 1122 4.1.3.5", `echo_udp: ${PARTS}`, {
    "sender: the address that was asked answers": (server) =>
      ask(server, "hello", "127.0.0.2", "warning"),
  }),
  ...cases("CVE-1999-0103", `echo_udp: ${PARTS}`, {
    "low-ports: no answer to port 19, which answers": async (server) => {
      const { text } = await answer(await server.send("hello", 19));
      if (text === undefined) return;
      throw new Fault("from port 19", "an answer", "nothing", "warning");
    },
  }),
];

const LINE = "Tuesday, February 22, 1982 17:37:43-PST"; // RFC 867's own
const IS_LINE = /^[\x20-\x7e]+\r\n$/;

/** Reads a daytime server's line, after saying something. */
async function readLine(server: Program, says = ""): Promise<string> {
  const conn = await server.connect();
  await writeAll(conn, Buffer.from(says));
  if (says) await delay(100);
  const { came, ending } = await receive(conn, 512, true);
  if (IS_LINE.test(came) && ending === ", then a FIN") return came;
  throw new Fault(show(says), show(came) + ending, "a line, CR LF, a FIN");
}

/** What a daytime server has to do. */
const DAYTIME_SERVER = [
  ...cases("RFC 867", "daytime: By hand", {
    "line: a line of ASCII, CR LF, then a FIN": (server) => readLine(server),
    "zone: the line says which time zone it means": async (server) => {
      const line = await readLine(server);
      const hasZone = /\d:\d\d.*([A-Z]{3}|[+-]\d\d)/.test(line);
      if (!hasZone) throw new Fault("", show(line), show(LINE), "warning");
    },
    "udp: an empty datagram is answered by such a line": async (server) => {
      const { text } = await answer(await server.send(""));
      const came = text === undefined ? "nothing for 2 s" : show(text);
      if (!IS_LINE.test(text ?? "")) throw new Fault("", came, show(LINE));
    },
  }),
  ...cases("RFC 867", `daytime: ${PARTS}`, {
    "talker: one that says something gets the line too": (server) =>
      readLine(server, "what time is it?\r\n"),
  }),
];

/** What a server does: it sends a text, or waits so many milliseconds. */
type Script = (string | number)[];
const HOLDS = 6000; // longer than a client may take

/** Runs a client; checks what it prints, or that it fails if nothing. */
async function judge(
  client: Program,
  { addr }: { addr: Deno.Addr },
  script: Script,
  expected?: string,
): Promise<void> {
  const running = client.run((addr as Deno.NetAddr).port);
  await within(Promise.race([running, client.ready.promise]), 5000);
  const result = await within(running, 4500);
  const stdout = Buffer.from(result?.stdout ?? []).toString("latin1");
  const isGood = result?.code === 0 && stdout.includes(expected ?? "");
  if (result && isGood === (expected !== undefined)) return;
  const how = result ? `status ${result.code}` : "no end for 4.5 s";
  const sent = script.filter((step) => typeof step === "string").join("");
  const what = expected === undefined ? "a failure" : show(expected);
  throw new Fault(show(sent), `${show(stdout)}, ${how}`, what);
}

/** Serves a client over TCP, who has to print something, or else to fail. */
function serves(script: Script, expected?: string): Examine {
  return async (client) => {
    const at = { hostname: "127.0.0.1", port: 0 };
    const listener = client.keep(Deno.listen(at));
    const serve = async () => {
      const conn = client.keep(await listener.accept());
      conn.setNoDelay();
      client.ready.resolve();
      const isHttp = `${script[0]}`.startsWith("H");
      if (isHttp) await conn.read(new Uint8Array(65_536)); // the request
      for (const step of script) {
        if (typeof step === "number") await delay(step);
        else await writeAll(conn, Buffer.from(step, "latin1"));
      }
      await conn.closeWrite();
    };
    serve().catch(() => {}); // the client is gone, or the case is over
    await judge(client, listener, script, expected);
  };
}

/** Cuts a text: so many milliseconds pass after each byte. */
function bytewise(text: string, milliseconds: number): Script {
  return [...text].flatMap((byte) => [byte, milliseconds]);
}

const SLOWLY = bytewise(`${LINE}\r\n`, 20);
const ENDLESS = bytewise("x".repeat(5000), 1);

/** What a daytime client over TCP has to do. */
const DAYTIME_TCP = [
  ...cases("RFC 867", "daytime: By hand", {
    "line: it is printed": serves([`${LINE}\r\n`], LINE),
    "late: so it is when it comes after 1.5 s": serves([1500, LINE], LINE),
  }),
  ...cases("RFC 9293 2.2", `daytime: ${FAIL}`, {
    "bytewise: so it is when it comes in bytes": serves(SLOWLY, LINE),
  }),
  ...cases("RFC 867", "daytime: Ours, with the same server", {
    "empty: a FIN and no line is a failure": serves([]),
    "endless: lines without an end are a failure": serves(ENDLESS),
  }),
];

const LOOPBACK = { transport: "udp", hostname: "127.0.0.1", port: 0 } as const;
const FORGED = "Friday, April 1, 1983 00:00:00-UTC";

/** Serves a client over UDP; each question has its script, the last for all. */
function replies(scripts: Script[], expected?: string): Examine {
  return async (client) => {
    const socket = client.keep(Deno.listenDatagram(LOOPBACK));
    const forger = client.keep(Deno.listenDatagram(LOOPBACK));
    const serve = async () => {
      for (let i = 0;; i++) {
        const [, from] = await socket.receive();
        client.ready.resolve();
        for (const step of scripts[i] ?? scripts.at(-1)) {
          const sender = step === FORGED ? forger : socket;
          if (typeof step === "number") await delay(step);
          else await sender.send(Buffer.from(step), from);
        }
      }
    };
    serve().catch(() => {}); // the case is over
    await judge(client, socket, scripts.flat(), expected);
  };
}

const FORGERY = replies([[FORGED, 300, LINE]], LINE);

/** What a daytime client over UDP has to do. */
const DAYTIME_UDP = [
  ...cases("RFC 867", "daytime: By hand", {
    "line: it is printed": replies([[LINE]], LINE),
    "late: so it is when it comes after 1.5 s": replies([[1500, LINE]], LINE),
    "empty: an empty answer is a failure": replies([[""]]),
  }),
  ...cases("RFC 768", "daytime: The datagram that gets lost", {
    "lost: one that is not answered asks again": replies([[], [LINE]], LINE),
  }),
  ...cases("RFC 768", `echo_udp: ${PARTS}`, {
    "forged: a line from another port is not believed": FORGERY,
  }),
];

const OK = "HTTP/1.1 200 OK\r\n";
const TEXT = "Hello, world!\n";
const PAGE = "This is a line of the page.\n".repeat(37_450);
const PNG = atob( // one pixel
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEA" +
    "sTj2FAAAAABJRU5ErkJggg==",
);
const CHUNKED = `${OK}Transfer-Encoding: chunked\r\n\r\n`;
const CHUNKS = "7\r\nHello, \r\n7;a=b\r\nworld!\n\r\n0\r\nA: b\r\n\r\n";
const HINTS = "HTTP/1.1 103 Early Hints\r\n\r\n";
const NOT_MODIFIED = "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n";

/** An answer that says the length of its body. */
function sized(body: string, length = body.length, name = "Content-Length") {
  return `${OK}${name}: ${length}\r\n\r\n${body}`;
}

const CASE = sized(TEXT, TEXT.length, "cOnTeNt-LeNgTh");

/** What an HTTP client has to do. */
const HTTP_GET = [
  ...cases("RFC 9112 6.3", "http_get: Where a body ends", {
    "length: its length ends a body": serves([sized(TEXT), HOLDS], TEXT),
    "close: without one the close does": serves([`${OK}\r\n`, 50, TEXT], TEXT),
    "chunked: cut at each byte": serves(bytewise(CHUNKED + CHUNKS, 2), TEXT),
    "no-content: 204 has no body": serves(["HTTP/1.1 204 OK\r\n\r\n"], ""),
    "not-modified: nor has 304": serves([NOT_MODIFIED], ""),
    "interim: 103 comes first": serves([HINTS + sized(TEXT)], TEXT),
  }),
  ...cases("RFC 9112 8", "http_get: Ours", {
    "cut-length: half a body is a failure": serves([sized(TEXT, 99)]),
    "cut-chunk: half a chunk is a failure": serves([`${CHUNKED}99\r\n${TEXT}`]),
  }),
  ...cases("RFC 9110 5.1", "http_get: By hand", {
    "any-case: a header's name has no case": serves([CASE, HOLDS], TEXT),
  }),
  ...cases("RFC 9112 2.2", `http_get: ${FAIL}`, {
    "megabyte: a page of 1 MB": serves([sized(PAGE)], PAGE),
    "png: bytes, not text": serves([sized(PNG)], PNG),
  }),
];

/** What can be examined. */
export const EXAMS: Record<string, Case[]> = {
  ...{ echo_tcp: ECHO_TCP, echo_udp: ECHO_UDP, daytime: DAYTIME_SERVER },
  ...{ "daytime client": DAYTIME_TCP, "daytime client over UDP": DAYTIME_UDP },
  http_get: HTTP_GET,
};
