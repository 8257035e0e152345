#!/usr/bin/env -S deno run --allow-read --allow-write --allow-run
/**
 * Makes the scripts into programs that need no Deno: `bin/echo_tcp` for this machine, or with `--target`
 * `bin/TARGET/echo_tcp` for another one. A program carries Deno's runtime, its script, and the rights that the script
 * needs, no more: nobody is asked for anything when it runs.
 *
 *     deno task compile
 *     deno task compile --target x86_64-pc-windows-msvc
 *
 * The runtime is downloaded once for each target, unless the variable `DENORT_BIN` names the file of a `denort` of the
 * same version as the `deno` that compiles.
 *
 * @module
 */
import { Failure, run, say } from "../utils.ts";

const NET = "--allow-net"; // any host: the user names it, and a UDP server answers whoever asks
const NEAR = "--allow-sys=networkInterfaces"; // the address at which the local network finds a server
const WRITE = "--allow-write"; // --diagram FILE, and -o FILE: the user names the file
const READ = "--allow-read"; // --cacert FILE; and renaming what -o FILE has written reads it
const STORE = "--allow-env=DENO_TLS_CA_STORE"; // which authorities TLS trusts
const UDP = "--unstable-net"; // Deno's UDP, and its ports shared by processes, are unstable

/** What each script is allowed, and the unstable parts of Deno that it uses. */
export const SCRIPTS: Record<string, string[]> = {
  daytime: [NET, NEAR, WRITE, UDP],
  http_get: [NET, READ, WRITE, STORE],
  echo_tcp: [NET, NEAR, WRITE, UDP],
  echo_udp: [NET, NEAR, WRITE, UDP],
};

/** The platforms that Deno compiles for. */
export const TARGETS = [
  "x86_64-unknown-linux-gnu",
  "aarch64-unknown-linux-gnu",
  "x86_64-apple-darwin",
  "aarch64-apple-darwin",
  "x86_64-pc-windows-msvc",
];

const ROOT = new URL("..", import.meta.url);

/** Runs this same Deno in the project's root, where its configuration is. Returns whether all went well. */
async function deno(
  args: string[],
  stderr: "inherit" | "null",
): Promise<boolean> {
  const command = new Deno.Command(Deno.execPath(), {
    args,
    cwd: ROOT,
    stdin: "null",
    stdout: "null",
    stderr,
  });
  return (await command.output()).success;
}

/** Compiles a script into a folder, given in full. Returns the program's path. Throws a {@linkcode Failure} of 1. */
async function compile(
  name: string,
  folder: string,
  target = Deno.build.target,
): Promise<string> {
  const program = `${folder}/${name}${
      target.includes("windows") ? ".exe" : ""
    }`,
    bundle = `${folder}/${name}.js`;
  // A bundle has the few functions that are used of a package; without it, all of the package would be embedded.
  const bundled = await deno([
    "bundle",
    "--platform",
    "deno",
    "--output",
    bundle,
    `${name}.ts`,
  ], "null");
  if (!bundled) {
    say(
      `${name}: no bundle can be made, so that whole packages are embedded`,
      console.error,
    );
  }
  try {
    const source = bundled
      ? ["--no-config", bundle]
      : ["--no-check", `${name}.ts`];
    // No code cache: it would be a file of a known name in a folder that every user of the machine may write to.
    const options = [
      "--quiet",
      "--no-prompt",
      "--no-code-cache",
      "--target",
      target,
      "--output",
      program,
    ];
    const compiled = await deno([
      "compile",
      ...options,
      ...SCRIPTS[name],
      ...source,
    ], "inherit");
    if (!compiled) throw new Failure(1, `cannot compile ${name}`);
  } finally {
    if (bundled) await Deno.remove(bundle);
  }
  return program;
}

const USAGE = `compile: makes the scripts into programs that need no Deno

usage: deno task compile [options]

      --target TARGET  compile for this platform, into bin/TARGET (this machine's, into bin)
      --output DIR     put the programs into this folder
  -h, --help           print this text
  -V, --version        print the version

targets: ${TARGETS.join(", ")}

exit status: 0 done, 1 cannot compile, 2 usage
`;

/** Runs a command line. Returns the exit status. */
export function main(args: string[]): Promise<number> {
  const command = { name: "compile", usage: USAGE, words: 0 };
  return run<{ target?: string; output?: string }>(
    command,
    args,
    async ({ target, output }) => {
      if (target && !TARGETS.includes(target)) {
        throw new Failure(
          2,
          `unknown target ${target}: it is one of ${TARGETS.join(", ")}`,
        );
      }
      const wanted = output ?? new URL(target ? `bin/${target}` : "bin", ROOT);
      await Deno.mkdir(wanted, { recursive: true });
      const folder = await Deno.realPath(wanted);
      for (const name of Object.keys(SCRIPTS)) {
        const program = await compile(name, folder, target);
        const { size } = await Deno.stat(program);
        say(`${program} ${(size / 1e6).toFixed(1)} MB`);
      }
    },
  );
}

if (import.meta.main) Deno.exit(await main(Deno.args));
