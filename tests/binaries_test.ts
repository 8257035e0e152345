/**
 * The compiled programs are really made and run, from another folder and
 * without any environment.
 *
 * Deno keeps or downloads the `denort` that they are built on, unless its own
 * variable `DENORT_BIN` names one. If a `deno` lies beside that one, it is of
 * the same version, and compiles.
 */
import {
  assert,
  assertEquals,
  assertLess,
  assertMatch,
  assertStringIncludes,
} from "jsr:@std/assert@^1";
import { programName, SCRIPTS } from "../tools/compile.ts";
import { VERSION } from "../utils.ts";
import { type Finished, freshCache, ROOT, Running, test } from "./helpers.ts";

const WINDOWS = Deno.build.os === "windows";
const EXE = WINDOWS ? ".exe" : "";
const NAMES = Object.keys(SCRIPTS).map(programName);
const DENORT = Deno.env.get("DENORT_BIN");
const DENO = findCompiler();
// Windows opens no socket without its own folder's name.
const ENV: Record<string, string> = WINDOWS
  ? { SystemRoot: Deno.env.get("SystemRoot") ?? "C:\\Windows" }
  : {};

const programs = Deno.makeTempDirSync({ prefix: "programs" });
const elsewhere = Deno.makeTempDirSync({ prefix: "elsewhere" });
globalThis.addEventListener("unload", () => {
  Deno.removeSync(programs, { recursive: true });
  Deno.removeSync(elsewhere, { recursive: true });
});

function findCompiler(): string {
  const beside = DENORT?.replace(/denort(?=(\.exe)?$)/, "deno");
  try {
    if (beside && Deno.statSync(beside).isFile) return beside;
  } catch { /* there is none */ }
  return Deno.execPath();
}

/** Whether no denort is named, and none can be downloaded. */
function isDenortMissing(): boolean {
  if (DENORT || Deno.env.get("CI")) return false; // in CI it would fail
  const empty = `${elsewhere}/empty.js`;
  Deno.writeTextFileSync(empty, "");
  const flags = ["--quiet", "--no-config", "--output", `${elsewhere}/e${EXE}`];
  const options = { args: ["compile", ...flags, empty], stdout: "null" };
  const command = new Deno.Command(DENO, {
    ...options as Deno.CommandOptions,
    stderr: "piped",
    env: { NO_COLOR: "1" },
  });
  const { success, stderr } = command.outputSync();
  const why = new TextDecoder().decode(stderr);
  return !success && why.includes("Setting up base binary");
}
const ignore = isDenortMissing();

const RIGHTS = ["--no-prompt", "--allow-read", "--allow-write", "--allow-run"];
let compiling: Promise<Finished> | undefined;

/** Compiles the programs; the first test that needs them has it done. */
function compile(): Promise<Finished> {
  const args = ["run", ...RIGHTS, "tools/compile.ts", "--output", programs];
  compiling ??= new Running(DENO, args, { cwd: ROOT }).finish(50);
  return compiling;
}

async function start(name: string, ...args: string[]): Promise<Running> {
  const { code, stderr } = await compile();
  assertEquals(code, 0, stderr);
  const options = { cwd: elsewhere, clearEnv: true, env: ENV };
  return new Running(`${programs}/${name}${EXE}`, args, options);
}

async function run(name: string, args: string[], input = "") {
  const running = await start(name, ...args);
  if (input) await running.type(input);
  return await running.finish();
}

async function serve(name: string, ...args: string[]) {
  const at = ["--host", "127.0.0.1", "--port", "0"];
  const server = await start(name, ...at, ...args);
  const line = /listening on \w+:\/\/127\.0\.0\.1:(\d+)\n/;
  const [, port] = await server.until(line);
  return Object.assign(server, { port });
}

/** Ends a server as Ctrl-C does. On Windows it is just ended. */
async function end(server: Running): Promise<void> {
  server.kill(WINDOWS ? "SIGTERM" : "SIGINT");
  const { code, stderr } = await server.finish();
  if (!WINDOWS) assertEquals([code, stderr], [0, ""]);
}

function assertDiagram(file: string): void {
  const text = Deno.readTextFileSync(`${elsewhere}/${file}`);
  assertStringIncludes(text, "sequenceDiagram");
}

test("deno task compile makes a program of each script, and no more", {
  ignore,
}, async () => {
  const own = `${programs}/daytime.js`; // stays as it is
  Deno.writeTextFileSync(own, "somebody's own");
  const { code, stdout, stderr } = await compile();
  assertEquals(code, 0, stderr);
  const lines = stdout.trim().split(/\r?\n/);
  const told = lines.map((line) => line.match(/([^\\/]+) [\d.]+ MB$/)?.[1]);
  const files = NAMES.map((name) => name + EXE);
  assertEquals(told, files);
  const made = [...Deno.readDirSync(programs)].map(({ name }) => name);
  assertEquals(made.sort(), [...files, "daytime.js"].sort());
  assertEquals(Deno.readTextFileSync(own), "somebody's own");
});

test("a program holds Deno's runtime, and little more", {
  ignore: ignore || !DENORT,
}, async () => {
  await compile();
  for (const name of NAMES) {
    const { size } = Deno.statSync(`${programs}/${name}${EXE}`);
    assertLess(size - Deno.statSync(DENORT!).size, 2e6);
  }
});

/** Permissions and other flags, one by one: `--allow-env=TERM`. */
function split(flags: string[]): Set<string> {
  const single = flags.flatMap((flag) => {
    const [name, values = ""] = flag.split("=");
    return values.split(",").map((value) => `${name}=${value}`);
  });
  return new Set(single);
}

test("a program may do what its script's first line says", () => {
  for (const [script, options] of Object.entries(SCRIPTS)) {
    const text = Deno.readTextFileSync(new URL(script, ROOT));
    const flags = text.split("\n")[0].match(/--\S+/g)!;
    const more = ["--allow-write", "--allow-env=TERM", "--unstable-net"];
    const needed = split(flags);
    const allowed = split(options);
    assertEquals(needed.difference(allowed), new Set(), script);
    const rest = allowed.difference(needed).difference(split(more));
    assertEquals(rest, new Set(), script);
  }
});

test("deno task compile refuses a platform that is unknown", async () => {
  const folder = `${elsewhere}/pdp-11`;
  const args = ["--target", "pdp-11", "--output", folder];
  const words = ["run", "-A", "tools/compile.ts", ...args];
  const options = { cwd: ROOT };
  const { code, stderr } = await new Running(DENO, words, options).finish();
  assertEquals(code, 2);
  const complaint =
    /^compile: unknown target pdp-11: .*aarch64-pc-windows-msvc\r?\n$/;
  assertMatch(stderr, complaint);
  const made = [...Deno.readDirSync(elsewhere)].map(({ name }) => name);
  assert(!made.includes("pdp-11"));
});

test("deno task compile names a folder that it cannot make", async () => {
  const output = Deno.makeTempFileSync({ dir: elsewhere });
  const args = ["run", ...RIGHTS, "tools/compile.ts", "--output", output];
  const { code, stderr } = await new Running(Deno.execPath(), args).finish();
  const line = `compile: cannot make ${output}: file exists\n`;
  assertEquals([code, stderr], [1, line]);
});

/** What bundling needs of Deno's cache: not the runtimes beside the bundler. */
function withBundler(cache: string): string[] {
  const names = (path: string) =>
    [...Deno.readDirSync(`${cache}/${path}`)].map(({ name }) => name);
  const all = names(".");
  const downloads = all.includes("dl") ? names("dl") : [];
  const bundlers = downloads.filter((name) => name.startsWith("esbuild"));
  const modules = all.filter((name) => name === "npm" || name === "remote");
  return [...modules, ...bundlers.map((name) => `dl/${name}`)];
}

test("deno task compile says in a line that a runtime is to be downloaded", {
  ignore,
}, async () => {
  await compile(); // which installs the bundler
  const cache = Deno.makeTempDirSync({ dir: elsewhere });
  const env = {
    ...ENV,
    ...await freshCache(cache, DENO, withBundler),
    HTTPS_PROXY: "http://127.0.0.1:9", // nobody is there
  };
  const script = ["tools/compile.ts", "--output", cache];
  const options = { cwd: ROOT, clearEnv: true, env };
  const args = ["run", ...RIGHTS, ...script];
  const { code, stdout, stderr } = await new Running(DENO, args, options)
    .finish(30);
  assertEquals([code, stdout], [1, ""]);
  const lines = stderr.trimEnd().split(/\r?\n/);
  assertEquals(lines[0], "compile: downloading Deno's runtime, denort");
  const why =
    /^compile: cannot compile daytime\.ts for \S+: Deno's runtime, denort, must be downloaded: .*refused/i;
  assertMatch(lines[1], why);
  assertEquals(lines.length, 2, stderr);
});

test("deno task compile says in a line what cannot be bundled", async () => {
  const cwd = Deno.makeTempDirSync({ dir: elsewhere });
  for (const folder of ["tools", "mirror"]) Deno.mkdirSync(`${cwd}/${folder}`);
  const mirror = [...Deno.readDirSync(new URL("mirror", ROOT))];
  const files = [
    ...["deno.json", "utils.ts", "trace.ts", "tools/compile.ts"],
    ...mirror.map(({ name }) => `mirror/${name}`),
  ];
  for (const file of files) {
    Deno.copyFileSync(new URL(file, ROOT), `${cwd}/${file}`);
  }
  Deno.writeTextFileSync(`${cwd}/daytime.ts`, 'import "./missing.ts";\n');
  const args = ["run", ...RIGHTS, "tools/compile.ts"];
  const options = { cwd, env: { NO_COLOR: "1" } };
  const { code, stdout, stderr } = await new Running(DENO, args, options)
    .finish(30);
  assertEquals([code, stdout], [1, ""]);
  const why =
    /^compile: cannot bundle daytime\.ts: Module not found ".*missing\.ts"\.\r?\n$/;
  assertMatch(stderr, why);
});

test("the programs tell their version and their usage", {
  ignore,
}, async () => {
  await compile();
  const asking = NAMES.map(async (name) => {
    const version = await run(name, ["--version"]);
    assertEquals(version.stdout, `${name} ${VERSION}\n`);
    const { code, stdout, stderr } = await run(name, ["--help"]);
    assertEquals([code, stderr], [0, ""]);
    assertMatch(stdout, new RegExp(`^${name}: .*\n\nusage: ${name} `));
  });
  await Promise.all(asking);
});

for (const name of ["echo_tcp", "echo_udp"]) {
  test(`${name}, compiled, serves its own client, shows it and draws it`, {
    ignore,
  }, async () => {
    await using server = await serve(name);
    const file = `${name}.md`;
    const args = ["127.0.0.1", server.port, "-v", "--diagram", file];
    const { code, stdout, stderr } = await run(name, args, "hello\n");
    assertEquals([code, stdout], [0, "hello\n"]);
    assertStringIncludes(stderr, '> 6 bytes "hello\\n"');
    assertDiagram(file);
    await end(server);
  });
}

test("echo_tcp, compiled, can share its port with another", {
  ignore: ignore || WINDOWS,
}, async () => {
  await using first = await serve("echo_tcp", "--reuse-port");
  const args = ["--host", "127.0.0.1", "--port", first.port, "--reuse-port"];
  await using second = await start("echo_tcp", ...args);
  await second.until(/listening on /);
  const to = `127.0.0.1:${first.port}`;
  const { code, stdout } = await run("echo_tcp", [to], "hello\n");
  assertEquals([code, stdout], [0, "hello\n"]);
  await Promise.all([end(first), end(second)]);
});

test("daytime, compiled, tells its own client the time by TCP and UDP", {
  ignore,
}, async () => {
  await using server = await serve("daytime", "--serve");
  for (const option of ["-v", "-u"]) {
    const file = `daytime${option}.md`;
    const args = [option, "--diagram", file, "127.0.0.1", server.port];
    const { code, stdout, stderr } = await run("daytime", args);
    assertEquals(code, 0, stderr);
    assertMatch(stdout, /^\w+, \w+ \d+, \d{4} \d\d:\d\d:\d\d-UTC\r?\n$/);
    assertDiagram(file);
  }
  await end(server);
});

test("http_get, compiled, shows a page, draws it and writes it", {
  ignore,
}, async () => {
  const at = { hostname: "127.0.0.1", port: 0, onListen() {} };
  await using server = Deno.serve(at, () => new Response("a page\n"));
  const url = `http://127.0.0.1:${server.addr.port}/`;
  const shown = await run("http_get", ["-v", "--diagram", "http.md", url]);
  assertEquals([shown.code, shown.stdout], [0, "a page\n"]);
  assertStringIncludes(shown.stderr, "GET / HTTP/1.1");
  assertDiagram("http.md");
  const { code, stdout } = await run("http_get", ["-o", "page", url]);
  assertEquals([code, stdout], [0, ""]);
  assertEquals(Deno.readTextFileSync(`${elsewhere}/page`), "a page\n");
});

test("http_get, compiled, reads the authorities of --cacert", {
  ignore,
}, async () => {
  Deno.writeTextFileSync(`${elsewhere}/authorities.pem`, "");
  const closed = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = closed.addr;
  closed.close();
  const args = ["--cacert", "authorities.pem", `https://127.0.0.1:${port}/`];
  const { code, stderr } = await run("http_get", args);
  assert(code !== 0);
  assert(!/permission|access|allow/i.test(stderr), stderr);
});
