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
import { printable, reason, type Socket } from "./utils.ts";

/** A connection, as far as the protocols need it. */
export type Stream = Pick<Deno.Conn, "read" | "write" | "closeWrite" | "close">;
/** `*` is the socket's life, `>` was sent, `<` was received. */
type Mark = "*" | ">" | "<";

const COLORS = { "*": "color: gray", ">": "color: cyan", "<": "color: green" };
const TERM = { name: "env", variable: "TERM" } as const;
const WIDTH = 80; // columns
const MOST_EVENTS = 149; // in a diagram: Mermaid draws 50,000 characters

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
class Diagram {
  #events: string[] = [];
  #count = 0;

  /** `names` are the participants, the client first. */
  constructor(readonly names: string[]) {}

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
    const more = this.#count - this.#events.length;
    const isInferred = this.#events.some((event) => event.includes("-->>"));
    const lines = [
      "sequenceDiagram",
      ...this.names.map((name, i) => `participant p${i + 1} as ${name}`),
      ...this.#events,
    ];
    const note = "Note left of p1:";
    if (more > 0) lines.push(`${note} and ${counted(more, "more event")}`);
    if (isInferred) lines.push(`${note} SYN, FIN and RST are inferred`);
    const text = `\`\`\`mermaid\n${lines.join("\n  ")}\n\`\`\`\n`;
    await Deno.writeTextFile(file, text).catch((error) => {
      throw new Failure(23, `cannot write ${file}: ${reason(error)}`, error);
    });
  }

  #lane(name: string): string {
    if (!this.names.includes(name)) this.names.push(name);
    return `p${this.names.indexOf(name) + 1}`;
  }

  #add(start: string, text: string): void {
    this.#count++;
    if (this.#count <= MOST_EVENTS) this.#events.push(start + harmless(text));
  }
}

// Mermaid and Markdown read these characters as their own, and Mermaid the
// words wrap:, style and classDef.
function harmless(text: string): string {
  const special = /[^ -~]|[#;$%&<>`]|w(?=rap:)|s(?=tyle)|c(?=lassDef)/gu;
  const code = (character: string) => `#${character.codePointAt(0)};`;
  return printable(text).slice(0, 90).replace(special, code);
}

/** The exchange, as lines on stderr and as a diagram. */
export class Trace {
  /** Who is asked. */
  peer = "server";
  /** Whether the diagram quotes the bytes; those of round trips say nothing. */
  quotes = true;
  #isDumb = Deno.permissions.querySync(TERM).state === "granted" &&
    Deno.env.get("TERM") === "dumb"; // a terminal without colors
  #started = performance.now();
  #diagram: Diagram;

  /** `level` is how many `-v` there were; `file` is where the diagram goes. */
  constructor(
    readonly name: string,
    readonly level: number,
    readonly file?: string,
  ) {
    this.#diagram = new Diagram([name]);
  }

  /** The same trace of another client, which has its own lane. */
  client(name: string): Trace {
    const { names } = this.#diagram;
    if (names[0] === this.name) names[0] = name; // that one draws nothing
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

  /** A connection to `peer`, or none if it refused. */
  connected(peer: string, isRefused = false): void {
    this.peer = peer;
    if (isRefused) this.tcp("", ">SYN", "<RST, ACK");
    else this.tcp(`connected to ${peer}`, ">SYN", "<SYN, ACK", ">ACK");
  }

  /** Something that TCP shows as segments: `>SYN`, `<SYN, ACK`. */
  tcp(text: string, ...segments: string[]): void {
    if (text) this.line("*", text);
    for (const segment of segments) {
      this.#arrow(segment[0], "-->>", segment.slice(1));
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
  serve(conn: Stream, who: string): Stream {
    this.event(`${who} accepted`);
    return this.stream(conn, `${who} `);
  }

  /** The same UDP socket, traced; `server` is the one who is asked. */
  datagrams(socket: Deno.DatagramConn, server?: Deno.NetAddr): Socket {
    const { port } = socket.addr as Deno.NetAddr;
    if (server) this.peer = formatAddress(server);
    if (server) this.event(`asking ${this.peer} from port ${port}`);
    return new TracedDatagrams(this, socket, server);
  }

  /** Prints a line within 80 columns; with -vv, all of the bytes under it. */
  line(mark: Mark, text: string, bytes: Uint8Array = new Uint8Array(0)): void {
    if (this.level === 0) return;
    const seconds = ((performance.now() - this.#started) / 1000).toFixed(4);
    const line = `${seconds} ${mark} ${printable(text)}`;
    const color = this.#isDumb ? "" : COLORS[mark];
    const isQuoted = mark !== "*" && this.level === 1;
    const quoted = isQuoted ? quote(bytes, WIDTH - line.length) : "";
    complain((line + quoted).slice(0, WIDTH), color);
    const dump = this.level > 1 ? hexdump(bytes) : [];
    for (const row of dump) complain(row, color);
  }

  /** Writes the diagram, if one is wanted. */
  async write(): Promise<void> {
    if (this.file) await this.#diagram.write(this.file);
  }

  #arrow(mark: string, arrow: string, text: string): void {
    const { name, peer } = this;
    if (mark === ">") this.#diagram.arrow(name, arrow, peer, text);
    else this.#diagram.arrow(peer, arrow, name, text);
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
    if (n !== null) this.trace.data("<", buffer.subarray(0, n), this.who);
    else this.trace.tcp(`${this.who}half-closed by the peer`, "<FIN");
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

class TracedDatagrams implements Socket {
  constructor(
    readonly trace: Trace,
    readonly socket: Socket,
    readonly server?: Deno.NetAddr,
  ) {}

  async receive(buffer?: Uint8Array): ReturnType<Socket["receive"]> {
    const [bytes, from] = await this.socket.receive(buffer);
    const who = this.#name(from);
    const size = counted(bytes.length, "byte");
    if (this.server && who) {
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
    const name = formatAddress(addr as Deno.NetAddr);
    const isAsked = this.server && name === formatAddress(this.server);
    return isAsked ? "" : `${name} `;
  }
}
