/**
 * What the scripts of this collection share: errors as one line and an exit status, the command line, addresses,
 * connecting, listening, and the trace that shows what crossed the wire. Policy, never a protocol.
 *
 * @module
 */
import { delay } from "jsr:@std/async@^1/delay";

/** What every script answers to `--version`. */
export const VERSION = "1.0.0";

/** What a network, a peer or a user can cause: one line for people, and curl's exit status for programs. */
export class Failure extends Error {
  /** `status` is the exit status; `cause` is kept for those who debug. */
  constructor(readonly status: number, message: string, cause?: unknown) {
    super(message, { cause });
  }
}

/** Why something failed, in a few words: `connection refused`. */
export function reason(error: unknown): string {
  const { name, message } = error instanceof Error ? error : new Error(String(error));
  if (/^Connection|^PermissionDenied$|^TimedOut$/.test(name)) return name.replace(/\B[A-Z]/g, " $&").toLowerCase();
  const plain = message.replace(/: \w+ '.*'$/s, "").replace(/ \(os error \d+\)/, ""); // No such file (…2): open 'x'
  return plain.replace(/^[A-Z](?=[a-z])/, (c) => c.toLowerCase());
}

/** A signal that follows `signal` and, after `ms` milliseconds (0: never), aborts with a {@linkcode Failure} of 28. */
export function within(ms: number, message: string, signal?: AbortSignal): AbortSignal & Disposable {
  const late = new AbortController();
  const timer = ms ? setTimeout(() => late.abort(new Failure(28, message)), ms) : undefined;
  const either = AbortSignal.any(signal ? [signal, late.signal] : [late.signal]);
  return Object.assign(either, { [Symbol.dispose]: () => timer && clearTimeout(timer) });
}

/** Prints a line for who may read it: a reader that is gone (`| head`) or a full disk is no reason to stop. */
export function say(line: string, print: (line: string) => void = console.log): void {
  try {
    print(line);
  } catch { /* there is nowhere left to say so */ }
}

const waiting: string[] = [];
let writing: Promise<void> | undefined;

/** Logs a line, and does not wait: who reads it may have stopped. Of more than a thousand that wait, the last are lost. */
export function record(line: string): void {
  if (waiting.length < 1000) waiting.push(`${line}\n`);
  writing ??= writeWaiting();
}

async function writeWaiting(): Promise<void> {
  try {
    while (waiting.length) await writeAll(Deno.stdout, new TextEncoder().encode(waiting.splice(0).join("")));
  } catch { /* a full disk, for instance: nowhere is left to say so */ }
  writing = undefined;
}

/** A log of at most one line per `ms` milliseconds: what a flood causes must not flood the log. */
export function sparing(ms: number, log: (line: string) => void = record): (line: string) => void {
  let next = 0, skipped = 0;
  return (line) => {
    if (performance.now() < next) return void skipped++;
    log(skipped ? `${line} (and ${skipped} more)` : line);
    next = performance.now() + ms, skipped = 0;
  };
}

const SHORT: Record<string, string> = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };
const escape = (c: string) => SHORT[c] ?? `\\x${c.codePointAt(0)!.toString(16).padStart(2, "0")}`;

/** Text that can be read on a terminal and cannot drive it: control and formatting characters are escaped. */
export function printable(text: string): string {
  return text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, escape);
}

/** Bytes as quoted text, `"caf\xc3\xa9\r\n"`, cut at about 60 characters. */
export function quote(bytes: Uint8Array): string {
  const text = String.fromCharCode(...bytes.subarray(0, 61)).replace(/["\\]/g, "\\$&").replace(/[^ -~]/g, escape);
  return text.length <= 60 ? `"${text}"` : `"${text.slice(0, 60).match(/^(?:[^\\]|\\[^x]|\\x..)*/)![0]}"...`;
}

/** A number of things: `1 byte`, `2 bytes`. */
export function counted(n: number, what: string): string {
  return `${n} ${what}${n === 1 ? "" : "s"}`;
}

/** What the work comes to, unless the signal aborts. What waits for a pipe cannot be cancelled: it is left behind. */
export function unless<T>(signal: AbortSignal | undefined, work: Promise<T>): Promise<T> {
  const over = new Promise<never>((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason)));
  return Promise.race([work, over]);
}

/** Waits until the work is over, whatever comes of it, but for `ms` milliseconds at most. */
export async function atMost(ms: number, work: Promise<unknown>): Promise<void> {
  using late = within(ms, "");
  await unless(late, work).catch(() => {});
}

/** Writes all of the bytes: a single `write` may take only part of them. */
export async function writeAll(to: Pick<Deno.Conn, "write">, bytes: Uint8Array): Promise<void> {
  for (let sent = 0; sent < bytes.length;) sent += await to.write(bytes.subarray(sent));
}

const decoder = new TextDecoder();
let cr = ""; // the last character, where it was a CR: whether it begins a line end is seen in the next piece

/** Text for a terminal, from pieces of bytes: what would drive it is escaped. */
function shown(bytes: Uint8Array): string {
  const text = cr + decoder.decode(bytes, { stream: true });
  cr = text.endsWith("\r") ? "\r" : "";
  return text.slice(0, text.length - cr.length).replace(/(?!\r\n)[^\n\t -~]/gu, printable);
}

/**
 * Writes to standard output; what would drive a terminal is escaped there. Throws a {@linkcode Failure} of 23, without
 * words where a pipe was closed (`| head`).
 */
export async function output(bytes: Uint8Array | string): Promise<void> {
  const text = typeof bytes === "string" ? bytes : Deno.stdout.isTerminal() ? shown(bytes) : undefined;
  const plain = text === undefined ? bytes as Uint8Array : new TextEncoder().encode(text);
  await writeAll(Deno.stdout, plain).catch((error) => {
    const closed = error instanceof Deno.errors.BrokenPipe;
    throw new Failure(23, closed ? "" : `cannot write the output: ${reason(error)}`, error);
  });
}

const SERVICES: Record<string, number> = {
  ...{ echo: 7, discard: 9, daytime: 13, qotd: 17, chargen: 19, ftp: 21, ssh: 22, telnet: 23, smtp: 25, time: 37 },
  ...{ domain: 53, http: 80, pop3: 110, ntp: 123, imap: 143, https: 443 },
};

/** A port from `7777` or `daytime`. Throws a {@linkcode Failure} of 2. */
export function parsePort(text: string): number {
  const name = text.toLowerCase();
  const port = Object.hasOwn(SERVICES, name) ? SERVICES[name] : /^\d{1,5}$/.test(text) ? Number(text) : NaN;
  if (port <= 65535) return port;
  throw new Failure(2, `"${text}" is not a port: 0 to 65535, or a name such as ${Object.keys(SERVICES).join(", ")}`);
}

/** A host and a port from `HOST`, `HOST:PORT`, `[IPV6]:PORT` or `IPV6`. Throws a {@linkcode Failure} of 2. */
export function parseAddress(text: string, port: number): { hostname: string; port: number } {
  const [, host, after] = (/^[^[]*:.*:/.test(text) ? `[${text}]` : text).match(/^(\[.*\]|[^:]*)(?::(.*))?$/s) ?? [];
  const url = host && !/[\s/?#@\\]/.test(host) ? URL.parse(`http://${host}`) : null; // names outside ASCII: punycode
  if (!url) throw new Failure(2, `"${text}" is not a host: HOST, HOST:PORT or [IPV6]:PORT`);
  return {
    hostname: unmapped(url.hostname.replace(/^\[|\]$/g, "")),
    port: after === undefined ? port : parsePort(after),
  };
}

/** An IPv4 address that came wrapped in IPv6, unwrapped: `::ffff:127.0.0.1`, or as URLs have it, `::ffff:7f00:1`. */
export function unmapped(hostname: string): string {
  const [, plain, high, low] = hostname.match(/^::ffff:(?:(\d+(?:\.\d+){3})|([\da-f]+):([\da-f]+))$/i) ?? [];
  const bytes = (hex: string) => [parseInt(hex, 16) >> 8, parseInt(hex, 16) & 255];
  return plain ?? (high ? [...bytes(high), ...bytes(low)].join(".") : hostname);
}

/** Whether a peer came by IPv4, though to an IPv6 socket: `-6` turns such peers away. */
export function isMapped({ hostname }: Deno.NetAddr): boolean {
  return hostname.startsWith("::ffff:");
}

/** An address for people: `127.0.0.1:7777`, `[::1]:7777`. */
export function formatAddress({ hostname, port }: { hostname: string; port: number }): string {
  const plain = unmapped(hostname);
  return plain.includes(":") ? `[${plain}]:${port}` : `${plain}:${port}`;
}

/** The family of an address; none where it is a name. */
export function familyOf(hostname: string): 4 | 6 | undefined {
  return hostname.includes(":") ? 6 : /^[\d.]+$/.test(hostname) ? 4 : undefined;
}

/** The address to listen on: that of `--host`, else all of a family. Throws a {@linkcode Failure} of 2 or 6. */
export async function listenAddress({ host, family }: { host?: string; family?: 4 | 6 }): Promise<string> {
  if (host === undefined) return family === 4 ? "0.0.0.0" : "::";
  const { hostname, port } = parseAddress(host, NaN);
  if (!isNaN(port)) throw new Failure(2, `--host ${host} has a port: --port says where to listen`);
  const address = (await resolve({ hostname, port, family })).at(-1); // of both families IPv4, as UDP clients do
  if (address) return address;
  throw familyOf(hostname)
    ? new Failure(2, `--host ${host} is not an IPv${family} address`)
    : unknownHost({ hostname, port, family });
}

/** The server to ask, at the one port given, with the host or by `others`; else at `usual`. Throws a Failure of 2. */
export function serverAddress(
  text: string,
  others: (string | number | undefined)[],
  usual: number,
): { hostname: string; port: number } {
  const { hostname, port } = parseAddress(text, NaN);
  const ports = [port, ...others.map((each) => typeof each === "string" ? parsePort(each) : each ?? NaN)];
  const [one = usual, ...more] = ports.filter((port) => !isNaN(port));
  if (more.length) throw new Failure(2, `more than one port: ${[one, ...more].join(", ")}`);
  return { hostname, port: one };
}

/** Where to connect to, by which family, within how many milliseconds (0: any), and what watches over it. */
export type Target = {
  hostname: string;
  port: number;
  family?: 4 | 6;
  timeout?: number;
  signal?: AbortSignal;
  trace?: Trace;
};

/** What the hosts file, where it may be read, has for a name: no DNS server is to add to that, or to know of it. */
async function hostsFile(hostname: string): Promise<string[]> {
  if (/(^|\.)localhost\.?$/i.test(hostname)) return []; // loopback of both families, whatever is listed (RFC 6761 6.3)
  const path = Deno.build.os === "windows" ? "C:\\Windows\\System32\\drivers\\etc\\hosts" : "/etc/hosts";
  const { state } = await Deno.permissions.query({ name: "read", path });
  const text = state === "granted" ? await Deno.readTextFile(path).catch(() => "") : "";
  const lines = text.toLowerCase().split("\n").map((line) => line.replace(/#.*/, "").trim().split(/\s+/));
  const found = lines.filter(([address, ...names]) => names.includes(hostname.toLowerCase()) && familyOf(address));
  return found.map(([address]) => address).filter((address) => !address.includes("%"));
}

/** The addresses of a host, IPv6 first; none where DNS and the hosts file know of none. Throws a Failure of 2. */
export async function resolve({ hostname, port, family, signal, trace }: Target): Promise<string[]> {
  if (port === 0) throw new Failure(2, "port 0 is nobody's: it only means any free one, to a server");
  signal?.throwIfAborted();
  const literal = familyOf(hostname);
  if (literal) return literal === (family ?? literal) ? [hostname] : [];
  const listed = await hostsFile(hostname);
  const ask = async (type: "A" | "AAAA", kind: 4 | 6): Promise<string[]> => {
    if (family && family !== kind) return [];
    if (listed.length) return listed.filter((address) => familyOf(address) === kind);
    return await Deno.resolveDns(hostname, type, { signal }).catch(() => []);
  };
  const addresses = (await Promise.all([ask("AAAA", 6), ask("A", 4)])).flat();
  signal?.throwIfAborted();
  if (addresses.length) trace?.life(`resolved ${hostname} to ${addresses.join(", ")}`);
  return addresses;
}

/**
 * Connects to the first address that answers; each but the last is given a second, or half the time. When `signal`
 * aborts later on, the connection is closed, which ends a read that waits. Throws a {@linkcode Failure} of 6, 7 or 28.
 */
export async function connect({ timeout = 0, ...target }: Target): Promise<Deno.TcpConn> {
  const { hostname, port, signal: stop, trace } = target;
  using signal = within(timeout, `cannot connect to ${formatAddress(target)}: no answer in ${timeout / 1000} s`, stop);
  const addresses = await resolve({ ...target, signal });
  if (!addresses.length && target.family) throw unknownHost(target);
  if (!addresses.length) addresses.push(hostname); // what DNS does not know, the system may: mDNS, for instance
  for (let i = 0;; i++) {
    const at = { hostname: addresses[i], port }, last = i === addresses.length - 1;
    const most = Math.min(1000, timeout / 2 || 1000);
    using patience = within(last ? 0 : most, `no answer in ${most / 1000} s`, signal);
    try {
      const conn = await Deno.connect({ ...at, signal: patience });
      trace?.peer(formatAddress(conn.remoteAddr));
      trace?.life(`connected to ${formatAddress(conn.remoteAddr)}`, ">SYN", "<SYN, ACK", ">ACK");
      stop?.addEventListener("abort", () => conn[Symbol.dispose]());
      return conn;
    } catch (error) {
      signal.throwIfAborted();
      if (/lookup address|invalid host/.test(reason(error))) throw unknownHost(target);
      const refused = last && error instanceof Deno.errors.ConnectionRefused;
      if (refused) trace?.peer(formatAddress(at)), trace?.life("", ">SYN", "<RST, ACK");
      if (last) throw new Failure(7, `cannot connect to ${formatAddress(at)}: ${reason(error)}`, error);
      trace?.life(`cannot connect to ${formatAddress(at)}: ${reason(error)}`);
    }
  }
}

const unknownHost = ({ hostname, family }: Target) =>
  new Failure(6, `cannot resolve ${hostname}: ${family ? `no IPv${family} address` : "no such name"}`);

/** Opens a UDP socket to ask a server from; it is closed when `signal` aborts. Throws a {@linkcode Failure} of 6. */
export async function openDatagram(target: Target): Promise<{ socket: Deno.DatagramConn; to: Deno.NetAddr }> {
  needsUnstableNet("UDP");
  // Of several addresses IPv4's, which comes last: a port where nobody listens is silent, so no other would be tried.
  const address = (await resolve(target)).at(-1), { port, signal, trace } = target;
  const hostname = address === "0.0.0.0" ? "127.0.0.1" : address === "::" ? "::1" : address; // as answers come from there
  if (!hostname) throw unknownHost(target);
  const to: Deno.NetAddr = { transport: "udp", hostname, port };
  const any = hostname.includes(":") ? "::" : "0.0.0.0";
  const socket = Deno.listenDatagram({ transport: "udp", hostname: any, port: 0 });
  signal?.addEventListener("abort", () => {
    try {
      socket.close();
    } catch { /* it was closed already */ }
  });
  trace?.peer(formatAddress(to));
  trace?.life(`asking ${formatAddress(to)} from port ${(socket.addr as Deno.NetAddr).port}`);
  return { socket, to };
}

/** Whether a socket was closed under the call that threw this. */
export function closed(error: unknown): boolean {
  return error instanceof Deno.errors.BadResource || error instanceof Deno.errors.Interrupted;
}

/**
 * Opens a socket with `Deno.listen` or `Deno.listenDatagram`. `::` takes IPv4 as well, except on Windows, where
 * `0.0.0.0` is opened too, and on a machine without IPv6, where it is opened instead. Throws a {@linkcode Failure} of 1.
 */
export function listen<S extends { addr: Deno.Addr }>(
  open: (at: { hostname: string; port: number }) => S,
  { family, ...at }: { hostname: string; port: number; family?: 4 | 6 },
): S[] {
  try {
    const socket = open(at);
    if (at.hostname !== "::" || family || Deno.build.os !== "windows") return [socket];
    return [socket, open({ hostname: "0.0.0.0", port: (socket.addr as Deno.NetAddr).port })];
  } catch (error) {
    if (error instanceof Failure) throw error;
    const { AddrInUse, NotCapable, PermissionDenied } = Deno.errors;
    const busy = error instanceof AddrInUse, barred = error instanceof PermissionDenied;
    const otherwise = !busy && !barred && !(error instanceof NotCapable); // Deno's own permission
    if (at.hostname === "::" && !family && otherwise) return listen(open, { ...at, hostname: "0.0.0.0" });
    const hint = barred
      ? `: port ${at.port} needs more rights: try --port ${at.port + 1300}`
      : busy
      ? ": try --port 0"
      : "";
    throw new Failure(1, `cannot listen on ${formatAddress(at)}: ${reason(error)}${hint}`, error);
  }
}

/** Deno has UDP, and ports shared by processes, only with a flag. Throws a {@linkcode Failure} of 1 that names it. */
export function needsUnstableNet(what: string): void {
  if (!("listenDatagram" in Deno)) throw new Failure(1, `${what} needs a flag of Deno's: deno run --unstable-net …`);
}

// Nothing, echo, discard, daytime, qotd, chargen, time: inetd does not answer these either. The last two are where the
// servers of this collection are found.
const TALKATIVE = new Set([0, 7, 9, 13, 17, 19, 37, 1313, 7777]);

/** The broadcast addresses of the networks that interfaces are in. */
export function broadcasts(interfaces: Pick<Deno.NetworkInterfaceInfo, "family" | "address" | "netmask">[]): string[] {
  return interfaces.filter(({ family }) => family === "IPv4").flatMap(({ address, netmask }) => {
    const [own, mask] = [address, netmask].map((text) => text.split(".").map(Number));
    return mask[3] >= 254 ? [] : [own.map((byte, i) => byte | ~mask[i] & 255).join(".")]; // one or two machines: none
  });
}

const MANY = /^(::ffff:)?(22[4-9]\.|23\d\.|255\.255\.255\.255$|127\.255\.255\.255$|0\.)|^ff/i;
let judged = { hostname: "", many: false }; // the last one: mostly the next datagram is from there too
let known: { until: number; addresses?: Set<string> } = { until: 0 };

/** Whether an address means a whole network that this machine is in; by its looks where that may not be looked up. */
function isBroadcast(address: string): boolean {
  const now = performance.now(), permission = { name: "sys", kind: "networkInterfaces" } as const;
  if (now >= known.until) {
    const permitted = Deno.permissions.querySync(permission).state === "granted";
    const all = permitted ? broadcasts(Deno.networkInterfaces()) : undefined;
    known = { until: now + 10_000, addresses: all && new Set(all.flatMap((each) => [each, `::ffff:${each}`])) };
  }
  return known.addresses?.has(address) ?? /^(::ffff:)?[\d.]+\.255$/.test(address);
}

/**
 * Why a datagram must not be answered, if so: its sender may be another server that answers everything, and the two
 * would go on for ever (CVE-1999-0103, CVE-2024-2169), or stand for many machines.
 */
export function unanswerable({ hostname, port }: Deno.NetAddr, own: number): string | undefined {
  if (port === own) return "it has our own port, and would answer in turn";
  if (TALKATIVE.has(port)) return `port ${port} would answer in turn`;
  if (hostname !== judged.hostname) judged = { hostname, many: MANY.test(hostname) || isBroadcast(hostname) };
  return judged.many ? "it is not the address of one machine" : undefined;
}

/** Says where a server listens, and where the local network finds it, if that is known and permitted. */
export async function announce(
  transport: "tcp" | "udp",
  addr: Deno.NetAddr,
  { quiet = false, family }: { quiet?: boolean; family?: 4 | 6 } = {},
): Promise<void> {
  say(`listening on ${transport}://${formatAddress(addr)}`);
  const { state } = await Deno.permissions.query({ name: "sys", kind: "networkInterfaces" });
  if (quiet || state !== "granted" || !/^(::|0\.0\.0\.0)$/.test(addr.hostname)) return;
  const { getNetworkAddress } = await import("jsr:@std/net@^1/get-network-address");
  const hostname = getNetworkAddress(family === 6 ? "IPv6" : "IPv4");
  if (hostname) say(`from the local network: ${transport}://${formatAddress({ ...addr, hostname })}`);
}

/**
 * The connections of a listener, until it is closed. Unlike the listener's own iterator, this one survives a client
 * that is gone before it is accepted, and waits while the system has no descriptor to give.
 */
export async function* connections(
  listener: Deno.TcpListener,
  log: (line: string) => void = record,
): AsyncGenerator<Deno.TcpConn> {
  const complain = sparing(60_000, log);
  for (let wait = 5;;) {
    try {
      yield await listener.accept();
      wait = 5;
    } catch (error) {
      if (closed(error)) return;
      if (error instanceof Deno.errors.NotConnected || error instanceof Deno.errors.ConnectionAborted) continue;
      complain(`cannot accept: ${reason(error)}; trying again`);
      await delay(wait = Math.min(2 * wait, 1000));
    }
  }
}

/** A TCP connection, as far as the protocols here need it. */
export type Stream = Pick<Deno.Conn, "read" | "write" | "closeWrite" | "close">;
/** A UDP socket, as far as the protocols here need it. */
export type Datagrams = Pick<Deno.DatagramConn, "receive" | "send" | "close">;

const COLORS: Record<string, string> = { "*": "color: gray", ">": "color: cyan", "<": "color: green" };
// Mermaid and Markdown give a meaning to these characters, and Mermaid to these words before a colon: they become codes.
const harmless = (text: string) =>
  printable(text.slice(0, 200)).replace(
    /[^ -~]|[#;$%&<>`]|w(?=rap:)|s(?=tyle)|c(?=lassDef)/gu,
    (c) => `#${c.codePointAt(0)};`,
  );
const DRAWN = 199; // events in a drawing, and the last one: more cannot be read
const SIZE = 40_000; // characters: Mermaid draws no more than 50,000

/** The exchange as it happens: printed with `-v`, drawn with `--diagram`. It wraps sockets, so that protocols stay bare. */
export class Trace {
  #start = performance.now();
  #servers = ["server"];
  #server = 1;
  #drawing: string[] = [];
  #size = 0;
  #rest = { events: 0, "*": 0, ">": 0, "<": 0, last: "" };
  /** `name` is the client's in the drawing, which goes to `file`. */
  constructor(readonly name: string, readonly verbose = true, readonly file?: string) {}

  #tell(mark: "*" | ">" | "<", text: string, arrow = "", bytes = 0, line = `${mark} ${text}`) {
    const time = ((performance.now() - this.#start) / 1000).toFixed(4);
    if (this.verbose && line) say(`${time} ${printable(line)}`, (l) => console.error("%c%s", COLORS[line[0]], l));
    if (!this.file) return;
    const [from, to] = mark === ">" ? ["client", `s${this.#server}`] : [`s${this.#server}`, "client"];
    const event = (arrow ? `${from}${arrow}${to}: ` : "Note left of client: ") + harmless(text);
    if (this.#drawing.length < DRAWN && this.#size < SIZE) this.#size += event.length, this.#drawing.push(event);
    else this.#rest.events++, this.#rest[mark] += bytes, this.#rest.last = event;
  }
  /** Names the server that the arrows lead to from now on. */
  peer(name: string): void {
    if (this.#servers[0] === "server") this.#servers.pop();
    this.#server = 1 + this.#servers.indexOf(name) || this.#servers.push(name);
  }
  /** An event in a socket's life: a note in the drawing, or what it stands for on the wire (`>SYN`, `<ACK`). */
  life(text: string, ...segments: string[]): void {
    if (segments.length === 0) this.#tell("*", text);
    segments.forEach((s, i) => this.#tell(s[0] as ">" | "<", s.slice(1), "-->>", 0, i || !text ? "" : `* ${text}`));
  }
  /** Bytes sent (`>`) or received (`<`), in a stream (`->>`) or as a datagram (`-)`). */
  data(mark: ">" | "<", bytes: Uint8Array, who = "", arrow = "->>"): void {
    this.#tell(mark, `${who}${counted(bytes.length, "byte")} ${quote(bytes)}`, who ? "" : arrow, bytes.length);
  }
  /** The same connection, seen; `who` is the peer, where there are several. */
  stream(conn: Stream, who = ""): Stream {
    let finished = false; // our half
    return {
      read: async (buffer) => {
        const n = await conn.read(buffer);
        if (n === null) this.life(`${who}half-closed by the peer`, "<FIN");
        else this.data("<", buffer.subarray(0, n), who);
        return n;
      },
      write: async (bytes) => {
        const n = await conn.write(bytes);
        this.data(">", bytes.subarray(0, n), who);
        return n;
      },
      closeWrite: async () => {
        await conn.closeWrite();
        finished = true;
        this.life(`${who}half-closed: nothing more to send`, ">FIN");
      },
      close: () => {
        conn.close();
        this.life(`${who}closed`, ...finished ? [] : [">FIN"]);
      },
    };
  }
  /** The same datagram socket, seen; peers are named, but for the one that is asked. */
  datagrams(socket: Datagrams, asked?: Deno.NetAddr): Datagrams {
    const name = (addr: Deno.Addr) => `${formatAddress(addr as Deno.NetAddr)} `, usual = asked && name(asked);
    const who = (addr: Deno.Addr) => name(addr) === usual ? "" : name(addr);
    return {
      receive: async (buffer) => {
        const [bytes, from] = await socket.receive(buffer);
        this.data("<", bytes, who(from), "-)");
        return [bytes, from];
      },
      send: (bytes, to) => {
        this.data(">", bytes, who(to), "-)");
        return socket.send(bytes, to);
      },
      close: () => {
        socket.close();
        this.life("closed");
      },
    };
  }
  /** Writes the drawing, where one was asked for: a Mermaid sequence diagram in a Markdown file. */
  async write(): Promise<void> {
    if (!this.file) return;
    const servers = this.#servers.map((name, i) => `participant s${i + 1} as ${harmless(name)}`);
    const { events, ">": sent, "<": received, last } = this.#rest;
    const bytes = `${counted(sent, "byte")} sent, ${counted(received, "byte")} received`;
    const note = `Note left of client: and ${counted(events - 1, "more event")}: ${bytes}`;
    const more = events > 1 ? [note, last] : events ? [last] : [];
    const lines = ["sequenceDiagram", `participant client as ${this.name}`, ...servers, ...this.#drawing, ...more];
    await Deno.writeTextFile(this.file, `\`\`\`mermaid\n${lines.join("\n  ")}\n\`\`\`\n`).catch((error) => {
      throw new Failure(23, `cannot write ${this.file}: ${reason(error)}`, error);
    });
  }
}

/** Round trips, counted and summed up as ping does it. Times are milliseconds. */
export class RoundTrips {
  /** questions */
  sent = 0;
  /** answers that count: none twice, none late */
  received = 0;
  #odd = new Map<string, number>();
  #ms = { min: Infinity, max: 0, sum: 0, squares: 0 };

  /** An answer came back after `ms`. */
  add(ms: number): void {
    const { min, max, sum, squares } = this.#ms;
    this.#ms = { min: Math.min(min, ms), max: Math.max(max, ms), sum: sum + ms, squares: squares + ms * ms };
    this.received++;
  }
  /** An answer was out of the ordinary: `duplicate`, `late`, … */
  note(what: string): void {
    this.#odd.set(what, 1 + (this.#odd.get(what) ?? 0));
  }
  /** `5 sent, 5 received, 0% loss` and, where anything came back, `min/avg/max/mdev = 0.18/0.21/0.30/0.04 ms`. */
  toString(): string {
    const { sent, received } = this, { min, max, sum, squares } = this.#ms, mean = sum / received;
    const mdev = Math.sqrt(Math.max(0, squares / received - mean * mean));
    const counts = [...this.#odd].map(([what, n]) => `, ${n} ${what}`).join("");
    const times = [min, mean, max, mdev].map((ms) => ms.toFixed(2)).join("/");
    const lost = sent ? 100 * (sent - received) / sent : 0; // never shown as none or all where that is not so
    const loss = Math.min(+lost.toPrecision(3), received ? 99.9 : 100);
    return `${sent} sent, ${received} received, ${loss}% loss${counts}` +
      (received ? `\nmin/avg/max/mdev = ${times} ms` : "");
  }
}

/** A script as its users see it: its name, its usage text, and how many words may follow the options. */
export type Command = { name: string; usage: string; words: number };
/** The command line, read and checked, and what watches over the work: seconds are milliseconds here. */
export type Given<T> = T & { words: string[]; family?: 4 | 6; signal: AbortSignal; trace?: Trace };

/** What is written together, taken apart: parseArgs knows `-n5`, but not curl's `-ofile`, nor `-qp7777`. */
function takenApart(args: string[], listed: string[][]): string[] {
  const letters = (valued: boolean) => listed.map(([, c = "", , kind]) => valued === !!kind ? c : "").join("");
  const joined = new RegExp(`^-([${letters(false)}]*)(?:([${letters(true)}])=?(.+))?$`, "s"), end = args.indexOf("--");
  return args.flatMap((arg, i) => {
    const [, switches = "", letter, value] = (end < 0 || i < end) && arg.match(joined) || [];
    const apart = [...switches].map((c) => `-${c}`);
    if (letter) apart.push(`--${listed.find(([, c]) => c === letter)![2]}=${value}`);
    return apart.length ? apart : [arg];
  });
}

/** The value of an option, as its kind says. Throws a {@linkcode Failure} of 2. */
function readValue(name: string, kind: string, text: string): string | number {
  if (text === "") throw new Failure(2, `--${name} needs a value: ${kind}`);
  if (kind === "PORT") return parsePort(text);
  if (kind === "SECONDS" && /^(\d+\.?\d*|\.\d+)$/.test(text) && Number(text) <= 1e6) return Number(text) * 1000;
  if ((kind === "N" || kind === "BYTES") && /^\d{1,15}$/.test(text)) return Number(text);
  if (!/^(SECONDS|N|BYTES)$/.test(kind)) return text;
  const wanted = kind === "SECONDS" ? "seconds up to 1000000" : "a whole number";
  throw new Failure(2, `--${name} wants ${wanted}, not "${text}"`);
}

/** What to say of an option that is none: of the others, the nearest; for a letter, one that begins with it. */
async function unknownOption(arg: string, listed: string[][]): Promise<Failure> {
  const { closestString } = await import("jsr:@std/text@^1/closest-string");
  const names = listed.map(([, , name]) => `--${name}`), long = arg.startsWith("--");
  const letter = [...arg.slice(1)].find((c) => !listed.some(([, known]) => known === c)) ?? "";
  const near = long
    ? closestString(arg.replace(/=.*/s, ""), names)
    : names.find((name) => name[2] === letter.toLowerCase());
  const hint = near ? `did you mean ${near}? ` : "";
  return new Failure(2, `unknown option ${long ? arg : `-${letter}`}: ${hint}--help lists them all`);
}

/**
 * Reads a command line by the options that the usage text lists, a line each: `  -p, --port PORT  …` takes a value, and
 * the word says of what kind (PORT, SECONDS, N, BYTES, else text; with `...` it may be repeated); `  -q, --quiet` none.
 * Throws a {@linkcode Failure} of 2 that names the offender.
 */
export async function parse({ usage, words }: Command, args: string[]): Promise<Record<string, unknown>> {
  const { parseArgs } = await import("jsr:@std/cli@^1/parse-args"); // not on the way to --help, which is to be quick
  const listed = [...usage.matchAll(/^ +(?:-(\w), )?--([\w-]+)(?: ([A-Z]+)(\.\.\.)?)?/gm)];
  const valued = listed.filter(([, , , kind]) => kind).map(([, , name]) => name);
  const unknown: string[] = [];
  // parseArgs would take a word for a number, or `true` for the value of the switch before it: not behind a NUL.
  const hidden = takenApart(args, listed).map((arg) => arg.replace(/^(?!-)/, "\0"));
  const shown = (text: string) => text.replace("\0", "");
  const given: Record<string, unknown> & { _: (string | number)[] } = parseArgs(hidden, {
    alias: Object.fromEntries(listed.flatMap(([, letter, name]) => letter ? [[name, letter]] : [])),
    boolean: listed.filter(([, , , kind]) => !kind).map(([, , name]) => name),
    string: valued,
    collect: valued,
    unknown: (arg, key) => key === undefined || unknown.push(arg) < 0,
  });
  if (unknown.length) throw await unknownOption(shown(unknown[0]), listed);
  for (const [, , name, kind, repeatable] of listed) {
    const all = given[name];
    if (kind) given[name] = (all as string[]).map((text) => readValue(name, kind, shown(text)));
    if (kind && !repeatable) given[name] = (given[name] as unknown[]).at(-1);
    if (!kind && (typeof all !== "boolean" || args.some((arg) => arg.startsWith(`--${name}=`)))) {
      throw new Failure(2, `--${name} takes no value`);
    }
  }
  const list = given._.map((word) => shown(String(word))), extra = list.find((word, i) => i >= words || word === "");
  const hint = valued.includes("connect") ? " (a client is told where by -c HOST:PORT)" : "";
  if (extra !== undefined) throw new Failure(2, extra ? `too many words: "${extra}"${hint}` : "an empty word");
  if (given.ipv4 && given.ipv6) throw new Failure(2, "-4 and -6 exclude each other");
  return { ...given, words: list, family: given.ipv4 ? 4 : given.ipv6 ? 6 : undefined };
}

/** Throws a {@linkcode Failure} of 2 for the first of the options that was given all the same. */
export function refuse(given: object, names: string[], why: string): void {
  for (const [name, value] of Object.entries(given)) {
    if (names.includes(name) && value !== undefined && value !== false) throw new Failure(2, `--${name} ${why}`);
  }
}

/**
 * Runs a script: reads its command line, answers `--help` and `--version`, aborts the signal at SIGINT and SIGTERM (a
 * second one ends at once), and turns what is thrown into one line on stderr. Returns the exit status.
 */
export async function run<T>(
  command: Command,
  args: string[],
  work: (given: Given<T>) => Promise<number | void>,
): Promise<number> {
  const stop = new AbortController();
  let first = Infinity;
  const quit = (status: number) => {
    if (performance.now() - first > 20) Deno.exit(status); // sooner it is the same one: timeout(1) sends it twice
    if (!stop.signal.aborted) first = performance.now(), stop.abort(new Failure(status, ""));
  };
  const newline = () => Deno.stderr.isTerminal() && say("", console.error); // behind the ^C that a terminal shows
  const interrupt = () => (newline(), quit(130)), terminate = () => quit(143);
  const gentle = Deno.build.os === "windows" ? "SIGBREAK" : "SIGTERM";
  let trace: Trace | undefined;
  const failed = (thrown: unknown) => {
    const error = stop.signal.aborted ? stop.signal.reason : thrown;
    const bug = error instanceof TypeError || error instanceof RangeError || error instanceof ReferenceError;
    if (bug && !/\(os error/.test(error.message)) throw error; // our own fault: the stack trace is for us
    const why = reason(error);
    if (stop.signal.aborted) trace?.life("interrupted");
    if (why) trace?.life(why), say(`${command.name}: ${printable(why)}`, console.error);
    return error instanceof Failure ? error.status : 1;
  };
  const answer = (text: string) => output(text).then(() => 0);
  try {
    // Asked for alone, as it mostly is, help is at hand before the options are read: that takes as long as all the rest.
    if (/^(-h|--help)$/.test(`${args}`)) return await answer(command.usage);
    const given = await parse(command, args) as Given<T & { [name: string]: unknown }>;
    if (given.help || given.version) return await answer(given.help ? command.usage : `${command.name} ${VERSION}\n`);
    Deno.addSignalListener("SIGINT", interrupt);
    Deno.addSignalListener(gentle, terminate);
    if (given.verbose || given.diagram) trace = new Trace(command.name, !!given.verbose, given.diagram as string);
    let status = await work({ ...given, signal: stop.signal, trace }).then((status) => status ?? 0, failed);
    if (status !== 2) await trace?.write().catch((error) => status ||= failed(error));
    if (writing) await atMost(500, writing); // the log, if anyone reads it
    return status;
  } catch (error) {
    return failed(error);
  } finally {
    Deno.removeSignalListener("SIGINT", interrupt);
    Deno.removeSignalListener(gentle, terminate);
  }
}
