#!/usr/bin/env -S deno run --allow-net --allow-read --allow-write --allow-env=DENO_TLS_CA_STORE
/**
 * A client for HTTP/1.1 (RFC 9110, RFC 9112), by hand over a socket. Asking for
 * a page takes a few lines of text. The hard part is the answer: TCP has no
 * message boundaries, so the header section has to say where the body ends.
 * `frame` lists the five cases, and `-v` shows which one it was.
 *
 * Try it in two terminals:
 *
 *     nc -l 8080                                   # you are the server
 *
 *     deno run -A http_get.ts -v localhost:8080
 *
 * The request appears in the first terminal. Type an answer there: "HTTP/1.1
 * 200 OK", an empty line, some text, then Ctrl-C.
 *
 * echo_tcp.ts shows the same stream of bytes without a protocol on top.
 *
 * @module
 */
import { parseArgs } from "jsr:@std/cli@^1/parse-args";
import { aborted, complain, connect, counted, delay } from "./utils.ts";
import { Failure, hostOf, type Log, output, parseFamily } from "./utils.ts";
import { parseNumber, parseSeconds, reason, refuseUnknown } from "./utils.ts";
import { run, screen, timeLimit, type Trace, VERSION } from "./utils.ts";
import { writeAll } from "./utils.ts";

const MOST_HEAD = 300 * 1024; // bytes of a header section: memory is finite
const CR = 13;
const LF = 10;
const RULE = "RFC 9112 6.3, rule"; // the rules of where a body ends

/** The protocol: sends a request and reads the answer. */
export async function get(
  conn: Pick<Deno.Conn, "read" | "write">,
  request: string,
  answer: Answer,
): Promise<void> {
  await writeAll(conn, new TextEncoder().encode(request));
  const reader = new BufferedReader(conn, answer.writer);
  let head: Head;
  do {
    head = await readHead(reader);
    await answer.writeHead(head);
  } while (head.status < 200); // such as 100 Continue: the real answer follows
  const [method] = request.split(" ");
  const framing = frame(method, head);
  const body = answer.openBody(head, framing);
  if (!body) return; // a redirect that is followed
  if (framing.isChunked) await passChunks(reader, body, answer.log);
  else await passBytes(reader, framing.length, body);
  await body.end();
}

type Field = [name: string, value: string];

/** A header section. Each character of its text stands for one byte. */
export interface Head {
  status: number;
  phrase: string; // what the server calls the status
  fields: Field[];
  text: string; // all of it, as it came
}

/** One character per byte. TextDecoder's "latin1" is windows-1252 instead. */
function latin1(bytes: Uint8Array): string {
  return bytes.reduce((text, byte) => text + String.fromCharCode(byte), "");
}

/** Reads a connection through a buffer: by lines, or as it comes. */
class BufferedReader {
  isCut = false; // TLS ended without close_notify
  #buffer = new Uint8Array(512 * 1024); // a line of MOST_HEAD leaves room
  #start = 0; // of what has not been taken
  #end = 0;

  constructor(
    readonly conn: Pick<Deno.Conn, "read">,
    readonly writer: BufferedWriter,
  ) {}

  /** The byte at this offset of what `peek` returns. */
  at(offset: number): number {
    return this.#buffer[this.#start + offset];
  }

  /** Returns what has come, up to `most` bytes. They are valid until `fill`. */
  peek(most: number): Uint8Array {
    const end = Math.min(this.#start + most, this.#end);
    return this.#buffer.subarray(this.#start, end);
  }

  skip(length: number): void {
    this.#start += length;
  }

  /** The length of the next line with its end; 0 if not all of it has come. */
  lineLength(searched = 0): number {
    const buffer = this.#buffer;
    let index = this.#start + searched; // there is no line end before it
    while (index < this.#end && buffer[index] !== LF) index++;
    return index < this.#end ? index + 1 - this.#start : 0;
  }

  /** Waits for a line, returns its length. Fails with status 18, 56 or 63. */
  async needLine(where: string): Promise<number> {
    for (let searched = 0; searched < MOST_HEAD;) {
      const length = this.lineLength(searched);
      if (length > 0) return length;
      searched = this.#end - this.#start;
      await this.need(searched + 1, where);
    }
    throw new Failure(63, `a line of more than ${MOST_HEAD} bytes`);
  }

  /** Waits for so many bytes. Fails with status 18 or 56. */
  async need(length: number, where: string): Promise<void> {
    while (this.#end - this.#start < length) {
      if (await this.fill()) continue;
      throw new Failure(18, `the server closed ${where}`);
    }
  }

  /** Waits for more bytes. Returns false when the server has closed. */
  async fill(): Promise<boolean> {
    this.#buffer.copyWithin(0, this.#start, this.#end);
    this.#end -= this.#start;
    this.#start = 0;
    this.writer.flush(); // it writes while this waits
    try {
      const length = await this.conn.read(this.#buffer.subarray(this.#end));
      this.#end += length ?? 0;
      return length !== null;
    } catch (error) {
      this.isCut = error instanceof Deno.errors.UnexpectedEof;
      if (this.isCut) return false;
      throw new Failure(56, `receiving failed: ${reason(error)}`, error);
    }
  }
}

let lastTurn = 0; // of timers and signals

/** Lets timers and signals run: awaits that never wait starve them. */
async function giveTurn(): Promise<void> {
  if (performance.now() - lastTurn < 50) return;
  await delay(0);
  lastTurn = performance.now();
}

/** Reads a header section: RFC 9112 2 to 5. Throws a {@linkcode Failure}. */
async function readHead(reader: BufferedReader): Promise<Head> {
  await giveTurn(); // there may be many
  await readStart(reader);
  const lines = await readSection(reader, "in the header section");
  // RFC 9112 2.2 and 9110 5.5: NUL and a bare CR are invalid.
  for (const line of lines) if (/\0|\r(?!\n)/.test(line)) throw notField(line);
  const [statusLine, ...rest] = lines;
  // HTTP/1.1, three digits, and perhaps a phrase
  const pattern = /^HTTP\/1\.\d[ \t]+([1-9]\d\d)(?:[ \t](.*))?\r?\n$/;
  const [, status, phrase = ""] = statusLine.match(pattern) ?? [];
  if (!status) throw foreign(statusLine);
  // A field goes on in a line that begins with a space or a tab. The empty
  // line at the end leaves two empty parts.
  const fieldLines = rest.join("").split(/\r?\n(?![ \t])/).slice(0, -2);
  const fields = fieldLines.map(parseField);
  return { status: Number(status), phrase, fields, text: lines.join("") };
}

/** Waits for `HTTP/`: a server of another protocol may never end its line. */
async function readStart(reader: BufferedReader): Promise<void> {
  for (;;) {
    const text = latin1(reader.peek(60));
    if (text.startsWith("HTTP/")) return;
    if (!"HTTP/".startsWith(text)) throw foreign(text);
    if (await reader.fill()) continue;
    if (text) throw new Failure(18, "the server closed in the status line");
    throw new Failure(52, "the server closed without a response");
  }
}

function foreign(text: string): Failure {
  // A TLS alert begins with this byte.
  const hint = text[0] === "\x15" ? ", which is TLS: try https://" : "";
  const what = `the server does not speak HTTP/1: it sent ${quote(text)}`;
  return new Failure(1, what + hint);
}

/** Quotes the start of what a server sent, up to its line end. */
function quote(text: string): string {
  return `"${text.slice(0, 60).replace(/\r?\n.*/s, "")}"`;
}

/** Reads lines, the empty last one too. Fails with status 18, 56 or 63. */
async function readSection(reader: BufferedReader, where: string) {
  const lines: string[] = [];
  for (let size = 0; size <= MOST_HEAD;) {
    const length = await reader.needLine(where);
    const line = latin1(reader.peek(length));
    reader.skip(length);
    lines.push(line);
    if (/^\r?\n$/.test(line)) return lines;
    size += Math.max(60, line.length); // a short line costs memory, too
  }
  throw new Failure(63, `too many bytes or lines ${where}`);
}

/** Reads a field. Where its line is folded, the parts are joined. */
function parseField(line: string): Field {
  // A name has no spaces, no control characters and no colon.
  const [, name, value] = line.match(/^([!-9;-~\x80-\xff]+):(.*)$/s) ?? [];
  if (!name) throw notField(line);
  const parts = value.split("\n").map(trim).filter(Boolean);
  return [name, parts.join(" ")];
}

function notField(line: string): Failure {
  return new Failure(8, `not a line of a header section: ${quote(line)}`);
}

/** Without white space around it. (String's trim would strip byte 160, too.) */
function trim(text: string): string {
  return text.match(/[^ \t\r](.*[^ \t\r])?/s)?.[0] ?? "";
}

/** The members of the list in all fields of this name, in lower case. */
function listMembers(head: Head, name: string): string[] {
  const same = head.fields.filter((field) => field[0].toLowerCase() === name);
  const parts = same.flatMap(([, value]) => value.split(","));
  return parts.map((part) => trim(part).toLowerCase());
}

/** Where a body ends. */
export interface Framing {
  isChunked?: boolean;
  length: number; // Infinity where the header section does not say
  why: string; // with the rule of RFC 9112 6.3
}

/**
 * Decides where the body ends: RFC 9112 6.3. (Rules 2 and 7 are not for GET.)
 *
 * - HEAD, status 204 or 304: there is no body (rule 1)
 * - `Transfer-Encoding` ends with `chunked`: after the last chunk (rule 4)
 * - another `Transfer-Encoding`: where the server closes (rule 4)
 * - `Content-Length`: after that many bytes (rule 6)
 * - neither of these: where the server closes (rule 8)
 *
 * Fails with status 8 for a Content-Length that is not one number (rule 5).
 */
export function frame(method: string, head: Head): Framing {
  const { status } = head;
  const lengths = listMembers(head, "content-length");
  const codings = listMembers(head, "transfer-encoding").filter(Boolean);
  if (method === "HEAD" || status === 204 || status === 304) {
    const what = method === "HEAD" ? method : status;
    return { length: 0, why: `none, as ${what} has none (${RULE} 1)` };
  }
  if (codings.at(-1) === "chunked") {
    const why = lengths.length
      ? `chunked, despite Content-Length (${RULE}s 3 and 4)`
      : `chunked (${RULE} 4)`;
    return { isChunked: true, length: Infinity, why };
  }
  if (codings.length) {
    const why = `to the close, as chunked is not last (${RULE} 4)`;
    return { length: Infinity, why };
  }
  if (lengths.length === 0) {
    const why = `to the close, as no length is given (${RULE} 8)`;
    return { length: Infinity, why };
  }
  const length = /^\d+$/.test(lengths[0]) ? Number(lengths[0]) : NaN;
  const areSame = new Set(lengths).size === 1;
  if (areSame && length <= Number.MAX_SAFE_INTEGER) {
    const size = counted(length, "byte");
    return { length, why: `${size}, by Content-Length (${RULE} 6)` };
  }
  const given = quote(`Content-Length: ${lengths.join(", ")}`);
  throw new Failure(8, `${given} is not a length (${RULE} 5)`);
}

/** Passes on so many bytes, or all up to the close if that is Infinity. */
async function passBytes(reader: BufferedReader, size: number, body: Sink) {
  for (let left = size; left > 0;) {
    const bytes = reader.peek(left);
    await body.write(bytes);
    reader.skip(bytes.length);
    left -= bytes.length;
    if (left === 0 || await reader.fill()) continue;
    if (size < Infinity) {
      const missing = `${left} of ${counted(size, "byte")} still to come`;
      throw new Failure(18, `the server closed with ${missing}`);
    }
    if (!reader.isCut) return;
    throw new Failure(18, "TLS was cut off: the end may be missing");
  }
}

/** Passes on what is in the chunks: RFC 9112 7.1. */
async function passChunks(reader: BufferedReader, body: Sink, log?: Log) {
  // An await costs more than a small chunk: only bytes that are missing, or
  // that `gather` does not take, are waited for.
  const where = "between two chunks";
  for (;;) {
    const sizeLine = reader.lineLength() || await reader.needLine(where);
    const size = readChunkSize(reader, sizeLine);
    reader.skip(sizeLine);
    log?.(`chunk: ${counted(size, "byte")}${size ? "" : ", the last"}`);
    if (size === 0) break;
    const data = reader.peek(size);
    if (data.length === size && body.gather(data)) reader.skip(size);
    else await passBytes(reader, size, body);
    if (!reader.lineLength()) await reader.need(2, where); // CR LF
    if (!isLineEnd(reader, 0)) {
      const chunk = counted(size, "byte");
      throw new Failure(56, `a chunk does not end after its ${chunk}`);
    }
    reader.skip(reader.lineLength());
  }
  // Trailers may be dropped (RFC 9112 7.1.2): -v shows them, no more.
  const trailers = await readSection(reader, "in the trailer section");
  for (const line of trailers.slice(0, -1)) log?.(`trailer: ${line.trimEnd()}`);
}

/** Whether there is a line end at this offset. */
function isLineEnd(reader: BufferedReader, offset: number): boolean {
  const isCRLF = reader.at(offset) === CR && reader.at(offset + 1) === LF;
  return isCRLF || reader.at(offset) === LF;
}

/** Reads the size in a line of so many bytes. An extension is skipped. */
function readChunkSize(reader: BufferedReader, length: number): number {
  let size = 0;
  let digits = 0;
  for (; hexDigit(reader.at(digits)) >= 0; digits++) {
    size = 16 * size + hexDigit(reader.at(digits));
  }
  const isSize = digits > 0 && size <= Number.MAX_SAFE_INTEGER;
  if (isSize && isLineEnd(reader, digits)) return size; // the usual line
  const line = latin1(reader.peek(length));
  if (isSize && /^[ \t]*(;|\r?\n)/.test(line.slice(digits))) return size;
  throw new Failure(56, `${quote(line)} is not a chunk size`);
}

/** The value of a hexadecimal digit, or -1: 48 is "0", 97 is "a". */
function hexDigit(byte: number): number {
  if (byte >= 48 && byte <= 57) return byte - 48;
  const letter = byte | 32; // lower case
  return letter >= 97 && letter <= 102 ? letter - 87 : -1;
}

/** Writes bytes. The caller may reuse them once it resolves. */
type Write = (bytes: Uint8Array) => Promise<void>;

/** Takes the pieces of a body. */
type Sink = Pick<BufferedWriter, "gather" | "write" | "end">;

/**
 * Gathers small pieces into large writes, as each write has its cost. While
 * one buffer is written, it gathers in the other.
 */
export class BufferedWriter {
  #buffers = [new Uint8Array(512 * 1024), new Uint8Array(512 * 1024)];
  #length = 0; // of what is gathered in the first of them
  #writing: Promise<void> | undefined;

  /** `failed` is called at once when a write fails; `end` throws the cause. */
  constructor(readonly target: Write, readonly failed: () => void) {}

  /** Takes the bytes, or returns false if there is no room. */
  gather(bytes: Uint8Array): boolean {
    const [buffer] = this.#buffers;
    if (this.#length + bytes.length > buffer.length) return false;
    buffer.set(bytes, this.#length);
    this.#length += bytes.length;
    return true;
  }

  /** Takes at most 512 KiB, and waits while there is no room. */
  async write(bytes: Uint8Array): Promise<void> {
    if (this.gather(bytes)) return;
    await this.#writing;
    this.flush(); // then the other buffer has room
    this.gather(bytes);
  }

  /** Begins to write what is gathered, if no write is under way. */
  flush(): void {
    if (this.#writing || this.#length === 0) return;
    const bytes = this.#buffers[0].subarray(0, this.#length);
    this.#buffers.reverse();
    this.#length = 0;
    this.#writing = this.target(bytes).then(() => {
      this.#writing = undefined;
      this.flush(); // what was gathered meanwhile
    });
    this.#writing.catch(this.failed);
  }

  /** Waits until all is written. */
  async end(): Promise<void> {
    this.flush();
    while (this.#writing) await this.#writing;
  }
}

type Engine = import("node:zlib").Gunzip;

/** Decodes gzip or deflate. Of a damaged body, it passes on what it can. */
class Decoder implements Sink {
  #engine: Engine | undefined;
  #decoded: Uint8Array[] = [];

  constructor(readonly coding: string, readonly writer: BufferedWriter) {}

  gather(): boolean {
    return false; // decoding has to be waited for
  }

  /** Fails with status 61. */
  async write(bytes: Uint8Array): Promise<void> {
    for (let start = 0; start < bytes.length;) {
      this.#engine ??= await this.#open();
      const engine = this.#engine;
      const before = engine.bytesWritten; // what it has taken in, not put out
      // One byte can decode to a thousand: short slices bound the memory.
      const slice = bytes.subarray(start, start + 8192);
      await new Promise((resolve) => engine.write(slice, resolve));
      await giveTurn();
      start += engine.bytesWritten - before;
      const error: Error & { code?: string } | null = engine.errored;
      // A gzip body may go on with another member: RFC 1952 2.2.
      const isMember = error?.code === "ERR_TRAILING_JUNK_AFTER_STREAM_END" &&
        this.coding.endsWith("gzip");
      if (isMember) this.#engine = undefined;
      await this.#pass(isMember ? null : error);
    }
  }

  /** Fails with status 61 if the end is missing. */
  async end(): Promise<void> {
    const engine = this.#engine;
    const error = engine && await new Promise((resolve) => {
      engine.once("end", resolve).once("error", resolve).end();
    });
    await this.#pass(error);
    await this.writer.end();
  }

  async #open(): Promise<Engine> {
    const { createGunzip, createInflate } = await import("node:zlib");
    const isGzip = /^(x-)?gzip$/.test(this.coding);
    if (!isGzip && this.coding !== "deflate") {
      throw new Failure(61, `unsupported content coding ${quote(this.coding)}`);
    }
    const options = { chunkSize: 256 * 1024, rejectGarbageAfterEnd: true };
    // RFC 9110 8.4.1.2: deflate is zlib's format
    const engine = isGzip ? createGunzip(options) : createInflate(options);
    engine.on("data", (bytes: Uint8Array) => this.#decoded.push(bytes));
    engine.on("error", () => {}); // `errored` has it
    return engine;
  }

  async #pass(error: unknown): Promise<void> {
    for (const bytes of this.#decoded.splice(0)) {
      await this.writer.write(bytes);
      // A used buffer is freed at once: the collector would let many pile up.
      const { buffer, byteOffset, length } = bytes;
      const isUsedUp = byteOffset + length === buffer.byteLength;
      if (isUsedUp) (buffer as ArrayBuffer).transfer(0);
    }
    if (!error) return;
    throw new Failure(61, `the ${this.coding} coding is damaged`, error);
  }
}

/** What to get, and how: the options, as `check` returns them. */
export type Options = Partial<Omit<Given, "url">> & {
  url: URL;
  write: Write; // where the answer goes
  signal: AbortSignal; // ends it
  caCerts?: string[]; // authorities to trust as well, in PEM
  progress?: Progress;
  trace?: Trace;
};

/** What becomes of an answer. */
export class Answer {
  location = ""; // set if this is a redirect, and it is to be followed
  readonly log: Log | undefined;
  readonly writer: BufferedWriter;
  #progress: Progress;

  /** `failed` is called at once when the output fails. */
  constructor(readonly options: Options, failed: () => void) {
    this.#progress = options.progress ?? new Progress();
    this.log = options.trace?.event.bind(options.trace);
    this.writer = new BufferedWriter((bytes) => this.#save(bytes), failed);
  }

  /** Writes a header section, for -i and -I. Fails with status 23. */
  async writeHead({ text }: Head): Promise<void> {
    const { include, head, write } = this.options;
    const bytes = Uint8Array.from(text, (char) => char.charCodeAt(0));
    if (include || head) await write(bytes);
  }

  /**
   * Returns where to write the body: nowhere for a redirect that is followed.
   * Throws a {@linkcode Failure}.
   */
  openBody(head: Head, { isChunked, length, why }: Framing) {
    const { status } = head;
    const { fail, compressed, "max-filesize": max } = this.options;
    if (this.options.location && [301, 302, 303, 307, 308].includes(status)) {
      const all = head.fields.filter(([name]) => /^location$/i.test(name));
      this.location = all.find(([, value]) => value)?.[1] ?? "";
      if (this.location) return undefined;
    }
    this.log?.(`body: ${why}`);
    if (fail && status >= 400) {
      const answer = `${status} ${head.phrase.slice(0, 90)}`.trim();
      throw new Failure(22, `the server answers ${answer}`);
    }
    if (max && length > max && length < Infinity) {
      throw new Failure(63, `too large: ${counted(length, "byte")}`);
    }
    const codings = compressed ? listMembers(head, "content-encoding") : [];
    codings.push(...listMembers(head, "transfer-encoding"));
    if (isChunked) codings.splice(codings.lastIndexOf("chunked"), 1);
    const coded = codings.filter((each) => !/^(identity|none)?$/.test(each));
    if (coded.length) return new Decoder(coded.join(", "), this.writer);
    this.#progress.total = length;
    return this.writer;
  }

  async #save(bytes: Uint8Array): Promise<void> {
    const { write, "max-filesize": max } = this.options;
    await write(bytes.subarray(0, (max || Infinity) - this.#progress.done));
    this.#progress.done += bytes.length;
    if (max && this.#progress.done > max) {
      throw new Failure(63, `more than ${counted(max, "byte")}`);
    }
  }
}

/**
 * Reads a URL as a person types it, perhaps without `http://`. Fails with
 * status 1 or 3.
 */
export function parseURL(text: string): URL {
  // the scheme with ://, if there is one, and the rest
  const [, scheme, rest] = text.match(/^(?:([a-z][\w+.-]*):\/\/)?(.*)$/is)!;
  if (scheme && !/^https?$/i.test(scheme)) {
    throw new Failure(1, `unsupported scheme ${scheme}: use http or https`);
  }
  const url = URL.parse(`${scheme ?? "http"}://${rest}`);
  // URL takes `http:///a` for http://a, 5 for 0.0.0.5, and drops line ends.
  const isOdd = /\p{Cc}|^[/\\]|^https?:[/\\]/iu.test(rest);
  const isNumber = /^([^/?#]*@)?\d+\.?([:/?#\\]|$)/.test(rest);
  if (url && !isOdd && !isNumber && url.port !== "0") return url;
  throw new Failure(3, `"${text}" is not a URL: http://HOST[:PORT]/PATH`);
}

/** A header to send; without a value, the one of that name is left out. */
export type Header = [name: string, value?: string];

/**
 * Reads `Name: value`, or `Name:` to leave one out, or `Name;` for an empty
 * one. Fails with status 2.
 */
export function parseHeader(text: string): Header {
  // a token (RFC 9110 5.6.2), a mark, and no control characters but tabs
  const pattern = /^([!#$%&'*+.^`|~\w-]+)(:|;$)((?:\t|\P{Cc})*)$/u;
  const [, name, mark, value] = text.match(pattern) ?? [];
  if (name && mark === ";") return [name, ""];
  if (name) return [name, trim(value) || undefined];
  const forms = '"Name: value", or "Name:" to leave it out';
  throw new Failure(2, `"${text}" is not a header: ${forms}`);
}

/** Says where a redirect leads. Fails with status 1 or 3. */
export function redirect(from: URL, location: string): URL {
  // A URL would encode byte E9 as UTF-8, C3 A9. So it is escaped first.
  const hex = (char: string) => char.charCodeAt(0).toString(16).toUpperCase();
  const escaped = location.replace(/[\x80-\xff]/g, (char) => `%${hex(char)}`);
  const to = URL.parse(escaped, from);
  if (!to || to.port === "0") {
    const where = quote(location);
    throw new Failure(3, `redirected to ${where}, which is not a URL`);
  }
  if (to.protocol !== "https:" && to.protocol !== from.protocol) {
    const what = `redirect from ${from.protocol} to ${to.protocol}`;
    throw new Failure(1, `refused to follow a ${what.replaceAll(":", "")}`);
  }
  to.username = ""; // -v shows this URL; `request` takes them from the first
  to.password = "";
  return to;
}

/**
 * Writes a request. `options.url` is what was asked for, `url` is where it
 * redirected to. What is secret goes to the origin of `options.url` alone.
 */
export function request(
  url: URL,
  options: Omit<Options, "write" | "signal">,
): string {
  const { headers = [], head, http1, compressed } = options;
  const isSame = url.origin === options.url.origin;
  const bound = /^(host|cookie|(proxy-)?authorization)$/i; // to the origin
  const given = headers.filter(([name]) => isSame || !bound.test(name));
  const own: Header[] = [
    ["Host", url.host],
    ["User-Agent", `http_get/${VERSION}`],
    ["Accept", "*/*"],
    ["Connection", "close"],
    ["Accept-Encoding", compressed ? "gzip, deflate" : undefined],
    ["Authorization", isSame ? authorization(options.url) : undefined],
  ];
  const names = given.map(([name]) => name.toLowerCase());
  const host = names.indexOf("host"); // of several, the first is sent
  const lines = [
    ...own.filter(([name]) => !names.includes(name.toLowerCase())),
    ...given.filter((_, i) => names[i] !== "host" || i === host),
  ].filter(([, value]) => value !== undefined)
    .map(([name, value]) => value ? `${name}: ${value}` : `${name}:`);
  // Unlike url.search, this keeps a question mark at the end.
  const [, target] = url.href.match(/^\w+:\/\/[^/]*([^#]*)/)!;
  const line = `${head ? "HEAD" : "GET"} ${target} HTTP/1.${http1 ? 0 : 1}`;
  return [line, ...lines, "", ""].join("\r\n");
}

/** The user and the password of a URL, byte for byte: RFC 7617. */
function authorization({ username, password }: URL): string | undefined {
  if (!username && !password) return undefined;
  const toByte = (_: string, hex: string) =>
    String.fromCharCode(parseInt(hex, 16));
  const text = `${username}:${password}`.replace(/%([\da-f]{2})/gi, toByte);
  return `Basic ${btoa(text)}`;
}

/** Connects, with TLS for https. Throws a {@linkcode Failure}. */
async function openSocket(url: URL, options: Options) {
  const isSecure = url.protocol === "https:";
  const hostname = hostOf(url);
  const port = Number(url.port || (isSecure ? 443 : 80));
  const { family, caCerts, signal, trace } = options;
  const tcp = await connect({ hostname, port, family, signal, trace });
  // Dispose, not close(): it may be closed already.
  signal.addEventListener("abort", () => tcp[Symbol.dispose]());
  if (!isSecure) return tcp;
  try {
    const tls = await Deno.startTls(tcp, { hostname, caCerts });
    signal.addEventListener("abort", () => tls[Symbol.dispose]());
    await tls.handshake();
    const messages = ["<ServerHello, Certificate, Finished", ">Finished"];
    trace?.tcp(`TLS with ${hostname}`, ">ClientHello", ...messages);
    return tls;
  } catch (error) {
    const why = reason(error)
      .replace("UnknownIssuer", "unknown authority (--cacert FILE adds one)")
      .replace(/Other.*CaUsedAsEndEntity.*/, "it belongs to an authority");
    const [, fault] = why.match(/peer certificate: (.*)/) ?? [];
    if (fault) {
      const what = `the certificate of ${hostname}`;
      throw new Failure(60, `${what} is not trusted: ${fault}`, error);
    }
    const message = why.includes("InvalidContentType")
      ? `${hostname} does not speak TLS: try http://`
      : `no TLS with ${hostname}: ${why}`;
    throw new Failure(35, message, error);
  }
}

// `download` ends when its signal aborts. In it, `follow` goes along redirects,
// `exchange` asks for one URL, and `get` speaks on one connection.

/** Asks for one URL. Returns where it redirects to, if that is followed. */
async function exchange(url: URL, options: Options): Promise<string> {
  using socket = await openSocket(url, options);
  const conn = options.trace?.stream(socket) ?? socket;
  // When the output fails, closing ends a read that may wait forever.
  const answer = new Answer(options, () => socket[Symbol.dispose]());
  try {
    await get(conn, request(url, options), answer);
    conn.close(); // here, so that the trace shows it
  } catch (error) {
    options.trace?.event("closed");
    await answer.writer.end(); // throws the cause, if it was the output
    throw error;
  }
  return answer.location;
}

async function follow(options: Options): Promise<void> {
  const { "max-redirs": most = 20, trace } = options;
  let { url } = options;
  for (let hops = 0;; hops++) {
    const location = await exchange(url, options);
    if (!location) return;
    const count = counted(most, "redirect");
    if (hops === most) throw new Failure(47, `more than ${count}`);
    url = redirect(url, location);
    trace?.event(`redirected to ${url.href}`);
  }
}

/**
 * Gets a URL, along its redirects. Throws a {@linkcode Failure}, the signal's
 * reason, or Deno's error from sending.
 */
export async function download(options: Options): Promise<void> {
  const stop = new AbortController();
  const { signal } = stop;
  const abort = () => stop.abort(options.signal.reason);
  // When `signal` aborts, this goes: the caller's signal may live on.
  options.signal.addEventListener("abort", abort, { signal });
  if (options.signal.aborted) abort();
  try {
    const following = follow({ ...options, signal });
    await Promise.race([following, aborted(signal)]);
  } finally {
    stop.abort(); // closes what is still open
  }
}

function throwUnwritable(what: string, error: unknown): never {
  throw new Failure(23, `cannot write ${what}: ${reason(error)}`, error);
}

async function writeToTerminal(bytes: Uint8Array): Promise<void> {
  if (!bytes.includes(0)) return await output(bytes);
  const hint = "use -o FILE, or a pipe";
  throw new Failure(23, `binary output may confuse your terminal: ${hint}`);
}

/** Finds the way to write to stdout. Fails with status 23. */
async function standardOutput(): Promise<Write> {
  if (Deno.stdout.isTerminal()) return writeToTerminal;
  await output(""); // fails at once if it is not open for writing
  const { state } = await Deno.permissions.query({ name: "read" });
  if (state !== "granted") return output; // else Deno would ask for it
  const info = await Deno.stat("/dev/stdout").catch(() => undefined);
  if (!info?.isCharDevice) return output;
  // A device such as /dev/null never blocks, so no thread has to wait for it.
  const device = { write: (bytes: Uint8Array) => Deno.stdout.writeSync(bytes) };
  return (bytes) =>
    writeAll(device, bytes).catch((why) => throwUnwritable("the output", why));
}

/** The file of -o. It is written under another name until it is complete. */
class OutputFile implements AsyncDisposable {
  constructor(
    readonly path: string,
    readonly file: Deno.FsFile,
    public part = "", // its name until it is complete
    public isOld = false, // what it held goes with the first write
  ) {}

  /** Fails with status 23. */
  static async open(path: string, signal: AbortSignal): Promise<OutputFile> {
    try {
      const old = await Deno.stat(path).catch(() => undefined);
      // What is open already, such as /dev/stderr, is not ours to replace.
      const append = /^\/(dev\/(fd\/|std)|proc\/)/.test(path);
      const opening = Deno.open(path, { write: true, create: true, append });
      // Opening a FIFO waits for its other end. Only that may be cut short.
      const waits = old && !old.isFile ? [aborted(signal)] : [];
      const file = await Promise.race([opening, ...waits]);
      if (file.isTerminal()) throw new Error("it is a terminal: leave out -o");
      const info = await file.stat();
      if (!info.isFile || append) return new OutputFile(path, file);
      // A link stays one. Another download may have removed the file already.
      const target = await Deno.realPath(path).catch(() => path);
      const part = await openPart(target, info).catch(() => undefined);
      // A new file that has no part is its own part: a failure removes it.
      if (!part && !old) return new OutputFile(target, file, target);
      if (!part) {
        complain(`http_get: cannot replace ${path}: overwriting it in place`);
        return new OutputFile(target, file, "", true);
      }
      file.close();
      // Opening created it: it must not be there before it is complete.
      if (!old) await Deno.remove(target).catch(() => {});
      return new OutputFile(target, part.file, part.path);
    } catch (error) {
      signal.throwIfAborted();
      throwUnwritable(path, error);
    }
  }

  readonly write: Write = async (bytes) => {
    if (this.isOld) await this.file.truncate();
    this.isOld = false;
    const writing = writeAll(this.file, bytes);
    await writing.catch((why) => throwUnwritable(this.path, why));
  };

  /** Puts it where it belongs. Fails with status 23. */
  async keep(): Promise<void> {
    await this.write(new Uint8Array(0)); // if no byte came, this empties it
    this.file.close(); // Windows renames nothing that is open
    if (!this.part) return;
    const renaming = Deno.rename(this.part, this.path);
    await renaming.catch((why) => throwUnwritable(this.path, why));
    this.part = "";
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.file[Symbol.dispose]();
    if (this.part) await Deno.remove(this.part).catch(() => {});
  }
}

/**
 * Opens a new file beside another, with the same owner and mode, that can take
 * its place. Throws where that cannot be.
 */
async function openPart(target: string, info: Deno.FileInfo) {
  const dir = target.replace(/[^/\\]*$/, "");
  const naming = { dir, prefix: "http_get.", suffix: ".part" };
  const path = await Deno.makeTempFile(naming);
  try {
    // A mounted file, as in containers, cannot be renamed over. It shows here:
    // no link can be made to it from outside of its mount.
    const link = `${path}.link`;
    await Deno.link(target, link).then(() => Deno.remove(link), (error) => {
      if (error.code === "EXDEV") throw error;
    });
    const isWindows = Deno.build.os === "windows";
    if (!isWindows) await Deno.chown(path, info.uid, info.gid);
    const file = await Deno.open(path, { write: true });
    // Last: chown clears setuid, and a mode may forbid opening it.
    if (!isWindows) await Deno.chmod(path, info.mode! & 0o7777);
    return { path, file };
  } catch (error) {
    await Deno.remove(path);
    throw error;
  }
}

/** How a download is getting on. */
class Progress {
  done = 0; // bytes of the body
  total = Infinity; // not known
  readonly #started = performance.now();

  /** `12,000 kB of 48,000 kB  25%  6,000 kB/s  6 s left` */
  toString(): string {
    const { done, total } = this;
    const seconds = (performance.now() - this.#started) / 1000;
    const format = (count: number) => Math.ceil(count).toLocaleString("en");
    const size = `${format(done / 1000)} kB`;
    const speed = `${format(done / 1000 / seconds)} kB/s`;
    if (total === Infinity) return `${size}  ${speed}`;
    const whole = `${format(total / 1000)} kB`;
    const percent = total ? Math.floor(100 * done / total) : 100;
    const share = `${size} of ${whole}  ${percent}%  ${speed}`;
    if (done === 0 || done === total) return share;
    return `${share}  ${format(seconds * (total - done) / done)} s left`;
  }
}

/** Shows the progress on the terminal. The last line stays. */
function showProgress(progress: Progress): Disposable {
  const show = (end: string) => {
    screen.midLine = !end;
    try {
      const width = (Deno.consoleSize().columns || 80) - 1;
      const line = progress.toString().slice(0, width);
      const text = `\r${line}\x1b[K${end}`;
      Deno.stderr.writeSync(new TextEncoder().encode(text));
    } catch { /* the terminal is gone */ }
  };
  const bar = new DisposableStack();
  bar.defer(() => show("\n"));
  bar.adopt(setInterval(show, 250, ""), clearInterval);
  return bar;
}

const USAGE = `http_get: an HTTP GET by hand over a socket (RFC 9112)

usage: http_get [options] URL          http:// may be left out

  -i, --include              print the headers too
  -I, --head                 ask for the headers only (HEAD), and print them
  -L, --location             follow redirects (--max-redirs N: at most 20)
  -o, --output FILE          write to FILE once it is complete (-: stdout)
  -H, --header LINE...       send "Name: value"; "Name:" leaves it out
  -f, --fail                 fail on status 400 or more: no body, exit 22
  -m, --max-time SECONDS     time limit for everything (0: none)
      --compressed           ask for gzip or deflate, and decode it
      --cacert FILE          also trust the authorities in FILE (PEM)
      --max-filesize BYTES   refuse more than this (0: no limit)
  -0, --http1.0              send an HTTP/1.0 request
  -s, --silent               show no progress
      --diagram FILE         draw the exchange into a Markdown file
  -4, -6                     use IPv4 or IPv6 only
  -v, --verbose              show what crosses the wire (-vv: every byte)
  -h, --help, -V, --version  print this text, or the version

examples: http_get -iL example.com     with headers, following redirects
          http_get -o page -m 9 [::1]  into a file, within 9 seconds
          http_get -v localhost:8080   what crosses the wire
`;

function parse(args: string[]) {
  // parseArgs reads a.b as nested, and after a long option takes no - as value.
  const plain = args.map((arg, i) => {
    if (arg === "--http1.0") return "-0";
    return arg === "-" && args[i - 1] === "--output" ? "/dev/stdout" : arg;
  });
  // deno-fmt-ignore
  return parseArgs(plain, {
    string: [
      "_", "header", "output", "max-time", "max-redirs", "max-filesize",
      "cacert", "diagram",
    ],
    boolean: [
      "help", "version", "verbose", "include", "head", "location", "fail",
      "compressed", "http1", "silent", "ipv4", "ipv6",
    ],
    collect: ["header", "verbose"],
    alias: {
      i: "include", I: "head", L: "location", o: "output", H: "header",
      f: "fail", m: "max-time", s: "silent", v: "verbose", h: "help",
      V: "version", 0: "http1", 4: "ipv4", 6: "ipv6",
    },
    unknown: refuseUnknown,
  });
}

/** Checks the command line. Fails with status 1, 2 or 3. */
function check(given: ReturnType<typeof parse>) {
  const [text, another] = given._.map(String);
  if (!text) {
    throw new Failure(2, "missing URL (example: http_get localhost:8080)");
  }
  if (another !== undefined) {
    throw new Failure(2, `unexpected argument "${another}"`);
  }
  const max = Number.MAX_SAFE_INTEGER;
  return {
    ...given,
    url: parseURL(text),
    headers: given.header.map(parseHeader),
    family: parseFamily(given),
    "max-redirs": parseNumber(given, "max-redirs", 20, [0, max]),
    "max-filesize": parseNumber(given, "max-filesize", 0, [0, max]),
    "max-time": parseSeconds(given, "max-time"),
  };
}

type Given = ReturnType<typeof check>;

/** Reads the authorities of --cacert. Fails with status 2. */
async function readAuthorities(file?: string): Promise<string[]> {
  if (file === undefined) return [];
  const text = await Deno.readTextFile(file).catch((error) => {
    throw new Failure(2, `cannot read ${file}: ${reason(error)}`, error);
  });
  if (!/^-----BEGIN CERTIFICATE-----\s/m.test(text)) {
    throw new Failure(2, `no certificate in ${file}: it must be PEM`);
  }
  try {
    Deno.createHttpClient({ caCerts: [text] }).close(); // it parses them
    return [text];
  } catch (error) {
    const why = reason(error).replace(/.*: /, "");
    throw new Failure(2, `a certificate in ${file} is damaged: ${why}`, error);
  }
}

/** Gets what the command line says. Throws a {@linkcode Failure}. */
async function client(given: Given, signal: AbortSignal, trace?: Trace) {
  // Unless this is set, Deno trusts only the authorities on its own list.
  const variable = "DENO_TLS_CA_STORE";
  const { state } = await Deno.permissions.query({ name: "env", variable });
  if (state === "granted" && !Deno.env.has(variable)) {
    Deno.env.set(variable, "system,mozilla");
  }
  const reading = readAuthorities(given.cacert);
  const caCerts = await Promise.race([reading, aborted(signal)]);
  const { output: path = "-" } = given;
  const isFile = path !== "-" && path !== "/dev/stdout";
  await using file = isFile ? await OutputFile.open(path, signal) : undefined;
  const write = file?.write ?? await standardOutput();
  const progress = new Progress();
  const isShown = isFile && !given.silent && Deno.stderr.isTerminal();
  using _bar = isShown ? showProgress(progress) : undefined;
  await download({ ...given, caCerts, write, progress, signal, trace });
  await file?.keep();
}

/** Runs a command line. Returns the exit status. */
export function main(args: string[]): Promise<number> {
  const script = { name: "http_get", usage: USAGE, parse };
  return run(script, args, async (given, signal, trace) => {
    const checked = check(given);
    const time = checked["max-time"];
    try {
      await client(checked, timeLimit(time || Infinity, signal), trace);
    } catch (error) {
      if ((error as Error).name !== "TimeoutError") throw error;
      throw new Failure(28, `timed out after ${time / 1000} s`, error);
    }
  });
}

// Deno would wait for a write whose reader has stopped: exit now.
if (import.meta.main) Deno.exit(await main(Deno.args));
