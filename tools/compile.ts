#!/usr/bin/env -S deno run --allow-read --allow-write --allow-run
/**
 * Makes the scripts into programs that need no Deno: `bin/echo_tcp` for this
 * machine, or with `--target` `bin/TARGET/echo_tcp` for another one. A program
 * holds Deno's runtime, its script, and the permissions that the script needs:
 * it never asks for more.
 *
 *     deno task compile
 *     deno task compile --target x86_64-pc-windows-msvc
 *
 * The runtime, denort, is downloaded once for each target. The variable
 * `DENORT_BIN` can name another one, of the same version as `deno`.
 *
 * @module
 */
import { parseArgs } from "jsr:@std/cli@^1/parse-args";
import {
  complain,
  Failure,
  output,
  reason,
  refuseUnknown,
  run,
} from "../utils.ts";

const NET = "--allow-net"; // any host: the user names it, or a peer asks
const NEAR = "--allow-sys=networkInterfaces"; // a server's address in the LAN
const WRITE = "--allow-write"; // --diagram FILE, -o FILE: the user's choice
const READ = "--allow-read"; // --cacert FILE; to rename what -o FILE wrote
const TERM = "--allow-env=TERM"; // whether the terminal has colours
const TLS = "--allow-env=TERM,DENO_TLS_CA_STORE"; // whom TLS trusts
const UDP = "--unstable-net"; // Deno's UDP and shared ports are unstable

/** What is compiled, with the permissions and the flags of each. */
export const SCRIPTS: Record<string, string[]> = {
  "daytime.ts": [NET, NEAR, WRITE, TERM, UDP],
  "http_get.ts": [NET, READ, WRITE, TLS],
  "echo_tcp.ts": [NET, NEAR, WRITE, TERM, UDP],
  "echo_udp.ts": [NET, NEAR, WRITE, TERM, UDP],
  "tools/between.ts": [NET, NEAR, WRITE, TERM, UDP],
};

/** The program's name: `echo_tcp`, of `echo_tcp.ts` or `tools/echo_tcp.ts`. */
export function programName(script: string): string {
  return script.replace(/^.*\/|\.ts$/g, "");
}

/** The platforms that Deno compiles for. */
export const TARGETS = [
  "x86_64-unknown-linux-gnu",
  "aarch64-unknown-linux-gnu",
  "x86_64-apple-darwin",
  "aarch64-apple-darwin",
  "x86_64-pc-windows-msvc",
  "aarch64-pc-windows-msvc",
];

const ROOT = new URL("..", import.meta.url);

/** Runs Deno in the project's folder. Fails with status 1. */
async function deno(what: string, ...args: string[]): Promise<void> {
  const io = { stdin: "null", stdout: "null", stderr: "piped" } as const;
  const options = { args, cwd: ROOT, env: { NO_COLOR: "1" }, ...io };
  const child = new Deno.Command(Deno.execPath(), options).spawn();
  const download = /^Download .*\/denort\b.*/m;
  let said = "";
  for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
    const isDownload = !download.test(said) && download.test(said + text);
    if (isDownload) complain("compile: downloading Deno's runtime, denort");
    said += text;
  }
  const { success } = await child.status;
  if (!success) throw new Failure(1, `cannot ${what}: ${why(said)}`);
}

/** Why Deno failed, in a line: what it says first, and the last cause. */
function why(said: string): string {
  const [report] = said.split("\nStack backtrace:");
  const causes = report.match(/^ {4}(\d+: )?(?!at ).*/gm) ?? [];
  const cause = causes.at(-1)?.replace(/^ +(\d+: )?/, ": ") ?? "";
  if (report.includes("Setting up base binary")) {
    return `Deno's runtime, denort, must be downloaded${cause}`;
  }
  const [, error = "Deno failed"] = report.match(/^error: (.*)/m) ?? [];
  return `${error}${cause}`;
}

/** Compiles a script into a folder. Returns the program's path. */
async function compile(script: string, folder: string, target: string) {
  const name = programName(script);
  const program = target.includes("windows") ? `${name}.exe` : name;
  const output = `${folder}/${program}`;
  // Without a bundle, all files of all packages would be embedded.
  const temporary = await Deno.makeTempDir();
  const bundle = `${temporary}/${name}.js`;
  const bundling = ["bundle", "--platform", "deno", "--output", bundle];
  // A code cache would be a file of a known name in a folder that every user
  // of the machine may write to.
  const flags = ["--no-config", "--no-check", "--no-code-cache"];
  const rights = ["--no-prompt", ...SCRIPTS[script]];
  const to = ["--target", target, "--output", output];
  const what = `compile ${script} for ${target}`;
  try {
    // `deno bundle` hides why a download failed; `deno cache` tells.
    await deno(`bundle ${script}`, "cache", "--no-lock", script);
    await deno(`bundle ${script}`, ...bundling, script);
    await deno(what, "compile", ...flags, ...rights, ...to, bundle);
  } finally {
    await Deno.remove(temporary, { recursive: true });
  }
  return output;
}

const USAGE = `compile: makes the scripts into programs that need no Deno

usage: deno task compile [options]

      --target TARGET  compile for this platform, into bin/TARGET
      --output DIR     put the programs into this folder (bin)
  -h, --help           print this text

targets: ${TARGETS.slice(0, 2).join(", ")},
         ${TARGETS.slice(2, 4).join(", ")},
         ${TARGETS.slice(4).join(", ")}
`;

function parse(args: string[]) {
  const options = parseArgs(args, {
    string: ["_", "target", "output"],
    boolean: ["help", "version"],
    alias: { h: "help" },
    unknown: refuseUnknown,
  });
  return { ...options, verbose: [] };
}

/** Runs a command line. Returns the exit status. */
export function main(args: string[]): Promise<number> {
  const script = { name: "compile", usage: USAGE, parse };
  return run(script, args, async (options) => {
    const { target = Deno.build.target, _: [word] } = options;
    if (word !== undefined) {
      throw new Failure(2, `unexpected argument "${word}"`);
    }
    if (!TARGETS.includes(target)) {
      const known = TARGETS.join(", ");
      throw new Failure(2, `unknown target ${target}: it is one of ${known}`);
    }
    const usual = options.target ? `bin/${target}` : "bin";
    const wanted = options.output ?? new URL(usual, ROOT);
    await Deno.mkdir(wanted, { recursive: true }).catch((error) => {
      throw new Failure(1, `cannot make ${wanted}: ${reason(error)}`, error);
    });
    const folder = await Deno.realPath(wanted);
    const scripts = Object.keys(SCRIPTS);
    // One after the other: the first one may install a bundler and a runtime.
    for (const script of scripts) {
      const program = await compile(script, folder, target);
      const { size } = await Deno.stat(program);
      await output(`${program} ${(size / 1e6).toFixed(1)} MB\n`);
    }
  });
}

if (import.meta.main) Deno.exit(await main(Deno.args));
