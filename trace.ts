/**
 * What `-v` prints and `--diagram` draws: the exchange, as it happens. A trace
 * wraps sockets from outside, so that the protocols know nothing of it.
 *
 * A program does not see the segments of TCP: SYN opens a connection, FIN ends
 * one direction, RST aborts. They are inferred from what its socket did.
 *
 * @module
 */
import { complain, counted, Failure, formatAddress } from "./utils.ts";
import { printable, reason } from "./utils.ts";

/** A connection, as far as the protocols need it. */
export type Stream = Pick<Deno.Conn, "read" | "write" | "closeWrite" | "close">;
/** A UDP socket, as far as the protocols need it. */
export type Datagrams = Pick<Deno.DatagramConn, "receive" | "send" | "close">;
/** `*` is the socket's life, `>` was sent, `<` was received. */
type Mark = "*" | ">" | "<";

const COLORS = { "*": "color: gray", ">": "color: cyan", "<": "color: green" };
const TERM = { name: "env", variable: "TERM" } as const;
const WIDTH = 80; // columns
const MOST_EVENTS = 199; // in a diagram: nobody can read more
const MOST_TEXT = 40_000; // characters: Mermaid draws no more than 50,000

/** Quotes bytes as text, in at most so many columns: `"caf\xc3\xa9\r\n"`. */
export function quote(bytes: Uint8Array, columns: number): string {
  let text = "";
  for (const byte of bytes) {
    const character = String.fromCharCode(byte);
    let shown = printable(character);
    if (byte > 126) shown = `\\x${byte.toString(16)}`;
    if (/["\\]/.test(character)) shown = `\\${character}`;
    if (text.length + shown.length > columns - 5) return `"${text}"...`;
    text += shown;
  }
  return `"${text}"`;
}

/** Dumps bytes in hexadecimal and text, 16 a line, as `hexdump -C` does. */
export function hexdump(bytes: Uint8Array): string[] {
  const lines: string[] = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const row = [...bytes.subarray(at, at + 16)];
    const hex = row.map((byte) => byte.toString(16).padStart(2, "0"));
    const halves = `${hex.slice(0, 8).join(" ")}  ${hex.slice(8).join(" ")}`;
    const text = String.fromCharCode(...row).replace(/[^ -~]/g, ".");
    const offset = at.toString(16).padStart(8, "0");
    lines.push(`${offset}  ${halves.padEnd(48)}  |${text}|`);
  }
  return lines;
}

/** A Mermaid sequence diagram. Of too many events, it keeps the first. */
export class Diagram {
  #names: string[];
  #events: string[] = [];
  #size = 0;
  #dropped = 0;

  /** `name` is that of the first participant, the client. */
  constructor(name: string) {
    this.#names = [name];
  }

  /** Names a participant anew. */
  rename(from: string, to: string): void {
    this.#names = this.#names.map((name) => name === from ? to : name);
  }

  /** Draws an arrow from one participant to another. */
  arrow(from: string, arrow: string, to: string, text: string): void {
    this.#add(`${this.#lane(from)}${arrow}${this.#lane(to)}: `, text);
  }

  /** Adds a note beside the first participant. */
  note(text: string): void {
    this.#add("Note left of p1: ", text);
  }

  /** Writes it into a Markdown file. Throws a {@linkcode Failure} of 23. */
  async write(file: string): Promise<void> {
    const more = counted(this.#dropped, "more event");
    if (this.#dropped > 0) this.#events.push(`Note left of p1: and ${more}`);
    if (this.#events.some((event) => event.includes("-->>"))) {
      this.#events.push("Note left of p1: SYN, FIN and RST are inferred");
    }
    const names = this.#names.map((name, i) =>
      `participant p${i + 1} as ${name}`
    );
    const lines = ["sequenceDiagram", ...names, ...this.#events];
    const text = `\`\`\`mermaid\n${lines.join("\n  ")}\n\`\`\`\n`;
    await Deno.writeTextFile(file, text).catch((error) => {
      throw new Failure(23, `cannot write ${file}: ${reason(error)}`, error);
    });
  }

  #lane(name: string): string {
    if (!this.#names.includes(name)) this.#names.push(name);
    return `p${this.#names.indexOf(name) + 1}`;
  }

  #add(start: string, text: string): void {
    const isFull = this.#events.length > MOST_EVENTS || this.#size > MOST_TEXT;
    if (isFull) this.#dropped++;
    else this.#events.push(start + harmless(text));
    this.#size += text.length;
  }
}

// Mermaid and Markdown read these characters as their own, and Mermaid the
// words wrap:, style and classDef.
function harmless(text: string): string {
  const special = /[^ -~]|[#;$%&<>`]|w(?=rap:)|s(?=tyle)|c(?=lassDef)/gu;
  const code = (character: string) => `#${character.codePointAt(0)};`;
  return printable(text.slice(0, 200)).replace(special, code);
}

/** The exchange, as lines on stderr and as a diagram. */
export class Trace {
  /** Who is asked. */
  peer = "server";
  /** Whether the diagram quotes the bytes; those of round trips say nothing. */
  quotes = true;
  #started = performance.now();
  #isDumb = Deno.permissions.querySync(TERM).state === "granted" &&
    Deno.env.get("TERM") === "dumb"; // a terminal without colors
  #diagram: Diagram;

  /** `level` is how many `-v` there were; `file` is where the diagram goes. */
  constructor(
    readonly name: string,
    readonly level: number,
    readonly file?: string,
  ) {
    this.#diagram = new Diagram(name);
  }

  /** The same trace of a client, which has its own lane. */
  client(name: string): Trace {
    this.#diagram.rename(this.name, name); // for the first: it draws nothing
    const trace = new Trace(name, this.level);
    trace.#started = this.#started;
    trace.#diagram = this.#diagram;
    trace.peer = this.peer;
    return trace;
  }

  /** Something in a socket's life: a line, and a note in the diagram. */
  event(text: string): void {
    this.line("*", text);
    this.note(text);
  }

  /** A note in the diagram alone. */
  note(text: string): void {
    this.#diagram.note(text);
  }

  /** A TCP connection to the peer. */
  connected(peer: string): void {
    this.peer = peer;
    this.tcp(`connected to ${peer}`, ">SYN", "<SYN, ACK", ">ACK");
  }

  /** A TCP connection that the peer refused. */
  refused(peer: string): void {
    this.peer = peer;
    this.tcp("", ">SYN", "<RST, ACK");
  }

  /** Something that TCP shows as segments: `>SYN`, `<SYN, ACK`. */
  tcp(text: string, ...segments: string[]): void {
    if (text) this.line("*", text);
    for (const segment of segments) {
      this.#arrow(segment[0] as Mark, "-->>", segment.slice(1));
    }
  }

  /** Bytes that were sent or received; `who` is one peer of several. */
  data(mark: Mark, bytes: Uint8Array, who = "", arrow = "->>"): void {
    const size = counted(bytes.length, "byte");
    this.line(mark, `${who}${size} `, bytes);
    const text = this.quotes ? `${size} ${quote(bytes, 62)}` : size;
    this.#arrow(mark, arrow, text);
  }

  /** The same connection, traced. */
  stream(conn: Stream, who = ""): Stream {
    return new TracedStream(this, conn, who);
  }

  /** A connection that was accepted, traced. */
  serve(conn: Stream & { conn: Deno.TcpConn }): Stream {
    const who = `${formatAddress(conn.conn.remoteAddr)} `;
    this.event(`${who}accepted`);
    return new TracedStream(this, conn, who);
  }

  /** The same UDP socket, traced; `server` is the one who was asked. */
  datagrams(socket: Datagrams, server?: Deno.NetAddr): Datagrams {
    return new TracedDatagrams(this, socket, server);
  }

  /** Prints a line within 80 columns; with -vv, all of the bytes under it. */
  line(mark: Mark, text: string, bytes: Uint8Array = new Uint8Array(0)): void {
    if (this.level === 0) return;
    const seconds = ((performance.now() - this.#started) / 1000).toFixed(4);
    const line = `${seconds} ${mark} ${printable(text)}`;
    const left = WIDTH - line.length;
    const color = this.#isDumb ? "" : COLORS[mark];
    const end = mark === "*" || this.level > 1 ? "" : quote(bytes, left);
    complain((line + end).slice(0, WIDTH), color);
    if (this.level === 1) return;
    for (const row of hexdump(bytes)) complain(row, color);
  }

  /** Writes the diagram, if one is wanted. */
  async write(): Promise<void> {
    if (this.file) await this.#diagram.write(this.file);
  }

  #arrow(mark: Mark, arrow: string, text: string): void {
    const [from, to] = mark === ">"
      ? [this.name, this.peer]
      : [this.peer, this.name];
    this.#diagram.arrow(from, arrow, to, text);
  }
}

class TracedStream implements Stream {
  #isFinished = false; // our half
  #isReset = false;

  constructor(
    readonly trace: Trace,
    readonly conn: Stream,
    readonly who: string,
  ) {}

  async read(buffer: Uint8Array): Promise<number | null> {
    const n = await this.conn.read(buffer).catch((error) => this.#fail(error));
    if (n === null) {
      this.trace.tcp(`${this.who}half-closed by the peer`, "<FIN");
    } else this.trace.data("<", buffer.subarray(0, n), this.who);
    return n;
  }

  async write(bytes: Uint8Array): Promise<number> {
    const n = await this.conn.write(bytes).catch((error) => this.#fail(error));
    this.trace.data(">", bytes.subarray(0, n), this.who);
    return n;
  }

  async closeWrite(): Promise<void> {
    await this.conn.closeWrite();
    this.#isFinished = true;
    this.trace.tcp(`${this.who}half-closed: nothing more to send`, ">FIN");
  }

  close(): void {
    this.conn.close();
    const isOpen = !this.#isFinished && !this.#isReset;
    this.trace.tcp(`${this.who}closed`, ...isOpen ? [">FIN"] : []);
  }

  #fail(error: unknown): never {
    const { ConnectionReset, BrokenPipe } = Deno.errors;
    const isReset = error instanceof ConnectionReset ||
      error instanceof BrokenPipe;
    if (isReset && !this.#isReset) {
      this.#isReset = true;
      this.trace.tcp(`${this.who}reset by the peer`, "<RST");
    }
    throw error;
  }
}

class TracedDatagrams implements Datagrams {
  constructor(
    readonly trace: Trace,
    readonly socket: Datagrams,
    readonly server?: Deno.NetAddr,
  ) {}

  async receive(buffer?: Uint8Array): ReturnType<Datagrams["receive"]> {
    const [bytes, from] = await this.socket.receive(buffer);
    const who = this.#name(from);
    if (this.server && who) {
      const size = counted(bytes.length, "byte");
      this.trace.event(`ignored ${size} from ${who.trim()}`);
    } else this.trace.data("<", bytes, who, "-)");
    return [bytes, from];
  }

  send(bytes: Uint8Array, to: Deno.Addr): Promise<number> {
    this.trace.data(">", bytes, this.#name(to), "-)");
    return this.socket.send(bytes, to);
  }

  close(): void {
    this.socket.close();
    this.trace.event("closed");
  }

  /** Names the peer, unless it is the server that was asked. */
  #name(addr: Deno.Addr): string {
    const name = `${formatAddress(addr as Deno.NetAddr)} `;
    return this.server && name === `${formatAddress(this.server)} ` ? "" : name;
  }
}
