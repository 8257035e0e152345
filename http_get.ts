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
 *     deno run -A http_get.ts -o FILE URL            a download; FILE is there when all of it is
 *
 * Install: deno install -g --allow-net --allow-read --allow-write --allow-env=DENO_TLS_CA_STORE http_get.ts
 * See also: echo_tcp.ts, which shows the same stream of bytes without a protocol on top.
 *
 * @module
 */
import { connect, Failure, type Given, output, printable, reason, run, type Target, VERSION } from "./utils.ts";
import { type Trace, within, writeAll } from "./utils.ts";

const SECTION = 300 * 1024; // bytes that a header section may have; without a bound, a server could fill the memory
const LINES = 5000;
const INTERIM = 20 * SECTION; // bytes that all the answers before the final one may have

/** The protocol: sends a request, and yields the answer as it arrives. Each piece is good until the next but one. */
export async function* get(
  conn: Pick<Deno.Conn, "read" | "write">,
  request: Uint8Array,
): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  for (let sent = 0; sent < request.length;) sent += await conn.write(request.subarray(sent));
  // One answer takes many reads, cut anywhere. With two large buffers, one is filled while the other is written.
  const buffers = [new Uint8Array(1024 * 1024), new Uint8Array(1024 * 1024)];
  for (let i = 0, n; (n = await conn.read(buffers[i])) !== null; i = 1 - i) yield buffers[i].subarray(0, n);
}

/** A field line, `Name: value`. */
export type Field = [name: string, value: string];
/** What comes before the body. Text is one character a byte: its encoding is not known. */
export type Head = { status: number; line: string; fields: Field[]; bytes: Uint8Array };

const latin1 = (bytes: Uint8Array) => bytes.reduce((text, byte) => text + String.fromCharCode(byte), "");

/** Without the spaces and tabs around it; `trim` would take bytes above 127 as well. */
const bare = (text: string) => text.match(/[^ \t](.*[^ \t])?/s)?.[0] ?? "";

/** What is wrong with a line of a header section, if something is (RFC 9112 2.2 and 5). */
function fault(line: string, folded: boolean): string | undefined {
  const colon = line.indexOf(":");
  if (line.includes("\0")) return "NUL";
  if (line.includes("\r")) return "a bare CR";
  if (!folded && colon < 0) return "no colon";
  if (!folded && !/^[!-~\x80-\xff]+$/.test(line.slice(0, colon))) return "no proper name before the colon";
}

/** Reads the lines of a header section (RFC 9112 2 to 5). Throws a {@linkcode Failure} of 1 or 8. */
function parseHead([line, ...rest]: string[], bytes: Uint8Array): Head {
  const status = Number(line.match(/^HTTP\/1\.\d[ \t]+([1-9]\d\d)(?![^ \t])/)?.[1]), fields: Field[] = [];
  if (!status) throw new Failure(1, `the server does not answer in HTTP/1: "${line.slice(0, 60)}"`);
  for (const each of rest) {
    const folded = fields.length > 0 && /^[ \t]/.test(each), wrong = fault(each, folded), colon = each.indexOf(":");
    if (wrong) throw new Failure(8, `${wrong} in the header line "${each.slice(0, 60)}"`);
    if (folded) fields[fields.length - 1][1] += ` ${bare(each)}`;
    else fields.push([each.slice(0, colon), bare(each.slice(colon + 1))]);
  }
  return { status, line, fields, bytes };
}

/** The value of a field, or nothing where it is missing or empty. */
const field = (head: Head, name: string) => head.fields.find((each) => each[0].toLowerCase() === name)?.[1];
/** The members of a field that is a list, over all of its lines. */
const list = (head: Head, name: string) =>
  head.fields.flatMap((each) => each[0].toLowerCase() === name ? each[1].split(",").map(bare) : []);

/** Where a body ends, and why: RFC 9112 6.3, in its order. `length` is Infinity where it is not known beforehand. */
export function framing(method: string, head: Head): { chunked?: true; length: number; why: string } {
  const codings = list(head, "transfer-encoding").filter((coding) => coding), lengths = list(head, "content-length");
  const rule = (what: string, n: string) => `${what} (RFC 9112 6.3, ${n})`, only = lengths.length === 0;
  if (method === "HEAD") return { length: 0, why: rule("none, as HEAD asks for none", "rule 1") };
  if (head.status < 200 || head.status === 204 || head.status === 304) {
    return { length: 0, why: rule(`none, as a ${head.status} has none`, "rule 1") };
  }
  const beats = only ? "" : ", whatever Content-Length says", rules = only ? "rule 4" : "rules 3 and 4";
  if (codings.at(-1)?.toLowerCase() === "chunked") {
    return { chunked: true, length: Infinity, why: rule(`chunked${beats}`, rules) };
  }
  if (codings.length) return { length: Infinity, why: rule(`to the close, as chunked is not last${beats}`, rules) };
  const length = Number(lengths[0]);
  if (lengths.some((each) => !/^\d+$/.test(each) || Number(each) !== length) || length > Number.MAX_SAFE_INTEGER) {
    throw new Failure(8, `"Content-Length: ${lengths.join(", ").slice(0, 60)}" is ${rule("no length", "rule 5")}`);
  }
  if (!only) return { length, why: rule(`${length} bytes, by Content-Length`, "rule 6") };
  return { length: Infinity, why: rule("to the close, as no length is given", "rule 8") };
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
  #piece = new Uint8Array(0);
  #at = 0; // what is before it in the piece, was read
  #body: [from: number, to: number] = [0, 0]; // the bytes of the body in the piece, moved together
  #held = new Uint8Array(1024); // lines that are not complete
  #holds = 0;
  #closed = false;
  readonly #steps = this.#answer();

  /** `log` is told what frames the body, and of each chunk. */
  constructor(readonly method: string, readonly log?: (line: string) => void) {}

  /**
   * Yields the heads that end in the piece, then its share of the body: a part of the piece itself, in which the chunks
   * are moved together. Throws a {@linkcode Failure} of 1, 8, 18, 52, 56 or 63.
   */
  *feed(piece: Uint8Array<ArrayBuffer>): Generator<Head | Uint8Array> {
    [this.#piece, this.#at, this.#body] = [piece, 0, [0, 0]];
    for (let head; (head = this.#steps.next().value);) yield head;
    if (this.#body[1]) yield piece.subarray(...this.#body);
  }
  /** The server closed. Throws a {@linkcode Failure} of 18 or 52 if that was too early. */
  end(): void {
    this.#closed = true;
    this.feed(new Uint8Array(0)).next();
  }

  *#answer(): Generator<Head | void, void> {
    for (let interim = 0;; interim += this.#holds) {
      const head = parseHead(yield* this.#section("HTTP/"), this.#held.slice(0, this.#holds));
      if (interim > INTERIM) throw new Failure(63, `more than ${INTERIM} bytes of answers that are not final`);
      const { chunked, length, why } = framing(this.method, head);
      this.length = length;
      yield head;
      if (head.status < 200) continue;
      this.log?.(`body: ${why}`);
      yield* chunked ? this.#chunks() : this.#pass(length);
      this.done = true;
      const extra = this.#piece.length - this.#at;
      return extra ? this.log?.(`${extra} bytes after the answer: ignored`) : undefined;
    }
  }
  /** Waits for the next piece. */
  *#more(early: string): Generator<void, void> {
    if (this.#closed && !early) throw new Failure(52, "the server closed without an answer");
    if (this.#closed) throw new Failure(18, `the server closed ${early}`);
    yield;
  }
  /** The lines up to an empty one. `start` is what the first has to start with. */
  *#section(start = ""): Generator<void, string[]> {
    const lines: string[] = [];
    this.#holds = 0;
    for (let line; (line = yield* this.#line(lines.length ? "" : start));) {
      if (lines.push(line) > LINES) throw new Failure(63, `a header section of more than ${LINES} lines`);
    }
    return lines;
  }
  *#line(start = ""): Generator<void, string> {
    for (const from = this.#holds;;) {
      const end = this.#piece.indexOf(10, this.#at) + 1;
      this.#hold(this.#piece.subarray(this.#at, end || undefined));
      this.#at = end || this.#piece.length;
      const first = latin1(this.#held.subarray(from, Math.min(this.#holds, from + start.length)));
      // Not put off to the end of the line: a server that speaks something else may never end it.
      if (!start.startsWith(first)) throw new Failure(1, `the server does not answer in HTTP/1: it says "${first}"`);
      if (end) return latin1(this.#held.subarray(from, this.#holds)).replace(/\r?\n$/, "");
      yield* this.#more(start && !this.#holds ? "" : "in the header section or between chunks");
    }
  }
  #hold(bytes: Uint8Array): void {
    const size = this.#holds + bytes.length;
    if (size > SECTION) throw new Failure(63, `a header section of more than ${SECTION} bytes`);
    if (size > this.#held.length) {
      const larger = new Uint8Array(2 * size);
      larger.set(this.#held.subarray(0, this.#holds));
      this.#held = larger;
    }
    this.#held.set(bytes, this.#holds);
    this.#holds = size;
  }
  /** Passes on so many bytes of the body. */
  *#pass(length: number): Generator<void, void> {
    for (let left = length;;) {
      const n = Math.min(left, this.#piece.length - this.#at), [from, to] = this.#body;
      if (to === 0) this.#body = [this.#at, this.#at + n];
      else this.#piece.copyWithin(to, this.#at, this.#at + n), this.#body = [from, to + n];
      this.#at += n, left -= n;
      if (left === 0 || this.#closed && left === Infinity) return;
      yield* this.#more(`with ${left} of ${length} bytes still to come`);
    }
  }
  /** RFC 9112 7.1. */
  *#chunks(): Generator<void, void> {
    for (let size = NaN; size !== 0;) {
      this.#holds = 0;
      const line = yield* this.#line(), digits = line.match(/^[\da-f]+/i)?.[0] ?? "";
      size = parseInt(digits, 16); // what follows a semicolon is an extension: nobody uses them
      if (!(size <= Number.MAX_SAFE_INTEGER) || !/^[ \t]*(;|$)/.test(line.slice(digits.length))) {
        throw new Failure(56, `"${line.slice(0, 60)}" is not the size of a chunk`);
      }
      const end = this.#held[this.#holds - 2] === 13 ? [13, 10] : [10]; // as the line before ended
      this.log?.(size ? `chunk: ${size} bytes` : "chunk: 0 bytes, the last");
      if (size === 0) continue;
      yield* this.#pass(size);
      for (const byte of end) {
        while (this.#at === this.#piece.length) yield* this.#more("after a chunk that is not the last");
        if (this.#piece[this.#at++] !== byte) throw new Failure(56, `a chunk does not end after its ${size} bytes`);
      }
    }
    for (const line of yield* this.#section()) this.log?.(`trailer: ${line}`); // not headers: no one may rely on them
  }
}

/** What is asked for, and how. Times are milliseconds, sizes bytes. */
export interface Options {
  url: URL;
  method?: "GET" | "HEAD";
  version?: "1.0" | "1.1";
  headers?: Field[]; // replace those of the same name; an empty value removes one
  agent?: string;
  compressed?: boolean; // asks for gzip or deflate, and undoes it
  redirects?: number; // how many to follow; none are where it is missing
  include?: boolean; // gives out the heads as well
  fail?: boolean; // throws for a status of 400 or more
  maxSize?: number;
  family?: 4 | 6;
  connectTimeout?: number;
  caCerts?: string[]; // authorities to trust as well, in PEM
  signal?: AbortSignal;
  trace?: Trace;
  output: (bytes: Uint8Array) => Promise<void>; // takes the answer; the bytes are good until it resolves
  tally?: { done: number; total: number }; // counts the bytes of the body; `total` is Infinity where it is not known
}

/** A URL as a person types it, `http://` left out perhaps. Throws a {@linkcode Failure} of 1 or 3. */
export function parseURL(text: string): URL {
  const [, scheme = ""] = text.match(/^([a-z][a-z\d+.-]*):\/\//i) ?? [];
  if (scheme && !/^https?$/i.test(scheme)) throw new Failure(1, `${scheme} is not spoken here: http and https are`);
  const url = URL.parse(scheme ? text : `http://${text}`);
  // URL would drop line ends and take the next word of `http:///word` for the host.
  if (url && !/\p{Cc}/u.test(text) && !/^(\w+:\/\/)?[/\\]/.test(text)) return url;
  throw new Failure(3, `"${text}" is not a URL: http://HOST[:PORT]/PATH`);
}

/** A field from `Name: value`, or `Name:` to leave it out. Throws a {@linkcode Failure} of 2. */
export function parseField(text: string): Field {
  const [, name, value] = text.match(/^([!#$%&'*+.^`|~\w-]+):((?:\t|\P{Cc})*)$/u) ?? [];
  if (!name) throw new Failure(2, `"${text}" is not a header: "Name: value", or "Name:" to leave it out`);
  return [name, bare(value)];
}

/** Where a redirect leads. Throws a {@linkcode Failure} of 1 or 3. */
export function redirect(from: URL, location: string): URL {
  const to = URL.parse(location.replace(/[^!-~]/g, (c) => `%${c.charCodeAt(0).toString(16).padStart(2, "0")}`), from);
  if (!to) throw new Failure(3, `redirected to "${location}", which is not a URL`);
  if (!/^https?:$/.test(to.protocol)) throw new Failure(1, `redirected to ${to}: only http and https are spoken here`);
  const down = from.protocol === "https:" && to.protocol === "http:";
  if (down) throw new Failure(1, `redirected to ${to}: not followed, as http would undo the protection of https`);
  to.username = to.password = ""; // a relative URL inherits them; what they are good for is decided by the origin
  return to;
}

/** The request for a URL; what is secret goes to the origin that it was given for, and nowhere else. */
export function request(url: URL, options: Omit<Options, "output">): Uint8Array {
  const { method = "GET", version = "1.1", headers = [], agent = `http_get/${VERSION}`, compressed } = options;
  const { username, password, origin } = options.url, home = url.origin === origin;
  const given = headers.filter(([name]) => home || !/^(host|cookie|(proxy-)?authorization)$/i.test(name));
  const own: Field[] = [["Host", url.host], ["User-Agent", agent], ["Accept", "*/*"], ["Connection", "close"]];
  if (compressed) own.push(["Accept-Encoding", "gzip, deflate"]);
  const byte = (code: string) => String.fromCharCode(parseInt(code.slice(1), 16));
  const secret = btoa(`${username}:${password}`.replace(/%[\da-f]{2}/gi, byte));
  if (home && (username || password)) own.push(["Authorization", `Basic ${secret}`]);
  const names = given.map(([name]) => name.toLowerCase());
  const fields = [...own.filter(([name]) => !names.includes(name.toLowerCase())), ...given.filter((each) => each[1])];
  const [, target] = url.href.match(/^\w+:\/\/[^/]*([^#]*)/)!; // unlike `search`, it keeps a question mark at the end
  const lines = [`${method} ${target} HTTP/${version}`, ...fields.map((each) => each.join(": ")), "", ""];
  return new TextEncoder().encode(lines.join("\r\n"));
}

/** Undoes a coding. Throws a {@linkcode Failure} of 61. Each piece is good until the next is asked for. */
async function* undo(coding: string, parts: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  // What a thousand zeros become in gzip is a byte, and each slice is expanded at once: short slices bound the memory.
  const slices = async function* () {
    for await (const part of parts) for (let i = 0; i < part.length; i += 8192) yield part.slice(i, i + 8192);
  }();
  const first = await slices.next();
  if (first.done) return;
  // "deflate" is zlib's format (RFC 9110 8.4.1.2), yet some servers send it bare.
  const format = /gzip/i.test(coding) ? "gzip" : (first.value[0] & 15) === 8 ? "deflate" : "deflate-raw";
  const all = async function* () {
    yield first.value;
    yield* slices;
  };
  try {
    for await (const bytes of ReadableStream.from(all()).pipeThrough(new DecompressionStream(format))) {
      yield bytes;
      (bytes.buffer as ArrayBuffer).transfer(0); // given back at once: the collector lets too many of them lie
    }
  } catch (error) {
    throw error instanceof Failure ? error : new Failure(61, `the ${coding} coding is damaged`, error);
  }
}

/** The codings of a body, in the order in which they were applied. Throws a {@linkcode Failure} of 61. */
function codings(head: Head, compressed?: boolean): string[] {
  const all = [...compressed ? list(head, "content-encoding") : [], ...list(head, "transfer-encoding")];
  if (all.at(-1)?.toLowerCase() === "chunked") all.pop(); // the parser's
  const coded = all.filter((coding) => !/^(identity)?$/i.test(coding));
  const strange = coded.find((coding, i) => !/^((x-)?gzip|deflate)$/i.test(coding) || i > 4);
  if (strange) throw new Failure(61, `cannot undo the coding "${coded.join(", ").slice(0, 60)}"`);
  return coded;
}

/** Connects to the server of a URL, with TLS for https. Throws a {@linkcode Failure} of 6, 7, 28, 35 or 60. */
async function open(url: URL, options: Options): Promise<Deno.Conn> {
  const { connectTimeout: timeout = 0, caCerts, signal, trace } = options, secure = url.protocol === "https:";
  const hostname = url.hostname.replace(/^\[|\]$/g, ""), port = Number(url.port || (secure ? 443 : 80));
  const began = performance.now(), tcp = await connect({ ...options, hostname, port, timeout });
  if (!secure) return tcp;
  const left = timeout && Math.max(1, timeout - (performance.now() - began));
  const late = within(left, `no TLS with ${hostname} in ${timeout / 1000} s`, signal);
  try {
    const tls = await Deno.startTls(tcp, { hostname, caCerts }), close = () => tls[Symbol.dispose]();
    late.addEventListener("abort", close);
    await tls.handshake();
    late.removeEventListener("abort", close);
    signal?.addEventListener("abort", close);
    trace?.life(`TLS with ${hostname}`, ">ClientHello", "<ServerHello, Certificate, Finished", ">Finished");
    return tls;
  } catch (error) {
    late.throwIfAborted();
    const [, untrusted] = reason(error).match(/peer certificate: (.*)/) ?? [];
    const why = /UnknownIssuer/.test(untrusted) ? "its authority is unknown (--cacert FILE adds one)" : untrusted;
    if (why) throw new Failure(60, `the certificate of ${hostname} is not trusted: ${why}`, error);
    const plain = /InvalidContentType/.test(reason(error)) ? "it does not speak TLS; try http://" : reason(error);
    throw new Failure(35, `no TLS with ${hostname}: ${plain}`, error);
  }
}

/** Yields the heads and the parts of the body, each good until the next is asked for and `settled` resolved. */
async function* answer(pieces: AsyncIterable<Uint8Array<ArrayBuffer>>, parser: Parser, settled: () => Promise<void>) {
  try {
    for await (const piece of pieces) {
      await settled(); // what is in the other buffer, which is filled again
      yield* parser.feed(piece);
      if (parser.done) return;
    }
  } catch (error) {
    if (error instanceof Failure) throw error;
    const torn = error instanceof Deno.errors.UnexpectedEof; // TLS without its goodbye: anybody may have cut it
    if (!torn) throw new Failure(56, `receiving failed: ${reason(error)}`, error);
    parser.end();
    throw new Failure(18, "the server closed without TLS's goodbye: the end may be missing", error);
  }
  parser.end();
}

/** Passes on the body, its codings undone; what goes wrong with that aborts `stop`. */
async function pass(
  head: Head,
  length: number,
  body: AsyncIterable<Uint8Array>,
  options: Options,
  stop: AbortController,
  write: (bytes: Uint8Array) => Promise<void>,
) {
  const { fail, compressed, maxSize = Infinity, tally = { done: 0, total: 0 } } = options;
  if (fail && head.status >= 400) throw new Failure(22, `the server answers ${head.line.slice(9)}`);
  if (maxSize < length && length < Infinity) throw new Failure(63, `too large: ${length} bytes`);
  const coded = length ? codings(head, compressed) : [];
  tally.total = coded.length ? Infinity : length;
  for await (const part of coded.reduceRight((parts, coding) => undo(coding, parts), body)) {
    const writing = write(part.subarray(0, maxSize - tally.done));
    tally.done += part.length;
    if (tally.done > maxSize) return writing.then(() => stop.abort(new Failure(63, `more than ${maxSize} bytes`)));
    if (coded.length) await writing;
  }
}

/** Asks for one URL, and returns where it redirects to, if that is to be followed. */
async function exchange(url: URL, options: Options): Promise<string | undefined> {
  const { method = "GET", redirects, include, output, trace } = options;
  const stop = new AbortController(), signal = AbortSignal.any([stop.signal, options.signal ?? stop.signal]);
  let writing = Promise.resolve(), head: Head;
  const write = (bytes: Uint8Array) => { // not awaited: the next piece is received meanwhile
    writing = writing.then(() => output(bytes));
    writing.catch((error) => stop.abort(error));
    return writing;
  };
  try {
    using socket = await open(url, { ...options, signal });
    const conn = trace?.stream(socket) ?? socket, parser = new Parser(method, trace && ((line) => trace.life(line)));
    const events = answer(get(conn, request(url, options)), parser, () => writing);
    do {
      head = (await events.next()).value as Head;
      if (include) write(head.bytes);
    } while (head.status < 200);
    const location = redirects !== undefined && /^30[12378]$/.test(`${head.status}`) && field(head, "location");
    if (!location) await pass(head, parser.length, events as AsyncGenerator<Uint8Array>, options, stop, write);
    await writing;
    signal.throwIfAborted();
    conn.close();
    return location || undefined;
  } catch (error) {
    await writing.catch(() => {});
    signal.throwIfAborted();
    throw error;
  }
}

/** Gets a URL, along its redirects. Throws a {@linkcode Failure}, of any status that the usage text lists. */
export async function download(options: Options): Promise<void> {
  const { redirects = 0, trace } = options;
  for (let { url } = options, left = redirects;; left--) {
    const location = await exchange(url, options);
    if (!location) return;
    if (left === 0) throw new Failure(47, `more than ${redirects} redirects: the next to ${location}`);
    url = redirect(url, location);
    trace?.life(`redirected to ${url}`);
  }
}

/** Standard output where it is a terminal, which no server is to drive. */
function screen(): Options["output"] {
  const decoder = new TextDecoder();
  return (bytes) => {
    if (bytes.includes(0)) throw new Failure(23, "the body is binary, and not for a terminal: use -o FILE, or a pipe");
    const text = decoder.decode(bytes, { stream: true }).replace(/(?!\r\n)[^\n\t -~]/gu, printable);
    return output(new TextEncoder().encode(text));
  };
}

/** A file that is there when it is whole: written beside, then renamed. What is no file (/dev/null) is written at once. */
async function create(path: string) {
  const old = await Deno.stat(path).catch(() => undefined), device = old && !old.isFile;
  const whole = old ? await Deno.realPath(path) : path; // a link stays one
  const part = device ? whole : `${whole}.${crypto.randomUUID().slice(0, 8)}.part`;
  const failed = (error: unknown) => {
    throw new Failure(23, `cannot write ${path}: ${reason(error)}`, error);
  };
  const file = await Deno.open(part, { write: true, createNew: !device, mode: (old?.mode ?? 0o666) & 0o777 }).catch(
    failed,
  );
  let kept = device;
  return {
    output: (bytes: Uint8Array) => writeAll(file, bytes).catch(failed),
    keep: async () => {
      file.close(); // Windows does not rename what is open
      if (!device) await Deno.rename(part, whole).catch(failed);
      kept = true;
    },
    [Symbol.asyncDispose]: async () => {
      file[Symbol.dispose]();
      if (!kept) await Deno.remove(part).catch(() => {});
    },
  };
}

const short = (n: number, units = " kMGTP"): string =>
  n < 1000 || units.length === 1
    ? `${n.toFixed(units[0] === " " ? 0 : 1)} ${units[0].trim()}B`
    : short(n / 1000, units.slice(1));

/** How a download is getting on: `12.0 MB of 48.0 MB  25%  6.0 MB/s  00:00:06 left`. */
export function progress({ done, total }: { done: number; total: number }, ms: number): string {
  const known = total < Infinity && total > 0, speed = 1000 * done / ms, left = (total - done) / speed;
  const rest = left < 86_400 ? [`${new Date(1000 * left).toISOString().slice(11, 19)} left`] : [];
  const share = known ? [`${short(done)} of ${short(total)}`, `${Math.floor(100 * done / total)}%`] : [short(done)];
  return [...share, `${short(speed)}/s`, ...rest].join("  ");
}

/** Shows the progress on the terminal, until it is disposed. */
function bar(tally: { done: number; total: number }): Disposable {
  const started = performance.now();
  const show = (line: string) => Deno.stderr.writeSync(new TextEncoder().encode(`\r${line}\x1b[K`));
  const timer = setInterval(() => {
    show(progress(tally, performance.now() - started).slice(0, (Deno.consoleSize().columns || 80) - 1));
  }, 250);
  return { [Symbol.dispose]: () => (clearInterval(timer), show("")) };
}

const USAGE = `http_get: an HTTP GET by hand (RFC 9110, RFC 9112); the body goes to standard output as it arrives

usage: http_get [options] URL                   http:// may be left out

  -i, --include                  print the headers too
  -I, --head                     ask for the headers only (HEAD), and print them
  -L, --location                 follow redirects
      --max-redirs N             follow this many at most (20)
  -o, --output FILE              write to FILE, which is there once all of it is; - is standard output
  -H, --header LINE...           send "Name: value" as well, or instead; "Name:" leaves a header out
  -A, --user-agent TEXT          say that this client asks (http_get/${VERSION})
  -f, --fail                     print no body of an error, a status of 400 or more: exit with 22
  -m, --max-time SECONDS         the time for all of it (0: any)
      --connect-timeout SECONDS  the time to connect, TLS included (0: any)
      --compressed               ask for gzip or deflate, and undo it
      --cacert FILE              trust the authorities in FILE (PEM) as well
      --max-filesize BYTES       take no more than this (0: any)
  -0, --http1.0                  ask in HTTP/1.0
  -s, --silent                   show no progress
  -4, --ipv4                     IPv4 only
  -6, --ipv6                     IPv6 only
  -v, --verbose                  show what crosses the wire, and what frames the body, on stderr
      --diagram FILE             draw the exchange into a Markdown file (Mermaid)
  -h, --help                     print this text
  -V, --version                  print the version

examples:
  http_get -iL example.com                           the page, with headers, along the redirects
  http_get -o big.iso https://example.com/big.iso    a download, with its progress
  http_get -H "Accept: text/html" -v localhost:8080  with a header, and the exchange as it happens

exit status: 0 done, 1 not HTTP or other failure, 2 usage, 3 malformed URL, 6 host not found, 7 cannot connect,
8 unintelligible header, 18 ended early, 22 status of 400 or more (-f), 23 cannot write the output, 28 timed out,
35 TLS handshake, 47 too many redirects, 52 empty answer, 56 receiving failed, 60 certificate not trusted,
61 damaged content coding, 63 too large, 130 interrupted
`;

type Switches = "include" | "head" | "location" | "fail" | "compressed" | "http1" | "silent";
type Texts = "output" | "user-agent" | "cacert";
type Numbers = "max-redirs" | "max-time" | "connect-timeout" | "max-filesize";
type Flags = Record<Switches, boolean> & { [name in Texts]?: string } & { [name in Numbers]?: number } & {
  header: string[];
};

async function client(given: Given<Flags>): Promise<void> {
  const { words: [text], head, output: path = "-", cacert, "max-time": time = 0 } = given;
  if (!text) throw new Failure(2, "a URL is missing: http_get localhost:8080");
  const headers = given.header.map(parseField), url = parseURL(text);
  const unread = (error: unknown) => Promise.reject(new Failure(2, `cannot read ${cacert}: ${reason(error)}`, error));
  const caCerts = cacert ? [await Deno.readTextFile(cacert).catch(unread)] : [];
  // Deno trusts its own list of authorities only, unless this is set before the first use.
  const store = { name: "env", variable: "DENO_TLS_CA_STORE" } as const;
  const may = (await Deno.permissions.query(store)).state === "granted";
  if (may && !Deno.env.has(store.variable)) Deno.env.set(store.variable, "system,mozilla");
  const signal = within(time, `not done within ${time / 1000} s`, given.signal);
  const tally = { done: 0, total: Infinity };
  await using file = path === "-" ? undefined : await create(path);
  using _bar = file && !given.silent && Deno.stderr.isTerminal() ? bar(tally) : undefined;
  const work = download({
    ...{ url, headers, caCerts, signal, tally, compressed: given.compressed, fail: given.fail, trace: given.trace },
    ...{ method: head ? "HEAD" : "GET", version: given.http1 ? "1.0" : "1.1", agent: given["user-agent"] },
    ...{ include: head || given.include, redirects: given.location ? given["max-redirs"] ?? 20 : undefined },
    ...{ maxSize: given["max-filesize"] || Infinity, family: given.family, connectTimeout: given["connect-timeout"] },
    output: file?.output ?? (Deno.stdout.isTerminal() ? screen() : output),
  });
  // A write that waits for its reader cannot be cancelled: it is left behind.
  const over = new Promise<never>((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  await Promise.race([work, over]);
  await file?.keep();
}

/** Runs a command line. Returns the exit status. */
export function main(args: string[]): Promise<number> {
  const plain = args.map((arg) => arg === "--http1.0" ? "-0" : arg); // a dot means something to parseArgs
  return run<Flags>({ name: "http_get", usage: USAGE, words: 1 }, plain, client);
}

// Not by way of exitCode: a write that nobody takes would hold the process.
if (import.meta.main) Deno.exit(await main(Deno.args));
