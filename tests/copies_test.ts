/**
 * The ways to a script besides the project's own folder: two files copied, a URL, an installed command, one function pasted
 * into a file; and the least rights that it runs with.
 */
import { assert, assertEquals, assertLessOrEqual, assertMatch } from "jsr:@std/assert@^1";
import { type Finished, ROOT, Running, test } from "./helpers.ts";

const DENO = Deno.execPath(), WINDOWS = Deno.build.os === "windows";
const NAMES = ["daytime", "http_get", "echo_tcp", "echo_udp"];
const UDP = ["daytime", "echo_udp"]; // these need a flag of Deno's, where no deno.json sets it
const MAP = import.meta.dirname + "/../mirror/import_map.json";

const work = Deno.realPathSync(Deno.makeTempDirSync({ prefix: "copies" }));
globalThis.addEventListener("unload", () => Deno.removeSync(work, { recursive: true }));

/** A folder of the test's own. */
const folder = () => Deno.makeTempDir({ dir: work });
const read = (path: string) => Deno.readTextFile(new URL(path, ROOT));
const unstable = (name: string) => UDP.includes(name) ? ["--unstable-net"] : [];

/** Copies a script and what it shares with the others, nothing else. */
async function copy(name: string): Promise<string> {
  const into = await folder();
  for (const file of [`${name}.ts`, "utils.ts"]) await Deno.copyFile(new URL(file, ROOT), `${into}/${file}`);
  return into;
}

/** What starts a script, whichever way it was had. */
type Start = (...args: string[]) => Running;

async function finished(running: Running, input = "", seconds = 10): Promise<Finished> {
  await using process = running;
  if (input) await process.type(input).catch(() => {}); // where it has ended, what it said tells why
  return await process.finish(seconds);
}

async function serving(server: Running): Promise<string> {
  return (await server.until(/listening on \w+:\/\/127\.0\.0\.1:(\d+)\n/))[1];
}

/** Uses a script for what it is made for, and has it show the exchange. */
async function works(name: string, start: Start): Promise<void> {
  if (name === "http_get") {
    await using server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, () => new Response("a page\n"));
    const { code, stdout, stderr } = await finished(start("-v", `http://127.0.0.1:${server.addr.port}/`));
    assertEquals({ code, stdout }, { code: 0, stdout: "a page\n" }, stderr);
    return assertMatch(stderr, /> .*GET \/ HTTP\/1\.1/);
  }
  await using server = start(...name === "daytime" ? ["--serve"] : [], "--host", "127.0.0.1", "--port", "0");
  const port = await serving(server);
  if (name === "daytime") {
    const { code, stdout, stderr } = await finished(start("-u", "-v", "127.0.0.1", port));
    assertEquals(code, 0, stderr);
    assertMatch(stdout, /^\w+, \w+ \d+, \d{4} \d\d:\d\d:\d\d-UTC\r?\n$/);
    return assertMatch(stderr, /< \d+ bytes "/);
  }
  const { code, stdout, stderr } = await finished(start("-v", "-c", `127.0.0.1:${port}`), "hello\n");
  assertEquals({ code, stdout }, { code: 0, stdout: "hello\n" }, stderr);
  assertMatch(stderr, /< 6 bytes "hello\\n"/);
}

/** A folder for what Deno keeps, in which nothing of the scripts is kept yet; npm's packages need not come again. */
async function freshCache(): Promise<Record<string, string>> {
  const { code, stdout, stderr } = await finished(new Running(DENO, ["info", "--json"]));
  assertEquals(code, 0, stderr);
  const cache = await folder();
  await Deno.symlink(JSON.parse(stdout).npmCache, `${cache}/npm`, WINDOWS ? { type: "junction" } : undefined);
  return { DENO_DIR: cache };
}

/** A server that stands in for JSR, with the packages of `mirror/`: what a network that reaches JSR would find there. */
async function registry(): Promise<Deno.HttpServer<Deno.NetAddr>> {
  const found = new Map<string, { exports: Record<string, string>; manifest: Record<string, unknown> }>();
  const files = new Map<string, string>();
  for (const [specifier, file] of Object.entries<string>(JSON.parse(await read("mirror/import_map.json")).imports)) {
    const [, name, path] = specifier.match(/^jsr:(@std\/[\w-]+)@\^1(.*)$/) ?? [];
    if (!name) continue;
    const about = found.get(name) ?? { exports: {}, manifest: {} }, text = await read(`mirror/${file}`);
    const bytes = new TextEncoder().encode(text), hash = await crypto.subtle.digest("SHA-256", bytes);
    const hex = Array.from(new Uint8Array(hash), (byte) => byte.toString(16).padStart(2, "0")).join("");
    about.exports[`.${path}`] = file;
    about.manifest[file.slice(1)] = { size: bytes.length, checksum: `sha256-${hex}` };
    found.set(name, about), files.set(`/${name}/1.0.0${file.slice(1)}`, text);
  }
  return Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, ({ url }) => {
    const { pathname } = new URL(url), [, name, what] = pathname.match(/^\/(@std\/[\w-]+)\/(?:1\.0\.0_)?(\w+)/) ?? [];
    const about = found.get(name), text = files.get(pathname);
    if (text !== undefined) return new Response(text, { headers: { "content-type": "application/typescript" } });
    if (!about || what !== "meta") return new Response(null, { status: 404 });
    return Response.json(pathname.includes("_") ? about : { latest: "1.0.0", versions: { "1.0.0": {} } });
  });
}

/** The project's folder, as any web server would give it. */
function site(): Deno.HttpServer<Deno.NetAddr> {
  return Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async ({ url }) => {
    const text = await read(`.${new URL(url).pathname}`).catch(() => undefined);
    return new Response(text, text === undefined ? { status: 404 } : { headers: { "content-type": "text/plain" } });
  });
}

test("a copied script needs utils.ts, and nothing else where JSR is reached", async () => {
  await using jsr = await registry();
  const env = { ...await freshCache(), JSR_URL: `http://127.0.0.1:${jsr.addr.port}/` };
  await Promise.all(NAMES.map(async (name) => {
    const cwd = await copy(name);
    await works(
      name,
      (...args) => new Running(DENO, ["run", "-A", ...unstable(name), `${name}.ts`, ...args], { cwd, env }),
    );
    assertEquals([...Deno.readDirSync(cwd)].map((file) => file.name).sort(), [`${name}.ts`, "utils.ts"].sort());
  }));
});

test("a copied script needs deno.json and mirror/ too, where npm is reached but JSR is not", async () => {
  await Promise.all(NAMES.map(async (name) => {
    const cwd = await copy(name);
    await Deno.copyFile(new URL("deno.json", ROOT), `${cwd}/deno.json`);
    await Deno.mkdir(`${cwd}/mirror`);
    for await (const { name: file } of Deno.readDir(new URL("mirror", ROOT))) {
      await Deno.copyFile(new URL(`mirror/${file}`, ROOT), `${cwd}/mirror/${file}`);
    }
    await works(name, (...args) => new Running(DENO, ["run", "-A", `${name}.ts`, ...args], { cwd }));
  }));
});

test("a copied script runs with the import map given by flag, and no configuration", async () => {
  await Promise.all(NAMES.map(async (name) => {
    const cwd = await copy(name), flags = ["-A", "--no-config", "--import-map", MAP, ...unstable(name)];
    await works(name, (...args) => new Running(DENO, ["run", ...flags, `${name}.ts`, ...args], { cwd }));
  }));
});

test("a copied script says in one line which flag it needs for UDP, or to share a port", async () => {
  const cases = [["echo_tcp", "--reuse-port"], ["echo_udp"], ["echo_udp", "-c", "127.0.0.1"], ["daytime", "-s"], [
    "daytime",
    "-u",
    "127.0.0.1",
  ]];
  await Promise.all(cases.map(async ([name, ...args]) => {
    const cwd = await copy(name), flags = ["-A", "--no-config", "--import-map", MAP];
    const { code, stdout, stderr } = await finished(
      new Running(DENO, ["run", ...flags, `${name}.ts`, ...args], { cwd }),
    );
    assertEquals({ code, stdout }, { code: 1, stdout: "" });
    assertMatch(stderr, new RegExp(`^${name}: .*--unstable-net.*\n$`));
  }));
});

test("each script runs from a URL", async () => {
  await using server = site();
  await using jsr = await registry();
  const env = { ...await freshCache(), NO_COLOR: "1" }, from = `http://127.0.0.1:${server.addr.port}`;
  await Promise.all(NAMES.map(async (name) => {
    // Once as told for networks without JSR, and once as anywhere else.
    const ways = [{ flags: ["--import-map", MAP], env }, {
      flags: [],
      env: { ...env, JSR_URL: `http://127.0.0.1:${jsr.addr.port}/` },
    }];
    for (const { flags, env } of ways) {
      const args = ["run", "-A", "--no-config", ...flags, ...unstable(name), `${from}/${name}.ts`, "--help"];
      const { code, stdout, stderr } = await finished(new Running(DENO, args, { cwd: work, env }));
      assertEquals(code, 0, stderr);
      assertMatch(stdout, new RegExp(`^${name}: `));
    }
  }));
});

test("the line in each script's header installs it as a command", async () => {
  await Promise.all(NAMES.map(async (name) => {
    const [, line] = (await read(`${name}.ts`)).match(/^ \* Install: deno (install -g .*)$/m)!;
    const words = line.split(" "), root = await folder();
    assertEquals(words.at(-1), `${name}.ts`);
    const [first] = (await read(`${name}.ts`)).split("\n");
    assertEquals(
      words.slice(2, -1),
      first.split(" ").filter((word) => word.startsWith("--")),
      "what the first line has",
    );
    const installed = await finished(
      new Running(DENO, [...words.slice(0, -1), "--root", root, "--import-map", MAP, `${name}.ts`], { cwd: ROOT }),
    );
    assertEquals(installed.code, 0, installed.stderr);
    const path = DENO.replace(/[\\/][^\\/]*$/, "") + (WINDOWS ? ";" : ":") + Deno.env.get("PATH");
    const command = `${root}/bin/${name}${WINDOWS ? ".cmd" : ""}`;
    await works(name, (...args) => new Running(command, args, { cwd: work, env: { PATH: path } }));
  }));
});

// Older versions of Deno know no permission sets; deno.json with one must not disturb them.
const SETS = !/^2\.[0-4]\./.test(Deno.version.deno);

test(`deno.json ${SETS ? "grants each script what it needs by `deno run -P`" : "is understood"}`, async () => {
  await Promise.all(NAMES.map(async (name) => {
    const flags = SETS ? ["-P", "--no-prompt"] : ["-A"];
    await works(name, (...args) => new Running(DENO, ["run", ...flags, `${name}.ts`, ...args], { cwd: ROOT }));
    const { stderr } = await finished(new Running(DENO, ["run", "-A", `${name}.ts`, "--version"], { cwd: ROOT }));
    assertEquals(stderr, "");
  }));
});

if (SETS) {
  test("deno run -P lets no script touch a file, and -P=files lets it write the one that it is told", async () => {
    await using server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, () => new Response("a page\n"));
    const get = (set: string, file: string) => {
      const args = [
        "run",
        set,
        "--no-prompt",
        "http_get.ts",
        "-s",
        "-o",
        file,
        `http://127.0.0.1:${server.addr.port}/`,
      ];
      return finished(new Running(DENO, args, { cwd: ROOT }));
    };
    const barred = await get("-P", `${work}/barred`), granted = await get("-P=files", `${work}/granted`);
    assertEquals([barred.code, granted.code], [23, 0], barred.stderr + granted.stderr);
    assertEquals(await Deno.readTextFile(`${work}/granted`), "a page\n");
    assert(![...Deno.readDirSync(work)].some(({ name }) => name.startsWith("barred")));
  });
}

/** What a student adds to the function to have a program: it is run with `deno run`, and a port to speak to. */
const LESSONS = [
  {
    script: "echo_tcp",
    name: "echo",
    program: `
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      console.log(\`listening on tcp://127.0.0.1:\${listener.addr.port}\`);
      for (;;) {
        const conn = await listener.accept();
        echo(conn).catch(console.error).finally(() => conn.close());
      }`,
    try: async (start: Start) => {
      await using server = start();
      using conn = await Deno.connect({ hostname: "127.0.0.1", port: Number(await serving(server)) });
      await conn.write(new TextEncoder().encode("hello"));
      await conn.closeWrite();
      assertEquals(await new Response(conn.readable).text(), "hello");
    },
  },
  {
    script: "echo_udp",
    name: "echo",
    program: `
      const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
      console.log(\`listening on udp://127.0.0.1:\${(socket.addr as Deno.NetAddr).port}\`);
      await echo(socket);`,
    try: async (start: Start) => {
      await using server = start();
      const to: Deno.NetAddr = { transport: "udp", hostname: "127.0.0.1", port: Number(await serving(server)) };
      const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
      try {
        for (const text of ["hello", ""]) {
          await socket.send(new TextEncoder().encode(text), to);
          assertEquals(new TextDecoder().decode((await socket.receive())[0]), text);
        }
      } finally {
        socket.close();
      }
    },
  },
  {
    script: "http_get",
    name: "get",
    program: `
      const conn = await Deno.connect({ hostname: "127.0.0.1", port: Number(Deno.args[0]) });
      const request = new TextEncoder().encode("GET / HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n");
      for await (const bytes of get(conn, request)) await Deno.stdout.write(bytes);
      conn.close();`,
    try: async (start: Start) => {
      await using server = Deno.serve(
        { hostname: "127.0.0.1", port: 0, onListen() {} },
        () => new Response("a page\n"),
      );
      const { code, stdout, stderr } = await finished(start(`${server.addr.port}`));
      assertEquals({ code, stderr }, { code: 0, stderr: "" });
      assertMatch(stdout, /^HTTP\/1\.1 200 OK\r\n.*\r\n\r\na page\n$/s);
    },
  },
  {
    script: "daytime",
    name: "daytime",
    program: `
      const conn = await Deno.connect({ hostname: "127.0.0.1", port: Number(Deno.args[0]) });
      console.log(new TextDecoder().decode(await daytime(conn)));
      conn.close();`,
    try: async (start: Start) => {
      using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const client = finished(start(`${listener.addr.port}`));
      using conn = await listener.accept();
      for (const part of ["Monday, ", "November 23"]) await conn.write(new TextEncoder().encode(part));
      await conn.closeWrite();
      assertEquals(await client, { code: 0, signal: null, stdout: "Monday, November 23\n", stderr: "" });
    },
  },
];

/** A function of a script, with its comment: up to the first line that is only its closing brace. */
async function lesson(script: string, name: string): Promise<string> {
  const found = (await read(`${script}.ts`)).match(
    new RegExp(`^/\\*\\*(?:(?!\\*/)[^])*\\*/\\nexport async function\\*? ${name}\\([^]*?\\n}\\n`, "m"),
  );
  assert(found, `${script}.ts has a function ${name}`);
  return found[0];
}

test("a protocol function, pasted into a file of one's own, is a program with ten more lines", async () => {
  const into = await folder(), files: string[] = [];
  for (const { script, name, program } of LESSONS) {
    const lines = program.trim().split("\n"), text = await lesson(script, name);
    assertLessOrEqual(lines.length, 10, script);
    files.push(`${script}_lesson.ts`);
    await Deno.writeTextFile(`${into}/${files.at(-1)}`, `${text}\n${lines.join("\n")}\n`);
  }
  const args = ["check", "--quiet", "--no-config", "--unstable-net", ...files];
  const checking = new Running(DENO, args, { cwd: into, env: { NO_COLOR: "1" } });
  const checked = await finished(checking, "", 40); // the types are loaded anew
  assertEquals(checked.code, 0, checked.stderr);
  await Promise.all(LESSONS.map((each, i) => {
    const flags = ["--allow-net", "--no-prompt", "--no-config", ...unstable(each.script)];
    return each.try((...args) => new Running(DENO, ["run", ...flags, files[i], ...args], { cwd: into }));
  }));
});

test("a protocol function is a lesson of at most twenty lines", async () => {
  for (const { script, name } of LESSONS) {
    const code = (await lesson(script, name)).replace(/^\/\*\*[^]*?\*\/\n/, "");
    assertLessOrEqual(code.trim().split("\n").length, 20, `${name} in ${script}.ts`);
  }
});
