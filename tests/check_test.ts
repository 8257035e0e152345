/** The examiner: what is right passes, and what is wrong is told. */
import {
  assert,
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "jsr:@std/assert@^1";
import { setTimeout as delay } from "node:timers/promises";
import { EXAMS } from "../tools/check_cases.ts";
import { LINUX, missing, repeat, ROOT, start, test } from "./helpers.ts";
import { temporary } from "./helpers.ts";

const DENO = Deno.execPath();
const ignore = !LINUX;
const MANY = { ignore, timeout: 120_000 }; // each case starts the program

/** What `--json` says of a case. */
interface Told {
  name: string;
  verdict: string;
  came?: string;
  lesson: string;
}

/** Runs the examiner to its end. */
async function check(...args: string[]) {
  await using running = start("tools/check", args);
  return await running.finish(100);
}

/** Runs the examiner, and gives the cases with a verdict like this. */
async function named(verdict: string, ...args: string[]): Promise<string[]> {
  const { stdout, code, stderr } = await check("--json", ...args);
  assertEquals(stderr, "");
  const { points, of, results } = JSON.parse(stdout);
  assertEquals(code, points === of ? 0 : 1);
  const told = (results as Told[]).filter((one) => one.verdict === verdict);
  return told.map(({ name }) => name);
}

const serve = ["--port", "{port}"];
const OURS: Record<string, string[]> = {
  "echo_tcp server": ["echo_tcp", "--", "echo_tcp.ts", ...serve],
  "echo_udp server": ["echo_udp", "--", "echo_udp.ts", ...serve],
  "daytime server": ["daytime", "--", "daytime.ts", "--serve", ...serve],
  "daytime client": ["daytime", "--", "daytime.ts", "{host}", "{port}"],
  "daytime client over UDP": [
    ...["daytime", "--udp", "--", "daytime.ts", "-u", "{host}", "{port}"],
  ],
  "http_get client": ["http_get", "--", "http_get.ts", "{url}"],
};

for (const [name, words] of Object.entries(OURS)) {
  test(`our ${name} passes every case`, MANY, async () => {
    const at = words.indexOf("--") + 1;
    words.splice(at, 0, DENO, "run", "-A");
    assertEquals(await named("FAILED", ...words), []);
  });
}

/** Writes a server of the lessons again, with the port that it is given. */
async function fixedPort(path: string, into: string): Promise<string[]> {
  const text = await Deno.readTextFile(new URL(path, ROOT));
  const changed = text.replace("7777", "Number(Deno.args[0])");
  assert(changed !== text);
  await Deno.writeTextFile(into, changed);
  return [DENO, "run", "-A", "--unstable-net", into, "{port}"];
}

const ONE_AT_A_TIME = [
  ...["deaf-client", "two-clients", "silent-client", "hundred"],
  ...["reset", "early-reset"],
];
const CUT = ["empty", "after-empty", "1501-bytes", "8193-bytes", "65507-bytes"];

test(
  "the naive echo server over TCP fails as its lesson says",
  MANY,
  async () => {
    await using folder = await temporary();
    const path = `${folder.path}/server.ts`;
    const command = await fixedPort("docs/naive_echo_tcp.ts", path);
    const failed = await named("FAILED", "echo_tcp", "--", ...command);
    // One write may take only a part: that loses what a late reader reads.
    assertEquals(failed, ["late-reader", ...ONE_AT_A_TIME]);
  },
);

test(
  "the naive echo server over UDP fails as its lesson says",
  MANY,
  async () => {
    await using folder = await temporary();
    const path = `${folder.path}/server.ts`;
    const command = await fixedPort("docs/naive_echo_udp.ts", path);
    assertEquals(await named("FAILED", "echo_udp", "--", ...command), CUT);
  },
);

const PYTHON = { ...MANY, ignore: ignore || missing("python3") };

test(
  "the lab sheet's server over TCP fails as the lesson says",
  PYTHON,
  async () => {
    const sed = `sed "s/7777/$1/" docs/server.py | python3 -`;
    const command = ["sh", "-c", sed, "server.py", "{port}"];
    const failed = await named("FAILED", "echo_tcp", "--", ...command);
    assertEquals(failed, ONE_AT_A_TIME);
  },
);

test(
  "the lab sheet's server over UDP fails as the lesson says",
  PYTHON,
  async () => {
    const command = ["python3", "tools/wall/sheet_udp.py", "{port}"];
    assertEquals(await named("FAILED", "echo_udp", "--", ...command), CUT);
  },
);

const NAIVE: [string, string[], string[]][] = [
  [
    "naive_daytime",
    ["daytime", "{host}", "{port}"],
    ["bytewise", "empty", "endless"],
  ],
  [
    "naive_daytime_udp",
    ["daytime", "{host}", "{port}"],
    ["empty", "lost", "forged"],
  ],
  [
    "naive_http_get",
    ["http_get", "{host}", "{port}", "/"],
    ["close", "chunked", "cut-length", "cut-chunk", "megabyte"],
  ],
  [
    "naive_http_get_all",
    ["http_get", "{host}", "{port}", "/"],
    ["length", "chunked", "cut-length", "cut-chunk", "any-case"],
  ],
];

for (const [name, [exam, ...words], expected] of NAIVE) {
  test(`docs/${name}.ts fails as its lesson says`, MANY, async () => {
    const udp = name.endsWith("udp") ? ["--udp"] : [];
    const client = [DENO, "run", "-A", "--unstable-net", `docs/${name}.ts`];
    const args = [exam, ...udp, "--", ...client, ...words];
    assertEquals(await named("FAILED", ...args), expected);
  });
}

test("every case names a heading of a lesson", () => {
  for (const { name, lesson } of Object.values(EXAMS).flat()) {
    const [page, heading] = lesson.split(": ");
    const text = Deno.readTextFileSync(new URL(`docs/${page}.md`, ROOT));
    assert(text.includes(`\n## ${heading}\n`), `${name}: ${lesson}`);
  }
});

test("the wall shows the cases as they are", async () => {
  const wall = await Deno.readTextFile(new URL("docs/wall.md", ROOT));
  const words = wall.replace(/\s+/g, " "); // wherever its lines are broken
  for (const { name, asks, rule } of [...EXAMS.echo_tcp, ...EXAMS.echo_udp]) {
    assertStringIncludes(words, `\`${name}\`: ${asks} (${rule})`);
  }
});

test("no two cases of an exam have the same name", () => {
  for (const [exam, cases] of Object.entries(EXAMS)) {
    const names = cases.map(({ name }) => name);
    assertEquals([...new Set(names)], names, exam);
  }
});

/** A server that takes what is sent, and gives back something else. */
const SHOUTS = `
  console.log("here I am");
  const listener = Deno.listen({ port: Number(Deno.args[0]) });
  for await (const conn of listener) {
    const buffer = new Uint8Array(100);
    const length = await conn.read(buffer);
    const text = new TextDecoder().decode(buffer.subarray(0, length));
    await conn.write(new TextEncoder().encode(text.toUpperCase()));
  }`;
const shouts = [DENO, "eval", SHOUTS, "{port}"];
const LINE = ["echo_tcp", "--only", "line"];

test(
  "a failure shows what was sent, what came, and the lesson",
  { ignore },
  async () => {
    const { stdout, code } = await check(...LINE, "--", ...shouts);
    assertEquals(code, 1);
    assertEquals(
      stdout,
      `FAILED  line: a line comes back (RFC 862)
        sent      7 bytes "hello\\r\\n"
        came      7 bytes "HELLO\\r\\n", not the same
        expected  7 bytes "hello\\r\\n"
        lesson    docs/echo_tcp: By hand
0 of 1 points, 0 warnings, 0 skipped
`,
    );
  },
);

test("--tap tells the same to programs", { ignore }, async () => {
  const { stdout, code } = await check("--tap", ...LINE, "--", ...shouts);
  assertEquals(code, 1);
  const lines = stdout.split("\n");
  assertEquals(lines.slice(0, 4), [
    ...["TAP version 14", "1..1"],
    ...["not ok 1 - line: a line comes back (RFC 862)", "  ---"],
  ]);
  const came = 'came: "7 bytes \\"HELLO\\\\r\\\\n\\", not the same"';
  assert(lines.includes(`  ${came}`), stdout);
  assertEquals(lines.slice(-2), ["  ...", ""]);
});

test("-v shows what the program prints", { ignore }, async () => {
  const { stderr } = await check("-v", ...LINE, "--", ...shouts);
  assertStringIncludes(stderr, "here I am");
});

test(
  "a server that runs already is examined where it is",
  { ignore },
  async () => {
    await using server = start("echo_tcp", ["--port", "0"]);
    const [, port] = await server.until(/listening on \S+:(\d+)\n/);
    const { stdout, code } = await check("echo_tcp", "localhost", port);
    assertEquals(code, 0, stdout);
    assertMatch(stdout, /^skipped restart: /m);
    assertMatch(stdout, /\n12 of 12 points, 0 warnings, 1 skipped\n$/);
  },
);

test(
  "a program that ends is told of, with its last words",
  { ignore },
  async () => {
    const program = [DENO, "eval", "throw new Error('no such luck')"];
    const { stdout, code } = await check(...LINE, "--", ...program);
    assertEquals(code, 1);
    assertMatch(stdout, /\n +expected +a socket that listens\n/);
    assertMatch(stdout, /\n +ended +status 1: error: .*no such luck\n/);
  },
);

test(
  "a program that listens nowhere is told so, within 5 s",
  { ignore },
  async () => {
    const mute = [DENO, "eval", "setInterval(() => {}, 1000)"];
    const { stdout, code } = await check(...LINE, "--", ...mute);
    assertEquals(code, 1);
    assertMatch(stdout, /\n +came +nothing listens on port \d+\n/);
  },
);

/** Starts a server as its child, and writes its own number and the child's. */
const PARENT = `
  const args = ["run", "-A", "echo_tcp.ts", "--port", Deno.args[0]];
  const child = new Deno.Command(Deno.execPath(), { args }).spawn();
  Deno.writeTextFileSync(Deno.args[1], Deno.pid + " " + child.pid);
  await child.status;`;

/** Whether a process runs. A dead one that nobody has asked for is none. */
async function isRunning(pid: string): Promise<boolean> {
  const status = Deno.readTextFile(`/proc/${pid}/stat`).catch(() => ") Z");
  return !/\) Z/.test(await status);
}

for (const [how, signal] of [["in the end", ""], ["at Ctrl-C", "SIGINT"]]) {
  test(
    `what was started is ended ${how}, children too`,
    { ignore },
    async () => {
      await using folder = await temporary();
      const file = `${folder.path}/numbers`;
      // At port 0 nobody finds it: the examiner waits.
      const port = signal ? "0" : "{port}";
      const program = [DENO, "eval", PARENT, port, file];
      await using running = start("tools/check", [...LINE, "--", ...program]);
      let text = "";
      const read = async () => {
        text = await Deno.readTextFile(file).catch(() => "");
        await delay(20);
      };
      await repeat(read, () => text.includes(" "), "the program's number");
      if (signal) running.kill("SIGINT");
      const { code } = await running.finish(30);
      assertEquals(code, signal ? 130 : 0);
      const pids = (await Deno.readTextFile(file)).split(" ");
      let isOver = false;
      const look = async () => {
        const all = await Promise.all(pids.map(isRunning));
        isOver = !all.includes(true);
        await delay(20);
      };
      // A process that is killed may close its files before it is dead.
      await repeat(look, () => isOver, "the end of both processes");
    },
  );
}

test("--list names the cases, and nothing is started", async () => {
  const { stdout, code } = await check("echo_udp", "--list");
  assertEquals(code, 0);
  assertEquals(stdout.split("\n").length - 1, EXAMS.echo_udp.length);
  assertMatch(stdout, /^empty: .* \(RFC 768\)$/m);
});

const REFUSED: [string, string[], RegExp][] = [
  ["no exam", [], /EXAM/],
  ["an unknown exam", ["finger", "localhost", "79"], /finger/],
  ["an unknown case", ["echo_tcp", "--only", "x", "::1", "7"], /"x"/],
  ["an unknown option", ["--fast", "echo_tcp", "::1", "7"], /--fast/],
  ["a server without a port", ["echo_tcp", "localhost"], /HOST PORT/],
  ["a client without a command", ["http_get", "::1", "80"], /command/],
];

for (const [what, args, pattern] of REFUSED) {
  test(`${what} is refused with status 2`, async () => {
    const { stdout, stderr, code } = await check(...args);
    assertEquals([code, stdout], [2, ""]);
    assertMatch(stderr, /^check: [^\n]*\n$/);
    assertMatch(stderr, pattern);
  });
}

test("a program that is not there is told of in a line", async () => {
  const { stderr, code } = await check(...LINE, "--", "./no-such-program");
  assertEquals(code, 1);
  assertMatch(stderr, /^check: cannot run \.\/no-such-program: [^\n]*\n$/);
});

test("--help fits on a terminal", async () => {
  const { stdout, code } = await check("--help");
  const lines = stdout.trimEnd().split("\n");
  assertEquals(code, 0);
  assert(lines.length <= 24);
  assertEquals(lines.filter((line) => line.length > 80), []);
});
