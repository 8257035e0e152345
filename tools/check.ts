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
import { reason, refuseUnknown, resolve, run } from "../utils.ts";
import { type Case, EXAMS } from "./check_cases.ts";
import { Fault, Program, within } from "./check_program.ts";

/** What became of a case. */
export interface Result extends Omit<Case, "examine"> {
  verdict: "ok" | Fault["verdict"];
  sent?: string;
  came?: string;
  expected?: string;
  ended?: string; // how the program ended, if by itself
  printed: string; // by the program
}

/** What to examine: what {@linkcode Program} is made of. */
export type Target = ConstructorParameters<typeof Program>;

/** Examines a program; throws a {@linkcode Fault} or the signal's reason. */
async function judge(
  examine: Case["examine"],
  program: Program,
  signal: AbortSignal,
): Promise<void> {
  const judging = examine(program);
  const bounded = async () => {
    const ready = Promise.race([program.ready.promise, judging]);
    const isReady = await within(ready.then(() => true), 5000);
    if (!isReady) throw new Fault("", "nothing for 5 s", "it listens, or asks");
    const isDone = await within(judging.then(() => true), 5000);
    if (!isDone) throw new Fault("", "the case did not end within 5 s");
  };
  await Promise.race([bounded(), aborted(signal)]);
}

/** Tries a case: the program has 5 s to get ready, and then 5 s. */
export async function tryCase(
  { examine, ...about }: Case,
  target: Target,
  signal: AbortSignal,
): Promise<Result> {
  const program = new Program(...target);
  let fault: Fault | undefined;
  try {
    await judge(examine, program, signal);
  } catch (error) {
    if (error instanceof Failure || signal.aborted) throw error;
    fault = error instanceof Fault ? error : new Fault("", reason(error));
    await delay(200); // the program may be about to end
  } finally {
    await program.end();
  }
  const { verdict = "ok", sent, came, expected } = fault ?? {};
  const end = await program.end();
  return { ...about, verdict, sent, came, expected, ...end };
}

const isBad = ({ verdict }: Result) => /FAILED|warning/.test(verdict);

/** A result for people. */
function toText(result: Result): string {
  const { verdict, name, asks, rule, lesson, sent, came } = result;
  const line = `${verdict.padEnd(7)} ${name}: ${asks} (${rule})\n`;
  if (verdict === "skipped") return `${line}        because   ${came}\n`;
  if (!isBad(result)) return line;
  const { expected, ended } = result;
  const told = { sent, came, expected, ended, lesson: `docs/${lesson}` };
  return line + Object.entries(told).filter(([, text]) => text)
    .map(([what, text]) => `        ${what.padEnd(9)} ${text}\n`).join("");
}

/** A result for programs that read TAP, version 14. */
function toTap(result: Result, number: number): string {
  const { verdict, name, asks, printed: _, ...rest } = result;
  const line = `ok ${number} - ${name}: ${asks}`;
  if (verdict === "skipped") return `${line} # SKIP ${rest.came}\n`;
  if (!isBad(result)) return `${line}\n`;
  const todo = verdict === "warning" ? " # TODO a warning only" : "";
  const yaml = Object.entries(rest).filter(([, text]) => text)
    .map(([key, text]) => `  ${key}: ${JSON.stringify(text)}\n`).join("");
  return `not ${line}${todo}\n  ---\n${yaml}  ...\n`;
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
  const names = EXAMS[exam].map(({ name }) => name);
  const odd = only.find((name) => !names.includes(name));
  if (odd) throw new Failure(2, `${exam} has no case "${odd}": try --list`);
  const isWanted = ({ name }: Case) => !only[0] || only.includes(name);
  return EXAMS[exam].filter(isWanted);
}

/** Where the server is or, for a command, will be. */
async function locate(options: Options, signal: AbortSignal): Promise<Target> {
  const [exam, host, port, ...more] = options._.map(String);
  if (options.command[0]) return ["127.0.0.1", 0, options.command];
  if (!port || more[0] || exam === "http_get") {
    throw new Failure(2, `${exam} needs a command, or HOST PORT: see --help`);
  }
  const all = await resolve({ hostname: host, port: 0, signal });
  const hostname = all.find((address) => !address.includes(":")) ?? all[0];
  return [hostname, parsePort(port), []];
}

async function work(options: Options, signal: AbortSignal): Promise<void> {
  const { json, tap, list, shows } = options;
  const cases = choose(options);
  if (list) return await output(cases.map(toLine).join(""));
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

function toLine({ name, asks, rule }: Case): string {
  return `${name}: ${asks} (${rule})\n`;
}

/** Runs a command line. Returns the exit status. */
export function main(args: string[]): Promise<number> {
  return run({ name: "check", usage: USAGE, parse }, args, work);
}

if (import.meta.main) Deno.exit(await main(Deno.args));
