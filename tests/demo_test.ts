import {
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "jsr:@std/assert@^1";
import { demonstrate } from "../tools/demo.ts";
import { ROOT, Running, test } from "./helpers.ts";

test("the demo shows each exchange, and which scripts work", async () => {
  const args = ["task", "--quiet", "demo"];
  const running = new Running(Deno.execPath(), args, { cwd: ROOT });
  const { code, stdout, stderr } = await running.finish(30);
  assertEquals(code, 0, stderr);
  const names = ["daytime", "http_get", "echo_tcp", "echo_udp"];
  const last = stdout.trimEnd().split("\n").slice(-4);
  assertEquals(last, names.map((name) => `ok ${name}`));
  for (const shown of ["Bonjour !\n", "<h1>It works</h1>", "-UTC"]) {
    assertStringIncludes(stdout, shown);
  }
  const echo =
    /> 10 bytes "Bonjour !\\n"\n.*half-closed.*\n.*< 10 bytes "Bonjour !\\n"/;
  assertMatch(stderr, echo);
  assertMatch(stderr, /\* body: chunked/);
  const longest = Math.max(...stdout.split("\n").map(({ length }) => length));
  assertEquals(longest <= 80, true, `a line has ${longest} columns`);
  // deno-lint-ignore no-control-regex
  assertEquals(/\x1b/.test(stdout + stderr), false, "colours, but no terminal");
});

test("the demo goes on after a failure, and names it", async () => {
  const lines: string[] = [];
  const { log, error } = console;
  console.log = (line = "") => lines.push(line.replaceAll("%c", ""));
  console.error = console.log;
  const exercise = { title: "", args: "" };
  const fail = () => Promise.reject(new Error("Nobody home"));
  const succeed = () => Promise.resolve(0);
  try {
    const all = [
      { ...exercise, script: "one", run: fail },
      { ...exercise, script: "two", run: succeed },
    ];
    const { signal } = new AbortController();
    assertEquals(await demonstrate(all, signal), false);
  } finally {
    Object.assign(console, { log, error });
  }
  assertEquals(lines.slice(-2), ["FAILED one: nobody home", "ok two"]);
});
