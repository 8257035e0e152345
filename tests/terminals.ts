/**
 * Terminals for the tests of the pages: shells on pseudo-terminals of 80x24, in
 * a network of their own. What is typed is echoed, Ctrl-C is a signal, and what
 * waits for a person waits for the test.
 */
import { assert, assertEquals, assertMatch } from "jsr:@std/assert@^1";
import { setTimeout as delay } from "node:timers/promises";
import { missing, network, repeat, ROOT, Running } from "./helpers.ts";

const PROMPT = "$ ";
const ADDRESS = network("192.168.1.20/24");

// faketime(1) now and then crashes a program that has ended.
const isFaked = Deno.env.get("LD_PRELOAD")?.includes("faketime");
const CRASH = isFaked ? /Segmentation fault\n/g : /$^/g;

/** What differs from one run to the next, and what the tests make of it. */
const VARIES: [RegExp, string][] = [
  [/\w+day, \w+ \d+, \d{4} \d\d:\d\d:\d\d-UTC/g, "DATE"],
  [/\d+ bytes (?="DATE)/g, "SOME bytes "],
  [/^(tcp|udp) (\S+) \d+ bytes in /gm, "$1 $2 SOME bytes in "],
  [/^\d+\.\d{4}(?= [*<>])/gm, "TIME"],
  [/\d+(\.\d+)?(?= m?s\b)/g, "TIME"],
  [/= (TIME|[\d.]+\/)+(?=.* ms)/g, "= TIMES"],
  [/\[(::1|::ffff:127\.0\.0\.1)\]|::1\b|\b127\.0\.0\.1/g, "LOOPBACK"],
  [/(LOOPBACK[: ]|port )[3-6]\d{4}\b/g, "$1PORT"],
  [/(0\.0\.0\.0:)[3-6]\d{4}\b/g, "$1PORT"],
  [/(resolved localhost to LOOPBACK)(, LOOPBACK)+/g, "$1"],
  [/\d\d:\d\d:\d\d(?= local time)/g, "CLOCK"],
  [/(LISTEN\s+0\s+)\d+/g, "$1MANY"],
  [/[ \t]+/g, " "],
  [/ +$/gm, ""],
];

function mask(text: string): string {
  return VARIES.reduce((text, [it, by]) => text.replace(it, by), text);
}

/**
 * Both sides of an exchange act at once, and `ss` lists sockets in any order.
 * This sorts the lines of a trace or a drawing by the side, and sockets.
 */
function bySide(text: string): string {
  const side = (line: string) => {
    const match = line.match(/^TIME ([*<>])|^ (p\d+-\S+): |^(ESTAB .*)/);
    return match?.slice(1).find(Boolean) ?? "";
  };
  const lines = text.split("\n");
  const sides = [...new Set(lines.map(side))].sort();
  const sorted = sides.flatMap((one) =>
    lines.filter((line) => side(line) === one)
  );
  return sorted.join("\n");
}

/** Compares what was printed with what a page shows. */
export function assertPrints(printed: string, shown: string, at: string): void {
  const actual = bySide(mask(printed));
  const expected = bySide(mask(shown));
  if (!expected.includes("...")) return assertEquals(actual, expected, at);
  // `...` at the end of a line stands for its rest.
  const escaped = expected.replace(/[\\^$*+?.()|[\]{}]/g, "\\$&");
  const pattern = escaped.replace(/(\\\.){3}$/gm, ".*");
  assertMatch(actual, new RegExp(`^${pattern}$`), at);
}

function prints(printed: string, shown: string): boolean {
  try {
    assertPrints(printed, shown, "");
    return true;
  } catch {
    return false;
  }
}

/** A shell on a terminal of its own. It must show what a page says it shows. */
export class Terminal implements AsyncDisposable {
  readonly #running: Running;
  #read = 0; // characters that have been compared
  #skips = false; // whether lines may be left out here: `...`
  #isPrompted = false; // whether the prompt has been seen

  constructor(running: Running) {
    this.#running = running;
  }

  /** What it shows, from where the comparing has come to. */
  #rest(): string {
    // deno-lint-ignore no-control-regex
    const text = this.#running.stdout.replace(/\x1b\[[\d;?]*[A-Za-z]|\r/g, "")
      .replace(CRASH, "");
    return text.slice(this.#read);
  }

  /** The last that it shows, for the message of a failure. */
  get screen(): string {
    return this.#running.stdout.slice(-1000);
  }

  async #wait(done: () => boolean, expected: string): Promise<void> {
    const seen = () => this.#rest();
    await repeat(() => delay(10), done, expected, { seen });
  }

  /** Types a command at the prompt, which must be there. */
  async command(command: string, at: string): Promise<void> {
    await this.prompt(at);
    await this.line(command, at);
  }

  /** Waits for the prompt. Nothing may be printed before it. */
  async prompt(at: string): Promise<void> {
    if (this.#isPrompted) return;
    const done = () =>
      this.#rest() === PROMPT || this.#rest().endsWith(`\n${PROMPT}`);
    const expected = `the prompt before ${at}: ends what runs there?`;
    await this.#wait(() => done() || this.#surplus() !== "", expected);
    assertEquals(this.#surplus(), "", `${at}: printed, and not on the page`);
    this.#read += this.#rest().length;
    this.#skips = false;
    this.#isPrompted = true;
  }

  /** Lines that are on the screen, and not on the page. Empty ones may be. */
  #surplus(): string {
    const rest = this.#rest();
    const lines = rest.slice(0, rest.lastIndexOf("\n") + 1);
    return this.#skips || lines.trim() === "" ? "" : lines;
  }

  /** Types a line, and waits for its echo. */
  async line(line: string, at: string): Promise<void> {
    await this.#type(`${line}\n`);
    await this.shows([line], at);
  }

  /** Presses Ctrl-C or Ctrl-D: `^C`, `^D`. */
  async key(key: string, at: string): Promise<void> {
    if (key === "^D") return await this.#type("\x04");
    await delay(500); // for what hangs, and must not end by itself
    assertEquals(this.#surplus(), "", `${at}: printed, and not on the page`);
    assert(!this.#rest().endsWith(PROMPT), `${at}: it has ended by itself`);
    await this.#type("\x03");
    await this.#wait(() => this.#rest().includes("^C"), `^C at ${at}`);
    this.#read += this.#rest().indexOf("^C") + 2;
    // The shell begins a new line when Ctrl-C has ended the program.
    await this.#wait(() => this.#rest() !== "", `the end by ^C at ${at}`);
    if (this.#rest().startsWith("\n")) this.#read++;
  }

  async #type(text: string): Promise<void> {
    this.#isPrompted = false;
    await this.#running.type(text);
  }

  /** Waits for lines, and compares them. A line `...` stands for any lines. */
  async shows(lines: string[], at: string): Promise<void> {
    const dots = lines.indexOf("...");
    const first = dots < 0 ? lines : lines.slice(0, dots);
    if (first.length > 0) await this.#showsExactly(first, at);
    if (dots < 0) return;
    this.#skips = true;
    await this.shows(lines.slice(dots + 1), at);
  }

  async #showsExactly(lines: string[], at: string): Promise<void> {
    const shown = lines.join("\n");
    const complete = () => this.#rest().split("\n").slice(0, -1);
    const find = () =>
      complete().findIndex((_, i, all) =>
        prints(all.slice(i, i + lines.length).join("\n"), shown)
      );
    const enough = () => complete().length >= lines.length;
    const done = this.#skips ? () => find() >= 0 : enough;
    await this.#wait(done, `${shown}\nat ${at}`);
    const start = this.#skips ? find() : 0;
    const end = start + lines.length;
    assertPrints(complete().slice(start, end).join("\n"), shown, at);
    this.#read += complete().slice(0, end).join("\n").length + 1;
    this.#skips = false;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#running[Symbol.asyncDispose]();
  }
}

/** A copy of the project, with a network in which the usual ports are free. */
export class Workshop implements AsyncDisposable {
  readonly folder = Deno.makeTempDirSync({ prefix: "pages-" });
  readonly #env: Record<string, string>;
  readonly #terminals = new Map<string, Terminal>();
  readonly #network: Running;

  constructor() {
    for (const path of ["", "docs/", "mirror/", "tools/"]) this.#copy(path);
    Deno.mkdirSync(`${this.folder}/bin`);
    Deno.symlinkSync(Deno.execPath(), `${this.folder}/bin/deno`);
    this.#env = {
      PATH: `${this.folder}/bin:${Deno.env.get("PATH")}`,
      DENO_NO_UPDATE_CHECK: "1",
      HISTFILE: "",
      LC_ALL: "C.UTF-8",
      TERM: "xterm-256color",
    };
    const holder = `${ADDRESS} && echo ready && exec cat`;
    this.#network = new Running("unshare", ["-rn", "sh", "-c", holder]);
  }

  #copy(path: string): void {
    Deno.mkdirSync(`${this.folder}/${path}`, { recursive: true });
    for (const { name, isFile } of Deno.readDirSync(new URL(path, ROOT))) {
      if (!isFile || !/\.(ts|js|json|py)$/.test(name)) continue;
      const file = new URL(path + name, ROOT);
      Deno.copyFileSync(file, `${this.folder}/${path}${name}`);
    }
  }

  /** In their own network the commands could not fetch what they import. */
  async prepare(scripts: string[]): Promise<void> {
    await this.#network.until(/ready/);
    const args = ["cache", "--quiet", ...scripts];
    const cache = new Running(Deno.execPath(), args, { cwd: this.folder });
    const { code, stderr } = await cache.finish(30);
    assertEquals(code, 0, stderr);
  }

  /** The terminal of that name, opened when it is first asked for. */
  terminal(name: string): Terminal {
    const open = this.#terminals.get(name);
    if (open) return open;
    const shell = `env PS1='${PROMPT}' bash --norc --noprofile --noediting -i`;
    const on = ["script", "-qfec", `stty cols 80 rows 24; exec ${shell}`];
    const inside = ["-U", "--preserve-credentials", "-n", ...on, "/dev/null"];
    const args = ["-t", `${this.#network.pid}`, ...inside];
    const options = { cwd: this.folder, env: this.#env };
    const terminal = new Terminal(new Running("nsenter", args, options));
    this.#terminals.set(name, terminal);
    return terminal;
  }

  /** All terminals that were opened, by their names. */
  get terminals(): ReadonlyMap<string, Terminal> {
    return this.#terminals;
  }

  /** The last that they show, each. */
  get screens(): string {
    const all = [...this.#terminals];
    const shown = all.map(([name, { screen }]) => `${name}: ${screen}`);
    return shown.join("\n----- terminal ");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const terminal of this.#terminals.values()) {
      await terminal[Symbol.asyncDispose]();
    }
    await this.#network[Symbol.asyncDispose]();
    await Deno.remove(this.folder, { recursive: true });
  }
}

const TOOLS = ["unshare", "nsenter", "ip", "ss", "nc", "bash", "script"];

/** Whether there are no such terminals here: they need Linux and its tools. */
export function noTerminals(): boolean {
  const lacking = TOOLS.filter(missing);
  if (lacking.length > 0) return true;
  const args = ["-rn", "sh", "-c", ADDRESS];
  const trial = new Deno.Command("unshare", { args, stderr: "null" });
  return !trial.outputSync().success;
}
