import fc from "npm:fast-check@^4";
import {
  assert,
  assertEquals,
  assertLess,
  assertMatch,
  assertRejects,
} from "jsr:@std/assert@^1";
import { type Answer, BufferedWriter, get } from "../http_get.ts";
import type { Head } from "../http_get.ts";
import { Failure } from "../utils.ts";
import { bytes, text } from "./http_servers.ts";
import { test } from "./helpers.ts";

/** A connection from which these pieces are read, and then its end. */
function connection(pieces: Iterable<Uint8Array>) {
  const iterator = pieces[Symbol.iterator]();
  const conn = {
    sent: "",
    received: 0,
    isClosed: false, // its end was waited for
    write(all: Uint8Array) {
      const some = all.subarray(0, 7); // a write may take only some bytes
      conn.sent += text(some);
      return Promise.resolve(some.length);
    },
    read(buffer: Uint8Array) {
      const piece = iterator.next().value;
      conn.isClosed = piece === undefined;
      conn.received += piece?.length ?? 0;
      if (piece) buffer.set(piece);
      return Promise.resolve(piece ? piece.length : null);
    },
  };
  return conn;
}

let writer: BufferedWriter | undefined; // one for all: its buffers are large
let take: (bytes: Uint8Array) => Promise<void>;

/** What `get` makes of an answer that comes in these pieces. */
async function read(pieces: Iterable<Uint8Array>, method = "GET") {
  const result = { body: "", failure: 0, message: "", heads: [] as Head[] };
  const lines: string[] = [];
  take = (bytes) => {
    result.body += text(bytes);
    return Promise.resolve();
  };
  writer ??= new BufferedWriter((bytes) => take(bytes), () => {});
  const answer = {
    writeHead: (head: Head) => Promise.resolve(void result.heads.push(head)),
    writer,
    openBody(_: Head, { why }: { why: string }) {
      lines.push(why);
      return writer;
    },
    log: (line: string) => lines.push(line),
  };
  const conn = connection(pieces);
  try {
    await get(
      conn,
      `${method} / HTTP/1.1\r\n\r\n`,
      answer as unknown as Answer,
    );
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    result.failure = error.status;
    result.message = error.message;
  }
  await writer.end();
  return { ...result, conn, lines };
}

/** Cuts bytes in two at every position, and into single bytes. */
function* cuts(all: Uint8Array): Generator<Uint8Array[]> {
  yield Array.from(all, (_, i) => all.subarray(i, i + 1));
  for (let i = 1; i < all.length; i++) {
    yield [all.subarray(0, i), all.subarray(i)];
  }
}

const OK = "HTTP/1.1 200 OK\r\n";
const CODED = "Transfer-Encoding: chunked\r\n\r\n";
const CHUNKED = `${OK}${CODED}`;

/** An answer, what is its body, and the failure or "close". */
const CASES: Record<string, string> = {
  // RFC 9112 6.3, rule 1
  "expects no body after HEAD, and does not wait":
    "HEAD {ok}Content-Length: 5\r\n\r\n -> |0",
  "expects no chunks after HEAD": "HEAD {chunked} -> |0",
  "does not mind a wrong Content-Length after HEAD":
    "HEAD {ok}Content-Length: x\r\n\r\n -> |0",
  "expects no body of a 204":
    "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc -> |0",
  "expects no body of a 304": "HTTP/1.1 304 Not Modified\r\n{coded}abc -> |0",
  "skips a 100":
    "HTTP/1.1 100 Continue\r\n\r\n{ok}Content-Length: 1\r\n\r\nx -> x|0",
  "skips any number of answers that are not final, whatever length they claim":
    "{hints}{hints}{hints}{ok}Content-Length: 1\r\n\r\nx -> x|0",
  // rules 3 and 4
  "puts chunks together":
    "{chunked}5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n -> hello, world|0",
  "lets chunked beat Content-Length":
    "{ok}Content-Length: 2\r\n{coded}3\r\nabc\r\n0\r\n\r\n -> abc|0",
  "lets chunked beat a wrong Content-Length":
    "{ok}Content-Length: -2\r\n{coded}3\r\nabc\r\n0\r\n\r\n -> abc|0",
  "reads to the close if chunked is not last":
    "{ok}Transfer-Encoding: chunked, gzip\r\n\r\nabc -> abc|close",
  "reads to the close for codings without chunked":
    "{ok}Transfer-Encoding: gzip\r\n\r\nabc -> abc|close",
  "finds chunked over two lines":
    "{ok}Transfer-Encoding: gzip\r\n{coded}0\r\n\r\n -> |0",
  "takes chunked in any case":
    "{ok}tRANSFER-eNCODING: ChUnKeD\r\n\r\n1\r\nx\r\n0\r\n\r\n -> x|0",
  // rule 5
  "refuses a Content-Length with a sign":
    "{ok}Content-Length: +5\r\n\r\nhello -> |8",
  "refuses a negative Content-Length":
    "{ok}Content-Length: -5\r\n\r\nhello -> |8",
  "refuses a hexadecimal Content-Length":
    "{ok}Content-Length: 0x5\r\n\r\nhello -> |8",
  "refuses a Content-Length with a fraction":
    "{ok}Content-Length: 5.0\r\n\r\nhello -> |8",
  "refuses a Content-Length in words":
    "{ok}Content-Length: five\r\n\r\nhello -> |8",
  "refuses an empty Content-Length": "{ok}Content-Length:\r\n\r\nhello -> |8",
  "refuses a Content-Length beyond 2^53":
    "{ok}Content-Length: 9007199254740993\r\n\r\nhello -> |8",
  "refuses a Content-Length of forty digits":
    "{ok}Content-Length: 9999999999999999999999999999999999999999\r\n\r\nhello -> |8",
  "refuses unequal Content-Lengths":
    "{ok}Content-Length: 5\r\nContent-Length: 4\r\n\r\nhello -> |8",
  "refuses unequal Content-Lengths in a line":
    "{ok}Content-Length: 5, 4\r\n\r\nhello -> |8",
  "refuses a Content-Length list with a hole":
    "{ok}Content-Length: 5,\r\n\r\nhello -> |8",
  // rule 6
  "takes as many bytes as Content-Length says":
    "{ok}Content-Length: 5\r\n\r\nhello -> hello|0",
  "takes equal Content-Lengths for one":
    "{ok}Content-Length: 5\r\ncontent-length: 5\r\n\r\nhello -> hello|0",
  "takes equal Content-Lengths in a line for one":
    "{ok}Content-Length: 5, 5\r\n\r\nhello -> hello|0",
  "takes a Content-Length with leading zeros":
    "{ok}Content-Length: 0005\r\n\r\nhello -> hello|0",
  "does not wait for a body of no bytes": "{ok}Content-Length: 0\r\n\r\n -> |0",
  "ignores what follows the body": "{ok}Content-Length: 2\r\n\r\nhello -> he|0",
  "says that a body ended early, and gives what there is":
    "{ok}Content-Length: 9\r\n\r\nhello -> hello|18",
  // rule 8
  "reads to the close without a length": "{ok}\r\nhello -> hello|close",
  "reads to the close in HTTP/1.0":
    "HTTP/1.0 200 OK\r\n\r\nhello -> hello|close",
  "takes an empty body to the close": "{ok}\r\n -> |close",
  // chunks: RFC 9112 7.1
  "takes chunk sizes in any case":
    "{chunked}a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n -> 01234567890123456789|0",
  "takes chunk sizes with leading zeros":
    "{chunked}00000000000000000000000000000000000000002\r\nhi\r\n000\r\n\r\n -> hi|0",
  "ignores chunk extensions":
    '{chunked}2;a=b;c="d;e"\r\nhi\r\n0 ; last\r\n\r\n -> hi|0',
  "does not take trailers for the body":
    "{chunked}2\r\nhi\r\n0\r\nContent-Length: 7\r\nA: b\r\n\r\nextra -> hi|0",
  "takes chunks with bare LF": "{chunked}2\nhi\n0\n\n -> hi|0",
  "ignores what follows the last chunk":
    "{chunked}2\r\nhi\r\n0\r\n\r\n{ok}\r\n -> hi|0",
  "takes a chunked body of no bytes": "{chunked}0\r\n\r\n -> |0",
  "passes on bytes that look like chunk sizes":
    "{chunked}7\r\n5\r\n0\r\n\r\r\n0\r\n\r\n -> 5\r\n0\r\n\r|0",
  "refuses a chunk size that is not hexadecimal":
    "{chunked}xyz\r\nhi\r\n0\r\n\r\n -> |56",
  "refuses a chunk size with 0x": "{chunked}0x2\r\nhi\r\n0\r\n\r\n -> |56",
  "refuses a negative chunk size": "{chunked}-2\r\nhi\r\n0\r\n\r\n -> |56",
  "refuses a signed chunk size": "{chunked}+2\r\nhi\r\n0\r\n\r\n -> |56",
  "refuses a chunk size with a space before it":
    "{chunked} 2\r\nhi\r\n0\r\n\r\n -> |56",
  "refuses an empty chunk size": "{chunked}\r\nhi\r\n0\r\n\r\n -> |56",
  "refuses a chunk size of only an extension":
    "{chunked};a\r\nhi\r\n0\r\n\r\n -> |56",
  "refuses a chunk size beyond 2^53":
    "{chunked}20000000000000\r\nhi\r\n0\r\n\r\n -> |56",
  "refuses a chunk size that overflows 64 bits":
    "{chunked}10000000000000002\r\nhi\r\n0\r\n\r\n -> |56",
  "refuses a chunk size of five hundred digits":
    "{chunked}{500 f}\r\nhi\r\n0\r\n\r\n -> |56",
  "refuses a chunk that is longer than it says":
    "{chunked}2\r\nhey\r\n0\r\n\r\n -> he|56",
  "refuses a chunk that is shorter than it says":
    "{chunked}5\r\nhey\r\n0\r\n\r\n -> hey\r\n|56",
  "says that chunks ended early, in a chunk": "{chunked}5\r\nhe -> he|18",
  "says that chunks ended early, after a chunk":
    "{chunked}2\r\nhe\r\n -> he|18",
  "says that chunks ended early, in a size": "{chunked}2\r\nhe\r\n5 -> he|18",
  "says that chunks ended early, before the end of the trailers":
    "{chunked}2\r\nhe\r\n0\r\nA: b\r\n -> he|18",
  "says that chunks ended early, before the first": "{chunked} -> |18",
  // the status line: RFC 9112 4
  "takes an empty reason phrase":
    "HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\nx -> x|0",
  "takes a missing reason phrase":
    "HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx -> x|0",
  "takes a reason phrase above 127":
    "HTTP/1.1 200 \xe4\xff\r\nContent-Length: 1\r\n\r\nx -> x|0",
  "says that an answer is not HTTP": "SSH-2.0-OpenSSH_9.2\r\n -> |1",
  "does not take HTTP/2 for HTTP/1": "HTTP/2 200\r\n\r\nx -> |1",
  "refuses a status of two digits": "HTTP/1.1 20 OK\r\n\r\nx -> |1",
  "refuses a status of four digits": "HTTP/1.1 2000 OK\r\n\r\nx -> |1",
  "refuses a status below 100": "HTTP/1.1 099 OK\r\n\r\nx -> |1",
  "refuses a status line without a status": "HTTP/1.1 OK\r\n\r\nx -> |1",
  "says that an answer is empty": " -> |52",
  "says that an answer is empty after a 100":
    "HTTP/1.1 100 Continue\r\n\r\n -> |52",
  "says that a status line ended early": "HTTP/1.1 20 -> |18",
  "says that a header section ended early": "{ok}Content-Length: 5\r\n -> |18",
  // field lines: RFC 9112 5, 2.2
  "takes names in any case": "{ok}CONTENT-length: 1\r\n\r\nxy -> x|0",
  "takes values without spaces, and with many":
    "{ok}A:b\r\nContent-Length:\t  1 \t\r\n\r\nxy -> x|0",
  "joins folded lines":
    "{ok}Content-Length:\r\n 1\r\n\t\r\nA: b\r\n\r\nxy -> x|0",
  "joins a folded line that looks like a field":
    "{ok}A: b\r\n Content-Length: 7\r\nContent-Length: 1\r\n\r\nxy -> x|0",
  "takes bare LF for line ends":
    "HTTP/1.1 200 OK\nA: b\nContent-Length: 1\n\nxy -> x|0",
  "takes bytes above 127":
    "{ok}\xe9: \xff\x80\xa0\r\nContent-Length: 1\r\n\r\nxy -> x|0",
  "takes empty values": "{ok}A:\r\nContent-Length: 1\r\n\r\nxy -> x|0",
  "refuses a space before the colon": "{ok}Content-Length : 1\r\n\r\nxy -> |8",
  "refuses a tab before the colon": "{ok}Content-Length\t: 1\r\n\r\nxy -> |8",
  "refuses a space in a name": "{ok}Content Length: 1\r\n\r\nxy -> |8",
  "refuses a line without a colon": "{ok}Content-Length 1\r\n\r\nxy -> |8",
  "refuses a line without a colon after others":
    "{ok}A: b\r\nContent-Length 1\r\n\r\nxy -> |8",
  "refuses a line without a name": "{ok}: 1\r\n\r\nxy -> |8",
  "refuses a folded line before any field": "{ok} A: b\r\n\r\nxy -> |8",
  "refuses NUL in a value": "{ok}A: b\0c\r\n\r\nxy -> |8",
  "refuses NUL in a name": "{ok}A\0: b\r\n\r\nxy -> |8",
  "refuses NUL in a folded line": "{ok}A: b\r\n \0\r\n\r\nxy -> |8",
  "refuses a bare CR in a value": "{ok}A: b\rContent-Length: 1\r\n\r\nxy -> |8",
  "refuses a bare CR before a line end": "{ok}A: b\r\r\n\r\nxy -> |8",
  // what was wrong once
  "takes chunks whose line ends are mixed":
    "{chunked}5\r\nhello\n1\nx\r\n0\r\n\n -> hellox|0",
  "refuses NUL in a status line": "HTTP/1.1 200 O\0K\r\n\r\nx -> |8",
  "refuses a bare CR in a status line":
    "HTTP/1.1 200 OK\r\rContent-Length: 4\r\n\r\nxxxx -> |8",
};

const SHORT: Record<string, string> = {
  ok: OK,
  chunked: CHUNKED,
  coded: CODED,
  hints: "HTTP/1.1 103 Early Hints\r\nContent-Length: 7\r\nLink: </x>\r\n\r\n",
  "500 f": "f".repeat(500),
};

for (const [behaviour, line] of Object.entries(CASES)) {
  test(`http_get ${behaviour}, however the answer is cut`, async () => {
    const [, method, short, body, end] = line.match(
      /^(HEAD)? ?(.*) -> (.*)\|(.*)$/s,
    )!;
    const answer = short.replace(/{([^}]*)}/g, (_, name) => SHORT[name]);
    const failure = end === "close" ? 0 : Number(end);
    for (const pieces of [[bytes(answer)], ...cuts(bytes(answer))]) {
      const got = await read(pieces.filter((each) => each.length), method);
      const where = `cut after ${pieces[0]?.length} bytes: ${got.message}`;
      assertEquals([got.body, got.failure], [body, failure], where);
      if (failure === 0) assertEquals(got.conn.isClosed, end === "close");
    }
  });
}

test("http_get sends a request that takes several writes", async () => {
  const { conn } = await read([bytes(`${OK}\r\n`)], "HEAD");
  assertEquals(conn.sent, "HEAD / HTTP/1.1\r\n\r\n");
});

test("http_get knows what is not HTTP by its first bytes", async () => {
  const forever = (function* () {
    yield bytes("\x15\x03\x01");
    throw new Error("it waited for more");
  })();
  const { failure, message } = await read(forever);
  assertEquals(failure, 1);
  assertMatch(message, /which is TLS: try https:\/\//);
});

test("http_get says which rule frames a body, and shows chunks and trailers", async () => {
  const said = async (answer: string, method?: string) => {
    return (await read([bytes(answer)], method)).lines;
  };
  const all = `${CHUNKED}5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\n`;
  assertEquals(await said(all), [
    "chunked (RFC 9112 6.3, rule 4)",
    "chunk: 5 bytes",
    "chunk: 0 bytes, the last",
    "trailer: A: b",
  ]);
  const rules: Record<string, string> = {
    [`${OK}Content-Length: 1\r\n${CODED}0\r\n\r\n`]:
      "chunked, despite Content-Length (RFC 9112 6.3, rules 3 and 4)",
    "HTTP/1.1 204 No\r\n\r\n": "none, as 204 has none (RFC 9112 6.3, rule 1)",
    [`${OK}Transfer-Encoding: gzip\r\n\r\n`]:
      "to the close, as chunked is not last (RFC 9112 6.3, rule 4)",
    [`${OK}Content-Length: 1\r\n\r\nh`]:
      "1 byte, by Content-Length (RFC 9112 6.3, rule 6)",
    [`${OK}Content-Length: 5\r\n\r\nhello`]:
      "5 bytes, by Content-Length (RFC 9112 6.3, rule 6)",
    [`${OK}\r\n`]: "to the close, as no length is given (RFC 9112 6.3, rule 8)",
  };
  for (const [answer, why] of Object.entries(rules)) {
    assertEquals((await said(answer))[0], why);
    assertLess(`0.0001 * body: ${why}`.length, 81, "columns");
  }
  const { lines: [head] } = await read([bytes(`${OK}\r\n`)], "HEAD");
  assertEquals(head, "none, as HEAD has none (RFC 9112 6.3, rule 1)");
  const wrong = await read([bytes(`${OK}Content-Length: 1, 2\r\n\r\n`)]);
  assertMatch(
    wrong.message,
    /"Content-Length: 1, 2" is not a length .*6\.3, rule 5/,
  );
});

test("http_get keeps the header section as it came, byte for byte", async () => {
  const section = "HTTP/1.1 200 \xe9\r\nA: b\n c\r\nContent-Length:  1 \r\n\n";
  for (const pieces of cuts(bytes(`${section}x`))) {
    const { heads: [head] } = await read(pieces);
    assertEquals(head.text, section);
    assertEquals(head.phrase, "\xe9");
    assertEquals(head.fields, [["A", "b c"], ["Content-Length", "1"]]);
  }
});

test("http_get takes no white space for a part of a value, folded or not", async () => {
  const folded: Record<string, string> = {
    "A:\r\n /land\r\n": "/land",
    "A: /land\r\n \r\n": "/land",
    "A: \t/a\t\r\n\t b \r\n  \r\n c\r\n": "/a b c",
    "A:\r\n \r\n": "",
  };
  for (const [lines, value] of Object.entries(folded)) {
    const { heads: [head] } = await read([bytes(`${OK}${lines}\r\n`)]);
    assertEquals(head.fields, [["A", value]], lines);
  }
});

test("http_get gives what has come before it waits for more", async () => {
  let body = "";
  const take = (bytes: Uint8Array) => {
    body += text(bytes);
    return Promise.resolve();
  };
  const writer = new BufferedWriter(take, () => {});
  const answer = {
    writeHead: () => Promise.resolve(),
    writer,
    openBody: () => writer,
  };
  const pieces = (function* () {
    yield bytes(`${CHUNKED}2\r\nhe\r\n3\r\nllo\r\n9\r\n`);
    yield bytes(",");
    assertEquals(body, "hello,");
  })();
  const work = get(connection(pieces), "GET", answer as unknown as Answer);
  await assertRejects(() => work, Failure, "8 of 9 bytes");
});

test("http_get waits for no line end where a chunk goes on too long", async () => {
  const pieces = (function* () {
    yield bytes(`${CHUNKED}2\r\nhi`);
    yield bytes("XX");
    throw new Error("it waits for more");
  })();
  const { failure, message } = await read(pieces);
  assertEquals(failure, 56, message);
  assertEquals(message, "a chunk does not end after its 2 bytes");
});

test("http_get lets timers and signals run while answers come without end", async () => {
  let isOver = false;
  setTimeout(() => isOver = true, 100);
  const pieces = (function* () {
    for (let n = 0; n < 300_000 && !isOver; n++) {
      yield bytes("HTTP/1.1 100 C\r\n\r\n");
    }
  })();
  const { failure } = await read(pieces);
  assertEquals([failure, isOver], [52, true]);
});

const FLOODS: [what: string, start: string, again: string, most: number][] = [
  ["a status line", "HTTP/1.1 200 ", "O", 320_000],
  ["a header line", `${OK}A: `, "b", 320_000],
  ["long header lines", OK, `A: ${"b".repeat(1000)}\r\n`, 320_000],
  ["short header lines", OK, "A:\r\n", 40_000],
  ["folded lines", `${OK}A: b\r\n`, " c\r\n", 40_000],
  ["a chunk extension", `${CHUNKED}5;`, "x", 320_000],
  ["zeros of a chunk size", CHUNKED, "0", 320_000],
  ["trailers", `${CHUNKED}0\r\n`, "A: b\r\n", 40_000],
];
for (const [what, start, again, most] of FLOODS) {
  test(`http_get stops at ${what} without end`, async () => {
    const pieces = (function* () {
      yield bytes(start);
      const piece = bytes(again.repeat(Math.ceil(4096 / again.length)));
      for (let fed = 0; fed < 1e6; fed += piece.length) yield piece;
    })();
    const { failure, message, conn } = await read(pieces);
    assertEquals(failure, 63, message);
    assertLess(conn.received, most);
  });
}

test("http_get takes a header section of 5,000 lines, and one of 300 KiB", async () => {
  const lines = `${OK}${"A: b\r\n".repeat(4999)}Content-Length: 1\r\n\r\nx`;
  assertEquals((await read([bytes(lines)])).body, "x");
  const section = (size: number) =>
    `${OK}Content-Length: 1\r\nA: ${"b".repeat(size - 43 - 130)}\r\n\r\nx`;
  assertEquals((await read([bytes(section(300 * 1024))])).body, "x");
  assertEquals((await read([bytes(section(300 * 1024 + 200))])).failure, 63);
});

// Were the cost quadratic, these would take longer than they may.
const ONE = "Content-Length: 1\r\n\r\nx";
const LONG: [what: string, answer: string, failure: number][] = [
  ["header", `${OK}${`A: ${"b".repeat(57)}\r\n`.repeat(1600)}${ONE}`, 0],
  ["line of spaces", `${OK}A: b${" ".repeat(250_000)}c\r\n${ONE}`, 0],
  [
    "folded line",
    `${OK}A: b\r\n${` ${"c".repeat(50)}\r\n`.repeat(1900)}${ONE}`,
    0,
  ],
  ["name", `${OK}${"a".repeat(100_000)}: b\r\n${ONE}`, 0],
  [
    "list",
    `${OK}Transfer-Encoding: ${",".repeat(100_000)}${CODED.slice(19)}0\r\n\r\n`,
    0,
  ],
  ["chunk size of zeros", `${CHUNKED}${"0".repeat(100_000)}x\r\n`, 56],
  ["chunk extension", `${CHUNKED}1${" ".repeat(100_000)}x\r\n`, 56],
  [
    "row of small chunks",
    `${CHUNKED}${"1\r\nx\r\n".repeat(17_000)}0\r\n\r\n`,
    0,
  ],
];
for (const [what, answer, failure] of LONG) {
  test(`http_get reads a long ${what} in good time, byte by byte too`, async () => {
    const all = bytes(answer);
    const single = Array.from(all, (_, i) => all.subarray(i, i + 1));
    const started = performance.now();
    const whole = await read([all]);
    const cut = await read(single);
    assertLess(performance.now() - started, 5000, "milliseconds");
    assertEquals([whole.failure, cut.failure], [failure, failure]);
    assertEquals(cut.body, whole.body);
  });
}

/** Splits bytes at random places. */
const split = (all: Uint8Array) =>
  fc.array(fc.nat(all.length), { maxLength: 20 }).map((places) => {
    const ends = [...places, all.length].sort((a, b) => a - b);
    const pieces = ends.map((end, i) => all.subarray(ends[i - 1] ?? 0, end));
    return pieces.filter((piece) => piece.length);
  });
const binary = fc.uint8Array({ maxLength: 200 }).map(text);

test("http_get puts any chunks together, however they are cut", async () => {
  const chunk = fc.tuple(
    binary.filter((data) => data !== ""),
    fc.constantFrom("", ";x", " ;a=b"),
    fc.boolean(),
    fc.constantFrom("\r\n", "\n"),
    fc.constantFrom("\r\n", "\n"),
  );
  const answer = fc.array(chunk, { maxLength: 8 }).map((chunks) => {
    const sized = chunks.map(([data, extension, isUpper, end, after]) => {
      const size = data.length.toString(16);
      const digits = isUpper ? `00${size.toUpperCase()}` : size;
      return `${digits}${extension}${end}${data}${after}`;
    });
    const body = chunks.map(([data]) => data).join("");
    return { body, all: bytes(`${CHUNKED}${sized.join("")}0\r\n\r\nextra`) };
  });
  const cut = answer.chain(({ body, all }) =>
    fc.tuple(fc.constant(body), split(all))
  );
  await fc.assert(fc.asyncProperty(cut, async ([body, pieces]) => {
    const { failure, body: got } = await read(pieces);
    assertEquals([failure, got], [0, body]);
  }));
});

test("http_get takes any body by its length or to the close, however it is cut", async () => {
  const answer = fc.tuple(binary, fc.boolean()).chain(([body, isSized]) => {
    const length = isSized ? `Content-Length: ${body.length}\r\n` : "";
    const all = bytes(`${OK}${length}\r\n${body}`);
    return fc.tuple(fc.constant(body), split(all));
  });
  await fc.assert(fc.asyncProperty(answer, async ([body, pieces]) => {
    const { failure, body: got } = await read(pieces);
    assertEquals([failure, got], [0, body]);
  }));
});

test("http_get fails only with a status, whatever bytes come", async () => {
  const parts = [OK, CHUNKED, CODED, "HTTP/1.1 ", "\r\n", "\n", "\r", "0\r\n"];
  parts.push("1\r\nx\r\n", "5", ":", " ", "\0", "A: b\r\n");
  parts.push("Content-Length: 5\r\n", "HTTP/1.1 100 C\r\n\r\n");
  const part = fc.oneof(...parts.map((each) => fc.constant(each)), binary);
  const answer = fc.array(part, { maxLength: 12 }).map((parts) => {
    return bytes(parts.join(""));
  });
  const cut = answer.chain((all) => fc.tuple(fc.constant(all), split(all)));
  const method = fc.constantFrom("GET", "HEAD");
  const property = fc.asyncProperty(
    cut,
    method,
    async ([all, pieces], method) => {
      const whole = await read([all].filter((each) => each.length), method);
      const cut = await read(pieces, method); // throws on any other error
      const known = [0, 1, 8, 18, 52, 56, 63].includes(whole.failure);
      assert(known, `${whole.failure}`);
      assertEquals(cut.heads, whole.heads);
      assertEquals([cut.body, cut.failure], [whole.body, whole.failure]);
    },
  );
  await fc.assert(property, { numRuns: 500 });
});
