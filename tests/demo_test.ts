import {
  assertEquals,
  assertMatch,
  assertStringIncludes,
} from "jsr:@std/assert@^1";
import { type Exercise, main } from "../demo.ts";
import { ROOT, Running, test } from "./helpers.ts";

const demo = (options: Deno.CommandOptions = {}) =>
  new Running(Deno.execPath(), ["task", "--quiet", "demo"], {
    cwd: ROOT,
    ...options,
  });

test("the demo runs every exercise, shows each exchange, and ends with a line a script", async () => {
  const { code, stdout, stderr } = await demo().finish(30);
  assertEquals(code, 0, stderr);
  assertEquals(stdout.trimEnd().split("\n").slice(-4), [
    "ok daytime",
    "ok http_get",
    "ok echo_tcp",
    "ok echo_udp",
  ]);
  for (const shown of ["Bonjour !", "<h1>It works</h1>", "-UTC"]) {
    assertStringIncludes(stdout, shown);
  }
  assertMatch(
    stderr,
    /> 10 bytes "Bonjour !\\n"\n.*half-closed.*\n.*< 10 bytes "Bonjour !\\n"/,
  );
  assertMatch(stderr, /\* body: chunked/);
});

test("the demo is plain where its output is no terminal", async () => {
  const { stdout, stderr } = await demo().finish(30);
  // deno-lint-ignore no-control-regex
  assertEquals(
    (stdout + stderr.replace(/^.*Task.*\n/, "")).match(/\x1b/),
    null,
  );
});

test("the demo goes on after an exercise that failed, names it, and ends with 1", async () => {
  const lines: string[] = [], log = console.log;
  console.log = (line: string) => lines.push(line.replaceAll("%c", ""));
  try {
    const list = () => [
      ["one", "", () => Promise.reject(new Error("Nobody home"))] as Exercise,
      ["two", "", () => Promise.resolve()] as Exercise,
    ];
    assertEquals(await main([], list), 1);
  } finally {
    console.log = log;
  }
  assertEquals(lines.slice(-2), ["FAILED one: nobody home", "ok two"]);
});
