#!/usr/bin/env -S deno run --allow-net --allow-read --allow-write --allow-env=DENO_TLS_CA_STORE
/**
 * A client for HTTP/1.1 (RFC 9110, RFC 9112), by hand over a socket: a GET is a few lines of text, and the art is all in
 * the answer. TCP has no messages: where the body ends, the header says, in one of five ways, and `-v` says which.
 *
 * Try it in two terminals:
 *
 *     nc -l 8080                                     the server is you
 *     deno run -A http_get.ts -v localhost:8080      what was sent appears in the first terminal. Type into it
 *                                                    "HTTP/1.1 200 OK", an empty line, some text, then Ctrl-C
 *
 *     deno run -A http_get.ts -iL http://deno.com    headers too, along the redirects, into TLS
 *
 * Install: deno install -g --allow-net --allow-read --allow-write --allow-env=DENO_TLS_CA_STORE http_get.ts
 * See also: echo_tcp.ts, which shows the same stream of bytes without a protocol on top.
 *
 * @module
 */
import {
  connect,
  Failure,
  type Given,
  output,
  reason,
  run,
  say,
  VERSION,
} from "./utils.ts";
import { type Trace, unless, within, writeAll } from "./utils.ts";

const SECTION = 300 * 1024, LINES = 5000; // the bytes and fields of a header section: unbounded, they fill the memory

/** The protocol: sends a request, and yields the answer as it arrives, in pieces: the next but one overwrites each. */
export async function* get(
  conn: Pick<Deno.Conn, "read" | "write">,
  request: Uint8Array,
): AsyncGenerator<Uint8Array> {
  for (let sent = 0; sent < request.length;) {
    sent += await conn.write(request.subarray(sent));
  }
  // One answer takes many reads, cut anywhere. With two large buffers, one is filled while the other is written.
  const buffers = [new Uint8Array(1024 * 1024), new Uint8Array(1024 * 1024)];
  for (let i = 0, n; (n = await conn.read(buffers[i])) !== null; i = 1 - i) {
    yield buffers[i].subarray(0, n);
  }
}

/** A field line, `Name: value`. */
export type Field = [name: string, value: string];
/** What comes before the body. Text is one character a byte: its encoding is not known. */
export type Head = {
  status: number;
  line: string;
  fields: Field[];
  bytes: Uint8Array;
};
type Body = AsyncIterable<Uint8Array>;

const latin1 = (bytes: Uint8Array) =>
  bytes.reduce((text, byte) => text + String.fromCharCode(byte), "");

/** Without the spaces and tabs around it; `trim` would take bytes above 127 as well. */
const bare = (text: string) => text.match(/[^ \t](.*[^ \t])?/s)?.[0] ?? "";

const foreign = (said: string) => { // a TLS alert begins with 0x15
  const hint = said[0] === "\x15" ? ", which is TLS: try https://" : "";
  return new Failure(
    1,
    `the server does not speak HTTP/1, but "${said}"${hint}`,
  );
};

/** Reads the lines of a header section (RFC 9112 2 to 5). Throws a {@linkcode Failure} of 1 or 8. */
function parseHead([line, ...rest]: string[], bytes: Uint8Array): Head {
  const status = Number(
      line.match(/^HTTP\/1\.\d[ \t]+([1-9]\d\d)(?![^ \t])/)?.[1],
    ),
    fields: Field[] = [];
  if (!status) throw foreign(line.slice(0, 60));
  for (const each of rest) {
    const [, name, value] = each.match(/^([!-9;-~\x80-\xff]+):(.*)$/s) ?? [],
      [last] = fields.slice(-1);
    const wrong = /[\0\r]/.test(each) ||
      !name && !(last && /^[ \t]/.test(each));
    if (wrong) {
      throw new Failure(8, `not a header line: "${each.slice(0, 60)}"`);
    }
    if (name) fields.push([name, bare(value)]);
    else last[1] += ` ${bare(each)}`; // folded
  }
  return { status, line, fields, bytes };
}

const field = (head: Head, name: string) =>
  head.fields.find((each) => each[0].toLowerCase() === name)?.[1];
const list = (head: Head, name: string) =>
  head.fields.flatMap((each) =>
    each[0].toLowerCase() === name ? each[1].split(",").map(bare) : []
  );

const transferCodings = (head: Head) =>
  list(head, "transfer-encoding").filter((coding) => coding);

/** Where a body ends, and why: RFC 9112 6.3, in its order. `length` is Infinity where it is not known beforehand. */
export function framing(
  method: string,
  head: Head,
): { chunked?: boolean; length: number; why: string } {
  const codings = transferCodings(head), lengths = list(head, "content-length");
  const rule = (what: string, n: string) => `${what} (RFC 9112 6.3, ${n})`,
    only = lengths.length === 0;
  const { status } = head,
    none = rule(
      `none, as ${method === "HEAD" ? method : status} has none`,
      "rule 1",
    );
  if (method === "HEAD" || status < 200 || status === 204 || status === 304) {
    return { length: 0, why: none };
  }
  const beats = only ? "" : ", whatever Content-Length says",
    rules = only ? "rule 4" : "rules 3 and 4";
  const chunked = codings.at(-1)?.toLowerCase() === "chunked";
  if (chunked) {
    return { chunked, length: Infinity, why: rule(`chunked${beats}`, rules) };
  }
  if (codings.length) {
    return {
      length: Infinity,
      why: rule(`to the close, as chunked is not last${beats}`, rules),
    };
  }
  const length = Number(lengths[0]);
  if (
    lengths.some((each) => !/^\d+$/.test(each) || Number(each) !== length) ||
    length > Number.MAX_SAFE_INTEGER
  ) {
    throw new Failure(
      8,
      `"Content-Length: ${lengths.join(", ").slice(0, 60)}" is ${
        rule("no length", "rule 5")
      }`,
    );
  }
  if (!only) {
    return {
      length,
      why: rule(`${length} bytes, by Content-Length`, "rule 6"),
    };
  }
  return {
    length: Infinity,
    why: rule("to the close, as no length is given", "rule 8"),
  };
}

/**
 * Takes an answer apart, fed with pieces that are cut anywhere. It works through them as if it could wait for bytes:
 * where they run out, the generators yield, and go on with the next piece.
 */
export class Parser {
  /** whether the whole answer was seen: what may follow does not belong to it */
  done = false;
  /** the bytes of the body, once the head was seen; Infinity where it does not say */
  length = 0;
  #piece: Uint8Array = new Uint8Array(0);
  #at = 0; // what is before it in the piece, was read
  #body: [from: number, to: number] = [0, 0]; // the bytes of the body in the piece, moved together
  #held = new Uint8Array(SECTION); // lines that may not be complete
  #holds = 0;
  #closed = false;
  readonly #steps = this.#answer();

  /** `log` is told what frames the body, and of each chunk. */
  constructor(readonly method: string, readonly log?: (line: string) => void) {}

  /**
   * Yields the heads that end in the piece, then its share of the body: a part of the piece itself, in which the chunks
   * are moved together. Throws a {@linkcode Failure} of 1, 8, 18, 52, 56 or 63.
   */
  *feed(piece: Uint8Array): Generator<Head | Uint8Array> {
    [this.#piece, this.#at, this.#body] = [piece, 0, [0, 0]];
    try {
      for (let head; (head = this.#steps.next().value);) yield head;
    } finally { // what is good of the body comes out before a failure, however the pieces are cut
      if (this.#body[1] > this.#body[0]) yield piece.subarray(...this.#body);
    }
  }
  /** The server closed. Throws a {@linkcode Failure} of 18 or 52 if that was too early. */
  end(): void {
    this.#closed = true;
    this.feed(new Uint8Array(0)).next();
  }

  *#answer(): Generator<Head | void, void> {
    for (let interim = 0;; interim += this.#holds) {
      const lines = yield* this.#section("HTTP/", "in the header section");
      const head = parseHead(lines, this.#held.slice(0, this.#holds));
      if (interim > 20 * SECTION) {
        throw new Failure(
          63,
          `no end of answers that are not final: ${interim} bytes`,
        );
      }
      const { chunked, length, why } = framing(this.method, head);
      this.length = length;
      yield head;
      if (head.status < 200) continue;
      this.log?.(`body: ${why}`);
      yield* chunked ? this.#chunks() : this.#pass(length);
      return void (this.done = true);
    }
  }
  *#more(early: string): Generator<void, void> {
    if (this.#closed && !early) {
      throw new Failure(52, "the server closed without an answer");
    }
    if (this.#closed) throw new Failure(18, `the server closed ${early}`);
    yield; // here it waits for the next piece
  }
  /** The lines up to an empty one. `start` is what the first has to start with. */
  *#section(start: string, early: string): Generator<void, string[]> {
    const lines: string[] = [];
    this.#holds = 0;
    for (
      let line;
      (line = yield* this.#line(lines.length ? "" : start, early));
    ) {
      if (lines.push(line) > LINES + 1) {
        throw new Failure(63, `more than ${LINES} lines ${early}`);
      }
    }
    return lines;
  }
  *#line(start: string, early: string): Generator<void, string> {
    for (const from = this.#holds;;) {
      const end = this.#piece.indexOf(10, this.#at) + 1,
        more = this.#piece.subarray(this.#at, end || undefined);
      if (this.#holds + more.length > SECTION) {
        throw new Failure(63, `more than ${SECTION} bytes ${early}`);
      }
      this.#held.set(more, this.#holds);
      this.#at += more.length, this.#holds += more.length;
      const said = (most: number) =>
        latin1(this.#held.subarray(from, Math.min(this.#holds, from + most)));
      // Not put off to the end of the line: a server that speaks something else may never end it.
      if (!start.startsWith(said(start.length))) {
        throw foreign(said(40).replace(/\r?\n.*/s, ""));
      }
      if (end) {
        return latin1(this.#held.subarray(from, this.#holds)).replace(
          /\r?\n$/,
          "",
        );
      }
      yield* this.#more(start && !this.#holds ? "" : early);
    }
  }
  *#pass(length: number): Generator<void, void> {
    for (let left = length;;) {
      const n = Math.min(left, this.#piece.length - this.#at),
        [from, to] = this.#body;
      if (to === 0) this.#body = [this.#at, this.#at + n];
      else {this.#piece.copyWithin(to, this.#at, this.#at + n),
          this.#body = [from, to + n];}
      this.#at += n, left -= n;
      if (left === 0 || this.#closed && left === Infinity) return;
      yield* this.#more(`with ${left} of ${length} bytes still to come`);
    }
  }
  *#chunks(): Generator<void, void> { // RFC 9112 7.1
    for (let size = NaN; size !== 0;) {
      this.#holds = 0;
      const line = yield* this.#line("", "between two chunks"),
        digits = line.match(/^[\da-f]+/i)?.[0] ?? "";
      size = parseInt(digits, 16); // what follows a semicolon is an extension: nobody uses them
      if (
        !(size <= Number.MAX_SAFE_INTEGER) ||
        !/^[ \t]*(;|$)/.test(line.slice(digits.length))
      ) {
        throw new Failure(
          56,
          `"${line.slice(0, 60)}" is not the size of a chunk`,
        );
      }
      const end = this.#held[this.#holds - 2] === 13 ? [13, 10] : [10]; // as the line before ended
      this.log?.(size ? `chunk: ${size} bytes` : "chunk: 0 bytes, the last");
      if (size === 0) continue;
      yield* this.#pass(size);
      for (const byte of end) {
        while (this.#at === this.#piece.length) {
          yield* this.#more("between two chunks");
        }
        if (this.#piece[this.#at++] !== byte) {
          throw new Failure(56, `a chunk does not end after its ${size} bytes`);
        }
      }
    }
    const trailers = yield* this.#section("", "in the trailer section"); // not headers: no one may rely on them
    for (const line of trailers) this.log?.(`trailer: ${line}`);
  }
}

/** What is asked for, and how: curl's options by their long names. Times are milliseconds, sizes bytes. */
export type Options =
  & {
    [
      name in "include" | "head" | "location" | "fail" | "compressed" | "http1"
    ]?: boolean;
  }
  & { [name in "max-redirs" | "connect-timeout" | "max-filesize"]?: number }
  & {
    url: URL;
    headers?: Field[]; // replace those of the same name; an empty value removes one
    "user-agent"?: string;
    family?: 4 | 6;
    caCerts?: string[]; // authorities to trust as well, in PEM
    signal?: AbortSignal;
    trace?: Trace;
    tally?: { done: number; total: number }; // counts the bytes of the body; `total` is Infinity where it is not known
    write: (bytes: Uint8Array) => Promise<void>; // takes the answer; the bytes are good until it resolves
  };

/** A URL as a person types it, `http://` left out perhaps. Throws a {@linkcode Failure} of 1 or 3. */
export function parseURL(text: string): URL {
  const [, scheme = ""] = text.match(/^([a-z][a-z\d+.-]*):\/\//i) ?? [];
  if (scheme && !/^https?$/i.test(scheme)) {
    throw new Failure(1, `${scheme} is not spoken here: http and https are`);
  }
  const url = URL.parse(scheme ? text : `http://${text}`);
  // URL would drop line ends and take the next word of `http:///word` for the host.
  if (
    url && !/\p{Cc}/u.test(text) &&
    !/^(\w+:\/\/|https?:(?!\/\/))?[/\\]/i.test(text)
  ) return url;
  throw new Failure(3, `"${text}" is not a URL: http://HOST[:PORT]/PATH`);
}

/** A field from `Name: value`, or `Name:` to leave it out. Throws a {@linkcode Failure} of 2. */
export function parseField(text: string): Field {
  const [, name, value] =
    text.match(/^([!#$%&'*+.^`|~\w-]+):((?:\t|\P{Cc})*)$/u) ?? [];
  if (!name) {
    throw new Failure(
      2,
      `"${text}" is not a header: "Name: value", or "Name:" to leave it out`,
    );
  }
  return [name, bare(value)];
}

/** Where a redirect leads. Throws a {@linkcode Failure} of 1 or 3. */
export function redirect(from: URL, location: string): URL {
  const to = URL.parse(
    location.replace(
      /[^!-~]/g,
      (c) => `%${c.charCodeAt(0).toString(16).padStart(2, "0")}`,
    ),
    from,
  );
  if (!to || to.port === "0") {
    throw new Failure(
      3,
      `redirected to "${location.slice(0, 200)}", which is not a URL`,
    );
  }
  const known = from.protocol === "https:" ? /^https:$/ : /^https?:$/; // never back to what protects nothing
  if (!known.test(to.protocol)) {
    throw new Failure(
      1,
      `not redirected from ${from.protocol} to ${to.protocol}`,
    );
  }
  to.username = to.password = ""; // a relative URL inherits them; what they are good for is decided by the origin
  return to;
}

/** The request for a URL; what is secret goes to the origin that it was given for, and nowhere else. */
export function request(url: URL, options: Omit<Options, "write">): Uint8Array {
  const {
    headers = [],
    "user-agent": agent = `http_get/${VERSION}`,
    compressed,
    head,
    http1,
  } = options;
  const { username: user, password: key, origin } = options.url,
    home = url.origin === origin;
  const given = headers.filter(([name]) =>
    home || !/^(host|cookie|(proxy-)?authorization)$/i.test(name)
  );
  const own: Field[] = [["Host", url.host], ["User-Agent", agent], [
    "Accept",
    "*/*",
  ], ["Connection", "close"]];
  if (compressed) own.push(["Accept-Encoding", "gzip, deflate"]);
  const secret = btoa(
    `${user}:${key}`.replace(
      /%([\da-f]{2})/gi,
      (_, hex) => String.fromCharCode(parseInt(hex, 16)),
    ),
  );
  if (home && (user || key)) own.push(["Authorization", `Basic ${secret}`]);
  const names = given.map(([name]) => name.toLowerCase());
  const fields = [
    ...own.filter(([name]) => !names.includes(name.toLowerCase())),
    ...given.filter((each) => each[1]),
  ];
  const [, target] = url.href.match(/^\w+:\/\/[^/]*([^#]*)/)!; // unlike `search`, it keeps a question mark at the end
  const line = `${head ? "HEAD" : "GET"} ${target} HTTP/1.${http1 ? 0 : 1}`;
  return new TextEncoder().encode(
    [line, ...fields.map((each) => each.join(": ")), "", ""].join("\r\n"),
  );
}

/** Undoes a coding. Throws a {@linkcode Failure} of 61. Each piece is good until the next is asked for. */
async function* undo(coding: string, body: Body): Body {
  let format: CompressionFormat | "" = "", probed = false;
  // What a thousand zeros become in gzip is a byte, and each slice is expanded at once: short slices bound the memory.
  const slices = async function* () {
    for await (const part of body) {
      for (let i = 0; i < part.length; i += 8192) {
        yield part.slice(i, i + 8192);
      }
    }
    // Deno takes deflate that was cut off for whole. One byte more is refused only where it had come to its end.
    if (format && format !== "gzip") probed = true, yield new Uint8Array(1);
  }();
  const first = await slices.next();
  if (first.done) return;
  // "deflate" is zlib's format (RFC 9110 8.4.1.2), yet some servers send it bare.
  format = /gzip/i.test(coding)
    ? "gzip"
    : (first.value[0] & 15) === 8
    ? "deflate"
    : "deflate-raw";
  const all = async function* () {
    yield first.value;
    yield* slices;
  };
  const damaged = (error?: unknown) =>
    new Failure(61, `the ${coding} coding is damaged`, error);
  try {
    for await (
      const bytes of ReadableStream.from(all()).pipeThrough(
        new DecompressionStream(format),
      )
    ) {
      yield bytes;
      (bytes.buffer as ArrayBuffer).transfer(0); // given back at once: the collector lets too many of them lie
    }
  } catch (error) {
    if (probed && /whole buffer/.test(reason(error))) return;
    throw error instanceof Failure ? error : damaged(error);
  }
  if (probed) throw damaged();
}

/** The codings of a body, in the order in which they were applied. Throws a {@linkcode Failure} of 61. */
function codings(head: Head, compressed?: boolean): string[] {
  const transfer = transferCodings(head);
  if (transfer.at(-1)?.toLowerCase() === "chunked") transfer.pop(); // the parser's
  const all = [
    ...compressed ? list(head, "content-encoding") : [],
    ...transfer,
  ];
  const coded = all.filter((coding) => !/^(identity)?$/i.test(coding));
  const strange = coded.find((coding, i) =>
    !/^((x-)?gzip|deflate)$/i.test(coding) || i > 4
  );
  if (strange) {
    throw new Failure(
      61,
      `cannot undo the coding "${coded.join(", ").slice(0, 60)}"`,
    );
  }
  return coded;
}

/** Connects to the server of a URL, with TLS for https. Throws a {@linkcode Failure} of 6, 7, 28, 35 or 60. */
async function open(url: URL, options: Options): Promise<Deno.Conn> {
  const { "connect-timeout": timeout = 0, caCerts, signal, trace } = options,
    secure = url.protocol === "https:";
  const hostname = url.hostname.replace(/^\[|\]$/g, ""),
    port = Number(url.port || (secure ? 443 : 80));
  const began = performance.now(),
    tcp = await connect({ ...options, hostname, port, timeout });
  if (!secure) return tcp;
  const left = timeout && Math.max(1, began + timeout - performance.now());
  using late = within(
    left,
    `no TLS with ${hostname} in ${timeout / 1000} s`,
    signal,
  );
  try {
    const tls = await Deno.startTls(tcp, { hostname, caCerts }),
      close = () => tls[Symbol.dispose]();
    late.addEventListener("abort", close);
    await tls.handshake().catch((error) => (close(), Promise.reject(error)));
    signal?.addEventListener("abort", close);
    trace?.life(
      `TLS with ${hostname}`,
      ">ClientHello",
      "<ServerHello, Certificate, Finished",
      ">Finished",
    );
    return tls;
  } catch (error) {
    late.throwIfAborted();
    const why = reason(error).replace(
      /.*InvalidContentType.*/,
      "it does not speak TLS: try http://",
    )
      .replace("UnknownIssuer", "unknown authority (--cacert FILE adds one)")
      .replace(
        /Other.*CaUsedAsEndEntity.*/,
        "it is an authority's own (basicConstraints CA:TRUE), no server's",
      );
    const [, untrusted] = why.match(/peer certificate: (.*)/) ?? [];
    if (untrusted) {
      throw new Failure(
        60,
        `the certificate of ${hostname} is not trusted: ${untrusted}`,
        error,
      );
    }
    throw new Failure(35, `no TLS with ${hostname}: ${why}`, error);
  }
}

/** Yields the heads and the parts of the body, each good until the next is asked for and `settled` resolved. */
async function* answer(
  pieces: AsyncIterable<Uint8Array>,
  parser: Parser,
  settled: () => Promise<void>,
) {
  try {
    for await (const piece of pieces) {
      await settled(); // what is in the other buffer, which is filled again
      for (const event of parser.feed(piece)) yield event;
      if (parser.done) return;
    }
  } catch (error) {
    if (error instanceof Failure) throw error;
    const torn = error instanceof Deno.errors.UnexpectedEof; // TLS without its goodbye: anybody may have cut it
    if (torn) parser.end();
    const why = torn ? "TLS cut off, without close_notify" : reason(error);
    throw new Failure(torn ? 18 : 56, `receiving failed: ${why}`, error);
  }
  parser.end();
}

/** Passes on the body, its codings undone. Throws a {@linkcode Failure} of 22, 61 or 63. */
async function pass(
  head: Head,
  length: number,
  body: Body,
  options: Options,
): Promise<void> {
  const {
    fail,
    compressed,
    "max-filesize": max = 0,
    write,
    tally = { done: 0, total: 0 },
  } = options;
  if (fail && head.status >= 400) {
    throw new Failure(22, `the server answers ${head.line.slice(9, 99)}`);
  }
  if (max && max < length && length < Infinity) {
    throw new Failure(63, `too large: ${length} bytes`);
  }
  const coded = length ? codings(head, compressed) : [];
  tally.total = coded.length ? Infinity : length;
  for await (
    const part of coded.reduceRight((body, coding) => undo(coding, body), body)
  ) {
    const writing = write(part.subarray(0, (max || Infinity) - tally.done));
    tally.done += part.length;
    if (max && tally.done > max) {
      throw new Failure(63, `more than ${max} bytes`);
    }
    if (coded.length) await writing;
  }
}

/** Asks for one URL, and returns where it redirects to, if that is to be followed. */
async function exchange(
  url: URL,
  options: Options,
): Promise<string | undefined> {
  const { head: asked, include, location, trace } = options,
    method = asked ? "HEAD" : "GET";
  const stop = new AbortController(),
    signal = AbortSignal.any([stop.signal, options.signal ?? stop.signal]);
  let writing = Promise.resolve(), head: Head;
  const write = (bytes: Uint8Array) => { // not awaited: the next piece is received meanwhile
    writing = writing.then(() => options.write(bytes));
    writing.catch((error) => stop.abort(error));
    return writing;
  };
  try {
    using socket = await open(url, { ...options, signal });
    const conn = trace?.stream(socket) ?? socket,
      parser = new Parser(method, trace && ((line) => trace.life(line)));
    const events = answer(
      get(conn, request(url, options)),
      parser,
      () => writing,
    );
    do {
      head = (await events.next()).value as Head;
      if (include || asked) await write(head.bytes);
    } while (head.status < 200);
    const next = location && /^30[12378]$/.test(`${head.status}`)
      ? field(head, "location")
      : "";
    if (!next) {
      await pass(head, parser.length, events as Body, { ...options, write });
    }
    await writing;
    conn.close();
    return next;
  } catch (error) {
    await writing.catch(() => {}); // what is good of the body
    signal.throwIfAborted();
    throw error;
  }
}

/** Gets a URL, along its redirects. Throws a {@linkcode Failure}, of any status that the usage text lists. */
export async function download(options: Options): Promise<void> {
  const { "max-redirs": most = 20, signal, trace } = options;
  for (let { url } = options, hops = 0;; hops++) {
    const next = await unless(signal, exchange(url, options));
    if (!next) return;
    if (hops === most) {
      throw new Failure(
        47,
        `more than ${most} redirects: the next to ${next.slice(0, 200)}`,
      );
    }
    url = redirect(url, next);
    trace?.life(`redirected to ${url.href.slice(0, 200)}`);
  }
}

// A file keeps nobody waiting: it is written at once, where handing each piece to a thread would cost as much again.
const atOnce = (file: Pick<Deno.FsFile, "writeSync">) => ({
  write: (bytes: Uint8Array) => Promise.resolve(file.writeSync(bytes)),
});
const lost = (what: string) => (error: unknown) =>
  Promise.reject(
    new Failure(23, `cannot write ${what}: ${reason(error)}`, error),
  );

/** What writes to standard output. On a terminal `output` escapes what could drive it; binary is of no use there. */
async function standardOutput(): Promise<Options["write"]> {
  const terminal = Deno.stdout.isTerminal(), path = "/dev/stdout";
  const { state } = await Deno.permissions.query({ name: "read", path });
  const to = state === "granted" && !terminal
    ? await Deno.stat(path).catch(() => undefined)
    : undefined;
  if (to?.isFile || to?.isCharDevice) {
    return (bytes) =>
      writeAll(atOnce(Deno.stdout), bytes).catch(lost("the output"));
  }
  return (bytes) => {
    if (terminal && bytes.includes(0)) {
      throw new Failure(
        23,
        "a terminal is not for binary: use -o FILE, or a pipe",
      );
    }
    return output(bytes);
  };
}

/** A file that is there when it is whole: written beside, then renamed. What is no file (/dev/null) is written at once. */
async function create(path: string) {
  const old = await Deno.stat(path).catch(() => undefined),
    device = old && !old.isFile;
  const whole = old?.isFile ? await Deno.realPath(path) : path,
    mode = (old?.mode ?? 0o666) & 0o777; // a link stays one
  if (old?.isFile) {
    (await Deno.open(whole, { write: true }).catch(lost(path))).close(); // what is read-only stays
  }
  const part = device
    ? whole
    : `${whole}.${crypto.randomUUID().slice(0, 8)}.part`;
  const file = await Deno.open(part, { write: true, createNew: !device, mode })
    .catch(lost(path));
  if (old?.isFile) await Deno.chmod(part, mode).catch(() => {}); // the umask took its share of it
  if (file.isTerminal()) {
    throw new Failure(23, `${path} is a terminal: it is written to without -o`);
  }
  return {
    write: (bytes: Uint8Array) =>
      writeAll(device ? file : atOnce(file), bytes).catch(lost(path)),
    keep:
      () => (file.close(),
        device ? undefined : Deno.rename(part, whole).catch(lost(path))), // Windows wants it closed
    // What was kept is no longer under that name.
    [Symbol.asyncDispose]: async () =>
      void (file[Symbol.dispose](),
        device || await Deno.remove(part).catch(() => {})),
  };
}

const short = (n: number, unit = 0): string =>
  n < 1000 || unit === 5
    ? `${n.toFixed(unit && 1)} ${" kMGTP"[unit].trim()}B`
    : short(n / 1000, unit + 1);

/** How a download is getting on: `12.0 MB of 48.0 MB  25%  6.0 MB/s  00:00:06 left`. */
export function progress(
  { done, total }: { done: number; total: number },
  ms: number,
): string {
  const speed = 1000 * done / ms,
    left = (total - done) / speed,
    known = total < Infinity && total > 0;
  const share = known
    ? `${short(done)} of ${short(total)}  ${Math.floor(100 * done / total)}%`
    : short(done);
  const rest = left > 0 && left < 86_400
    ? `  ${new Date(1000 * left).toISOString().slice(11, 19)} left`
    : "";
  return `${share}  ${short(speed)}/s${rest}`;
}

/** Shows the progress on the terminal, until it is disposed: then the last line stays. */
function bar(tally: { done: number; total: number }): Disposable {
  const started = performance.now();
  const print = (line: string) =>
    Deno.stderr.writeSync(new TextEncoder().encode(`\r${line}`));
  const line = () =>
    progress(tally, performance.now() - started).slice(
      0,
      (Deno.consoleSize().columns || 80) - 1,
    );
  const timer = setInterval(() => say(`${line()}\x1b[K`, print), 250);
  return {
    [Symbol.dispose]:
      () => (clearInterval(timer), say(`${line()}\x1b[K\n`, print)),
  };
}

const USAGE =
  `http_get: an HTTP GET by hand (RFC 9112); the body goes to standard output

usage: http_get [options] URL                   http:// may be left out

  -i, --include                  print the headers too
  -I, --head                     ask for the headers only (HEAD), and print them
  -L, --location                 follow redirects
      --max-redirs N             follow this many at most (20)
  -o, --output FILE              write to FILE, there when whole (-: stdout)
  -H, --header LINE...           send "Name: value" too; "Name:" leaves one out
  -A, --user-agent TEXT          say that this client asks (http_get/${VERSION})
  -f, --fail                     status 400 or more: no body, and exit with 22
  -m, --max-time SECONDS         the time for all of it (0: any)
      --connect-timeout SECONDS  the time to connect, TLS included (0: any)
      --compressed               ask for gzip or deflate, and undo it
      --cacert FILE              trust the authorities in FILE (PEM) as well
      --max-filesize BYTES       take no more than this (0: any)
  -0, --http1.0                  ask in HTTP/1.0
  -s, --silent                   show no progress
  -4, --ipv4                     IPv4 only
  -6, --ipv6                     IPv6 only
  -v, --verbose                  show what crosses the wire, on stderr
      --diagram FILE             draw the exchange in a Markdown file (Mermaid)
  -h, --help                     print this text
  -V, --version                  print the version

examples:
  http_get -iL example.com                           headers and redirects too
  http_get -o big.iso https://example.com/big.iso    with its progress
  http_get -H "Accept: text/html" -v localhost:8080  what crosses the wire

exit status: 0 done, 1 not HTTP, 2 usage, 3 malformed URL, 6 host not found,
7 cannot connect, 8 bad header, 18 ended early, 22 status 400 or more,
23 cannot write, 28 timed out, 35 TLS handshake, 47 too many redirects,
52 empty answer, 56 receiving failed, 60 untrusted certificate,
61 damaged coding, 63 too large, 130 interrupted
`;

type Words = {
  header: string[];
  output?: string;
  cacert?: string;
  silent: boolean;
  "max-time"?: number;
};

async function client(
  given: Given<Omit<Options, "url" | "write"> & Words>,
): Promise<void> {
  const {
    words: [text],
    output: path = "-",
    cacert,
    "max-time": time = 0,
    silent,
  } = given;
  if (!text) throw new Failure(2, "a URL is missing: http_get localhost:8080");
  const headers = given.header.map(parseField),
    url = parseURL(text),
    tally = { done: 0, total: Infinity };
  parseField(`User-Agent: ${given["user-agent"]}`); // no line end in it, no header more
  using signal = within(time, `not done within ${time / 1000} s`, given.signal);
  const unread = (error: unknown) =>
    Promise.reject(
      new Failure(2, `cannot read ${cacert}: ${reason(error)}`, error),
    );
  const caCerts = cacert
    ? [await unless(signal, Deno.readTextFile(cacert).catch(unread))]
    : [];
  const pem = /^-----BEGIN CERTIFICATE-----\s[^]+^-----END CERTIFICATE-----/m;
  if (cacert && !pem.test(caCerts[0])) {
    throw new Failure(2, `there is no certificate in ${cacert} (PEM)`);
  }
  // Deno trusts its own list of authorities only, unless this is set before the first use.
  const variable = "DENO_TLS_CA_STORE",
    { state } = await Deno.permissions.query({ name: "env", variable });
  if (state === "granted" && !Deno.env.has(variable)) {
    Deno.env.set(variable, "system,mozilla");
  }
  await using file = /^(-|\/dev\/stdout)$/.test(path)
    ? undefined
    : await unless(signal, create(path));
  using _bar = file && !silent && Deno.stderr.isTerminal()
    ? bar(tally)
    : undefined;
  await download({
    ...given,
    url,
    headers,
    caCerts,
    signal,
    tally,
    write: file?.write ?? await standardOutput(),
  });
  await file?.keep();
}

/** Runs a command line. Returns the exit status. */
export function main(args: string[]): Promise<number> {
  const plain = args.map((arg) => arg === "--http1.0" ? "-0" : arg); // a dot means something to parseArgs
  return run<Omit<Options, "url" | "write"> & Words>(
    { name: "http_get", usage: USAGE, words: 1 },
    plain,
    client,
  );
}

if (import.meta.main) Deno.exit(await main(Deno.args)); // exitCode would wait for a write that nobody takes
