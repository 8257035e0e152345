#!/usr/bin/env -S deno run -A
/**
 * Examines an echo, daytime or HTTP program, whatever it is written in, for
 * the faults that the lessons teach: what was sent, what came, what should
 * have come, and where that is explained. docs/grading.md shows how.
 *
 * @module
 */
import { parseArgs } from "jsr:@std/cli@^1/parse-args";
import { setTimeout as delay } from "node:timers/promises";
import { aborted, counted, Failure, output, parsePort } from "../utils.ts";
import { reason, refuseUnknown, resolveOne, run } from "../utils.ts";
import { type Case, EXAMS } from "./check_cases.ts";
import { Fault, Program, within } from "./check_program.ts";

/** What became of a case. */
export interface Result extends Case {
  verdict: "ok" | Fault["verdict"];
  sent?: string;
  came?: string;
  expected?: string;
  ended?: string; // how the program ended, if by itself
  printed: string; // by the program
}

/** Where a server is, or port 0 and the command that is to be run. */
export type Target = [hostname: string, port: number, command: string[]];

/** Tries a case, for 5 s at most. */
export async function tryCase(
  one: Case,
  target: Target,
  signal: AbortSignal,
): Promise<Result> {
  const program = new Program(one.kind, ...target);
  const examining = program.start().then(() => one.examine(program));
  const done = Promise.race([examining.then(() => true), aborted(signal)]);
  let fault: Fault | undefined;
  try {
    if (!await within(done, 5000)) throw new Fault("", "no end for 5 s");
  } catch (error) {
    if (error instanceof Failure || signal.aborted) throw error;
    fault = error instanceof Fault ? error : new Fault("", reason(error));
    await delay(200); // the program may be about to end
  } finally {
    await program.end();
  }
  return { ...one, verdict: "ok", ...fault, ...await program.end() };
}

function title({ name, asks, rule }: Case): string {
  return `${name}: ${asks} (${rule})`;
}

/** What went wrong, as pairs: `sent` and what was sent, and so on. */
function details(result: Result): [string, string][] {
  const { verdict, asks, sent, came, expected, ended, lesson } = result;
  if (verdict === "ok") return [];
  const told = { sent, came, expected: expected || asks, ended };
  return Object.entries({ ...told, lesson: `docs/${lesson}` })
    .flatMap(([what, text]) => text ? [[what, text]] : []);
}

/** A result for people. */
function toText(result: Result): string {
  const lines = details(result)
    .map(([what, text]) => `        ${what.padEnd(9)} ${text}\n`);
  return `${result.verdict.padEnd(7)} ${title(result)}\n${lines.join("")}`;
}

const NOTES = { ok: "", FAILED: "", warning: " # TODO", skipped: " # SKIP" };

/** A result for programs that read TAP, version 14. */
function toTap(result: Result, number: number): string {
  const { verdict } = result;
  const line = `ok ${number} - ${title(result)}${NOTES[verdict]}\n`;
  const lines = details(result)
    .map(([what, text]) => `  ${what}: ${JSON.stringify(text)}\n`);
  if (verdict === "ok" || verdict === "skipped") return line;
  return `not ${line}  ---\n${lines.join("")}  ...\n`;
}

const USAGE = `check: examines an echo, daytime or HTTP program

usage: check [options] EXAM HOST PORT      a server that is running
       check [options] EXAM -- COMMAND...  a program, started for each case

EXAM is echo_tcp, echo_udp, daytime or http_get. In COMMAND, {port} is where a
server has to listen; {host} and {port}, or {url}, is what a client has to ask.
A daytime program whose command has {host} is examined as a client.

  -u, --udp                   the daytime client asks over UDP
      --only CASE             try this case only (repeatable)
      --list                  list the cases
      --json                  print one JSON object
      --tap                   print TAP, the Test Anything Protocol
  -v, --verbose               show what the program prints
  -h, --help, -V, --version   print this text, or the version

examples: check echo_tcp localhost 7777
          check echo_tcp -- python3 my_server.py {port}
          check http_get -- python3 my_client.py {url}
`;

function parse(args: string[]) {
  const end = args.includes("--") ? args.indexOf("--") : args.length;
  const { verbose, ...given } = parseArgs(args.slice(0, end), {
    string: ["_", "only"],
    boolean: ["udp", "list", "json", "tap", "verbose", "help", "version"],
    collect: ["only"],
    alias: { u: "udp", v: "verbose", h: "help", V: "version" },
    unknown: refuseUnknown,
  });
  const command = args.slice(end + 1);
  return { ...given, command, shows: verbose, verbose: [] };
}

type Options = ReturnType<typeof parse>;

/** The cases that were asked for. */
function choose({ _, only, udp, command }: Options): Case[] {
  const isClient = command.some((word) => word.includes("{host}"));
  let exam = `${_[0] ?? ""}`;
  if (exam === "daytime" && isClient) exam += " client";
  if (exam === "daytime client" && udp) exam += " over UDP";
  if (!Object.hasOwn(EXAMS, exam)) throw new Failure(2, `"${exam}" is no EXAM`);
  const cases = EXAMS[exam];
  const odd = only.find((name) => !cases.some((one) => one.name === name));
  if (odd) throw new Failure(2, `${exam} has no case "${odd}": try --list`);
  return cases.filter(({ name }) => !only[0] || only.includes(name));
}

/** Where the server is or, for a command, will be. */
async function locate(options: Options, signal: AbortSignal): Promise<Target> {
  const [exam, host, port, ...more] = options._.map(String);
  if (options.command[0]) return ["127.0.0.1", 0, options.command];
  if (!port || more[0] || exam === "http_get") {
    throw new Failure(2, `${exam} needs a command, or HOST PORT: see --help`);
  }
  const hostname = await resolveOne({ hostname: host, port: 0, signal });
  return [hostname, parsePort(port), []];
}

async function work(options: Options, signal: AbortSignal): Promise<void> {
  const { json, tap, list, shows } = options;
  const cases = choose(options);
  if (list) return await output(`${cases.map(title).join("\n")}\n`);
  const target = await locate(options, signal);
  const results: Result[] = [];
  if (tap) await output(`TAP version 14\n1..${cases.length}\n`);
  for (const one of cases) {
    const result = await tryCase(one, target, signal);
    results.push(result);
    if (tap) await output(toTap(result, results.length));
    else if (!json) await output(toText(result));
    if (shows) console.error(result.printed);
  }
  const count = (verdict: string) =>
    results.filter((result) => result.verdict === verdict).length;
  const points = count("ok");
  const of = points + count("FAILED");
  const rest = `${counted(count("warning"), "warning")}, ` +
    `${count("skipped")} skipped`;
  if (json) await output(`${JSON.stringify({ points, of, results })}\n`);
  else if (!tap) await output(`${points} of ${of} points, ${rest}\n`);
  if (points < of) throw new Failure(1, "");
}

/** Runs a command line. Returns the exit status. */
export function main(args: string[]): Promise<number> {
  return run({ name: "check", usage: USAGE, parse }, args, work);
}

if (import.meta.main) Deno.exit(await main(Deno.args));
