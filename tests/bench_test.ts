import { assert, assertEquals, assertGreater, assertMatch } from "jsr:@std/assert@^1";
import type { Result } from "../tools/bench.ts";
import { missing, ROOT, Running, test } from "./helpers.ts";

const script = (name: string) => new URL(`tools/${name}`, ROOT).pathname;

/** Starts the bench with the rights of its first line, and a mark in the environment that its processes inherit. */
function bench(mark: string, args: string[], env: Record<string, string> = {}): Running {
  const rights = Deno.readTextFileSync(script("bench.ts")).match(/--allow-\S+/g)!.slice(0, 2);
  const options = { cwd: ROOT, env: { BENCH_MARK: mark, NO_COLOR: "1", ...env } };
  return new Running(Deno.execPath(), ["run", "--no-prompt", ...rights, script("bench.ts"), ...args], options);
}

/** The processes that have the mark in their environment. */
function marked(mark: string): string[] {
  const found: string[] = [];
  for (const { name } of Deno.readDirSync("/proc")) {
    try {
      if (!/^\d+$/.test(name) || !Deno.readTextFileSync(`/proc/${name}/environ`).includes(mark)) continue;
      found.push(Deno.readTextFileSync(`/proc/${name}/cmdline`).replaceAll("\0", " "));
    } catch { /* it has ended, or is somebody else's */ }
  }
  return found;
}

test({
  name: "bench measures every server under every load, and leaves no process behind",
  ignore: Deno.build.os !== "linux" || missing("node") || missing("python3") || missing("cc"),
  async fn() {
    const mark = crypto.randomUUID();
    await using running = bench(mark, ["--seconds", "0.1", "--rounds", "3", "--json"]);
    const { code, stdout, stderr } = await running.finish(50);
    assertEquals([code, stderr], [0, ""]);
    assertEquals(marked(mark), []);
    const { machine, loader, results } = JSON.parse(stdout);
    assertEquals([machine.versions.deno, machine.cores, loader], [
      Deno.version.deno,
      navigator.hardwareConcurrency,
      "tools/load.c",
    ]);
    assert(machine.cpu && machine.os && machine.versions.node && machine.versions.python3, JSON.stringify(machine));
    assertEquals(results.length, 18);
    const without: string[] = [];
    for (const { server, count, bytes, messagesPerSecond = 0, megabytesPerSecond = 0, note } of results as Result[]) {
      if (note) without.push(`${server}, ${count} x ${bytes}: ${note}`);
      else assertGreater(messagesPerSecond, 0, `${server}, ${count} x ${bytes}`);
      assert(Math.abs(messagesPerSecond * bytes / 1e6 - megabytesPerSecond) < 0.1);
    }
    assertEquals(without, [
      "Python (lab sheet), 64 x 64: one client at a time",
      "Python (lab sheet), 8 x 65536: one client at a time",
      "Python (lab sheet), 8 x 8192: cut to 1500 bytes",
    ]);
  },
});

test({
  name: "bench leaves out what is not installed, says so, and makes the load without a C compiler",
  ignore: Deno.build.os === "windows",
  async fn() {
    await using running = bench("", ["--seconds", "0.02", "--rounds", "1"], { PATH: "/nowhere" });
    const { code, stdout, stderr } = await running.finish(50);
    assertEquals([code, stderr], [0, ""]);
    assertMatch(stdout, /^Node net is left out: node is not installed$/m);
    assertMatch(stdout, /^Python \(lab sheet\) is left out: python3 is not installed$/m);
    assertMatch(stdout, /^tools\/load\.ts may itself be the bottleneck: load\.c could not be compiled$/m);
    assertEquals(
      [...stdout.matchAll(/^\| (\S+ x \S+ \w+) +\| +[\d,]+\/s [\d,]+\.\d MB\/s \|$/gm)].map(([, load]) => load),
      [
        ...["1 x 64 B", "64 x 64 B", "8 x 64 KiB"],
        ...["1 x 64 B", "32 x 64 B", "8 x 8 KiB"],
      ],
    );
  },
});

test({
  name: "bench that is interrupted stops the servers under test, and takes away what it compiled",
  ignore: Deno.build.os !== "linux",
  async fn() {
    const mark = crypto.randomUUID();
    await using running = bench(mark, []);
    await running.until(/^\| -+ \|/m, "stdout", 30); // the servers are up, the first load is on
    const folders = marked(mark).flatMap((command) => command.match(/\/tmp\/bench-\w+/)?.[0] ?? []);
    running.kill("SIGINT");
    const { code, stderr } = await running.finish(50);
    assertEquals([code, stderr], [130, ""]);
    assertEquals(marked(mark), []);
    for (const folder of folders) assertEquals(await Deno.stat(folder).catch(() => undefined), undefined);
  },
});

test("bench says what is wrong with its command line", async () => {
  for (
    const [args, complaint] of [
      [["--seconds", "0"], "bench: --seconds must be at least 0.01\n"],
      [["--rounds", "0"], "bench: --rounds must be at least 1\n"],
    ] as const
  ) {
    await using running = bench("", [...args]);
    const { code, stdout, stderr } = await running.finish(50);
    assertEquals([code, stdout, stderr], [2, "", complaint]);
  }
});
