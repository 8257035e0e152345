/** The `test` task ends, whatever hangs. */
import { assertEquals } from "jsr:@std/assert@^1";
import { run } from "../tools/test.ts";
import { repeat, Running, soon, test } from "./helpers.ts";

const ignore = Deno.build.os === "windows";

/** Never ends, nor does its child, whose number it writes into a file. */
const HANGS = `
  const args = ["eval", "setInterval(() => {}, 1000)"];
  const child = new Deno.Command(Deno.execPath(), { args }).spawn();
  Deno.writeTextFileSync(Deno.args[0], child.pid + "\\n");
  for (;;);`;

test("the test task ends what hangs, with all that it started", {
  ignore,
}, async () => {
  const file = await Deno.makeTempFile();
  const stop = new AbortController();
  const steps = [
    ["eval", "0"],
    ["eval", HANGS, file],
    ["eval", "Deno.exit(9)"],
  ];
  const running = run(steps, stop.signal);
  let pid = "";
  const read = async () => {
    pid = await Deno.readTextFile(file);
  };
  const seen = () => pid;
  await repeat(read, () => pid.endsWith("\n"), "a number in the file", {
    seen,
  });
  stop.abort();
  assertEquals(await soon(running, "the end of the task"), 1);
  let isOver = false;
  const look = async () => {
    const { code } = await new Running("kill", ["-0", pid.trim()]).finish();
    isOver = code !== 0;
  };
  await repeat(look, () => isOver, "the end of the child");
  await Deno.remove(file);
});

test("the test task ends with the status of what fails first", async () => {
  const steps = ["0", "Deno.exit(9)", "Deno.exit(8)"];
  const commands = steps.map((code) => ["eval", code]);
  assertEquals(await run(commands, new AbortController().signal), 9);
});

test("the test task runs nothing once it was told to end", async () => {
  assertEquals(await run([["eval", "Deno.exit(9)"]], AbortSignal.abort()), 1);
});
