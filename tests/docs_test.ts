/**
 * The pages are true: what they say to type is typed on terminals, and these
 * must show what the pages show, character for character.
 *
 * The blocks of a page are a script. Above each ```console block stands a line
 * **Terminal N**. In the block, a line that begins with `$ ` is a command; a
 * line that ends in ` ⏎` is typed into the program that runs; `^C` and `^D` are
 * keys; the other lines are printed. `...` alone stands for any lines, at the
 * end of a line for its rest. A command that begins without its prompt on the
 * screen fails, and so does a line that is printed and not shown. A ```mermaid
 * block is what the last `--diagram FILE` wrote. ```ts FILE is an excerpt.
 */
import { assert, assertEquals, assertMatch } from "jsr:@std/assert@^1";
import { ROOT, run, Running, test } from "./helpers.ts";
import { assertPrints, noTerminals, Workshop } from "./terminals.ts";

const DOCS = [...Deno.readDirSync(new URL("docs/", ROOT))]
  .map(({ name }) => `docs/${name}`).sort();
const PAGES = ["README.md", ...DOCS.filter((path) => path.endsWith(".md"))];
const read = (path: string) => Deno.readTextFileSync(new URL(path, ROOT));

/** A fenced block of a page. */
interface Block {
  kind: string;
  /** what stands behind the kind, a file's name */
  word: string;
  /** the number of the terminal above it */
  terminal: string;
  lines: string[];
  at: string;
}

function blocks(path: string): Block[] {
  const all: Block[] = [];
  let open: Block | undefined;
  let above = "";
  for (const [i, line] of read(path).split("\n").entries()) {
    const [, kind, word = ""] = line.match(/^```(\w*)(?: (\S+))?$/) ?? [];
    if (open && line === "```") {
      all.push(open);
      open = undefined;
      above = "";
    } else if (open) {
      open.lines.push(line);
    } else if (kind !== undefined) {
      const [, terminal = ""] = above.match(/^\*\*Terminal (\d)\*\*/) ?? [];
      open = { kind, word, terminal, lines: [], at: `${path}:${i + 1}` };
    } else if (line !== "") {
      above = line;
    }
  }
  assertEquals(open, undefined, `${path}: a block is not closed`);
  return all;
}

const isTyped = (line: string) => /^\$ |(^| )⏎$|^\^[CD]$/.test(line);

/** Does in a terminal what a block says, and compares what it shows. */
async function play(workshop: Workshop, block: Block): Promise<void> {
  const { lines, terminal: name, at } = block;
  const terminal = workshop.terminal(name);
  let shown: string[] = [];
  for (const [i, line] of lines.entries()) {
    const where = `${at.replace(/\d+$/, "")}${
      Number(at.match(/\d+$/)) + i + 1
    }`;
    if (!isTyped(line)) {
      shown.push(line);
      continue;
    }
    await terminal.shows(shown, where);
    shown = [];
    if (line.startsWith("$ ")) await terminal.command(line.slice(2), where);
    else if (line.startsWith("^")) await terminal.key(line, where);
    else await terminal.line(line.replace(/ ?⏎$/, ""), where);
  }
  await terminal.shows(shown, at);
}

/** The file that a block's commands draw into. */
function drawing({ lines }: Block): string | undefined {
  const names = lines.map((line) => line.match(/^\$ .*--diagram (\S+)/)?.[1]);
  return names.find(Boolean);
}

const SCRIPTS = [
  "daytime",
  "http_get",
  "echo_tcp",
  "echo_udp",
  "tools/between",
];
const ignore = noTerminals();

/** Whether a page other than this one shows the same drawing. */
function isDrawn({ lines }: Block, own: string): boolean {
  const all = PAGES.filter((page) => page !== own).flatMap(blocks);
  return all.some((block) =>
    block.kind === "mermaid" && block.lines.join() === lines.join()
  );
}

/** Plays the blocks of a page, one after the other. */
async function playAll(workshop: Workshop, played: Block[]): Promise<void> {
  let drawer: Block | undefined;
  for (const block of played) {
    if (block.kind === "console") {
      await play(workshop, block);
      if (drawing(block)) drawer = block;
      continue;
    }
    if (!drawer) { // a drawing of another page, where a command draws it
      const [own] = block.at.split(":");
      assert(isDrawn(block, own), `${block.at}: no command before it draws`);
      continue;
    }
    await workshop.terminal(drawer.terminal).prompt(block.at);
    const file = `${workshop.folder}/${drawing(drawer)}`;
    const text = Deno.readTextFileSync(file);
    const [, mermaid] = text.match(/^```mermaid\n([^]*?)\n```$/m) ?? [];
    assertPrints(mermaid, block.lines.join("\n"), block.at);
  }
  for (const [name, terminal] of workshop.terminals) {
    await terminal.prompt(`the end, in terminal ${name}`);
  }
}

for (const page of PAGES) {
  const played = blocks(page).filter(({ kind }) =>
    kind === "console" || kind === "mermaid"
  );
  if (played.length === 0) continue;
  test(`${page}: the screen shows what it shows`, { ignore }, async () => {
    await using workshop = new Workshop();
    await workshop.prepare(SCRIPTS.map((name) => `${name}.ts`));
    await playAll(workshop, played).catch((error) => {
      error.message += `\n----- terminal ${workshop.screens}`;
      throw error;
    });
  });
}

test("the picture in the README is what the screen shows", {
  ignore,
}, async () => {
  await using workshop = new Workshop();
  await workshop.prepare(["http_get.ts", "docs/web_server.ts"]);
  const terminal = workshop.terminal("1");
  await terminal.command("deno run -A tools/picture.ts", "the picture");
  await terminal.prompt("the picture");
  const lines = (svg: string) =>
    [...svg.matchAll(/<text [^>]*>(.*)<\/text>/g)].map(([, text]) => text)
      .join("\n").replaceAll("&lt;", "<");
  const drawn = `${workshop.folder}/docs/picture.svg`;
  const shown = lines(read("docs/picture.svg"));
  assertPrints(lines(Deno.readTextFileSync(drawn)), shown, "docs/picture.svg");
});

/** The scripts that a page runs, each with the words behind it. */
function scriptsRun(page: string): [script: string, words: string][] {
  const text = read(page).replace(/\\\n\s+/g, "");
  const lines = text.matchAll(
    /deno run -[^`|&;<>\n]*?(\S+\.ts)([^`|&;<>\n]*)/g,
  );
  return [...lines].map((
    [, script, words],
  ) => [script, words.split(" -- ")[0]]);
}

/** The options among words that a help does not name; `-iL` are two. */
function unknownOptions(words: string, help: string): string[] {
  const options = [...words.matchAll(/(?<= )(--[a-z][a-z-]*|-\w+)/g)]
    .flatMap(([option]) =>
      option.startsWith("--")
        ? [option]
        : [...option.slice(1)].map((letter) => `-${letter}`)
    );
  const named = new Set(help.match(/(?<![\w-])--?[a-zA-Z0-9][\w.-]*/g));
  return options.filter((option) => !named.has(option));
}

test("the commands of the pages name scripts and options that exist", async () => {
  const helps = new Map<string, string>();
  for (const page of PAGES) {
    for (const [script, words] of scriptsRun(page)) {
      assert(Deno.statSync(new URL(script, ROOT)), `${page}: ${script}`);
      if (/^docs\/|picture/.test(script)) continue; // these have no --help
      const help = helps.get(script) ?? await helpOf(script);
      helps.set(script, help);
      const unknown = unknownOptions(words, help);
      assertEquals(unknown, [], `${page}: ${script}${words}`);
    }
  }
});

async function helpOf(file: string): Promise<string> {
  const args = ["run", "-A", file, "--help"];
  const deno = new Running(Deno.execPath(), args, { cwd: ROOT });
  return (await deno.finish()).stdout;
}

test("every block of commands names its terminal", () => {
  for (const block of PAGES.flatMap(blocks)) {
    if (block.kind !== "console") continue;
    assert(block.terminal, `${block.at}: no line **Terminal N** above it`);
  }
});

test("nothing on a page is wider than 80 columns", () => {
  for (const page of PAGES) {
    if (page === "docs/wall.md") continue; // tools/wall.ts writes it
    for (const [i, line] of read(page).split("\n").entries()) {
      const shown = line.replace(/\]\(https?:[^)]*\)/, "]"); // as rendered
      assert([...shown].length <= 80, `${page}:${i + 1}: ${line}`);
    }
  }
});

test("the tasks that the pages name exist", () => {
  const { tasks } = JSON.parse(read("deno.json"));
  for (const page of PAGES) {
    const named = read(page).matchAll(/\b(?:deno@[\d.]+|deno) task (\w+)/g);
    for (const [, task] of named) assert(task in tasks, `${page}: ${task}`);
  }
});

test("the pages name the version of Deno that CI runs", () => {
  const [, version] = read(".ci/run").match(/^current=(\S+)/m) ?? [];
  for (const page of PAGES) {
    for (const [, named] of read(page).matchAll(/deno@([\d.]+\d)/g)) {
      assertEquals(named, version, page);
    }
  }
});

test("the excerpts in the pages are what the scripts say", () => {
  const bare = (lines: string[]) => lines.map((line) => line.trim()).join("\n");
  for (const { kind, word, lines, at } of PAGES.flatMap(blocks)) {
    if (kind !== "ts" || word === "") continue;
    const script = bare(read(word).split("\n"));
    for (const part of bare(lines).split(/^\/\/ …\n/m)) {
      assert(script.includes(part.trim()), `${at}: ${word} has no\n${part}`);
    }
  }
});

/** The anchors that GitHub makes of a page's headings. */
function anchors(text: string): string[] {
  const headings = [...text.matchAll(/^#+ (.*)$/gm)];
  return headings.map(([, heading]) =>
    heading.toLowerCase().replace(/[^\w\- ]/g, "").replaceAll(" ", "-")
  );
}

test("the links between the pages lead somewhere", () => {
  const link = /\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)/g;
  for (const page of PAGES) {
    const text = read(page).replace(/^```[^]*?^```$/gm, "");
    for (const [, path, anchor] of text.matchAll(link)) {
      const from = new URL(page, ROOT);
      // On GitHub, a page is at /OWNER/NAME/blob/main/PAGE.
      const there = new URL(page, "https://github.com/OWNER/NAME/blob/main/");
      const { pathname } = new URL(path, there);
      if (pathname === "/OWNER/NAME/releases") continue;
      const to = path ? new URL(path, from) : from;
      assert(Deno.statSync(to), `${page}: ${path}`);
      if (!anchor) continue;
      const known = anchors(Deno.readTextFileSync(to));
      assert(known.includes(anchor), `${page}: ${path}#${anchor}`);
    }
  }
});

test("the lessons run every small script of theirs", () => {
  const typed = PAGES.flatMap(blocks).filter(({ kind }) => kind === "console")
    .flatMap(({ lines }) => lines);
  for (const path of DOCS.filter((path) => path.endsWith(".ts"))) {
    const isRun = typed.some((line) =>
      /^\$ /.test(line) && line.includes(path)
    );
    assert(isRun, path);
  }
});

test("docs/web_server.ts says in one line that its port is taken", async () => {
  const script = ["run", "-A", "docs/web_server.ts", "--port"];
  const options = { cwd: ROOT, env: { NO_COLOR: "1" } };
  await using one = new Running(Deno.execPath(), [...script, "0"], options);
  const [, port] = await one.until(/listening on \S+:(\d+)\n/);
  const two = new Running(Deno.execPath(), [...script, port], options);
  const { code, stderr } = await two.finish();
  const expected = `web_server: port ${port} is in use: ` +
    "choose another with --port\n";
  assertEquals([code, stderr], [1, expected]);
});

test("docs/web_server.ts answers TLS in plain text, and closes", async () => {
  const args = ["run", "-A", "docs/web_server.ts", "--port", "0"];
  await using server = new Running(Deno.execPath(), args, { cwd: ROOT });
  const [, port] = await server.until(/listening on \S+:(\d+)\n/);
  const { code, stderr } = await run("http_get", [`https://localhost:${port}`]);
  assertEquals(code, 35, stderr);
  assertMatch(stderr, /try http:\/\//);
});
