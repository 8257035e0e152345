/**
 * Checks the form and the types of the code, then runs the tests. After ten
 * minutes, whatever hangs is ended, with the processes that it started.
 *
 * @module
 */
const MINUTE = 60_000;
const COMMANDS = [
  ["fmt", "--check"],
  ["lint"],
  ["check"],
  ["test", "-A", "--quiet", "--parallel", "tests/"],
];
const WINDOWS = Deno.build.os === "windows";

/** Ends a process, and those that it started. */
function end(pid: number): void {
  if (WINDOWS) {
    const args = ["/f", "/t", "/pid", `${pid}`];
    const io = { stdout: "null", stderr: "null" } as const;
    new Deno.Command("taskkill", { args, ...io }).outputSync();
    return;
  }
  try {
    Deno.kill(-pid, "SIGKILL"); // its process group
  } catch { /* all of them have ended */ }
}

/**
 * Runs Deno with each of these command lines, until one fails. Returns its exit
 * status, or 1 when the signal aborts.
 */
export async function run(
  commands: string[][],
  signal: AbortSignal,
): Promise<number> {
  for (const args of commands) {
    if (signal.aborted) return 1;
    // On Windows a detached process would have no console.
    const options = { args, stdin: "null", detached: !WINDOWS } as const;
    const child = new Deno.Command(Deno.execPath(), options).spawn();
    const abort = () => end(child.pid);
    signal.addEventListener("abort", abort);
    const { code } = await child.status;
    signal.removeEventListener("abort", abort);
    end(child.pid); // what it left behind
    if (signal.aborted) return 1;
    if (code !== 0) return code;
  }
  return 0;
}

if (import.meta.main) {
  const stop = new AbortController();
  const signals: Deno.Signal[] = ["SIGINT"];
  if (!WINDOWS) signals.push("SIGTERM", "SIGHUP");
  for (const signal of signals) {
    Deno.addSignalListener(signal, () => stop.abort());
  }
  const late = () => {
    console.error("test: not done within 10 minutes");
    stop.abort();
  };
  Deno.unrefTimer(setTimeout(late, 10 * MINUTE));
  Deno.exit(await run(COMMANDS, stop.signal));
}
