#!/usr/bin/env -S deno run -A
/**
 * Examines an echo, daytime or HTTP program, whatever it is written in, for
 * the faults that the lessons teach: what was sent, what came, what should
 * have come, and where that is explained. docs/grading.md shows how.
 *
 * @module
 */
import { parseArgs } from "jsr:@std/cli@^1/parse-args";
import { aborted, counted, Failure, output, parsePort } from "../utils.ts";
import { reason, refuseUnknown, resolve, run } from "../utils.ts";
import { DAYTIME_TCP, DAYTIME_UDP, HTTP_GET } from "./check_clients.ts";
import { type Case, Fault, Program, within } from "./check_program.ts";
import { DAYTIME_SERVER, ECHO_TCP, ECHO_UDP } from "./check_servers.ts";

/** What can be examined. */
export const EXAMS: Record<string, Case[]> = {
  ...{ echo_tcp: ECHO_TCP, echo_udp: ECHO_UDP, daytime: DAYTIME_SERVER },
  ...{ "daytime client": DAYTIME_TCP, "daytime client over UDP": DAYTIME_UDP },
  http_get: HTTP_GET,
};

/** What became of a case. */
export type Result = Omit<Case, "examine"> & {
  verdict: "ok" | Fault["verdict"];
  sent?: string;
  came?: string;
  expected?: string;
  ended?: string; // how the program ended, if by itself
  printed: string; // what the program printed
};

/** Where a server is, or the command that starts a program. */
export type Target = ConstructorParameters<typeof Program>;

/** Examines a program in one case, for 5 s at most. */
export async function examine(
  { examine, ...about }: Case,
  target: Target,
  signal: AbortSignal,
): Promise<Result> {
  const program = new Program(...target);
  const judge = async () => {
    try {
      await examine(program);
    } catch (error) {
      if (error instanceof Fault || error instanceof Failure) return error;
      return new Fault("", reason(error), about.asks);
    }
    return "ok";
  };
  const judging = within(judge(), 5000);
  const late = new Fault("", "no end of the case within 5 s", about.asks);
  const fault = await Promise.race([judging, aborted(signal)])
    .finally(() => program.end()) ?? late;
  const { printed, ending } = await program.end();
  if (fault instanceof Failure) throw fault;
  if (fault === "ok") return { ...about, verdict: "ok", printed };
  const { verdict, sent, came, expected } = fault as Fault;
  const ended = ending || undefined;
  return { ...about, verdict, sent, came, expected, ended, printed };
}

/** A result for people. */
function toText(result: Result, shows: boolean): string {
  const { verdict, name, asks, rule, came, lesson } = result;
  let text = `${verdict.padEnd(7)} ${name}: ${asks} (${rule})\n`;
  const add = (what: string, is?: string) => {
    if (is) text += `        ${what.padEnd(9)} ${is}\n`;
  };
  if (verdict === "skipped") add("because", came);
  if (verdict === "FAILED" || verdict === "warning") {
    for (const what of ["sent", "came", "expected", "ended"] as const) {
      add(what, result[what]);
    }
    const [page, heading] = lesson.split(": ");
    add("lesson", `docs/${page}.md, "${heading}"`);
  }
  if (shows) text += result.printed.trimEnd().replace(/^(?=.)/gm, "        | ");
  return text.replace(/\n?$/, "\n");
}

/** A result for programs that read TAP, version 14. */
function toTap(result: Result, number: number): string {
  const { verdict, name, asks, printed: _, ...rest } = result;
  const not = verdict === "FAILED" || verdict === "warning" ? "not " : "";
  const line = `${not}ok ${number} - ${name}: ${asks}`;
  if (verdict === "ok") return `${line}\n`;
  if (verdict === "skipped") return `${line} # SKIP ${rest.came}\n`;
  const yaml = Object.entries(rest).filter(([, value]) => value)
    .map(([key, value]) => `  ${key}: ${JSON.stringify(value)}\n`).join("");
  const todo = verdict === "warning" ? " # TODO a warning only" : "";
  return `${line}${todo}\n  ---\n${yaml}  ...\n`;
}

const USAGE = `check: examines an echo, daytime or HTTP program

usage: check [options] EXAM HOST PORT      a server that is running
       check [options] EXAM -- COMMAND...  a program, started for each case

EXAM is echo_tcp, echo_udp, daytime or http_get. In the words of COMMAND, {port}
is where a server has to listen; {host} with {port}, or {url}, is what a client
has to ask. A daytime program whose command has {host} is examined as a client.

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
  const command = args.slice(end + 1);
  const given = parseArgs(args.slice(0, end), {
    string: ["_", "only"],
    boolean: ["udp", "list", "json", "tap", "verbose", "help", "version"],
    collect: ["only"],
    alias: { u: "udp", v: "verbose", h: "help", V: "version" },
    unknown: refuseUnknown,
  });
  return { ...given, command, verbose: [], shows: given.verbose };
}

type Options = ReturnType<typeof parse>;

/** The cases that were asked for. */
function choose({ _, only, udp, command }: Options): Case[] {
  const isClient = command.some((word) => word.includes("{host}"));
  let exam = `${_[0]}`;
  if (exam === "daytime" && isClient) exam += " client";
  if (exam === "daytime client" && udp) exam += " over UDP";
  if (!Object.hasOwn(EXAMS, exam)) throw new Failure(2, "no such EXAM");
  const cases = EXAMS[exam].filter(({ name }) =>
    only.length === 0 || only.includes(name)
  );
  if (cases.length > 0) return cases;
  throw new Failure(2, `${exam} has no case ${only}: --list lists all`);
}

/** Where the server is; or, for a command, where it will be. */
async function locate(options: Options, signal: AbortSignal): Promise<Target> {
  const [exam, host, port] = options._.map(String);
  const { command } = options;
  if (command.length > 0) return ["127.0.0.1", 0, command];
  if (!port || exam === "http_get") {
    throw new Failure(2, `${exam} needs -- and a command: see --help`);
  }
  const all = await resolve({ hostname: host, port: 0, signal });
  const hostname = all.find((address) => !address.includes(":")) ?? all[0];
  return [hostname, parsePort(port), []];
}

async function work(options: Options, signal: AbortSignal): Promise<void> {
  const { json, tap, list, shows } = options;
  const cases = choose(options);
  if (list) {
    const lines = cases.map(({ name, asks, rule }) =>
      `${name}: ${asks} (${rule})\n`
    );
    return await output(lines.join(""));
  }
  const target = await locate(options, signal);
  const results: Result[] = [];
  if (tap) await output(`TAP version 14\n1..${cases.length}\n`);
  for (const one of cases) {
    const result = await examine(one, target, signal);
    results.push(result);
    if (tap) await output(toTap(result, results.length));
    else if (!json) await output(toText(result, shows));
  }
  const count = (verdict: string) =>
    results.filter((result) => result.verdict === verdict).length;
  const points = count("ok");
  const of = points + count("FAILED");
  const more = `${counted(count("warning"), "warning")}, ` +
    `${count("skipped")} skipped`;
  if (json) await output(`${JSON.stringify({ points, of, results })}\n`);
  else if (!tap) await output(`${points} of ${of} points, ${more}\n`);
  if (points < of) throw new Failure(1, "");
}

/** Runs a command line. Returns the exit status. */
export function main(args: string[]): Promise<number> {
  return run({ name: "check", usage: USAGE }, () => parse(args), work);
}

if (import.meta.main) Deno.exit(await main(Deno.args));
