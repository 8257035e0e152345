import fc from "npm:fast-check@^4";
import {
  assert,
  assertEquals,
  assertLess,
  assertMatch,
  assertThrows,
} from "jsr:@std/assert@^1";
import { framing, get, Parser } from "../http_get.ts";
import { Failure } from "../utils.ts";
import { bytes, text } from "./http_servers.ts";
import { test } from "./helpers.ts";

/** What a parser makes of an answer that comes in these pieces, and then ends with the connection. */
function parse(pieces: Iterable<Uint8Array>, method = "GET") {
  const log: string[] = [],
    heads: number[] = [],
    parser = new Parser(method, (line) => log.push(line));
  const result = {
    heads,
    body: "",
    failure: 0,
    message: "",
    waited: false,
    log,
  };
  try {
    for (const piece of pieces) {
      for (const event of parser.feed(piece.slice())) { // a copy: chunks are moved together in place
        if (event instanceof Uint8Array) result.body += text(event);
        else heads.push(event.status);
      }
      if (parser.done) return result;
    }
    result.waited = true; // for the server to close
    parser.end();
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    [result.failure, result.message] = [error.status, error.message];
  }
  return result;
}

/** Cuts bytes in two at every position, and into single bytes. */
function* cuts(all: Uint8Array): Generator<Uint8Array[]> {
  yield Array.from(all, (_, i) => all.subarray(i, i + 1));
  for (let i = 0; i <= all.length; i++) {
    yield [all.subarray(0, i), all.subarray(i)];
  }
}

const OK = "HTTP/1.1 200 OK\r\n",
  CHUNKED = `${OK}Transfer-Encoding: chunked\r\n\r\n`;
const CLOSED = "then waits for the close";
type Case = [
  behaviour: string,
  answer: string,
  body: string,
  failure?: number | typeof CLOSED,
  method?: string,
];

/** Checks that an answer means the same however it is cut: a body, and a failure's status where there is one. */
function check(...cases: Case[]) {
  for (const [behaviour, answer, body, failure = 0, method] of cases) {
    test(`http_get ${behaviour}`, () => {
      const whole = parse([bytes(answer)], method);
      assertEquals([whole.body, whole.failure], [
        body,
        failure === CLOSED ? 0 : failure,
      ], whole.message);
      if (typeof failure === "string" || failure === 0) {
        assertEquals(whole.waited, failure === CLOSED);
      }
      for (const pieces of cuts(bytes(answer))) {
        const cut = parse(pieces, method);
        // How much of a wrong line was seen when it was found wrong depends on how much of it was there.
        const known = {
          ...cut,
          message: whole.message,
          log: whole.log,
          waited: whole.waited || cut.waited,
        };
        assertEquals(
          known,
          { ...whole, waited: known.waited },
          `cut after ${pieces[0]?.length} bytes`,
        );
      }
    });
  }
}

check(
  // RFC 9112 6.3, rule 1
  [
    "expects no body after HEAD, and does not wait",
    `${OK}Content-Length: 5\r\n\r\n`,
    "",
    0,
    "HEAD",
  ],
  ["expects no chunks after HEAD", CHUNKED, "", 0, "HEAD"],
  [
    "does not mind a wrong Content-Length after HEAD",
    `${OK}Content-Length: x\r\n\r\n`,
    "",
    0,
    "HEAD",
  ],
  [
    "expects no body of a 204",
    "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc",
    "",
  ],
  [
    "expects no body of a 304",
    "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\nabc",
    "",
  ],
  [
    "skips a 100",
    `HTTP/1.1 100 Continue\r\n\r\n${OK}Content-Length: 1\r\n\r\nx`,
    "x",
  ],
  [
    "skips any number of answers that are not final, whatever length they claim",
    "HTTP/1.1 103 Early Hints\r\nContent-Length: 7\r\nLink: </x>\r\n\r\n"
      .repeat(9) + `${OK}Content-Length: 1\r\n\r\nx`,
    "x",
  ],
  // rules 3 and 4
  [
    "puts chunks together",
    `${CHUNKED}5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n`,
    "hello, world",
  ],
  [
    "lets chunked beat Content-Length",
    `${OK}Content-Length: 2\r\n${CHUNKED.slice(17)}3\r\nabc\r\n0\r\n\r\n`,
    "abc",
  ],
  [
    "lets chunked beat a wrong Content-Length",
    `${OK}Content-Length: -2\r\n${CHUNKED.slice(17)}3\r\nabc\r\n0\r\n\r\n`,
    "abc",
  ],
  [
    "reads to the close if chunked is not last",
    `${OK}Transfer-Encoding: chunked, gzip\r\n\r\nabc`,
    "abc",
    CLOSED,
  ],
  [
    "reads to the close for codings without chunked",
    `${OK}Transfer-Encoding: gzip\r\n\r\nabc`,
    "abc",
    CLOSED,
  ],
  [
    "finds chunked over two lines",
    `${OK}Transfer-Encoding: gzip\r\n${CHUNKED.slice(17)}0\r\n\r\n`,
    "",
  ],
  [
    "takes chunked in any case",
    `${OK}tRANSFER-eNCODING: ChUnKeD\r\n\r\n1\r\nx\r\n0\r\n\r\n`,
    "x",
  ],
  // rule 5
  [
    "refuses a Content-Length with a sign",
    `${OK}Content-Length: +5\r\n\r\nhello`,
    "",
    8,
  ],
  [
    "refuses a negative Content-Length",
    `${OK}Content-Length: -5\r\n\r\nhello`,
    "",
    8,
  ],
  [
    "refuses a hexadecimal Content-Length",
    `${OK}Content-Length: 0x5\r\n\r\nhello`,
    "",
    8,
  ],
  [
    "refuses a Content-Length with a fraction",
    `${OK}Content-Length: 5.0\r\n\r\nhello`,
    "",
    8,
  ],
  [
    "refuses a Content-Length in words",
    `${OK}Content-Length: five\r\n\r\nhello`,
    "",
    8,
  ],
  [
    "refuses an empty Content-Length",
    `${OK}Content-Length:\r\n\r\nhello`,
    "",
    8,
  ],
  [
    "refuses a Content-Length beyond 2^53",
    `${OK}Content-Length: 9007199254740993\r\n\r\nhello`,
    "",
    8,
  ],
  [
    "refuses a Content-Length of forty digits",
    `${OK}Content-Length: ${"9".repeat(40)}\r\n\r\nhello`,
    "",
    8,
  ],
  [
    "refuses unequal Content-Lengths",
    `${OK}Content-Length: 5\r\nContent-Length: 4\r\n\r\nhello`,
    "",
    8,
  ],
  [
    "refuses unequal Content-Lengths in a line",
    `${OK}Content-Length: 5, 4\r\n\r\nhello`,
    "",
    8,
  ],
  [
    "refuses a Content-Length list with a hole",
    `${OK}Content-Length: 5,\r\n\r\nhello`,
    "",
    8,
  ],
  // rule 6
  [
    "takes as many bytes as Content-Length says",
    `${OK}Content-Length: 5\r\n\r\nhello`,
    "hello",
  ],
  [
    "takes equal Content-Lengths for one",
    `${OK}Content-Length: 5\r\ncontent-length: 5\r\n\r\nhello`,
    "hello",
  ],
  [
    "takes equal Content-Lengths in a line for one",
    `${OK}Content-Length: 5, 5\r\n\r\nhello`,
    "hello",
  ],
  [
    "takes a Content-Length with leading zeros",
    `${OK}Content-Length: 0005\r\n\r\nhello`,
    "hello",
  ],
  [
    "does not wait for a body of no bytes",
    `${OK}Content-Length: 0\r\n\r\n`,
    "",
  ],
  [
    "ignores what follows the body",
    `${OK}Content-Length: 2\r\n\r\nhello`,
    "he",
  ],
  [
    "says that a body ended early, and gives what there is",
    `${OK}Content-Length: 9\r\n\r\nhello`,
    "hello",
    18,
  ],
  // rule 8
  ["reads to the close without a length", `${OK}\r\nhello`, "hello", CLOSED],
  [
    "reads to the close in HTTP/1.0",
    "HTTP/1.0 200 OK\r\n\r\nhello",
    "hello",
    CLOSED,
  ],
  ["takes an empty body to the close", `${OK}\r\n`, "", CLOSED],
  // chunks: RFC 9112 7.1
  [
    "takes chunk sizes in any case",
    `${CHUNKED}a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n`,
    "01234567890123456789",
  ],
  [
    "takes chunk sizes with leading zeros",
    `${CHUNKED}${"0".repeat(40)}2\r\nhi\r\n000\r\n\r\n`,
    "hi",
  ],
  [
    "ignores chunk extensions",
    `${CHUNKED}2;a=b;c="d;e"\r\nhi\r\n0 ; last\r\n\r\n`,
    "hi",
  ],
  [
    "does not take trailers for the body",
    `${CHUNKED}2\r\nhi\r\n0\r\nContent-Length: 7\r\nA: b\r\n\r\nextra`,
    "hi",
  ],
  ["takes chunks with bare LF", `${CHUNKED}2\nhi\n0\n\n`, "hi"],
  [
    "ignores what follows the last chunk",
    `${CHUNKED}2\r\nhi\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n`,
    "hi",
  ],
  ["takes a chunked body of no bytes", `${CHUNKED}0\r\n\r\n`, ""],
  [
    "passes on bytes that look like chunk sizes",
    `${CHUNKED}7\r\n5\r\n0\r\n\r\r\n0\r\n\r\n`,
    "5\r\n0\r\n\r",
  ],
  [
    "refuses a chunk size that is not hexadecimal",
    `${CHUNKED}xyz\r\nhi\r\n0\r\n\r\n`,
    "",
    56,
  ],
  ["refuses a chunk size with 0x", `${CHUNKED}0x2\r\nhi\r\n0\r\n\r\n`, "", 56],
  ["refuses a negative chunk size", `${CHUNKED}-2\r\nhi\r\n0\r\n\r\n`, "", 56],
  ["refuses a signed chunk size", `${CHUNKED}+2\r\nhi\r\n0\r\n\r\n`, "", 56],
  [
    "refuses a chunk size with a space before it",
    `${CHUNKED} 2\r\nhi\r\n0\r\n\r\n`,
    "",
    56,
  ],
  ["refuses an empty chunk size", `${CHUNKED}\r\nhi\r\n0\r\n\r\n`, "", 56],
  [
    "refuses a chunk size of only an extension",
    `${CHUNKED};a\r\nhi\r\n0\r\n\r\n`,
    "",
    56,
  ],
  [
    "refuses a chunk size beyond 2^53",
    `${CHUNKED}20000000000000\r\nhi\r\n0\r\n\r\n`,
    "",
    56,
  ],
  [
    "refuses a chunk size that overflows 64 bits",
    `${CHUNKED}10000000000000002\r\nhi\r\n0\r\n\r\n`,
    "",
    56,
  ],
  [
    "refuses a chunk size of five hundred digits",
    `${CHUNKED}${"f".repeat(500)}\r\nhi\r\n0\r\n\r\n`,
    "",
    56,
  ],
  [
    "refuses a chunk that is longer than it says",
    `${CHUNKED}2\r\nhey\r\n0\r\n\r\n`,
    "he",
    56,
  ],
  [
    "refuses a chunk that is shorter than it says",
    `${CHUNKED}4\r\nhey\r\n0\r\n\r\n`,
    "hey\r",
    56,
  ],
  ["says that chunks ended early, in a chunk", `${CHUNKED}5\r\nhe`, "he", 18],
  [
    "says that chunks ended early, after a chunk",
    `${CHUNKED}2\r\nhe\r\n`,
    "he",
    18,
  ],
  [
    "says that chunks ended early, in a size",
    `${CHUNKED}2\r\nhe\r\n5`,
    "he",
    18,
  ],
  [
    "says that chunks ended early, before the end of the trailers",
    `${CHUNKED}2\r\nhe\r\n0\r\nA: b\r\n`,
    "he",
    18,
  ],
  ["says that chunks ended early, before the first", CHUNKED, "", 18],
  // the status line: RFC 9112 4
  [
    "takes an empty reason phrase",
    "HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\nx",
    "x",
  ],
  [
    "takes a missing reason phrase",
    "HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx",
    "x",
  ],
  [
    "takes a reason phrase above 127",
    "HTTP/1.1 200 \xe4\xff\r\nContent-Length: 1\r\n\r\nx",
    "x",
  ],
  ["says that an answer is not HTTP", "SSH-2.0-OpenSSH_9.2\r\n", "", 1],
  ["does not take HTTP/2 for HTTP/1", "HTTP/2 200\r\n\r\nx", "", 1],
  ["refuses a status of two digits", "HTTP/1.1 20 OK\r\n\r\nx", "", 1],
  ["refuses a status of four digits", "HTTP/1.1 2000 OK\r\n\r\nx", "", 1],
  ["refuses a status below 100", "HTTP/1.1 099 OK\r\n\r\nx", "", 1],
  ["refuses a status line without a status", "HTTP/1.1 OK\r\n\r\nx", "", 1],
  ["says that an answer is empty", "", "", 52],
  [
    "says that an answer is empty after a 100",
    "HTTP/1.1 100 Continue\r\n\r\n",
    "",
    52,
  ],
  ["says that a status line ended early", "HTTP/1.1 20", "", 18],
  [
    "says that a header section ended early",
    `${OK}Content-Length: 5\r\n`,
    "",
    18,
  ],
  // field lines: RFC 9112 5, 2.2
  ["takes names in any case", `${OK}CONTENT-length: 1\r\n\r\nxy`, "x"],
  [
    "takes values without spaces, and with many",
    `${OK}A:b\r\nContent-Length:\t  1 \t\r\n\r\nxy`,
    "x",
  ],
  [
    "joins folded lines",
    `${OK}Content-Length:\r\n 1\r\n\t\r\nA: b\r\n\r\nxy`,
    "x",
  ],
  [
    "joins a folded line that looks like a field",
    `${OK}A: b\r\n Content-Length: 7\r\nContent-Length: 1\r\n\r\nxy`,
    "x",
  ],
  [
    "takes bare LF for line ends",
    "HTTP/1.1 200 OK\nA: b\nContent-Length: 1\n\nxy",
    "x",
  ],
  [
    "takes bytes above 127",
    `${OK}\xe9: \xff\x80\xa0\r\nContent-Length: 1\r\n\r\nxy`,
    "x",
  ],
  ["takes empty values", `${OK}A:\r\nContent-Length: 1\r\n\r\nxy`, "x"],
  [
    "refuses a space before the colon",
    `${OK}Content-Length : 1\r\n\r\nxy`,
    "",
    8,
  ],
  [
    "refuses a tab before the colon",
    `${OK}Content-Length\t: 1\r\n\r\nxy`,
    "",
    8,
  ],
  ["refuses a space in a name", `${OK}Content Length: 1\r\n\r\nxy`, "", 8],
  ["refuses a line without a colon", `${OK}Content-Length 1\r\n\r\nxy`, "", 8],
  [
    "refuses a line without a colon after others",
    `${OK}A: b\r\nContent-Length 1\r\n\r\nxy`,
    "",
    8,
  ],
  ["refuses a line without a name", `${OK}: 1\r\n\r\nxy`, "", 8],
  ["refuses a folded line before any field", `${OK} A: b\r\n\r\nxy`, "", 8],
  ["refuses NUL in a value", `${OK}A: b\0c\r\n\r\nxy`, "", 8],
  ["refuses NUL in a name", `${OK}A\0: b\r\n\r\nxy`, "", 8],
  ["refuses NUL in a folded line", `${OK}A: b\r\n \0\r\n\r\nxy`, "", 8],
  [
    "refuses a bare CR in a value",
    `${OK}A: b\rContent-Length: 1\r\n\r\nxy`,
    "",
    8,
  ],
  ["refuses a bare CR before a line end", `${OK}A: b\r\r\n\r\nxy`, "", 8],
);

test("http_get knows that an answer is not HTTP at its first bytes, without a line end", () => {
  const parser = new Parser("GET");
  assertThrows(
    () => [...parser.feed(bytes("\x15\x03\x01"))],
    Failure,
    "which is TLS: try https://",
  );
});

test("http_get says which rule of RFC 9112 frames a body, and shows chunks and trailers", () => {
  const said = (answer: string, method?: string) =>
    parse([bytes(answer)], method).log;
  assertEquals(said(`${CHUNKED}5;a=b\r\nhello\r\n0\r\nA: b\r\n\r\n`), [
    "body: chunked (RFC 9112 6.3, rule 4)",
    "chunk: 5 bytes",
    "chunk: 0 bytes, the last",
    "trailer: A: b",
  ]);
  const rules: [answer: string, said: string, method?: string][] = [
    [
      `${OK}Content-Length: 5\r\n\r\n`,
      "body: none, as HEAD has none (RFC 9112 6.3, rule 1)",
      "HEAD",
    ],
    [
      "HTTP/1.1 204 No\r\n\r\n",
      "body: none, as 204 has none (RFC 9112 6.3, rule 1)",
    ],
    [
      `${OK}Content-Length: 1\r\n${CHUNKED.slice(17)}0\r\n\r\n`,
      "body: chunked, whatever Content-Length says (RFC 9112 6.3, rules 3 and 4)",
    ],
    [
      `${OK}Transfer-Encoding: gzip\r\n\r\n`,
      "body: to the close, as chunked is not last (RFC 9112 6.3, rule 4)",
    ],
    [
      `${OK}Content-Length: 5\r\n\r\nhello`,
      "body: 5 bytes, by Content-Length (RFC 9112 6.3, rule 6)",
    ],
    [
      `${OK}\r\n`,
      "body: to the close, as no length is given (RFC 9112 6.3, rule 8)",
    ],
  ];
  for (const [answer, line, method] of rules) {
    assertEquals(said(answer, method)[0], line);
  }
  assertMatch(
    parse([bytes(`${OK}Content-Length: 1, 2\r\n\r\n`)]).message,
    /"Content-Length: 1, 2".*6\.3, rule 5/,
  );
});

test("http_get keeps the header section as it came, byte for byte", () => {
  const head = `HTTP/1.1 200 \xe9\r\nA: b\n c\r\nContent-Length:  1 \r\n\r\n`;
  for (const pieces of cuts(bytes(`${head}x`))) {
    const parser = new Parser("GET"),
      events = pieces.flatMap((piece) => [...parser.feed(piece.slice())]);
    const [first] = events;
    assert(!(first instanceof Uint8Array));
    assertEquals(text(first.bytes), head);
    assertEquals(first.fields, [["A", "b c"], ["Content-Length", "1"]]);
  }
});

test("http_get decodes a body in place, and gives a piece's share of it at once", () => {
  const piece = bytes(`${CHUNKED}5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n`),
    events = [...new Parser("GET").feed(piece)];
  const [, body] = events;
  assert(events.length === 2 && body instanceof Uint8Array);
  assertEquals([text(body), body.buffer], ["hello, world", piece.buffer]);
});

/** Feeds what never ends, and returns the failure, and how many bytes it took. */
function flood(
  start: string,
  again: string,
): { failure: Failure; fed: number } {
  const parser = new Parser("GET"),
    piece = bytes(again.repeat(Math.ceil(4096 / again.length)));
  let fed = start.length;
  const failure = assertThrows(() => {
    for (const _ of parser.feed(bytes(start)));
    for (; fed < 20e6; fed += piece.length) {
      for (const _ of parser.feed(piece.slice()));
    }
  }, Failure);
  return { failure, fed };
}

const FLOODS: [what: string, start: string, again: string, most: number][] = [
  ["a status line", "HTTP/1.1 200 ", "O", 320_000],
  ["a header line", `${OK}A: `, "b", 320_000],
  ["long header lines", OK, `A: ${"b".repeat(1000)}\r\n`, 320_000],
  ["short header lines", OK, "A:\r\n", 30_000],
  ["folded lines", `${OK}A: b\r\n`, " c\r\n", 30_000],
  ["a chunk extension", `${CHUNKED}5;`, "x", 320_000],
  ["zeros of a chunk size", CHUNKED, "0", 320_000],
  ["trailers", `${CHUNKED}0\r\n`, "A: b\r\n", 40_000],
  [
    "answers that are not final",
    "",
    `HTTP/1.1 100 Continue\r\nA: ${"b".repeat(3000)}\r\n\r\n`,
    7_000_000,
  ],
];
for (const [what, start, again, most] of FLOODS) {
  test(`http_get stops at ${what} without end`, () => {
    const { failure, fed } = flood(start, again);
    assertEquals(failure.status, 63, failure.message);
    assertLess(fed, most);
  });
}

test("http_get takes a header section of 5,000 lines, and one of 300 KiB", () => {
  const lines = `${OK}${"A: b\r\n".repeat(4999)}Content-Length: 1\r\n\r\nx`;
  assertEquals(parse([bytes(lines)]).body, "x");
  assertEquals(
    parse([bytes(lines.replace("\r\n", "\r\nA: b\r\n"))]).failure,
    63,
  );
  const large = (size: number) =>
    `${OK}Content-Length: 1\r\nA: ${"b".repeat(size - 43)}\r\n\r\nx`;
  assertEquals(parse([bytes(large(300 * 1024))]).body, "x");
  assertEquals(parse([bytes(large(300 * 1024 + 1))]).failure, 63);
});

// Were the cost quadratic, these would take longer than they may.
const LONG: [what: string, answer: string, failure: number][] = [
  [
    "header",
    `${OK}${`A: ${"b".repeat(57)}\r\n`.repeat(1600)}Content-Length: 1\r\n\r\nx`,
    0,
  ],
  [
    "header line of spaces",
    `${OK}A: b${" ".repeat(250_000)}c\r\nContent-Length: 1\r\n\r\nx`,
    0,
  ],
  [
    "header line of folds",
    `${OK}A: b\r\n${
      ` ${"c".repeat(50)}\r\n`.repeat(1900)
    }Content-Length: 1\r\n\r\nx`,
    0,
  ],
  ["name", `${OK}${"a".repeat(100_000)}: b\r\nContent-Length: 1\r\n\r\nx`, 0],
  [
    "list of codings",
    `${OK}Transfer-Encoding: ${
      ",".repeat(100_000)
    }chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n`,
    0,
  ],
  ["chunk size of zeros", `${CHUNKED}${"0".repeat(100_000)}x\r\n`, 56],
  ["chunk extension of spaces", `${CHUNKED}1${" ".repeat(100_000)}x\r\n`, 56],
  [
    "body of chunks of one byte",
    `${CHUNKED}${"1\r\nx\r\n".repeat(17_000)}0\r\n\r\n`,
    0,
  ],
];
for (const [what, answer, failure] of LONG) {
  test(`http_get reads a long ${what} in good time, whole or byte by byte`, () => {
    const all = bytes(answer),
      single = Array.from(all, (_, i) => all.subarray(i, i + 1));
    const started = performance.now(),
      [whole, cut] = [parse([all]), parse(single)];
    assertLess(performance.now() - started, 5000, "milliseconds");
    assertEquals([whole.failure, cut.failure, cut.body], [
      failure,
      failure,
      whole.body,
    ]);
  });
}

/** Splits bytes at random places. */
const split = (all: Uint8Array) =>
  fc.array(fc.nat(all.length), { maxLength: 20 }).map((places) => {
    const ends = [...places, all.length].sort((a, b) => a - b);
    return ends.map((end, i) => all.subarray(ends[i - 1] ?? 0, end));
  });
const binary = fc.uint8Array({ maxLength: 200 }).map(text);

test("http_get puts any chunks together, however they are cut", () => {
  const chunk = fc.tuple(
    binary.filter((data) => data !== ""),
    fc.constantFrom("", ";x", " ;a=b"),
    fc.boolean(),
  );
  const answer = fc.array(chunk, { maxLength: 8 }).map((chunks) => {
    const sized = chunks.map(([data, extension, upper]) => {
      const size = data.length.toString(16);
      return `${
        upper ? `00${size.toUpperCase()}` : size
      }${extension}\r\n${data}\r\n`;
    });
    return {
      body: chunks.map(([data]) => data).join(""),
      all: bytes(`${CHUNKED}${sized.join("")}0\r\n\r\nextra`),
    };
  });
  fc.assert(
    fc.property(
      answer.chain(({ body, all }) => fc.tuple(fc.constant(body), split(all))),
      ([body, pieces]) => {
        const { failure, body: got } = parse(pieces);
        assertEquals([failure, got], [0, body]);
      },
    ),
  );
});

test("http_get takes any body by its length or to the close, however it is cut", () => {
  const answer = fc.tuple(binary, fc.boolean()).chain(([body, long]) =>
    fc.tuple(
      fc.constant(body),
      split(
        bytes(
          `${OK}${long ? `Content-Length: ${body.length}\r\n` : ""}\r\n${body}`,
        ),
      ),
    )
  );
  fc.assert(fc.property(answer, ([body, pieces]) => {
    const { failure, body: got } = parse(pieces);
    assertEquals([failure, got], [0, body]);
  }));
});

test("http_get throws nothing but a failure with a status, whatever bytes come", () => {
  const part = fc.oneof(
    ...[
      OK,
      CHUNKED,
      "HTTP/1.1 ",
      "\r\n",
      "\n",
      "\r",
      "0\r\n",
      "1\r\nx\r\n",
      "5",
      ":",
      " ",
      "\0",
      "A: b\r\n",
    ]
      .map((each) => fc.constant(each)),
    ...[
      "Content-Length: 5\r\n",
      "Transfer-Encoding: chunked\r\n",
      "HTTP/1.1 100 C\r\n\r\n",
    ]
      .map((each) => fc.constant(each)),
    binary,
  );
  const answer = fc.array(part, { maxLength: 12 }).map((parts) =>
    bytes(parts.join(""))
  );
  fc.assert(
    fc.property(
      answer.chain((all) => fc.tuple(fc.constant(all), split(all))),
      fc.constantFrom("GET", "HEAD"),
      ([all, pieces], method) => {
        const whole = parse([all], method), cut = parse(pieces, method); // throws on any other error
        assert(
          [0, 1, 8, 18, 52, 56, 63].includes(whole.failure),
          `${whole.failure}`,
        );
        assertEquals([cut.body, cut.failure, cut.heads], [
          whole.body,
          whole.failure,
          whole.heads,
        ]);
      },
    ),
    { numRuns: 500 },
  );
});

test("http_get decides the length by the rules in their order", () => {
  const head = (status: number, ...fields: [string, string][]) => ({
    status,
    line: "",
    fields,
    bytes: bytes(""),
  });
  const chunked: [string, string] = ["Transfer-Encoding", "chunked"],
    five: [string, string] = ["Content-Length", "5"];
  assertEquals(framing("HEAD", head(200, chunked, five)).length, 0);
  assertEquals(framing("GET", head(304, chunked, five)).length, 0);
  assertEquals(framing("GET", head(200, chunked, five)).chunked, true);
  assertEquals(framing("GET", head(200, five)).length, 5);
  assertEquals(framing("GET", head(200)).length, Infinity);
  assertEquals(
    assertThrows(
      () => framing("GET", head(200, five, ["content-length", "6"])),
      Failure,
    ).status,
    8,
  );
});

test("http_get sends a request that takes several writes, and yields the answer as it arrives", async () => {
  let sent = "", reads = 0;
  const conn = {
    write: (bytes: Uint8Array) => {
      const n = Math.min(bytes.length, 7); // a write may take only a part
      sent += text(bytes.subarray(0, n));
      return Promise.resolve(n);
    },
    read: (buffer: Uint8Array) => {
      if (++reads > 3) return Promise.resolve(null);
      buffer.set(bytes(`piece ${reads}`));
      return Promise.resolve(7);
    },
  };
  const request = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    pieces: Uint8Array[] = [];
  for await (const piece of get(conn, bytes(request))) {
    pieces.push(piece);
    assertEquals(reads, pieces.length); // none is read before the one before it was taken
    if (pieces.length > 1) {
      assertEquals(text(pieces.at(-2)!), `piece ${reads - 1}`); // it is good until the next but one
    }
  }
  assertEquals([sent, pieces.length], [request, 3]);
});
