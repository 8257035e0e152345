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
/** The same of a server, which may never half-close. */
type Served = Omit<Stream, "closeWrite"> & Partial<Stream>;
/** `*` is the socket's life, `>` was sent, `<` was received. */
type Mark = "*" | ">" | "<";
/** Mermaid's arrows: bytes of a stream, a datagram, an inferred segment. */
type Arrow = "->>" | "-)" | "-->>";

const TERM = { name: "env", variable: "TERM" } as const;
const isDumb = Deno.permissions.querySync(TERM).state === "granted" &&
  Deno.env.get("TERM") === "dumb"; // a terminal without colors
const COLORS = isDumb
  ? { "*": "", ">": "", "<": "" }
  : { "*": "color: gray", ">": "color: cyan", "<": "color: green" };
const WIDTH = 80; // columns
const MOST_EVENTS = 149; // in a diagram: Mermaid draws 50,000 characters

/** Quotes bytes as text, in at most so many columns: `"caf\xc3\xa9\r\n"`. */
export function quote(bytes: Uint8Array, columns: number): string {
  let text = "";
  for (const byte of bytes) {
    let shown = printable(String.fromCharCode(byte));
    if (byte > 126) shown = `\\x${byte.toString(16)}`;
    if (shown === '"' || shown === "\\") shown = `\\${shown}`;
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

// Mermaid and Markdown read these characters as their own, and Mermaid the
// words wrap:, style and classDef.
function harmless(text: string): string {
  const special = /[^ -~]|[#;$%&<>`]|w(?=rap:)|s(?=tyle)|c(?=lassDef)/gu;
  const code = (character: string) => `#${character.codePointAt(0)};`;
  return printable(text).slice(0, 90).replace(special, code);
}

/** What a Mermaid sequence diagram draws. Of too many events, the first. */
interface Diagram {
  names: string[]; // the participants, the client first
  events: string[];
  more: number; // events that are not kept
}

/** The exchange, as lines on stderr and as a diagram. */
export class Trace {
  peer = "server"; // who is asked
  quotes = true; // in the diagram; the bytes of round trips say nothing
  #started = performance.now();

  /** `level` is how many `-v` there were; `file` is where the diagram goes. */
  constructor(
    readonly name: string,
    readonly level: number,
    readonly file?: string,
    readonly diagram: Diagram = { names: [name], events: [], more: 0 },
  ) {}

  /** The same trace of another client, which has its own lane. */
  client(name: string): Trace {
    const { names } = this.diagram;
    if (names[0] === this.name) names[0] = name; // that one draws nothing
    const trace = new Trace(name, this.level, undefined, this.diagram);
    trace.peer = this.peer;
    trace.#started = this.#started;
    return trace;
  }

  /** Something in a socket's life: a line, and a note in the diagram. */
  event(text: string): void {
    this.#print("*", text);
    this.note(text);
  }

  /** A note in the diagram alone. */
  note(text: string): void {
    this.#draw("Note left of p1", text);
  }

  /** A connection to `peer`, or none if it refused. */
  connected(peer: string, isRefused = false): void {
    this.peer = peer;
    if (isRefused) this.tcp("", ">SYN", "<RST, ACK");
    else this.tcp(`connected to ${peer}`, ">SYN", "<SYN, ACK", ">ACK");
  }

  /** Something that TCP shows as segments: `>SYN`, `<SYN, ACK`. */
  tcp(text: string, ...segments: string[]): void {
    if (text) this.#print("*", text);
    for (const each of segments) this.#arrow(each[0], "-->>", each.slice(1));
  }

  /** Bytes that were sent or received; `who` is one peer of several. */
  data(mark: Mark, bytes: Uint8Array, who = "", arrow: Arrow = "->>"): void {
    const size = counted(bytes.length, "byte");
    this.#print(mark, `${who}${size} `, bytes);
    const quoted = this.quotes ? ` ${quote(bytes, 62)}` : "";
    this.#arrow(mark, arrow, size + quoted);
  }

  /** The same connection, traced. */
  stream(conn: Stream): Stream {
    return new TracedStream(this, conn, "");
  }

  /** A connection that was accepted, traced. */
  accepted(conn: Served, who: string): Stream {
    this.event(`${who} accepted`);
    return new TracedStream(this, conn, `${who} `);
  }

  /** The same UDP socket, traced; `server` is the one who is asked. */
  datagrams(socket: Deno.DatagramConn, server?: Deno.NetAddr): Socket {
    if (server) {
      const { port } = socket.addr as Deno.NetAddr;
      this.peer = formatAddress(server);
      this.event(`asking ${this.peer} from port ${port}`);
    }
    return new TracedDatagrams(this, socket, server !== undefined);
  }

  /** Writes the diagram, if one is wanted. Throws a {@linkcode Failure} of 23. */
  async write(): Promise<void> {
    if (!this.file) return;
    const { names, events, more } = this.diagram;
    const isInferred = events.some((event) => event.includes("-->>"));
    const lines = names.map((name, i) => `participant p${i + 1} as ${name}`);
    lines.push(...events);
    const note = "Note left of p1:";
    if (more > 0) lines.push(`${note} and ${counted(more, "more event")}`);
    if (isInferred) lines.push(`${note} SYN, FIN and RST are inferred`);
    const drawing = `sequenceDiagram\n  ${lines.join("\n  ")}`;
    const text = `\`\`\`mermaid\n${drawing}\n\`\`\`\n`;
    await Deno.writeTextFile(this.file, text).catch((error) => {
      const message = `cannot write ${this.file}: ${reason(error)}`;
      throw new Failure(23, message, error);
    });
  }

  /** Prints a line within 80 columns; with -vv, all of the bytes under it. */
  #print(mark: Mark, text: string, bytes?: Uint8Array): void {
    if (this.level === 0) return;
    const seconds = ((performance.now() - this.#started) / 1000).toFixed(4);
    let line = `${seconds} ${mark} ${printable(text)}`;
    if (bytes && this.level === 1) line += quote(bytes, WIDTH - line.length);
    complain(line.slice(0, WIDTH).trimEnd(), COLORS[mark]);
    if (!bytes || this.level === 1) return;
    for (const row of hexdump(bytes)) complain(row, COLORS[mark]);
  }

  #arrow(mark: string, arrow: Arrow, text: string): void {
    const { names } = this.diagram;
    const ends = [this.name, this.peer];
    if (mark === "<") ends.reverse();
    names.push(...ends.filter((name) => !names.includes(name)));
    const [from, to] = ends.map((name) => `p${names.indexOf(name) + 1}`);
    this.#draw(`${from}${arrow}${to}`, text);
  }

  #draw(what: string, text: string): void {
    const { diagram } = this;
    if (diagram.events.length === MOST_EVENTS) diagram.more++;
    else diagram.events.push(`${what}: ${harmless(text)}`);
  }
}

class TracedStream implements Stream {
  #isFinished = false; // our half
  #isReset = false;

  constructor(
    readonly trace: Trace,
    readonly conn: Served,
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
    await this.conn.closeWrite?.().catch((error) => this.#fail(error));
    this.#isFinished = true;
    this.trace.tcp(`${this.who}half-closed: nothing more to send`, ">FIN");
  }

  close(): void {
    this.conn.close();
    const isOpen = !this.#isFinished && !this.#isReset;
    this.trace.tcp(`${this.who}closed`, ...isOpen ? [">FIN"] : []);
  }

  #fail(error: unknown): never {
    const { name } = error as Error;
    const isReset = name === "ConnectionReset" || name === "BrokenPipe";
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
    readonly isClient: boolean, // which believes only the server it asks
  ) {}

  async receive(buffer?: Uint8Array): ReturnType<Socket["receive"]> {
    const [bytes, from] = await this.socket.receive(buffer);
    const who = this.#name(from);
    const ignored = `ignored ${counted(bytes.length, "byte")} from ${who}`;
    if (this.isClient && who) this.trace.event(ignored.trim());
    else this.trace.data("<", bytes, who, "-)");
    return [bytes, from];
  }

  send(bytes: Uint8Array, to: Deno.Addr): Promise<number> {
    // Shown at once: the answer may be here before this has resolved.
    this.trace.data(">", bytes, this.#name(to), "-)");
    const sending = this.socket.send(bytes, to);
    sending.catch((error) => this.trace.event(`not sent: ${reason(error)}`));
    return sending;
  }

  close(): void {
    this.socket.close();
    this.trace.event("closed");
  }

  /** Names the peer, unless it is the server that was asked. */
  #name(addr: Deno.Addr): string {
    const name = formatAddress(addr as Deno.NetAddr);
    return name === this.trace.peer ? "" : `${name} `;
  }
}
