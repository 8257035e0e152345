/**
 * The pages are true: what they say to type is typed, and prints what they show.
 *
 * The fences of a page are a script. In ```console, lines that begin with `$ ` are commands, the others their output. With
 * a number, ```console 1, the command stays in that terminal: what it prints is waited for, and a later fence with the
 * number and no command is what it prints next; ```text 1 is what is typed into it. `^C`, `^D` and `⏎` are the keys. A line
 * `...` stands for any lines, and at the end of a line for its rest. A ```mermaid fence is what the `--diagram FILE`
 * before it wrote. ```ts FILE is an excerpt of FILE. Each section, up to the next heading of level 2, has a network of
 * its own, so that the ports that people use are free, and ends with all that it started.
 */
import { assert, assertEquals, assertMatch } from "jsr:@std/assert@^1";
import { missing, network, ROOT, Running, test } from "./helpers.ts";

const DOCS = [...Deno.readDirSync(new URL("docs/", ROOT))].map(({ name }) =>
  `docs/${name}`
);
const PAGES = ["README.md", ...DOCS.filter((path) => path.endsWith(".md"))];
const read = (path: string) => Deno.readTextFileSync(new URL(path, ROOT));

/** A fence of a page; `section` counts the headings of level 2 before it. */
type Fence = {
  kind: string;
  word: string;
  lines: string[];
  section: number;
  at: string;
};

function fences(path: string): Fence[] {
  const all: Fence[] = [];
  let open: Fence | undefined, section = 0;
  read(path).split("\n").forEach((line, i) => {
    const [, kind, word = ""] = line.match(/^```(\w*)(?: (\S+))?$/) ?? [];
    if (open && line !== "```") open.lines.push(line);
    else if (open) all.push(open), open = undefined;
    else if (kind !== undefined) {
      open = { kind, word, lines: [], section, at: `${path}:${i + 1}` };
    } else if (line.startsWith("## ")) section++;
  });
  assertEquals(open, undefined, `${path}: a fence is not closed`);
  return all;
}

/** The commands of a fence, each with what it prints. */
function commands({ lines }: Fence): { command: string; output: string[] }[] {
  const all: { command: string; output: string[] }[] = [];
  for (const line of lines) {
    if (line.startsWith("$ ")) all.push({ command: line.slice(2), output: [] });
    else all.at(-1)?.output.push(line);
  }
  return all;
}

/** Commands that are shown and not run: they fetch Deno, or take long. They must name a task that exists. */
const named = (command: string) =>
  /^(?:npx \S+ deno@\S+|deno) task (\w+)/.exec(command)?.[1];

const VOLATILE: [RegExp, string][] = [
  [/\r/g, ""],
  [/\w+day, \w+ \d+, \d{4} \d\d:\d\d:\d\d-UTC/g, "DATE"],
  [/\d+ bytes (?="DATE)/g, "SOME bytes "],
  [/^(tcp|udp) (\S+) \d+ bytes in /gm, "$1 $2 SOME bytes in "], // the daytime server's log
  [/^\d+\.\d{4}(?= [*<>])/gm, "TIME"],
  [/\d+(\.\d+)?(?= m?s\b)/g, "TIME"],
  [/= (TIME|[\d.]+\/)+(?=.* ms)/g, "= TIMES"],
  [/\[(::1|::ffff:127\.0\.0\.1)\]|::1\b|\b127\.0\.0\.1/g, "LOOPBACK"],
  [/(LOOPBACK[: ]|port )[3-6]\d{4}\b/g, "$1PORT"],
  [/pid=\d+,fd=\d+/g, "PID"],
  [/(LISTEN\s+0\s+)\d+/g, "$1MANY"],
  [/[ \t]+/g, " "],
  [/ +$/gm, ""],
];
const mask = (text: string) =>
  VOLATILE.reduce((text, [pattern, by]) => text.replace(pattern, by), text);

/** Puts what happens on both sides at once, a trace or a drawing, in an order that is always the same: by the side. */
function sides(text: string): string {
  const side = (line: string) =>
    /^TIME ([*<>])|^ (client|s\d+)\S+: /.exec(line)?.slice(1).find(Boolean) ??
      "";
  const lines = text.split("\n"), all = [...new Set(lines.map(side))].sort();
  return all.flatMap((each) => lines.filter((line) => side(line) === each))
    .join("\n");
}

function assertPrints(printed: string, shown: string[], at: string): void {
  const [actual, expected] = [printed.trimEnd(), shown.join("\n")].map((text) =>
    sides(mask(text))
  );
  if (!expected.includes("...")) return assertEquals(actual, expected, at);
  const escaped = expected.replace(/[\\^$*+?.()|[\]{}]/g, "\\$&");
  const pattern = escaped.replace(/^\\\.\\\.\\\.$/gm, "[^]*").replace(
    /\\\.\\\.\\\.$/gm,
    ".*",
  );
  assertMatch(actual, new RegExp(`^${pattern}$`), at);
}

/** A command that stays in its terminal. */
type Terminal = { running: Running; read: number };

/** Waits for the lines that it prints next. */
async function reads(
  terminal: Terminal,
  shown: string[],
  at: string,
): Promise<void> {
  const { running, read } = terminal;
  terminal.read += shown.length;
  await running.until(new RegExp(`^([^\n]*\n){${terminal.read}}`)).catch(
    (error) => {
      throw new Error(`${at}: ${error.message}`);
    },
  );
  assertPrints(
    running.stdout.split("\n").slice(read, terminal.read).join("\n"),
    shown,
    at,
  );
}

const ENTER = ["-U", "--preserve-credentials", "-n"];
const NETWORK = network("192.168.1.20/24");

/** A copy of the project in which the commands of a page run. */
class Workshop {
  readonly folder = Deno.makeTempDirSync({ prefix: "docs-" });
  readonly #env: Record<string, string>;
  #network?: Running;
  #terminals = new Map<string, Terminal>();

  constructor() {
    const copy = (path: string) => {
      Deno.mkdirSync(`${this.folder}/${path}`);
      for (
        const { name, isFile } of Deno.readDirSync(new URL(`${path}/`, ROOT))
      ) {
        if (isFile) {
          Deno.copyFileSync(
            new URL(`${path}/${name}`, ROOT),
            `${this.folder}/${path}/${name}`,
          );
        }
      }
    };
    copy("docs"), copy("mirror"), Deno.mkdirSync(`${this.folder}/bin`);
    for (const { name } of Deno.readDirSync(ROOT)) {
      if (/\.ts$|^deno\.json$/.test(name)) {
        Deno.copyFileSync(new URL(name, ROOT), `${this.folder}/${name}`);
      }
    }
    Deno.symlinkSync(Deno.execPath(), `${this.folder}/bin/deno`);
    const PATH = `${this.folder}/bin:${Deno.env.get("PATH")}`;
    this.#env = { PATH, NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1", LC_ALL: "C" };
  }

  async #run(command: string): Promise<Running> {
    if (!this.#network) {
      this.#network = new Running("unshare", [
        "-rn",
        "sh",
        "-c",
        `${NETWORK} && echo ready && exec cat`,
      ]);
      await this.#network.until(/ready/);
    }
    const args = [
      "-t",
      `${this.#network.pid}`,
      ...ENTER,
      "bash",
      "-c",
      `exec 2>&1\n${command}`,
    ];
    return new Running("nsenter", args, { cwd: this.folder, env: this.#env });
  }

  /** Goes through a fence. */
  async go(fence: Fence): Promise<void> {
    const { kind, word, lines, at } = fence,
      terminal = this.#terminals.get(word);
    if (kind === "text" && terminal) {
      for (const line of lines) {
        if (line === "^D") await terminal.running.stdin.close();
        else await terminal.running.type(line === "⏎" ? "\n" : `${line}\n`);
      }
    } else if (kind === "console" && !lines[0].startsWith("$ ")) {
      assert(terminal, `${at}: nothing runs in terminal ${word}`);
      if (lines[0] === "^C") terminal.running.kill("SIGINT");
      await reads(terminal, lines.filter((line) => line !== "^C"), at);
    } else if (kind === "console" && word) {
      const [{ command, output }] = commands(fence);
      await terminal?.running[Symbol.asyncDispose]();
      const started = { running: await this.#run(`exec ${command}`), read: 0 };
      this.#terminals.set(word, started);
      await reads(started, output, at);
    } else if (kind === "console") {
      await this.#all(
        commands(fence).filter(({ command }) => !named(command)),
        at,
      );
    }
  }

  /** Runs commands one after the other in one shell, so that `$?` is what it is. */
  async #all(all: ReturnType<typeof commands>, at: string): Promise<void> {
    if (all.length === 0) return;
    const mark = "----- end of command";
    const lines = all.map(({ command }) =>
      `${command}\nstatus=$?; echo; echo "${mark}"; (exit $status)`
    );
    await using running = await this.#run(`${lines.join("\n")}\ntrue`);
    const { stdout } = await running.finish(30);
    const printed = stdout.split(`\n${mark}\n`);
    all.forEach(({ command, output }, i) =>
      assertPrints(printed[i] ?? "", output, `${at}: ${command}`)
    );
  }

  /** Ends what a section started. */
  async clear(): Promise<void> {
    for (const { running } of this.#terminals.values()) {
      await running[Symbol.asyncDispose]();
    }
    this.#terminals.clear();
    await this.#network?.[Symbol.asyncDispose]();
    this.#network = undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.clear();
    await Deno.remove(this.folder, { recursive: true });
  }
}

/** Whether the commands cannot be run here: a network of one's own is Linux's, and not permitted everywhere. */
function unable(): boolean {
  if (
    ["unshare", "nsenter", "ip", "ss", "nc", "bash", "timeout"].map(missing)
      .some(Boolean)
  ) return true;
  if (Deno.env.get("CI")) {
    assertMatch(Deno.readTextFileSync("/etc/services"), /^daytime/m); // Debian: netbase
  }
  return !new Deno.Command("unshare", {
    args: ["-rn", "sh", "-c", NETWORK],
    stderr: "null",
  }).outputSync().success;
}
const ignore = unable();

for (const page of PAGES) {
  test({
    name: `${page}: its commands print what it shows`,
    ignore,
    async fn() {
      await using workshop = new Workshop();
      // In their own network the commands could not fetch what the scripts import.
      const scripts = ["daytime", "http_get", "echo_tcp", "echo_udp"].map((
        name,
      ) => `${name}.ts`);
      const cache = new Deno.Command(Deno.execPath(), {
        args: ["cache", "--quiet", ...scripts],
        cwd: workshop.folder,
      });
      assert((await cache.output()).success);
      let section = 0, drawn = "";
      for (const fence of fences(page)) {
        if (fence.section !== section) await workshop.clear();
        section = fence.section;
        const drawing = fence.lines.map((line) =>
          /^\$ .*--diagram (\S+)/.exec(line)?.[1]
        ).find(Boolean);
        await workshop.go(fence);
        if (drawing) {
          drawn = Deno.readTextFileSync(`${workshop.folder}/${drawing}`);
        }
        if (fence.kind !== "mermaid") continue;
        const [, mermaid] = drawn.match(/^```mermaid\n([^]*?)\n```$/m) ?? [];
        assert(mermaid, `${fence.at}: no command before it draws`);
        assertPrints(mermaid, fence.lines, fence.at);
      }
    },
  });
}

test("the tasks that the pages name exist", () => {
  const { tasks } = JSON.parse(read("deno.json"));
  for (const page of PAGES) {
    for (
      const [, task] of read(page).matchAll(
        /\b(?:deno@[\d.]+|deno) task (\w+)/g,
      )
    ) {
      assert(task in tasks, `${page}: ${task}`);
    }
  }
});

test("the excerpts in the pages are what the scripts say", () => {
  const bare = (lines: string[]) => lines.map((line) => line.trim()).join("\n");
  for (const { kind, word, lines, at } of PAGES.flatMap(fences)) {
    if (kind !== "ts") continue;
    const script = bare(read(word).split("\n"));
    for (const part of bare(lines).split(/^\/\/ …\n/m)) {
      assert(script.includes(part.trim()), `${at}: ${word} has no\n${part}`);
    }
  }
});

test("the links between the pages lead somewhere", () => {
  for (const page of PAGES) {
    const text = read(page).replace(/^```[^]*?^```$/gm, "");
    for (
      const [, path, anchor] of text.matchAll(
        /\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)/g,
      )
    ) {
      const to = new URL(path || new URL(page, ROOT), new URL(page, ROOT));
      assert(Deno.statSync(to), `${page}: ${path}`);
      if (!anchor) continue;
      const headings = [...Deno.readTextFileSync(to).matchAll(/^#+ (.*)$/gm)]
        .map(([, it]) =>
          it.toLowerCase().replace(/[^\w\- ]/g, "").replaceAll(" ", "-")
        );
      assert(headings.includes(anchor), `${page}: ${path}#${anchor}`);
    }
  }
});

test("the lessons run every small script of theirs", () => {
  const run = PAGES.flatMap(fences).filter(({ kind }) => kind === "console")
    .flatMap(commands);
  for (const { name } of Deno.readDirSync(new URL("docs/", ROOT))) {
    if (name.endsWith(".ts")) {
      assert(run.some(({ command }) => command.includes(`docs/${name}`)), name);
    }
  }
});
