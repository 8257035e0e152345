import {
  assert,
  assertEquals,
  assertGreater,
  assertMatch,
} from "jsr:@std/assert@^1";
import { missing, ROOT, Running, test } from "./helpers.ts";

const { pathname } = new URL("tools/", ROOT);
const ignore = Deno.build.os !== "linux" || missing("cc") || missing("node");

/** Starts a task's program with the permissions of the task. */
function start(task: string, args: string[], env: Record<string, string> = {}) {
  const config = Deno.readTextFileSync(new URL("deno.json", ROOT));
  const { command } = JSON.parse(config).tasks[task];
  const rights: string[] = command.match(/--allow\S+/g);
  const words = ["run", "--no-prompt", ...rights, `${pathname}${task}.ts`];
  const options = { cwd: ROOT, env: { NO_COLOR: "1", ...env } };
  return new Running(Deno.execPath(), [...words, ...args], options);
}

const bench = (args: string[], env?: Record<string, string>) =>
  start("bench", args, env);

const SHORT = ["--seconds", "0.02", "--size", "1", "--rounds", "1"];

/** The processes that have the mark in their environment. */
function marked(mark: string): string[] {
  const found: string[] = [];
  for (const { name } of Deno.readDirSync("/proc")) {
    try {
      const environment = Deno.readTextFileSync(`/proc/${name}/environ`);
      const command = Deno.readTextFileSync(`/proc/${name}/cmdline`);
      if (environment.includes(mark)) found.push(command.replaceAll("\0", " "));
    } catch { /* no process, or one that has ended */ }
  }
  return found;
}

test("bench measures each server under each load, and ends them", {
  ignore,
}, async () => {
  const mark = crypto.randomUUID();
  const words = ["tcp", "udp", ...SHORT, "--json"];
  await using running = bench(words, { MARK: mark });
  const { code, stdout, stderr } = await running.finish(50);
  assertEquals([code, stderr], [0, ""]);
  assertEquals(marked(mark), []);
  const { machine, results, downloads } = JSON.parse(stdout);
  assertEquals(downloads, []);
  assertEquals(machine.versions.deno, Deno.version.deno);
  const servers = new Set(
    results.map((result: { server: string }) => result.server),
  );
  assertEquals([...servers], [
    ...["echo_tcp.ts", "C", "Node", "echo_udp.ts"],
  ]);
  assertEquals(results.length, 9 * 3);
  for (const { kind, note, messagesPerSecond, p50, p99, p999 } of results) {
    assertEquals(note, undefined);
    assertGreater(messagesPerSecond, 0);
    if (kind !== "udp") assert(0 < p50 && p50 <= p99 && p99 <= p999);
  }
});

test("bench http measures http_get beside curl, and ends the servers", {
  ignore: ignore || missing("curl") || missing("openssl"),
}, async () => {
  const mark = crypto.randomUUID();
  await using running = bench(["http", ...SHORT, "--json"], { MARK: mark });
  const { code, stdout, stderr } = await running.finish(50);
  assertEquals([code, stderr], [0, ""]);
  assertEquals(marked(mark), []);
  const { results, downloads } = JSON.parse(stdout);
  assertEquals([results.length, downloads.length], [0, 9 * 2]);
  for (const { client, seconds, note } of downloads) {
    assertMatch(client, /^(http_get\.ts|curl)$/);
    assertEquals(note, undefined);
    assertGreater(seconds, 0);
  }
});

test("bench prints tables, and leaves out what does not start", {
  ignore,
}, async () => {
  const folder = await Deno.makeTempDir();
  const failing = "#!/bin/sh\necho an error of node >&2; exit 1\n";
  for (const name of ["node", "curl", "openssl"]) {
    await Deno.writeTextFile(`${folder}/${name}`, failing, { mode: 0o755 });
  }
  const PATH = `${folder}:${Deno.env.get("PATH")}`;
  await using running = bench(SHORT, { PATH });
  const { code, stdout, stderr } = await running.finish(50);
  await Deno.remove(folder, { recursive: true });
  assertEquals([code, stderr], [0, ""]);
  const out = /^Node is left out: cannot start Node: an error of node$/m;
  assertMatch(stdout, out);
  const rate = String.raw` +[\d,.]+(/s| MB/s) \|`;
  const rows = [...stdout.matchAll(new RegExp(`^.*${rate}${rate}$`, "gm"))];
  assertEquals(rows.length, 9);
  assertMatch(stdout, /^openssl is left out: /m);
  assertMatch(stdout, /^\| to a pipe +\| +[\d.]+ s \| +\|$/m); // no curl
  assertMatch(stdout, /^\| 64 x 64 B, 5000 idle( \| +[\d.]+(\/[\d.]+){2}){2}/m);
  for (const line of stdout.split("\n")) assert(line.length <= 80, line);
});

test("bench says in one line that there is no C compiler", async () => {
  await using running = bench(SHORT, { PATH: "/nowhere" });
  const { code, stderr } = await running.finish(50);
  const why = "bench needs Linux and a C compiler";
  const complaint = `bench: cannot compile tools/load.c: ${why}\n`;
  assertEquals([code, stderr], [1, complaint]);
});

test("bench that is interrupted leaves no process and no file behind", {
  ignore,
}, async () => {
  const mark = crypto.randomUUID();
  await using running = bench([], { MARK: mark });
  await running.until(/^\| -+ \|/m); // the servers are up
  const folder = /\/tmp\/bench-\w+/;
  const folders = marked(mark).flatMap((command) =>
    command.match(folder)?.[0] ?? []
  );
  running.kill("SIGINT");
  const { code, stderr } = await running.finish(50);
  assertEquals([code, stderr], [130, ""]);
  assertEquals(marked(mark), []);
  assertGreater(folders.length, 0);
  for (const { name } of Deno.readDirSync("/tmp")) {
    assert(!folders.includes(`/tmp/${name}`), name);
  }
});

test("bench says what is wrong with its command line", async () => {
  const wrong = [
    [["--seconds", "0"], "--seconds is 0.01 or more"],
    [
      ["--rounds", "0"],
      '--rounds must be a whole number from 1 to 1000, not "0"',
    ],
    [
      ["--size", "0"],
      '--size must be a whole number from 1 to 100000, not "0"',
    ],
    [["more"], "topics are tcp, udp and http"],
    [["tcp", "tcp"], "topics are tcp, udp and http"],
  ] as const;
  for (const [args, complaint] of wrong) {
    await using running = bench([...args]);
    const { code, stdout, stderr } = await running.finish(50);
    assertEquals([code, stdout, stderr], [2, "", `bench: ${complaint}\n`]);
  }
});

test("soak prints the memory of each server, and ends them with Ctrl-C", {
  ignore: Deno.build.os !== "linux",
}, async () => {
  const mark = crypto.randomUUID();
  await using running = start("soak", ["--minutes", "1"], { MARK: mark });
  const cell = String.raw` +[1-9]\d* MiB, \d+/s \|`;
  await running.until(new RegExp(`^\\| 0 min, 0 open +\\|(${cell}){3}$`, "m"));
  running.kill("SIGINT");
  const { code, stderr } = await running.finish(50);
  assertEquals([code, stderr], [130, ""]);
  assertEquals(marked(mark), []);
});

/** Puts the load of load.c on a server that does this with what arrives. */
async function loaded(answer: (bytes: Uint8Array) => Uint8Array | null) {
  const program = await Deno.makeTempFile();
  const source = `${pathname}load.c`;
  const compiling = new Running("cc", ["-o", program, source]);
  assertEquals((await compiling.finish()).code, 0);
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  const numbers = ["1", "64", "0.02", "0"];
  await using load = new Running(program, ["tcp", `${port}`, ...numbers]);
  using conn = await listener.accept();
  const buffer = new Uint8Array(64);
  for (;;) {
    const length = await conn.read(buffer);
    const back = length && answer(buffer.subarray(0, length));
    if (!back) break;
    await conn.write(back);
  }
  conn.closeWrite().catch(() => {});
  const done = await load.finish();
  await Deno.remove(program);
  return done;
}

test("the load is content with a server that sends back what arrives", {
  ignore,
}, async () => {
  const { code, stdout, stderr } = await loaded((bytes) => bytes);
  assertEquals([code, stderr], [0, ""]);
  assertGreater(JSON.parse(stdout).messages, 0);
});

test("the load notices a changed answer, and a closed connection", {
  ignore,
}, async () => {
  const changed = await loaded((bytes) => bytes.map((byte) => byte ^ 1));
  const complaint = "what came back is not what was sent\n";
  assertEquals([changed.code, changed.stderr], [1, complaint]);
  const closed = await loaded(() => null);
  const end = "the server closed the connection\n";
  assertEquals([closed.code, closed.stderr], [1, end]);
});
