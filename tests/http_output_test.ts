import { assert, assertEquals, assertMatch } from "jsr:@std/assert@^1";
import { barred, missing, ROOT, run, Running } from "./helpers.ts";
import { test, unusedPort } from "./helpers.ts";
import { folder, RawServer, write } from "./http_servers.ts";

const OK = "HTTP/1.1 200 OK\r\n";
const HI = `${OK}Content-Length: 2\r\n\r\nhi`;
const UNIX = { ignore: Deno.build.os === "windows" };
const LINUX = { ignore: Deno.build.os !== "linux" };
const SCRIPT = new URL("http_get.ts", ROOT).pathname;
const COMMAND = [Deno.execPath(), "run", "-A", "--no-prompt", SCRIPT];
const IN_PLACE = /^http_get: cannot replace .*: overwriting it in place\n$/;

/** Gets "hi" into a file. */
async function get(file: string, ...before: string[]) {
  await using server = new RawServer(HI);
  const words = [...before, ...COMMAND, "-o", file, server.url().href];
  const env = { NO_COLOR: "1" };
  await using script = new Running(words[0], words.slice(1), { env });
  const { code, stderr } = await script.finish();
  return { code, stderr, asked: server.requests.length };
}

const DONE = { code: 0, stderr: "", asked: 1 };

test("http_get -o leaves a file when all of it came, and nothing otherwise", async () => {
  using dir = folder();
  const file = `${dir.path}/a`;
  const seen: string[][] = [];
  await using server = new RawServer(async (conn, request) => {
    seen.push(dir.names());
    const answers: Record<string, string> = {
      "/early": `${OK}Content-Length: 9\r\n\r\nhello`,
      "/404": "HTTP/1.1 404 Not Found\r\n\r\noops",
    };
    await write(conn, answers[request.split(" ")[1]] ?? HI);
  });
  const get = (path: string) =>
    run("http_get", ["-f", "-o", file, server.url(path).href]);
  assertEquals([(await get("/early")).code, dir.names()], [18, []]);
  assertEquals([(await get("/404")).code, dir.names()], [22, []]);
  assertEquals([(await get("/")).code, dir.names()], [0, ["a"]]);
  assertEquals(Deno.readTextFileSync(file), "hi");
  assertEquals([(await get("/early")).code, dir.names()], [18, ["a"]]);
  assertEquals(Deno.readTextFileSync(file), "hi", "the file of before stays");
  assertEquals(seen[0].length, 1);
  for (const names of seen) {
    assertMatch(names.join(" "), /^(a )?http_get\.\w+\.part$/);
  }
});

test(
  "http_get -o follows links, also one that leads to nothing yet",
  UNIX,
  async () => {
    using dir = folder();
    const path = (name: string) => `${dir.path}/${name}`;
    Deno.symlinkSync("real", path("link"));
    for (const before of ["nothing", "a file"]) {
      assertEquals(await get(path("link")), DONE, before);
      assert(Deno.lstatSync(path("link")).isSymlink);
      assertEquals(Deno.readTextFileSync(path("real")), "hi");
      assertEquals(dir.names(), ["link", "real"]);
    }
    Deno.symlinkSync("loop", path("loop"));
    const { code, stderr, asked } = await get(path("loop"));
    assertEquals([code, asked], [23, 0]);
    assertMatch(
      stderr,
      /cannot write .*loop: too many levels of symbolic links/,
    );
  },
);

test(
  "http_get -o keeps the mode of what it replaces, setuid too",
  UNIX,
  async () => {
    using dir = folder();
    const file = `${dir.path}/a`;
    const modes = [0o666, 0o600, 0o644];
    // A write by anybody else takes setuid away.
    if (Deno.uid() === 0) modes.push(0o4755, 0o2750);
    for (const mode of modes) {
      Deno.writeTextFileSync(file, "before");
      Deno.chmodSync(file, mode);
      const { ino } = Deno.statSync(file);
      assertEquals(await get(file), DONE);
      const after = Deno.statSync(file);
      assertEquals(after.mode! & 0o7777, mode, mode.toString(8));
      assert(after.ino !== ino, "it was replaced");
      assertEquals(Deno.readTextFileSync(file), "hi");
    }
  },
);

test(
  "http_get -o writes to what is no file, and refuses a folder",
  UNIX,
  async () => {
    using dir = folder();
    assertEquals(await get("/dev/null"), DONE);
    assert(Deno.statSync("/dev/null").isCharDevice);
    const { code, stderr, asked } = await get(dir.path);
    assertEquals([code, asked], [23, 0]);
    assertMatch(stderr, /cannot write .*is a directory/);
  },
);

test(
  "http_get -o does not replace what it could not write to",
  LINUX,
  async () => {
    using dir = folder();
    const busy = `${dir.path}/sleep`; // a program under way cannot be written to
    // By a process of its own: what another test starts meanwhile would hold the
    // copy open for writing, and then it could not be started.
    const copying = new Running("cp", ["/bin/sleep", busy]);
    assertEquals((await copying.finish()).code, 0);
    await using _program = new Running(busy, ["60"]);
    const { code, stderr } = await get(busy);
    assertEquals([code, dir.names()], [23, ["sleep"]]);
    assertMatch(stderr, /^http_get: cannot write .*sleep: text file busy\n$/);
  },
);

test("http_get -o takes a name as long as a folder can", UNIX, async () => {
  using dir = folder();
  const file = `${dir.path}/${"a".repeat(255)}`;
  assertEquals(await get(file), DONE);
  assertEquals([Deno.readTextFileSync(file), dir.names().length], ["hi", 1]);
  const longer = await get(`${file}a`);
  assertEquals([longer.code, longer.asked], [23, 0]);
});

test("http_get -o writes into a mounted file, and says so", {
  ignore: LINUX.ignore || barred("unshare", "-rm", "true"),
}, async () => {
  using dir = folder();
  Deno.writeTextFileSync(`${dir.path}/outside`, "before");
  Deno.writeTextFileSync(`${dir.path}/in side`, "");
  const mount = `mount --bind "$0/outside" "$0/in side" && exec "$@"`;
  const shell = ["unshare", "-rm", "sh", "-c", mount, dir.path];
  const { code, stderr } = await get(`${dir.path}/in side`, ...shell);
  assertEquals(code, 0, stderr);
  assertMatch(stderr, IN_PLACE);
  assertEquals(Deno.readTextFileSync(`${dir.path}/outside`), "hi");
  assertEquals(dir.names(), ["in side", "outside"]);

  const refused = `http://127.0.0.1:${unusedPort()}`;
  const args = [...shell, ...COMMAND, "-o", `${dir.path}/in side`, refused];
  await using script = new Running(args[0], args.slice(1));
  const failed = await script.finish();
  assertEquals(failed.code, 7);
  const [first] = failed.stderr.split(/(?<=\n)/);
  assertMatch(first, IN_PLACE, "it is known before the download");
  assertEquals(Deno.readTextFileSync(`${dir.path}/outside`), "hi");
});

test("http_get -o - is stdout, however it is written", async () => {
  await using server = new RawServer(HI);
  for (const option of [["-o", "-"], ["--output", "-"], ["--output=-"]]) {
    const { stdout } = await run("http_get", [...option, server.url().href]);
    assertEquals(stdout, "hi", option.join(" "));
  }
});

test("http_get -o leaves no new file that is not whole, where it may write no other", async () => {
  using dir = folder();
  await using server = new RawServer((conn, request) => {
    const length = request.includes("/early") ? 9 : 2;
    return write(conn, `${OK}Content-Length: ${length}\r\n\r\nhi`);
  });
  const file = `${dir.path}/new`;
  const rights = ["--allow-net", "--allow-read", `--allow-write=${file}`];
  const command = ["run", "--no-prompt", ...rights, SCRIPT, "-so", file];
  for (const [path, status] of [["/early", 18], ["/", 0]] as const) {
    const args = [...command, server.url(path).href];
    await using script = new Running(Deno.execPath(), args);
    const { code, stderr } = await script.finish();
    assertEquals(code, status, stderr);
    assertEquals(dir.names(), status === 0 ? ["new"] : []);
  }
  assertEquals(Deno.readTextFileSync(file), "hi");
});

test(
  "http_get -o adds to a log that is open as its stderr",
  LINUX,
  async () => {
    using dir = folder();
    const log = `${dir.path}/log`;
    await using server = new RawServer(HI);
    const script = `{ echo before >&2; "$@"; echo after >&2; } 2>>"$0"`;
    const args = [log, ...COMMAND, "-so", "/dev/stderr", server.url().href];
    await using shell = new Running("sh", ["-c", script, ...args]);
    assertEquals((await shell.finish()).code, 0);
    assertEquals(Deno.readTextFileSync(log), "before\nhiafter\n");
  },
);

/** Takes root's rights away: then others' files are others'. */
const PLAIN = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"];
const OTHER = {
  ignore: LINUX.ignore || missing("setpriv") || Deno.uid() !== 0,
};

test(
  "http_get -o writes into a file whose folder is locked",
  OTHER,
  async () => {
    using dir = folder();
    const file = `${dir.path}/mine`;
    Deno.writeTextFileSync(file, "before");
    Deno.chmodSync(dir.path, 0o755);
    Deno.chownSync(dir.path, 4321, 4321);
    const { code, stderr } = await get(file, ...PLAIN);
    assertEquals(code, 0, stderr);
    assertMatch(stderr, IN_PLACE);
    assertEquals(Deno.readTextFileSync(file), "hi");
    const none = await get(`${dir.path}/new`, ...PLAIN);
    assertEquals([none.code, none.asked], [23, 0]);
  },
);

test(
  "http_get -o keeps the owner of a file that others may write to",
  OTHER,
  async () => {
    using dir = folder();
    const file = `${dir.path}/theirs`;
    for (const mode of [0o1777, 0o777]) { // sticky, as /tmp is, or not
      Deno.chmodSync(dir.path, mode);
      Deno.writeTextFileSync(file, "before");
      Deno.chmodSync(file, 0o666);
      Deno.chownSync(file, 4321, 4321);
      const { code, stderr } = await get(file, ...PLAIN);
      assertEquals(code, 0, stderr);
      assertMatch(stderr, IN_PLACE);
      assertEquals(Deno.readTextFileSync(file), "hi");
      assertEquals(Deno.statSync(file).uid, 4321);
      assertEquals(dir.names(), ["theirs"]);
      assertEquals(await get(file), DONE, "root can give it back");
      assertEquals(Deno.statSync(file).uid, 4321);
    }
  },
);

test("http_get -o says why a file cannot be written", OTHER, async () => {
  using dir = folder();
  Deno.writeTextFileSync(`${dir.path}/a`, "before");
  Deno.chownSync(`${dir.path}/a`, 4321, 4321);
  const { code, stderr, asked } = await get(`${dir.path}/a`, ...PLAIN);
  assertEquals([code, asked], [23, 0]);
  assertMatch(stderr, /^http_get: cannot write .*: permission denied\n$/);
  assertEquals(Deno.readTextFileSync(`${dir.path}/a`), "before");
});

test("http_get -o is there when whole, also in memory's folder", {
  ignore: LINUX.ignore || barred("test", "-d", "/dev/shm"),
}, async () => {
  using dir = folder("/dev/shm");
  const file = `${dir.path}/page`;
  for (const time of ["first", "second"]) {
    assertEquals(await get(file), DONE, time);
    assertEquals(Deno.readTextFileSync(file), "hi", time);
  }
});

test(
  "http_get -o leaves no part behind where several get the same",
  UNIX,
  async () => {
    using dir = folder();
    const file = `${dir.path}/a`;
    for (let round = 0; round < 5; round++) {
      const all = [get(file), get(file), get(file)];
      for (const done of await Promise.all(all)) assertEquals(done, DONE);
      assertEquals([Deno.readTextFileSync(file), dir.names()], ["hi", ["a"]]);
      Deno.removeSync(file);
    }
  },
);

test("http_get -o makes a file that nobody may write to", OTHER, async () => {
  using dir = folder();
  const file = `${dir.path}/a`;
  const masked = ["sh", "-c", 'umask 0222; exec "$0" "$@"'];
  const { code, stderr } = await get(file, ...PLAIN, ...masked);
  assertEquals(code, 0, stderr);
  assertEquals([Deno.readTextFileSync(file), dir.names()], ["hi", ["a"]]);
  assertEquals(Deno.statSync(file).mode! & 0o777, 0o444);
});
