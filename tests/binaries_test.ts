/**
 * The compiled programs: all four are really made, and really run, from another folder and without any environment.
 *
 * They are built on the `denort` that Deno keeps or downloads, or on the one that Deno's own variable `DENORT_BIN`
 * names. Compiler and denort have to be of one version: where a `deno` lies beside that denort, it compiles.
 */
import {
  assert,
  assertEquals,
  assertLess,
  assertMatch,
  assertStringIncludes,
} from "jsr:@std/assert@^1";
import { SCRIPTS } from "../tools/compile.ts";
import { VERSION } from "../utils.ts";
import { type Finished, ROOT, Running, test } from "./helpers.ts";

const WINDOWS = Deno.build.os === "windows", EXE = WINDOWS ? ".exe" : "";
const DENORT = Deno.env.get("DENORT_BIN");
const DENO = compiler();
// Windows opens no socket without its own folder's name.
const BARE: Record<string, string> = WINDOWS
  ? { SystemRoot: Deno.env.get("SystemRoot") ?? "C:\\Windows" }
  : {};

const programs = Deno.makeTempDirSync({ prefix: "programs" }),
  elsewhere = Deno.makeTempDirSync({ prefix: "elsewhere" });
globalThis.addEventListener("unload", () => {
  for (const folder of [programs, elsewhere]) {
    Deno.removeSync(folder, { recursive: true });
  }
});

function compiler(): string {
  const beside = DENORT?.replace(/denort(?=(\.exe)?$)/, "deno");
  try {
    if (beside && beside !== DENORT && Deno.statSync(beside).isFile) {
      return beside;
    }
  } catch { /* there is none */ }
  return Deno.execPath();
}

/** Whether there is no denort: none is named, and none can be downloaded. */
function withoutDenort(): boolean {
  if (DENORT) return false;
  const empty = `${elsewhere}/empty.js`;
  Deno.writeTextFileSync(empty, "");
  const args = [
    "compile",
    "--quiet",
    "--no-config",
    "--output",
    `${elsewhere}/empty${EXE}`,
    empty,
  ];
  const tried = new Deno.Command(DENO, {
    args,
    stdout: "null",
    stderr: "piped",
    env: { NO_COLOR: "1" },
  }).outputSync();
  return !tried.success &&
    new TextDecoder().decode(tried.stderr).includes("Setting up base binary");
}
const ignore = !Deno.env.get("CI") && withoutDenort(); // in CI nothing is skipped: it fails, and says why

let making: Promise<Finished> | undefined;

/** Makes the programs, once; each test may be the first. */
function made(): Promise<Finished> {
  const args = [
    "run",
    "--no-prompt",
    "--allow-read",
    "--allow-write",
    "--allow-run",
    "tools/compile.ts",
  ];
  return making ??= new Running(DENO, [...args, "--output", programs], {
    cwd: ROOT,
  }).finish(50);
}

async function start(name: string, ...args: string[]): Promise<Running> {
  const { code, stderr } = await made();
  assertEquals(code, 0, stderr);
  return new Running(`${programs}/${name}${EXE}`, args, {
    cwd: elsewhere,
    clearEnv: true,
    env: BARE,
  });
}

async function run(
  name: string,
  args: string[],
  input = "",
): Promise<Finished> {
  const running = await start(name, ...args);
  if (input) await running.type(input);
  return await running.finish();
}

async function serve(name: string, ...args: string[]) {
  const server = await start(
    name,
    "--host",
    "127.0.0.1",
    "--port",
    "0",
    ...args,
  );
  const [, port] = await server.until(
    /listening on \w+:\/\/127\.0\.0\.1:(\d+)\n/,
  );
  return Object.assign(server, { port });
}

/** Ends a server as Ctrl-C does. Windows knows no such signal between programs: there it is just ended. */
async function end(server: Running): Promise<void> {
  server.kill("SIGINT");
  const { code, stderr } = await server.finish();
  if (!WINDOWS) assertEquals({ code, stderr }, { code: 0, stderr: "" });
}

test({
  name:
    "deno task compile makes a program of each script, and says where it is",
  ignore,
  fn: async () => {
    const { code, stdout, stderr } = await made();
    assertEquals(code, 0, stderr);
    const lines = stdout.trim().split(/\r?\n/);
    assertEquals(
      lines.map((line) => line.match(/([^\\/]+) [\d.]+ MB$/)?.[1]),
      Object.keys(SCRIPTS).map((n) => n + EXE),
    );
    const files = [...Deno.readDirSync(programs)].map((file) => file.name)
      .sort();
    assertEquals(
      files,
      Object.keys(SCRIPTS).map((name) => name + EXE).sort(),
      "and leaves nothing else behind",
    );
  },
});

test({
  name: "a program holds Deno's runtime, and little more",
  ignore: ignore || !DENORT,
  fn: async () => {
    await made();
    for (const name of Object.keys(SCRIPTS)) {
      assertLess(
        Deno.statSync(`${programs}/${name}${EXE}`).size -
          Deno.statSync(DENORT!).size,
        2e6,
      );
    }
  },
});

test("a program is allowed what its script's first line allows, and to write the files that its user names", async () => {
  for (const [name, options] of Object.entries(SCRIPTS)) {
    const [first] = (await Deno.readTextFile(new URL(`${name}.ts`, ROOT)))
      .split("\n");
    const needed = new Set([
      ...first.split(" ").filter((word) => word.startsWith("--")),
      "--allow-write",
    ]);
    if (name === "echo_tcp") needed.add("--unstable-net"); // for --reuse-port
    assertEquals(new Set(options), needed, name);
    assert(!needed.has("--allow-all"), name);
  }
});

test("deno task compile refuses a platform that Deno does not know, and makes nothing", async () => {
  const args = [
    "run",
    "-A",
    "tools/compile.ts",
    "--target",
    "pdp-11",
    "--output",
    `${elsewhere}/pdp-11`,
  ];
  const { code, stderr } = await new Running(Deno.execPath(), args, {
    cwd: ROOT,
  }).finish();
  assertEquals(code, 2);
  assertMatch(
    stderr,
    /^compile: unknown target pdp-11: .*x86_64-pc-windows-msvc\r?\n$/,
  );
  assert(
    ![...Deno.readDirSync(elsewhere)].some(({ name }) => name === "pdp-11"),
  );
});

test({
  name:
    "the programs tell their version and their usage from any folder, without any environment",
  ignore,
  fn: async () => {
    await made();
    await Promise.all(
      Object.keys(SCRIPTS).map(async (name) => {
        assertEquals(await run(name, ["--version"]), {
          code: 0,
          signal: null,
          stdout: `${name} ${VERSION}\n`,
          stderr: "",
        });
        const { code, stdout, stderr } = await run(name, ["--help"]);
        assertEquals({ code, stderr }, { code: 0, stderr: "" });
        assertMatch(stdout, new RegExp(`^${name}: .*\n\nusage: ${name} `));
      }),
    );
  },
});

test({
  name:
    "echo_tcp, compiled, gives back what its own client sends, shows it and draws it",
  ignore,
  fn: async () => {
    await using server = await serve("echo_tcp");
    const args = [
      "-c",
      `127.0.0.1:${server.port}`,
      "-v",
      "--diagram",
      "tcp.md",
    ];
    const { code, stdout, stderr } = await run("echo_tcp", args, "hello\n");
    assertEquals({ code, stdout }, { code: 0, stdout: "hello\n" });
    assertStringIncludes(stderr, '> 6 bytes "hello\\n"');
    assertStringIncludes(
      await Deno.readTextFile(`${elsewhere}/tcp.md`),
      "sequenceDiagram",
    );
    await end(server);
  },
});

test({
  name: "echo_tcp, compiled, can share its port with another",
  ignore: ignore || WINDOWS,
  fn: async () => {
    await using first = await serve("echo_tcp", "--reuse-port");
    await using second = await start(
      "echo_tcp",
      "--host",
      "127.0.0.1",
      "--port",
      first.port,
      "--reuse-port",
    );
    await second.until(/listening on /);
    const { code, stdout } = await run("echo_tcp", [
      "-c",
      `127.0.0.1:${first.port}`,
    ], "hello\n");
    assertEquals({ code, stdout }, { code: 0, stdout: "hello\n" });
    await Promise.all([end(first), end(second)]);
  },
});

test({
  name:
    "echo_udp, compiled, gives back what its own client sends, shows it and draws it",
  ignore,
  fn: async () => {
    await using server = await serve("echo_udp");
    const args = [
      "-c",
      `127.0.0.1:${server.port}`,
      "-v",
      "--diagram",
      "udp.md",
    ];
    const { code, stdout, stderr } = await run("echo_udp", args, "hello\n");
    assertEquals({ code, stdout }, { code: 0, stdout: "hello\n" });
    assertStringIncludes(stderr, '> 6 bytes "hello\\n"');
    assertStringIncludes(
      await Deno.readTextFile(`${elsewhere}/udp.md`),
      "sequenceDiagram",
    );
    await end(server);
  },
});

test({
  name:
    "daytime, compiled, tells its own client the time over TCP and over UDP",
  ignore,
  fn: async () => {
    await using server = await serve("daytime", "--serve");
    for (const args of [["-v", "--diagram", "daytime.md"], ["-u"]]) {
      const { code, stdout, stderr } = await run("daytime", [
        ...args,
        "127.0.0.1",
        server.port,
      ]);
      assertEquals(code, 0, stderr);
      assertMatch(stdout, /^\w+, \w+ \d+, \d{4} \d\d:\d\d:\d\d-UTC\r?\n$/);
    }
    assertStringIncludes(
      await Deno.readTextFile(`${elsewhere}/daytime.md`),
      "sequenceDiagram",
    );
    await end(server);
  },
});

test({
  name:
    "http_get, compiled, brings a page to standard output and into a file, shows it and draws it",
  ignore,
  fn: async () => {
    await using server = Deno.serve({
      hostname: "127.0.0.1",
      port: 0,
      onListen() {},
    }, () => new Response("a page\n"));
    const url = `http://127.0.0.1:${server.addr.port}/`;
    const shown = await run("http_get", ["-v", "--diagram", "http.md", url]);
    assertEquals({ code: shown.code, stdout: shown.stdout }, {
      code: 0,
      stdout: "a page\n",
    });
    assertStringIncludes(shown.stderr, "GET / HTTP/1.1");
    assertStringIncludes(
      await Deno.readTextFile(`${elsewhere}/http.md`),
      "sequenceDiagram",
    );
    assertEquals(await run("http_get", ["-o", "page", url]), {
      code: 0,
      signal: null,
      stdout: "",
      stderr: "",
    });
    assertEquals(await Deno.readTextFile(`${elsewhere}/page`), "a page\n");
  },
});

test({
  name: "http_get, compiled, reads the authorities of --cacert",
  ignore,
  fn: async () => {
    await Deno.writeTextFile(`${elsewhere}/authorities.pem`, "");
    const closed = Deno.listen({ hostname: "127.0.0.1", port: 0 }),
      { port } = closed.addr;
    closed.close();
    const { stderr } = await run("http_get", [
      "--cacert",
      "authorities.pem",
      `https://127.0.0.1:${port}/`,
    ]);
    assert(!/permission|access|allow/i.test(stderr), stderr);
  },
});
