/**
 * The ways to a script besides the project's own folder: copied files, a URL,
 * an installed command, a function pasted into a file of one's own; and the
 * least rights that it runs with.
 */
import {
  assert,
  assertEquals,
  assertLessOrEqual,
  assertMatch,
  assertStringIncludes,
} from "jsr:@std/assert@^1";
import {
  type Finished,
  freshCache,
  receive,
  ROOT,
  Running,
  send,
} from "./helpers.ts";
import { bytes, test, text, WINDOWS } from "./helpers.ts";

const DENO = Deno.execPath();
const NAMES = ["daytime", "http_get", "echo_tcp", "echo_udp"];
const MAP = `${import.meta.dirname}/../mirror/import_map.json`;
/** What a copy is told where no deno.json tells it. */
const MAPPED = ["--no-config", "--import-map", MAP];

const work = Deno.realPathSync(Deno.makeTempDirSync({ prefix: "copies" }));
globalThis.addEventListener(
  "unload",
  () => Deno.removeSync(work, { recursive: true }),
);

/** A folder of the test's own. */
function folder(): Promise<string> {
  return Deno.makeTempDir({ dir: work });
}

function read(path: string): Promise<string> {
  return Deno.readTextFile(new URL(path, ROOT));
}

/** The flag of Deno's that these need, where no deno.json sets it. */
function unstable(name: string): string[] {
  return ["daytime", "echo_udp"].includes(name) ? ["--unstable-net"] : [];
}

/** Copies files of the project into an empty folder. */
async function copy(...files: string[]): Promise<string> {
  const into = await folder();
  for (const file of files) {
    await Deno.copyFile(new URL(file, ROOT), `${into}/${file}`);
  }
  return into;
}

/** What starts a script, whichever way it was had. */
type Start = (...args: string[]) => Running;

/** Starts a copied script. */
function starter(
  name: string,
  flags: string[],
  options: Deno.CommandOptions,
): Start {
  const run = ["run", "--no-prompt", ...flags, ...unstable(name)];
  return (...args) =>
    new Running(DENO, [...run, `${name}.ts`, ...args], options);
}

async function finished(
  running: Running,
  input = "",
  seconds = 10,
): Promise<Finished> {
  await using process = running;
  // Where it has ended already, what it said tells why.
  if (input) await process.type(input).catch(() => {});
  return await process.finish(seconds);
}

async function serving(server: Running): Promise<string> {
  const listening = /listening on \w+:\/\/127\.0\.0\.1:(\d+)\n/;
  return (await server.until(listening, "stdout", 50))[1];
}

/** A web server with one page. */
function webServer(): Deno.HttpServer<Deno.NetAddr> {
  const at = { hostname: "127.0.0.1", port: 0, onListen() {} };
  return Deno.serve(at, () => new Response("a page\n"));
}

/** Uses a script for what it is made for, with these options. */
async function works(
  name: string,
  start: Start,
  options = ["-v"],
): Promise<Finished> {
  if (name === "http_get") {
    await using server = webServer();
    const url = `http://127.0.0.1:${server.addr.port}/`;
    const done = await finished(start(...options, url));
    assertEquals([done.code, done.stdout], [0, "a page\n"], done.stderr);
    return done;
  }
  const serve = name === "daytime" ? ["--serve"] : [];
  const at = ["--host", "127.0.0.1", "--port", "0"];
  await using server = start(...serve, ...at);
  const to = ["127.0.0.1", await serving(server)];
  if (name === "daytime") {
    const done = await finished(start("-u", ...options, ...to));
    assertEquals(done.code, 0, done.stderr);
    assertMatch(done.stdout, /^\w+, \w+ \d+, \d{4} \d\d:\d\d:\d\d-UTC\r?\n$/);
    return done;
  }
  const done = await finished(start(...options, ...to), "hello\n");
  assertEquals([done.code, done.stdout], [0, "hello\n"], done.stderr);
  return done;
}

interface Package {
  exports: Record<string, string>;
  manifest: Record<string, unknown>;
}

/** The files of `mirror/` as JSR would give them, by path and package. */
async function packages() {
  const found = new Map<string, Package>();
  const files = new Map<string, string>();
  const { imports } = JSON.parse(await read("mirror/import_map.json"));
  for (const [specifier, file] of Object.entries<string>(imports)) {
    const match = specifier.match(/^jsr:(@std\/[\w-]+)@\^1(.*)$/);
    if (!match) continue;
    const [, name, path] = match;
    const text = await read(`mirror/${file}`);
    const hash = await crypto.subtle.digest("SHA-256", bytes(text));
    const checksum = `sha256-${new Uint8Array(hash).toHex()}`;
    const about = found.get(name) ?? { exports: {}, manifest: {} };
    about.exports[`.${path}`] = file;
    about.manifest[file.slice(1)] = { size: bytes(text).length, checksum };
    found.set(name, about);
    files.set(`/${name}/1.0.0${file.slice(1)}`, text);
  }
  return { found, files };
}

/** A server that stands in for JSR, with the packages of `mirror/`. */
async function registry(): Promise<Deno.HttpServer<Deno.NetAddr>> {
  const { found, files } = await packages();
  const headers = { "content-type": "application/typescript" };
  const latest = { latest: "1.0.0", versions: { "1.0.0": {} } };
  const at = { hostname: "127.0.0.1", port: 0, onListen() {} };
  return Deno.serve(at, ({ url }) => {
    const { pathname } = new URL(url);
    const text = files.get(pathname);
    if (text !== undefined) return new Response(text, { headers });
    const [, name, meta] = pathname.match(/^\/(@std\/[\w-]+)\/(.+)$/) ?? [];
    const about = found.get(name);
    if (about && meta === "meta.json") return Response.json(latest);
    if (about && meta === "1.0.0_meta.json") return Response.json(about);
    return new Response(null, { status: 404 });
  });
}

/** The project's folder, as any web server would give it. */
function site(): Deno.HttpServer<Deno.NetAddr> {
  const at = { hostname: "127.0.0.1", port: 0, onListen() {} };
  const headers = { "content-type": "text/plain" };
  return Deno.serve(at, async ({ url }) => {
    const file = `.${new URL(url).pathname}`;
    const text = await read(file).catch(() => undefined);
    if (text === undefined) return new Response(text, { status: 404 });
    return new Response(text, { headers });
  });
}

test("a copied script needs utils.ts only, where JSR is reached", async () => {
  await using jsr = await registry();
  const url = `http://127.0.0.1:${jsr.addr.port}/`;
  const env = { ...await freshCache(await folder()), JSR_URL: url };
  await Promise.all(NAMES.map(async (name) => {
    const cwd = await copy(`${name}.ts`, "utils.ts");
    await works(name, starter(name, ["-A"], { cwd, env }), []);
    const files = [...Deno.readDirSync(cwd)].map((file) => file.name);
    assertEquals(files.sort(), [`${name}.ts`, "utils.ts"].sort());
  }));
});

test("a copied script needs --import-map, where only npm is reached", async () => {
  const unreachable = { JSR_URL: "http://127.0.0.1:9/" };
  const env = { ...await freshCache(await folder()), ...unreachable };
  await Promise.all(NAMES.map(async (name) => {
    const cwd = await copy(`${name}.ts`, "utils.ts");
    const { code } = await finished(starter(name, ["-A"], { cwd, env })());
    assertEquals(code, 1, "without the flag");
    await works(name, starter(name, ["-A", ...MAPPED], { cwd, env }), []);
  }));
});

test("a copied script says which file -v needs", async () => {
  await Promise.all(NAMES.map(async (name) => {
    const cwd = await copy(`${name}.ts`, "utils.ts");
    const start = starter(name, ["-A", ...MAPPED], { cwd });
    for (const option of [["-v"], ["--diagram", "x.md"]]) {
      const { code, stdout, stderr } = await finished(
        start(...option, "127.0.0.1:9"),
      );
      assertEquals([code, stdout], [1, ""]);
      assertMatch(stderr, RegExp(`^${name}: [^\n]*\\btrace\\.ts\\b[^\n]*\n$`));
    }
    await Deno.copyFile(new URL("trace.ts", ROOT), `${cwd}/trace.ts`);
    const { stderr } = await works(name, start);
    assertMatch(stderr, /< \d+ bytes "/);
  }));
});

test("copies type-check in a folder with nothing else", async () => {
  const copies = NAMES.map((name) => `${name}.ts`);
  await Promise.all([[], ["trace.ts"]].map(async (traces) => {
    const cwd = await copy(...copies, "utils.ts", ...traces);
    const flags = ["check", "--quiet", ...MAPPED, "--unstable-net"];
    const options = { cwd, env: { NO_COLOR: "1" } };
    const checking = new Running(DENO, [...flags, ...copies], options);
    const { code, stderr } = await finished(checking, "", 50);
    assertEquals([code, stderr], [0, ""], traces.join());
  }));
});

test("a copied script runs with deno.json and mirror/ beside it", async () => {
  await Promise.all(NAMES.map(async (name) => {
    const cwd = await copy(`${name}.ts`, "utils.ts", "trace.ts", "deno.json");
    await Deno.mkdir(`${cwd}/mirror`);
    for await (const { name: file } of Deno.readDir(new URL("mirror", ROOT))) {
      const path = `mirror/${file}`;
      await Deno.copyFile(new URL(path, ROOT), `${cwd}/${path}`);
    }
    await works(name, starter(name, ["-A"], { cwd }));
  }));
});

test("a copied script says in one line which flag it needs", async () => {
  const cases = [
    ["echo_tcp", "--reuse-port"],
    ["echo_udp"],
    ["echo_udp", "127.0.0.1"],
    ["daytime", "-s"],
    ["daytime", "-u", "127.0.0.1"],
  ];
  await Promise.all(cases.map(async ([name, ...args]) => {
    const cwd = await copy(`${name}.ts`, "utils.ts");
    const words = ["run", "-A", ...MAPPED, `${name}.ts`, ...args];
    const done = await finished(new Running(DENO, words, { cwd }));
    assertEquals([done.code, done.stdout], [1, ""], done.stderr);
    assertMatch(done.stderr, RegExp(`^${name}: .*--unstable-net.*\n$`));
  }));
});

test("each script runs from a URL", async () => {
  await using server = site();
  await using jsr = await registry();
  const env = await freshCache(await folder());
  const url = `http://127.0.0.1:${server.addr.port}`;
  // As told for networks without JSR, and as anywhere else.
  const ways = [
    { flags: ["--import-map", MAP], env },
    {
      flags: [],
      env: { ...env, JSR_URL: `http://127.0.0.1:${jsr.addr.port}/` },
    },
  ];
  await Promise.all(NAMES.map(async (name) => {
    for (const { flags, env } of ways) {
      const run = ["run", "-A", "--no-config", ...flags, ...unstable(name)];
      const args = [...run, `${url}/${name}.ts`, "--help"];
      const running = new Running(DENO, args, { cwd: work, env });
      const { code, stdout, stderr } = await finished(running);
      assertEquals(code, 0, stderr);
      assertMatch(stdout, RegExp(`^${name}: `));
    }
  }));
});

test("each script installs with the rights of its first line", {
  ignore: WINDOWS, // the server outlives its .cmd when that is ended
}, async () => {
  await Promise.all(NAMES.map(async (name) => {
    const [first] = (await read(`${name}.ts`)).split("\n");
    const flags = first.split(" ").filter((word) => word.startsWith("--"));
    const root = await folder();
    const into = ["install", "-g", "--root", root, "--import-map", MAP];
    const args = [...into, ...flags, `${name}.ts`];
    const installed = await finished(new Running(DENO, args, { cwd: ROOT }));
    assertEquals(installed.code, 0, installed.stderr);
    const folders = [DENO.replace(/[\\/][^\\/]*$/, ""), Deno.env.get("PATH")];
    const env = { PATH: folders.join(":") };
    const command = `${root}/bin/${name}`;
    await works(name, (...args) => new Running(command, args, { env }));
  }));
});

test("deno run -P grants each script what it needs", async () => {
  await Promise.all(NAMES.map(async (name) => {
    const { stderr } = await works(name, starter(name, ["-P"], { cwd: ROOT }));
    assertMatch(stderr, /< \d+ bytes "/);
  }));
});

test("-P lets no script touch a file, -P=files one", async () => {
  await using server = webServer();
  const url = `http://127.0.0.1:${server.addr.port}/`;
  const get = async (set: string, file: string) => {
    const start = starter("http_get", [set], { cwd: ROOT });
    return (await finished(start("-s", "-o", file, url))).code;
  };
  assertEquals(await get("-P", `${work}/barred`), 23);
  assertEquals(await get("-P=files", `${work}/granted`), 0);
  assertEquals(await Deno.readTextFile(`${work}/granted`), "a page\n");
  const names = [...Deno.readDirSync(work)].map(({ name }) => name);
  assert(!names.some((name) => name.startsWith("barred")), `${names}`);
});

// Lessons

/** A function of a script, up to the first line that is its closing brace. */
async function lesson(script: string, name: string): Promise<string> {
  const start = `export async function ${name}(`;
  const lines = (await read(`${script}.ts`)).split("\n");
  const first = lines.findIndex((line) => line.startsWith(start));
  assert(first >= 0, `${script}.ts has no function ${name}`);
  const last = lines.indexOf("}", first);
  return lines.slice(first, last + 1).join("\n") + "\n";
}

const TEXTBOOK = `export async function echo(conn: Deno.Conn): Promise<void> {
  const buffer = new Uint8Array(1024);
  for (;;) {
    const n = await conn.read(buffer);
    if (n === null) break;
    await conn.write(buffer.subarray(0, n));
  }
}
`;

test("a student's own echo works with the server unchanged", async () => {
  const cwd = await copy("echo_tcp.ts", "utils.ts", "trace.ts");
  const script = await read("echo_tcp.ts");
  const parameters = /\(conn: Deno\.Conn\)/;
  const own = TEXTBOOK.replace(
    parameters,
    '(conn: Pick<Deno.Conn, "read" | "write">)',
  );
  const replaced = script.replace(await lesson("echo_tcp", "echo"), () => own);
  assertStringIncludes(replaced, own);
  await Deno.writeTextFile(`${cwd}/echo_tcp.ts`, replaced);
  const flags = ["-A", "--check", ...MAPPED];
  const start = starter("echo_tcp", flags, { cwd, env: { NO_COLOR: "1" } });
  await works("echo_tcp", start);
  await using server = start("-v", "--host", "127.0.0.1", "--port", "0");
  const port = Number(await serving(server));
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  const message = bytes("x".repeat(100_000));
  const sending = send(conn, message).then(() => conn.closeWrite());
  const [answer] = await Promise.all([receive(conn), sending]);
  assertEquals(text(answer), text(message));
  // It is counted, traced and told to end as the script's own is.
  await server.until(/127\.0\.0\.1:\d+ 100000 bytes in \d+\.\d{3} s\n/);
  assertMatch(server.stderr, /< 127\.0\.0\.1:\d+ \d+ bytes "x+/);
  server.kill("SIGTERM");
  const { code } = await server.finish();
  if (!WINDOWS) assertEquals(code, 0);
});

/** What a student adds to a function to have a program of it. */
interface Lesson {
  script: string;
  name: string;
  program: string;
  try: (start: Start) => Promise<void>;
}

const LESSONS: Lesson[] = [{
  script: "echo_tcp",
  name: "echo",
  program: `
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    console.log(\`listening on tcp://127.0.0.1:\${listener.addr.port}\`);
    for (;;) {
      const conn = await listener.accept();
      echo(conn).catch(console.error).finally(() => conn.close());
    }`,
  async try(start) {
    await using server = start();
    const port = Number(await serving(server));
    using conn = await Deno.connect({ hostname: "127.0.0.1", port });
    await send(conn, bytes("hello"));
    await conn.closeWrite();
    assertEquals(text(await receive(conn)), "hello");
  },
}, {
  script: "echo_udp",
  name: "echo",
  program: `
    const at = { hostname: "127.0.0.1", port: 0 };
    const socket = Deno.listenDatagram({ transport: "udp", ...at });
    const { port } = socket.addr as Deno.NetAddr;
    console.log(\`listening on udp://127.0.0.1:\${port}\`);
    await echo(socket);`,
  async try(start) {
    await using server = start();
    const at = { transport: "udp", hostname: "127.0.0.1" } as const;
    const to: Deno.NetAddr = { ...at, port: Number(await serving(server)) };
    const socket = Deno.listenDatagram({ ...at, port: 0 });
    try {
      for (const word of ["hello", ""]) {
        await socket.send(bytes(word), to);
        assertEquals(text((await socket.receive())[0]), word);
      }
    } finally {
      socket.close();
    }
  },
}, {
  script: "daytime",
  name: "daytime",
  program: `
    const at = { hostname: "127.0.0.1", port: Number(Deno.args[0]) };
    const conn = await Deno.connect(at);
    console.log(new TextDecoder().decode(await daytime(conn)));
    conn.close();`,
  async try(start) {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const client = finished(start(`${listener.addr.port}`));
    using conn = await listener.accept();
    for (const part of ["Monday, ", "November 23"]) {
      await send(conn, bytes(part));
    }
    await conn.closeWrite();
    const { code, stdout, stderr } = await client;
    assertEquals([code, stdout, stderr], [0, "Monday, November 23\n", ""]);
  },
}];

test("a protocol function is a program with ten more lines", async () => {
  const into = await folder();
  const files = LESSONS.map(({ script }) => `${script}_lesson.ts`);
  for (const [i, { script, name, program }] of LESSONS.entries()) {
    assertLessOrEqual(program.trim().split("\n").length, 10, script);
    const whole = `${await lesson(script, name)}${program}\n`;
    await Deno.writeTextFile(`${into}/${files[i]}`, whole);
  }
  const check = ["check", "--quiet", "--no-config", "--unstable-net"];
  const options = { cwd: into, env: { NO_COLOR: "1" } };
  const checking = new Running(DENO, [...check, ...files], options);
  const { code, stderr } = await finished(checking, "", 50);
  assertEquals([code, stderr], [0, ""]);
  await Promise.all(LESSONS.map((each) => {
    const flags = ["--allow-net", "--no-config", ...unstable(each.script)];
    return each.try(starter(`${each.script}_lesson`, flags, { cwd: into }));
  }));
});

test("a protocol function has at most twenty lines", async () => {
  for (
    const { script, name } of [...LESSONS, { script: "http_get", name: "get" }]
  ) {
    const lines = (await lesson(script, name)).trim().split("\n");
    assertLessOrEqual(lines.length, 20, `${name} in ${script}.ts`);
  }
});
