/** The cases of check.ts for clients: daytime (RFC 867), HTTP (RFC 9112). */
import { Buffer } from "node:buffer";
import { setTimeout as delay } from "node:timers/promises";
import { writeAll } from "../utils.ts";
import { cases, Fault, type Program, show, within } from "./check_program.ts";

const LINE = "Tuesday, February 22, 1982 17:37:43-PST"; // RFC 867's own
const FAIL = "Ten lines, and how they fail";
const LOST = "daytime: The datagram that gets lost";
const ENDS = "http_get: Where a body ends";

/** Runs a client; checks what it prints or, for undefined, that it fails. */
async function judge(
  client: Program,
  { addr }: { addr: Deno.Addr },
  sent: string,
  expected?: string,
): Promise<void> {
  const result = await within(client.run((addr as Deno.NetAddr).port), 4500);
  const stdout = Buffer.from(result?.stdout ?? "").toString("latin1");
  const isGood = result?.code === 0 && stdout.includes(expected ?? "");
  if (result && isGood === (expected !== undefined)) return;
  const how = result ? `status ${result.code}` : "no end within 4.5 s";
  const what = expected === undefined ? "not status 0" : show(expected);
  throw new Fault(sent, `${show(stdout)}, ${how}`, what);
}

/** Serves a client over TCP: sends pieces, each followed by a pause. */
function gets(
  pieces: string[],
  expected?: string,
  { pause = 20, stays = false, isEndless = false } = {},
) {
  return async (client: Program) => {
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    client.keep(listener);
    const serve = async () => {
      for await (const conn of listener) {
        client.keep(conn).setNoDelay();
        const isHttp = pieces[0].startsWith("H");
        if (isHttp) await conn.read(new Uint8Array(65_536)); // the request
        do {
          for (const piece of pieces) {
            await writeAll(conn, Buffer.from(piece, "latin1"));
            await delay(pause);
          }
        } while (isEndless);
        if (!stays) await conn.closeWrite();
      }
    };
    serve().catch(() => {}); // the client is gone, or the case is over
    await judge(client, listener, show(pieces.join("")), expected);
  };
}

type Socket = Deno.DatagramConn;
const LOOPBACK = { transport: "udp", hostname: "127.0.0.1", port: 0 } as const;

/** Answers each question of a client over UDP: the first one is number 1. */
function hears(
  sent: string,
  reply: (socket: Socket, to: Deno.Addr, number: number) => Promise<unknown>,
  expected?: string,
) {
  return async (client: Program) => {
    const socket = client.keep(Deno.listenDatagram(LOOPBACK));
    const serve = async () => {
      for (let number = 1;; number++) {
        const [, from] = await socket.receive();
        await reply(socket, from, number);
      }
    };
    serve().catch(() => {}); // the case is over
    await judge(client, socket, sent, expected);
  };
}

const ANSWER = Buffer.from(`${LINE}\r\n`);

/** What a daytime client over TCP has to do. */
export const DAYTIME_TCP = [
  ...cases("RFC 867", "daytime: By hand", {
    "line: the line is printed": gets([`${LINE}\r\n`], LINE),
    "late: a line that comes after 1.5 s": gets(["", `${LINE}\r\n`], LINE, {
      pause: 1500,
    }),
  }),
  ...cases("RFC 9293 2.2", `daytime: ${FAIL}`, {
    "bytes: a line that comes byte by byte": gets([...LINE, "\r\n"], LINE),
    "empty: the server closes at once, and that is a failure": gets([""]),
    "endless: lines without an end are a failure": gets(
      [`${LINE}\r\n`.repeat(20)],
      undefined,
      { isEndless: true },
    ),
  }),
];

/** What a daytime client over UDP has to do. */
export const DAYTIME_UDP = [
  ...cases("RFC 867", "daytime: By hand", {
    "line: the line is printed": hears("the line", async (socket, to) => {
      await socket.send(ANSWER, to);
    }, LINE),
    "empty: an empty answer is a failure": hears(
      "an empty datagram",
      (socket, to) => socket.send(Buffer.of(), to),
    ),
  }),
  ...cases("RFC 768", LOST, {
    "late: an answer that comes after 1.2 s": hears(
      "the line after 1.2 s",
      (socket, to) => delay(1200).then(() => socket.send(ANSWER, to)),
      LINE,
    ),
    "lost: the first question is lost, the second answered": hears(
      "the line, to the second question",
      async (socket, to, number) => {
        if (number > 1) await socket.send(ANSWER, to);
      },
      LINE,
    ),
  }),
  ...cases("RFC 1122 4.1.3.5", "daytime: The script, part by part", {
    "forged: a line from another port is not believed": hears(
      "another line from another port, then the line",
      async (socket, to) => {
        const other = Deno.listenDatagram(LOOPBACK);
        await other.send(Buffer.from("Friday, April 1, 1983 00:00:00-UTC"), to);
        other.close();
        await delay(300);
        await socket.send(ANSWER, to);
      },
      LINE,
    ),
  }),
];

const OK = "HTTP/1.1 200 OK\r\n";
const TEXT = "Hello, world!\n";
const PAGE = "This is a line of the page.\n".repeat(37_450);
const PNG = Buffer.from(
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEA" +
    "sTj2FAAAAABJRU5ErkJggg==",
  "base64",
).toString("latin1");
const CHUNKS = "7\r\nHello, \r\n7;x=y\r\nworld!\n\r\n0\r\nX: y\r\n\r\n";
const CHUNKED = "Transfer-Encoding: chunked\r\n\r\n";

/** An answer with its length. */
function sized(body: string, header = OK): string {
  return `${header}Content-Length: ${body.length}\r\n\r\n${body}`;
}

/** What an HTTP client has to do. */
export const HTTP_GET = [
  ...cases("RFC 9112 6.3", ENDS, {
    "length: Content-Length ends it, nothing is closed": gets(
      [sized(TEXT)],
      TEXT,
      { stays: true },
    ),
    "close: without a length the close ends it": gets(
      [`${OK}\r\nHello, `, "world!\n"],
      TEXT,
    ),
    "chunked: chunks that are cut at every byte": gets(
      [..."" + OK + CHUNKED + CHUNKS],
      TEXT,
      { pause: 2 },
    ),
    "no-content: 204 has no body": gets(
      ["HTTP/1.1 204 No Content\r\n\r\n"],
      "",
    ),
    "not-modified: 304 has no body, though it has a length": gets(
      ["HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"],
      "",
    ),
  }),
  ...cases("RFC 9110 15.2", ENDS, {
    "interim: 103 comes before the answer": gets(
      [`HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n${sized(TEXT)}`],
      TEXT,
    ),
  }),
  ...cases("RFC 9112 8", "http_get: Ours", {
    "cut-length: a body cut off is a failure": gets(
      [`${OK}Content-Length: 99\r\n\r\n${TEXT}`],
    ),
    "cut-chunk: a chunk cut off is a failure": gets(
      [`${OK}${CHUNKED}ff\r\n${TEXT}`],
    ),
  }),
  ...cases("RFC 9110 5.1", "http_get: By hand", {
    "any-case: names of headers have no case": gets(
      [`${OK}cOnTeNt-LeNgTh: 14\r\n\r\n${TEXT}`],
      TEXT,
      { stays: true },
    ),
  }),
  ...cases("RFC 9112 2.2", `http_get: ${FAIL}`, {
    "megabyte: a page of 1 MB": gets([sized(PAGE)], PAGE),
    "png: bytes, not text": gets([sized(PNG)], PNG),
  }),
];
