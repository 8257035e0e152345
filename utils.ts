/**
 * What the scripts share: failures, output, the command line, addresses, how
 * sockets are opened, round trips, and how a script is run and ended.
 *
 * @module
 */
/** What `--version` prints. */
export const VERSION = "1.0.0";
/** What `-v` and `--diagram` load, from trace.ts. */
export type Trace = import("./trace.ts").Trace;
/** Where a line of a log goes. */
export type Log = (line: string) => void;

/**
 * An expected failure: a line for people, and an exit status. These are curl's;
 * docs/reference.md lists them. What "fails with status 6" throws one of these.
 */
export class Failure extends Error {
  constructor(readonly status: number, message: string, cause?: unknown) {
    super(message, { cause });
  }
}

/** Says in a few words why something failed: `connection refused`. */
export function reason(error: unknown): string {
  const { name, message } = error as Error;
  // Windows has long sentences for these.
  const isPlain = /^Connection|^PermissionDenied$|^TimedOut$/.test(name);
  if (isPlain) return name.replace(/\B[A-Z]/g, " $&").toLowerCase();
  // "No such file (os error 2): open 'x'": our lines name the file already.
  const short = message.replace(/ \(os error \d+\)(: .*)?/, "");
  return short.replace(/^[A-Z](?=[a-z])/, (letter) => letter.toLowerCase());
}

/** Whether this error says that we closed the socket ourselves. */
export function isClosed(error: unknown): boolean {
  const { BadResource, Interrupted } = Deno.errors;
  return error instanceof BadResource || error instanceof Interrupted;
}

/** Rejects with the reason when the signal aborts. Nobody has to await it. */
export function aborted(signal: AbortSignal): Promise<never> {
  const { promise, reject } = Promise.withResolvers<never>();
  signal.addEventListener("abort", () => reject(signal.reason));
  if (signal.aborted) reject(signal.reason);
  promise.catch(() => {}); // an unhandled rejection would end the program
  return promise;
}

/** A signal that aborts with `signal`, or after so many milliseconds. */
export function timeLimit(ms: number, signal: AbortSignal): AbortSignal {
  if (ms === Infinity) return signal;
  return AbortSignal.any([signal, AbortSignal.timeout(ms)]);
}

/** Throws the signal's reason if it has aborted. A time limit is status 28. */
function throwIfAborted(signal: AbortSignal, what: string): void {
  const isLate = signal.reason?.name === "TimeoutError";
  if (isLate) throw new Failure(28, `${what}: no answer in time`);
  signal.throwIfAborted();
}

/** Waits for so many milliseconds. */
export function delay(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Counts things in words: `1 byte`, `2 bytes`. */
export function counted(count: number, thing: string): string {
  return `${count} ${thing}${count === 1 ? "" : "s"}`;
}

/** Writes all of the bytes: a single `write` may take only some of them. */
export async function writeAll(
  to: { write(bytes: Uint8Array): number | Promise<number> },
  bytes: Uint8Array,
): Promise<void> {
  let sent = 0;
  while (sent < bytes.length) sent += await to.write(bytes.subarray(sent));
}

/** Escapes what could control a terminal. */
export function printable(text: string): string {
  return text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (character) => {
    const code = character.codePointAt(0)!.toString(16).padStart(2, "0");
    const escaped = code.length > 2 ? `\\u{${code}}` : `\\x${code}`;
    return { "\n": "\\n", "\r": "\\r" }[character] ?? escaped;
  });
}

/** Reads a file of /proc; empty where it is not there or not permitted. */
function readProc(path: string): string {
  const { state } = Deno.permissions.querySync({ name: "read", path });
  try { // Without a permission, Deno would ask for it.
    if (state === "granted") return Deno.readTextFileSync(path);
  } catch { /* no Linux, or not all permissions, which /proc needs */ }
  return "";
}

/** What is known of the terminal: whether its cursor is within a line. */
export const screen = { midLine: false };

/** What is typed, or piped in. */
export async function* standardInput(): AsyncGenerator<Uint8Array> {
  for await (const bytes of Deno.stdin.readable) {
    if (Deno.stdin.isTerminal()) screen.midLine = bytes.at(-1) !== 10;
    yield bytes;
  }
}

const decoder = new TextDecoder(); // kept: a character may come in two pieces
let isReadOnly: boolean | undefined; // stdout

/**
 * Writes to stdout. On a terminal, what could control it is escaped. Fails with
 * status 23, without a message if the reader is gone.
 */
export async function output(data: Uint8Array | string): Promise<void> {
  // Deno reports success for writes to what is open for reading only. The lowest
  // two bits of its octal flags are 0 then.
  isReadOnly ??= /^flags:\s*\d*[04]$/m.test(readProc("/proc/self/fdinfo/1"));
  if (isReadOnly) {
    const why = "it is open for reading only";
    throw new Failure(23, `cannot write the output: ${why}`);
  }
  let bytes = typeof data === "string" ? new TextEncoder().encode(data) : data;
  if (Deno.stdout.isTerminal()) {
    const text = decoder.decode(bytes, { stream: true });
    const lines = text.replace(/\r(?=\n|$)/g, ""); // LF may come next
    bytes = new TextEncoder().encode(lines.replace(/[^\n\t]+/g, printable));
    screen.midLine = !lines.endsWith("\n");
  }
  try {
    await writeAll(Deno.stdout, bytes);
  } catch (error) {
    const isGone = error instanceof Deno.errors.BrokenPipe;
    const message = isGone ? "" : `cannot write the output: ${reason(error)}`;
    throw new Failure(23, message, error);
  }
}

/** Prints a line of its own on stderr. `style` is CSS, such as a color. */
export function complain(line: string, style = ""): void {
  try {
    if (screen.midLine && Deno.stderr.isTerminal()) console.error();
    screen.midLine = false;
    console.error("%c%s", style, printable(line));
  } catch { /* The disk is full: nobody can be told. */ }
}

let unwritten = 0; // lines of the log
let writing = Promise.resolve();

/**
 * Logs a line on stdout. It never waits: whoever reads it may have stopped. Of
 * what is not written, it keeps 1,000 lines.
 */
export function log(line: string): void {
  if (unwritten === 1000) return;
  unwritten++;
  const bytes = new TextEncoder().encode(`${line}\n`);
  writing = writing.then(() => writeAll(Deno.stdout, bytes))
    .catch(() => {}) // The pipe is closed or the disk full: nobody can be told.
    .finally(() => unwritten--);
}

/** A log that takes so many lines a second, and tells how many it dropped. */
export function limited(log: Log, most = 100): Log {
  let lines = 0; // in this second
  const begin = () => {
    if (lines > most) log(`... and ${lines - most} more`);
    lines = 0;
  };
  return (line) => {
    if (lines === 0) setTimeout(begin, 1000);
    lines++;
    if (lines <= most) log(line);
  };
}

/** For parseArgs: lets words pass. Fails with status 2 for other options. */
export function refuseUnknown(arg: string, option?: string): boolean {
  if (option === undefined) return true;
  throw new Failure(2, `unknown option ${arg}: see --help`);
}

/** Options by name, as parseArgs gives them. */
type Given = Record<string, unknown>;

/** Fails with status 2 if one of the options was given. */
export function refuse(options: Given, names: string[], why: string): void {
  const name = names.find((name) => options[name]);
  if (!name) return;
  const option = `--${name}`.replace("--ipv", "-"); // -4 or -6
  throw new Failure(2, `${option} ${why}`);
}

/** Reads a whole number within bounds. Fails with status 2. */
export function parseNumber(
  given: Given,
  name: string,
  usual: number,
  [min, max]: [number, number],
): number {
  const text = given[name];
  if (text === undefined) return usual;
  const number = /^\d+$/.test(`${text}`) ? Number(text) : NaN;
  if (number >= min && number <= max) return number;
  const range = `a whole number from ${min} to ${max}`;
  throw new Failure(2, `--${name} must be ${range}, not "${text}"`);
}

/** Reads seconds as milliseconds. Fails with status 2. */
export function parseSeconds(given: Given, name: string, usual = 0): number {
  const text = `${given[name] ?? usual}`;
  const seconds = /^(\d+\.?\d*|\.\d+)$/.test(text) ? Number(text) : NaN;
  if (seconds <= 1e6) return 1000 * seconds;
  throw new Failure(2, `--${name} must be 0 to 1000000 seconds, not "${text}"`);
}

// deno-fmt-ignore
const SERVICES: Record<string, number> = {
  echo: 7, daytime: 13, ftp: 21, ssh: 22, telnet: 23, smtp: 25, http: 80,
  https: 443,
};

/** Reads a port, `7777` or `echo`. Fails with status 2. */
export function parsePort(text: string): number {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : SERVICES[text];
  if (port <= 65_535) return port;
  const hint = "use 0 to 65535 or a service name";
  throw new Failure(2, `"${text}" is not a port: ${hint}`);
}

/** Reads -4 and -6. Fails with status 2 for both. */
export function parseFamily({ ipv4, ipv6 }: Given): 4 | 6 | undefined {
  if (ipv4 && ipv6) throw new Failure(2, "-4 and -6 cannot be combined");
  if (ipv4) return 4;
  return ipv6 ? 6 : undefined;
}

/** A URL's host without brackets; an IPv4-mapped address as IPv4. */
export function hostOf({ hostname }: URL): string {
  // A URL writes ::ffff:127.0.0.1 as ::ffff:7f00:1.
  const mapped = hostname.match(/^\[::ffff:(\w+):(\w+)\]$/)?.slice(1);
  if (!mapped) return hostname.replace(/^\[|\]$/g, "");
  const [high, low] = mapped.map((digits) => parseInt(digits, 16));
  // It reads a number as an IPv4 address.
  return new URL(`http://${high * 65_536 + low}`).hostname;
}

/** Reads HOST [PORT] or HOST:PORT, -4 and -6. Fails with status 2. */
export function parseTarget(given: Given & { _: unknown[] }, usual: number) {
  const [text, ...words] = given._.map(String);
  const isIPv6 = URL.canParse(`http://[${text}]`);
  // Else, what follows the last colon is a port.
  const parts = isIPv6 ? [`[${text}]`] : text.split(/:(?=[^:\]]*$)/);
  const [host, port = `${usual}`, more] = [...parts, ...words];
  // A URL knows what a host is. But it can hold more, and takes 5 for 0.0.0.5.
  const url = URL.parse(`http://${host}`);
  const isOdd = /^\d*$|^[^[]*:|[/?#@\\\s]/.test(host);
  if (!url || isOdd) throw new Failure(2, `"${text}" is not a host`);
  if (more !== undefined) throw new Failure(2, `unexpected argument "${more}"`);
  const number = parsePort(port);
  if (number === 0) throw new Failure(2, "nobody listens on port 0");
  return { hostname: hostOf(url), port: number, family: parseFamily(given) };
}

/** Formats an address: `127.0.0.1:7777`, `[::1]:7777`. */
export function formatAddress(at: { hostname: string; port: number }): string {
  // The system writes an IPv4 peer of an IPv6 socket so (RFC 4291).
  const hostname = at.hostname.replace(/^::ffff:(?=[\d.]+$)/, "");
  const host = hostname.includes(":") ? `[${hostname}]` : hostname;
  return `${host}:${at.port}`;
}

/** A server to ask, and by which family of addresses. */
export interface Target {
  hostname: string;
  port: number;
  family?: number; // 4 or 6: only such addresses
  signal: AbortSignal;
  trace?: Trace;
}

/** Asks the system for addresses. Fails with status 2, 6 or 28. */
export async function resolve(target: Target): Promise<string[]> {
  const { hostname, family, signal, trace } = target;
  const isIPv6 = hostname.includes(":");
  if (isIPv6 || /^[\d.]+$/.test(hostname)) {
    if (family === undefined || (family === 6) === isIPv6) return [hostname];
    throw new Failure(2, `${hostname} is not an IPv${family} address`);
  }
  const { lookup } = await import("node:dns/promises");
  try {
    const looking = lookup(hostname, { all: true });
    const all = await Promise.race([looking, aborted(signal)]);
    const found = all.filter((each) => !family || each.family === family);
    if (found.length === 0) throw new Error(`no IPv${family} address`);
    const addresses = [...new Set(found.map(({ address }) => address))];
    trace?.event(`resolved ${hostname} to ${addresses.join(", ")}`);
    return addresses;
  } catch (error) {
    const what = `cannot resolve ${hostname}`;
    throwIfAborted(signal, what);
    const reasons: Record<string, string> = {
      ENOTFOUND: "no such name",
      EAI_AGAIN: "no name server answers",
      EPERM: "Deno needs --allow-net",
    };
    const why = reasons[(error as { code: string }).code] ?? reason(error);
    throw new Failure(6, `${what}: ${why}`, error);
  }
}

/** Connects over TCP. Fails with status 2, 6, 7 or 28. */
export async function connect(target: Target): Promise<Deno.TcpConn> {
  const { hostname, port, family, signal, trace } = target;
  const [address] = await resolve(target); // this says why it fails
  // Given a name, Deno tries its addresses side by side (RFC 8305), whatever
  // their family.
  const at = { hostname: family ? address : hostname, port };
  try {
    const conn = await Deno.connect({ ...at, signal });
    trace?.handshake(formatAddress(conn.remoteAddr));
    return conn;
  } catch (error) {
    const what = `cannot connect to ${formatAddress(at)}`;
    throwIfAborted(signal, what);
    const isRefused = error instanceof Deno.errors.ConnectionRefused;
    if (isRefused) trace?.handshake(formatAddress(at), isRefused);
    throw new Failure(7, `${what}: ${reason(error)}`, error);
  }
}

/** Fails with status 1 if Deno runs without --unstable-net. */
export function needsUnstableNet(what: string): void {
  if ("listenDatagram" in Deno) return;
  throw new Failure(1, `${what} needs Deno's --unstable-net flag`);
}

/** A UDP socket, as far as the protocols need it. */
export type UdpSocket = Pick<Deno.DatagramConn, "receive" | "send" | "close">;

/** Asks the system for one address: the first of IPv4, if there is one. */
export async function resolveOne(target: Target): Promise<string> {
  const addresses = await resolve(target);
  const ipv4 = addresses.find((address) => !address.includes(":"));
  const hostname = ipv4 ?? addresses[0];
  // These mean this machine, which answers from 127.0.0.1 or ::1.
  const own: Record<string, string> = { "0.0.0.0": "127.0.0.1", "::": "::1" };
  return own[hostname] ?? hostname;
}

/** Where a client over UDP sends from, and whom it asks. */
export interface UdpClient {
  socket: UdpSocket;
  to: Deno.NetAddr;
}

/** Opens a UDP socket to ask a server. Fails with status 1, 2, 6 or 28. */
export async function openUdp(target: Target): Promise<UdpClient> {
  needsUnstableNet("UDP");
  // UDP cannot tell whether anybody listens, so one address has to do.
  const hostname = await resolveOne(target);
  const to = { transport: "udp", hostname, port: target.port } as const;
  const any = hostname.includes(":") ? "::" : "0.0.0.0";
  const socket = Deno.listenDatagram({ ...to, hostname: any, port: 0 });
  return { socket: target.trace?.datagrams(socket, to) ?? socket, to };
}

/**
 * Opens a server's socket. Without a host, it serves both IPv6 and IPv4, where
 * the system can. Fails with status 1, 2 or 6.
 */
export function listen<T>(
  open: (at: { hostname: string; port: number }) => T,
  port: number,
  hostname = Deno.build.os === "windows" ? "0.0.0.0" : "::",
): T {
  try {
    if (/^\d+$/.test(hostname)) throw new URIError(); // as Deno; 5 is 0.0.0.5
    return open({ hostname, port });
  } catch (error) {
    const { name, message } = error as Error;
    let why = "";
    if (name === "AddrInUse") why = "is in use: choose another with --port";
    const isLow = name === "PermissionDenied" && port < 1024;
    if (isLow) why = `needs more rights: try --port ${port + 1300}`;
    if (why) throw new Failure(1, `port ${port} ${why}`);
    if (name === "URIError") {
      throw new Failure(2, `"${hostname}" is not a host`);
    }
    const isDenied = name === "NotCapable"; // by Deno's own permissions
    // There may be no IPv6.
    if (hostname === "::" && !isDenied) return listen(open, port, "0.0.0.0");
    const what = `cannot listen on ${formatAddress({ hostname, port })}`;
    const status = /failed to lookup/.test(message) ? 6 : 1;
    throw new Failure(status, `${what}: ${reason(error)}`, error);
  }
}

/** Opens a server's UDP socket. Fails with status 1, 2 or 6. */
export function listenUdp(port: number, host?: string): Deno.DatagramConn {
  needsUnstableNet("UDP");
  const transport = "udp";
  return listen((at) => Deno.listenDatagram({ transport, ...at }), port, host);
}

/** Logs where a server listens, and where the local network reaches it. */
export async function announce(addr: Deno.NetAddr, quiet: boolean) {
  log(`listening on ${addr.transport}://${formatAddress(addr)}`);
  const permission = { name: "sys", kind: "networkInterfaces" } as const;
  const { state } = await Deno.permissions.query(permission);
  const isAny = addr.hostname === "::" || addr.hostname === "0.0.0.0";
  if (quiet || !isAny || state !== "granted") return;
  const net = await import("jsr:@std/net@^1/get-network-address");
  const hostname = net.getNetworkAddress();
  if (hostname === undefined) return;
  const address = formatAddress({ ...addr, hostname });
  log(`on the local network: ${addr.transport}://${address}`);
}

/**
 * Accepts the next connection; undefined once the listener is closed. It goes
 * on when a client is gone already, and when no descriptors are left.
 */
export async function accept(
  listener: Deno.TcpListener,
  log: Log,
): Promise<Deno.TcpConn | undefined> {
  for (let pause = 5;; pause = Math.min(2 * pause, 1000)) {
    try {
      return await listener.accept();
    } catch (error) {
      if (isClosed(error)) return undefined;
      if (error instanceof Deno.errors.NotConnected) continue;
      log(`cannot accept: ${reason(error)}`);
      await delay(pause);
    }
  }
}

/**
 * Whether a datagram's sender may be a server. Two servers would answer each
 * other forever (CVE-2024-2169).
 */
export function isSuspect(
  { hostname, port }: Deno.NetAddr,
  ownPort: number,
): boolean {
  const isMulticast = /^(::ffff:)?(22[4-9]|23\d)\.|^ff/.test(hostname);
  const isBroadcast = hostname.endsWith("255.255.255.255");
  const isServer = port < 1024 || [1313, 7777, ownPort].includes(port);
  return isServer || isMulticast || isBroadcast;
}

/** Rounds milliseconds to three decimals, so that all printed times agree. */
export function rounded(milliseconds = NaN): number {
  return Number(milliseconds.toFixed(3)); // in JSON, NaN becomes null
}

/** Round trips, summed up as ping(8) does. Times are milliseconds. */
export class RoundTrips {
  sent = 0;
  readonly times: number[] = [];
  readonly odd: Record<string, number> = {}; // by kind: `late`, `duplicate`

  toJSON() {
    const { sent, odd } = this;
    const times = this.times.toSorted((a, b) => a - b);
    const received = times.length;
    const percentile = (percent: number) =>
      rounded(times[Math.ceil(percent * received / 100) - 1]);
    const mean = (values: number[]) =>
      values.reduce((sum, value) => sum + value, 0) / received;
    const average = mean(times);
    const squares = times.map((time) => (time - average) ** 2);
    return {
      sent,
      received,
      ...odd,
      // Six digits, as ping(8) has: a loss is not shown as none, or as all.
      lossPercent: Number((100 * (1 - received / sent || 0)).toPrecision(6)),
      minMs: rounded(times[0]),
      avgMs: rounded(average),
      maxMs: rounded(times.at(-1)),
      mdevMs: rounded(Math.sqrt(mean(squares))),
      p50Ms: percentile(50),
      p90Ms: percentile(90),
      p99Ms: percentile(99),
    };
  }

  toString(): string {
    const { sent, received, lossPercent, ...ms } = this.toJSON();
    const join = (...times: number[]) =>
      `${times.map((time) => time.toFixed(2)).join("/")} ms`;
    const times = join(ms.minMs, ms.avgMs, ms.maxMs, ms.mdevMs);
    const shares = join(ms.p50Ms, ms.p90Ms, ms.p99Ms);
    let text = `${sent} sent, ${received} received, ${lossPercent}% loss`;
    for (const [kind, n] of Object.entries(this.odd)) text += `, ${n} ${kind}`;
    if (received > 0) text += `\nmin/avg/max/mdev = ${times}`;
    if (received >= 20) text += `\np50/p90/p99 = ${shares}`;
    return text;
  }
}

/** The options that every script has. */
interface Options {
  _: (string | number)[];
  help: boolean;
  version: boolean;
  verbose: boolean[];
  diagram?: string;
}

const SIGNALS: [Deno.Signal, number][] = Deno.build.os === "windows"
  ? [["SIGINT", 130], ["SIGBREAK", 143]]
  : [["SIGINT", 130], ["SIGTERM", 143], ["SIGHUP", 129]];

/** A script, and how it reads its options. */
interface Script<T> {
  name: string;
  usage: string;
  parse: (args: string[]) => T;
}

/**
 * Runs a script and returns its exit status. Ctrl-C and SIGTERM abort the
 * work's signal. What is thrown becomes a line on stderr.
 */
export async function run<T extends Options>(
  { name, usage, parse }: Script<T>,
  args: string[],
  work: (options: T, signal: AbortSignal, trace?: Trace) => Promise<void>,
): Promise<number> {
  const stop = new AbortController();
  let trace: Trace | undefined;
  let status = 0;
  try {
    const options = parse(args);
    checkValues(args, options, parse([]));
    if (options.help) await output(usage);
    else if (options.version) await output(`${name} ${VERSION}\n`);
    else {
      trace = await loadTrace(name, options);
      using _signals = abortOnSignals(stop);
      await work(options, stop.signal, trace);
    }
  } catch (error) {
    // After Ctrl-C, other errors only follow from it.
    status = report(name, stop.signal.reason ?? error, trace);
  }
  try {
    const isUsage = status === 2 || status === 3; // then nothing is drawn
    if (!isUsage) await trace?.write();
  } catch (error) {
    status ||= report(name, error);
  }
  if (unwritten > 0) await Promise.race([writing, delay(500)]);
  return status;
}

/** Refuses `--port=` and `--quiet=no`, and `-qp80`, which is a value of -q. */
function checkValues(args: string[], options: object, usual: object): void {
  const unset = new Map<string, unknown>(Object.entries(usual));
  for (const [name, value] of Object.entries(options)) {
    if (name.length === 1) continue; // a letter, or `_`
    if (value === "") throw new Failure(2, `--${name} needs a value`);
    // A flag is false by itself. --verbose is collected: it is [].
    if (name !== "verbose" && unset.get(name) !== false) continue;
    const given = args.find((arg) => arg.startsWith(`--${name}=`));
    const odd = [value].flat().find((each) => typeof each !== "boolean") ??
      given?.slice(`--${name}=`.length);
    if (odd === undefined) continue;
    throw new Failure(2, `--${name} takes no value: "${odd}"`);
  }
}

/** Aborts on Ctrl-C and its like. A second one ends the program at once. */
function abortOnSignals(stop: AbortController): Disposable {
  // Before any listener: with the first, Deno takes over SIGHUP, too.
  const ignoresHangup = isHangupIgnored();
  const signals = new DisposableStack();
  let first = Infinity;
  for (const [name, status] of SIGNALS) {
    const abort = () => {
      if (name === "SIGHUP" && ignoresHangup) return;
      // timeout(1) sends its signal twice, within milliseconds.
      if (performance.now() - first > 20) Deno.exit(status);
      first = Math.min(first, performance.now());
      if (name === "SIGINT" && Deno.stderr.isTerminal()) {
        screen.midLine = false;
        complain(""); // ends the line of the ^C
      }
      stop.abort(new Failure(status, ""));
    };
    Deno.addSignalListener(name, abort);
    signals.defer(() => Deno.removeSignalListener(name, abort));
  }
  return signals;
}

/** Whether nohup(1) started this: then it outlives its terminal. */
function isHangupIgnored(): boolean {
  const status = readProc("/proc/self/status");
  // The signals are bits of a hexadecimal number, and the last one is SIGHUP.
  if (status) return /^SigIgn:.*[13579bdf]$/m.test(status);
  const streams = [Deno.stdin, Deno.stdout, Deno.stderr];
  return !streams.some((stream) => stream.isTerminal()); // as nohup leaves them
}

async function loadTrace(name: string, { verbose, diagram }: Options) {
  if (verbose.length === 0 && diagram === undefined) return undefined;
  const { Trace } = await import("./trace.ts").catch((error) => {
    const message = "-v and --diagram need trace.ts beside this script";
    throw new Failure(1, message, error);
  });
  return new Trace(name, verbose.length, diagram);
}

function report(name: string, error: unknown, trace?: Trace): number {
  const isBug = error instanceof TypeError || error instanceof RangeError;
  // Deno throws a TypeError for some errors of the system, too.
  if (isBug && !/os error/.test(error.message)) throw error;
  const message = reason(error);
  trace?.note(message || "interrupted");
  if (message) complain(`${name}: ${message}`);
  if (error instanceof Failure) return error.status;
  return /^Connection|^BrokenPipe$/.test((error as Error).name) ? 56 : 1;
}
