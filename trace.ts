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
import { printable, reason, type UdpSocket } from "./utils.ts";

/** A connection that can be traced. Some are never half-closed. */
type Socket = Partial<Deno.Conn> & Pick<Deno.Conn, "read" | "write" | "close">;
/** `*` is the socket's life, `>` was sent, `<` was received. */
type Mark = "*" | ">" | "<";

// A dumb terminal has no colors. Without a permission, Deno would ask for it.
const env = Deno.permissions.querySync({ name: "env", variable: "TERM" });
const isDumb = env.state === "granted" && Deno.env.get("TERM") === "dumb";
const COLORS = { "*": "gray", ">": "cyan", "<": "green" };
const WIDTH = 80; // columns
const MOST_EVENTS = 149; // Mermaid draws at most 50,000 characters

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
export function* hexdump(bytes: Uint8Array): Generator<string> {
  for (let at = 0; at < bytes.length; at += 16) {
    const row = [...bytes.subarray(at, at + 16)];
    const hex = row.map((byte) => byte.toString(16).padStart(2, "0"));
    hex.splice(8, 0, ""); // a gap in the middle
    const text = String.fromCharCode(...row).replace(/[^ -~]/g, ".");
    const offset = at.toString(16).padStart(8, "0");
    yield `${offset}  ${hex.join(" ").padEnd(48)}  |${text}|`;
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
  peer = "server"; // who is asked
  who = ""; // begins the lines of one client of several
  quotes = true; // in the diagram; the bytes of round trips say nothing
  readonly started = performance.now();
  readonly diagram = { names: [] as string[], events: [] as string[], more: 0 };

  /** `level` is how many `-v` there were; `file` is where the diagram goes. */
  constructor(
    readonly name: string,
    readonly level: number,
    readonly file?: string,
  ) {}

  /** The same trace, for one client of several; `name` is for the diagram. */
  client(who: string, name = who): Trace {
    const own = { who: `${who} `, name }; // the diagram is shared
    return Object.assign(new Trace(name, this.level), this, own);
  }

  /** Something in a socket's life: a line, and a note in the diagram. */
  event(text: string): void {
    this.#print("*", text);
    this.note(this.who + text);
  }

  /** A note in the diagram alone. */
  note(text: string): void {
    this.#draw("Note left of p1", text);
  }

  /** How TCP opened a connection to `peer`, or how that refused it. */
  handshake(peer: string, isRefused = false): void {
    this.peer = peer;
    if (isRefused) this.tcp("", ">SYN", "<RST, ACK");
    else this.tcp(`connected to ${peer}`, ">SYN", "<SYN, ACK", ">ACK");
  }

  /** Something that TCP shows as segments: `>SYN`, `<SYN, ACK`. */
  tcp(text: string, ...segments: string[]): void {
    if (text) this.#print("*", text);
    for (const each of segments) this.#arrow(each[0], "-->>", each.slice(1));
  }

  /** Bytes of a stream, or with another arrow a datagram. */
  data(mark: Mark, bytes: Uint8Array, arrow = "->>"): void {
    const size = counted(bytes.length, "byte");
    this.#print(mark, `${size} `, bytes);
    const quoted = this.quotes ? ` ${quote(bytes, 62)}` : "";
    this.#arrow(mark, arrow, size + quoted);
  }

  /** The same connection, traced. A server says whose it is. */
  stream(conn: Socket, who?: string): TracedStream {
    const trace = who ? this.client(who) : this;
    if (who) trace.event("accepted");
    return new TracedStream(trace, conn);
  }

  /** The same UDP socket, traced. A client says whom it asks. */
  datagrams(socket: Deno.DatagramConn, server?: Deno.NetAddr): UdpSocket {
    if (!server) return new TracedDatagrams(this, socket);
    this.peer = formatAddress(server);
    const { port } = socket.addr as Deno.NetAddr;
    this.event(`asking ${this.peer} from port ${port}`);
    return new TracedDatagrams(this, socket, this.peer);
  }

  /** Writes the diagram, if one is wanted. Fails with status 23. */
  async write(): Promise<void> {
    if (!this.file) return;
    const { names, events, more } = this.diagram;
    if (names.length === 0) names.push(this.name); // nothing was exchanged
    const lines = names.map((name, i) => `participant p${i + 1} as ${name}`);
    lines.push(...events);
    const note = "Note left of p1:";
    if (more > 0) lines.push(`${note} and ${counted(more, "more event")}`);
    const isInferred = lines.some((line) => line.includes("-->>"));
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
    const style = isDumb ? "" : `color: ${COLORS[mark]}`;
    const seconds = ((performance.now() - this.started) / 1000).toFixed(4);
    let line = `${seconds} ${mark} ${printable(this.who + text)}`;
    if (bytes && this.level === 1) line += quote(bytes, WIDTH - line.length);
    complain(line.slice(0, WIDTH).trimEnd(), style);
    if (!bytes || this.level === 1) return;
    for (const row of hexdump(bytes)) complain(row, style);
  }

  #arrow(mark: string, arrow: string, text: string): void {
    if (!this.file) return; // a server meets names without end
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

class TracedStream {
  #end = ""; // what ended it: our FIN, or a RST

  constructor(readonly trace: Trace, readonly conn: Socket) {}

  async read(buffer: Uint8Array): Promise<number | null> {
    const n = await this.conn.read(buffer).catch((error) => this.#fail(error));
    if (n !== null) this.trace.data("<", buffer.subarray(0, n));
    else if (this.#end !== "RST") {
      this.trace.tcp("half-closed by the peer", "<FIN");
    }
    return n;
  }

  async write(bytes: Uint8Array): Promise<number> {
    const n = await this.conn.write(bytes).catch((error) => this.#fail(error));
    this.trace.data(">", bytes.subarray(0, n));
    return n;
  }

  async closeWrite(): Promise<void> {
    await this.conn.closeWrite?.();
    this.#end = "FIN";
    this.trace.tcp("half-closed: nothing more to send", ">FIN");
  }

  close(): void {
    this.conn.close();
    this.trace.tcp("closed", ...this.#end ? [] : [">FIN"]);
  }

  #fail(error: Error): never {
    const isReset = /^(ConnectionReset|BrokenPipe)$/.test(error.name);
    if (isReset && this.#end !== "RST") {
      this.#end = "RST";
      this.trace.tcp("reset by the peer", "<RST");
    }
    throw error;
  }
}

class TracedDatagrams implements UdpSocket {
  constructor(
    readonly trace: Trace,
    readonly socket: UdpSocket,
    readonly server = "", // the only one whom a client believes
  ) {}

  async receive(buffer?: Uint8Array): ReturnType<UdpSocket["receive"]> {
    const [bytes, from] = await this.socket.receive(buffer);
    const who = formatAddress(from as Deno.NetAddr);
    const ignored = `ignored ${counted(bytes.length, "byte")} from ${who}`;
    if (this.server && who !== this.server) this.trace.event(ignored);
    else this.#of(from).data("<", bytes, "-)");
    return [bytes, from];
  }

  send(bytes: Uint8Array, to: Deno.Addr): Promise<number> {
    // Shown at once: the answer may be here before this has resolved.
    this.#of(to).data(">", bytes, "-)");
    const sending = this.socket.send(bytes, to);
    sending.catch((error) => this.trace.event(`not sent: ${reason(error)}`));
    return sending;
  }

  close(): void {
    this.socket.close();
    this.trace.event("closed");
  }

  #of(peer: Deno.Addr): Trace {
    if (this.server) return this.trace;
    return this.trace.client(formatAddress(peer as Deno.NetAddr));
  }
}
