#!/usr/bin/env -S deno run --allow-run --allow-write=/tmp
/**
 * Measures http_get beside curl: the whole process, over loopback. In each
 * round, both get each load in turn, so that what else the machine does befalls
 * both.
 *
 *     deno run -A tools/bench_http.ts             a table, in some minutes
 *     deno run -A tools/bench_http.ts --json      the same for programs
 *
 * nginx serves plain, coded and https bodies, and http_load.c the chunks.
 *
 * @module
 */
import { parseArgs } from "jsr:@std/cli@^1/parse-args";
import { Failure, output, parseNumber, refuseUnknown, run } from "../utils.ts";

const ROOT = new URL("..", import.meta.url).pathname;
const PORTS = { http: 18_300, https: 18_301 }; // nginx cannot choose them

/** What both are to get; in the shell's line, GET stands for either. */
interface Load {
  name: string;
  command: string;
  url: string;
  args?: string[];
}

/** The loads, in the folder where the servers have their files. */
function loads(folder: string, port: number): Load[] {
  const { http, https } = PORTS;
  const plain = `http://127.0.0.1:${http}/zeros`;
  const secure = `https://127.0.0.1:${https}/zeros`;
  const args = ["--cacert", `${folder}/ca.pem`];
  const chunks = (mebibytes: number, size: number): Load => ({
    name: `${mebibytes} MiB in chunks of ${size} bytes`,
    command: "GET > /dev/null",
    url: `http://127.0.0.1:${port}/${mebibytes * 1024 ** 2}/${size}`,
  });
  const file = `GET -o ${folder}/out`;
  const pipe = "GET | cat > /dev/null";
  const text = `http://127.0.0.1:${http}/text`;
  return [
    { name: "1 GiB", command: "GET > /dev/null", url: plain },
    { name: "1 GiB to a pipe", command: pipe, url: plain },
    { name: "1 GiB to a file", command: file, url: plain },
    { name: "1 GiB of https to a pipe", command: pipe, url: secure, args },
    { name: "1 GiB of https to a file", command: file, url: secure, args },
    { name: "gzip", command: pipe, url: text, args: ["--compressed"] },
    chunks(1024, 1024),
    chunks(64, 100),
    chunks(64, 16),
  ];
}

/** Runs a program to its end. Throws a {@linkcode Failure} of 1. */
async function execute(program: string, ...args: string[]): Promise<void> {
  const command = new Deno.Command(program, { args, stdin: "null" });
  const { success, stderr } = await command.output().catch(() => {
    throw new Failure(1, `${program} is not installed`);
  });
  if (success) return;
  const why = new TextDecoder().decode(stderr).trim().split("\n").at(-1);
  throw new Failure(1, `${program} failed: ${why}`);
}

/** Makes what nginx serves: zeros, a text and its gzip, a certificate. */
async function prepare(folder: string): Promise<void> {
  const words = Array.from(
    { length: 4000 },
    (_, i) => (i * i % 9973).toString(36),
  );
  let text = "";
  for (let i = 1; text.length < 1e6; i = i * 48271 % 2147483647) {
    text += `${words[i % words.length]} `;
  }
  const name = `${folder}/text`;
  await Deno.writeTextFile(name, "");
  for (let i = 0; i < 200; i++) {
    await Deno.writeTextFile(name, text, { append: true });
  }
  await execute("gzip", "-k", name);
  await execute("truncate", "-s", "1G", `${folder}/zeros`);
  const key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc";
  const openssl = (args: string) => execute("openssl", ...args.split(" "));
  const authority = `${folder}/ca.pem -keyout ${folder}/ca.key`;
  await openssl(`req -x509 ${key} -subj /CN=bench -days 2 -out ${authority}`);
  const request = `${folder}/request -keyout ${folder}/key.pem`;
  await openssl(`req ${key} -subj /CN=localhost -out ${request}`);
  await Deno.writeTextFile(`${folder}/names`, "subjectAltName=IP:127.0.0.1\n");
  const by = `-CA ${folder}/ca.pem -CAkey ${folder}/ca.key -CAcreateserial`;
  const certificate = `-extfile ${folder}/names -out ${folder}/cert.pem`;
  await openssl(`x509 -req -in ${folder}/request ${by} ${certificate}`);
}

/** Starts nginx, and returns once it serves. */
async function startNginx(folder: string): Promise<AsyncDisposable> {
  const paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
  const temporary = paths.map((name) => `${name}_temp_path ${folder};`);
  const user = (await new Deno.Command("id", { args: ["-u"] }).output()).stdout;
  const isRoot = new TextDecoder().decode(user).trim() === "0";
  await Deno.writeTextFile(
    `${folder}/nginx.conf`,
    `daemon off; master_process off; pid ${folder}/pid;
    error_log stderr notice; ${isRoot ? "user root;" : ""} events {}
    http { access_log off; sendfile on; gzip_static on; ${temporary.join(" ")}
      server {
        listen 127.0.0.1:${PORTS.http}; listen 127.0.0.1:${PORTS.https} ssl;
        ssl_certificate cert.pem; ssl_certificate_key key.pem;
        root ${folder};
      } }`,
  );
  const args = ["-p", folder, "-c", `${folder}/nginx.conf`];
  return await startServer("nginx", args, "stderr", /getrlimit/);
}

/** Starts a server, and waits until it says that it serves. */
async function startServer(
  program: string,
  args: string[],
  from: "stdout" | "stderr",
  ready: RegExp,
): Promise<AsyncDisposable & { said: string }> {
  const streams = { stdin: "null", stdout: "null", stderr: "null" } as const;
  const options = { args, ...streams, [from]: "piped" };
  const child = new Deno.Command(program, options).spawn();
  let said = "";
  const reader = child[from].pipeThrough(new TextDecoderStream()).getReader();
  while (!ready.test(said)) {
    const { value, done } = await reader.read();
    if (done) throw new Failure(1, `${program} does not serve: ${said}`);
    said += value;
  }
  return {
    said,
    async [Symbol.asyncDispose]() {
      child.kill("SIGTERM");
      await reader.cancel();
      await child.status;
    },
  };
}

/** The commands that are compared, as the shell has them. */
const CLIENTS: Record<string, string> = {
  curl: "curl -sS",
  http_get: `${Deno.execPath()} run -A --no-prompt ${ROOT}http_get.ts -s`,
};

/** Gets a load, and returns the seconds that it took. */
async function measure(client: string, load: Load): Promise<number> {
  const get = [CLIENTS[client], ...load.args ?? [], load.url].join(" ");
  const shell = `set -e; ${load.command.replace("GET", get)}`;
  const started = performance.now();
  await execute("sh", "-c", shell);
  return (performance.now() - started) / 1000;
}

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1];
}

const USAGE = `bench_http: measures http_get beside curl

usage: bench_http [options]

      --rounds N              measure each load so many times (9)
      --json                  print a JSON object
  -h, --help, -V, --version   print this text, or the version
`;

function parse(args: string[]) {
  return parseArgs(args, {
    string: ["_", "rounds"],
    boolean: ["help", "version", "verbose", "json"],
    collect: ["verbose"],
    alias: { h: "help", V: "version" },
    unknown: refuseUnknown,
  });
}

async function bench(options: ReturnType<typeof parse>): Promise<void> {
  const rounds = parseNumber(options, "rounds", 9, [1, 99]);
  const folder = await Deno.makeTempDir({ dir: "/tmp" });
  try {
    const server = `${folder}/http_load`;
    await execute("cc", "-O2", "-o", server, `${ROOT}tools/http_load.c`);
    await prepare(folder);
    await using _nginx = await startNginx(folder);
    await using load = await startServer(server, [], "stdout", /\d+\n/);
    const results = [];
    for (const each of loads(folder, Number(load.said))) {
      results.push(await compare(each, rounds, options.json));
    }
    if (options.json) await output(`${JSON.stringify(results, null, 2)}\n`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Measures a load with both clients in turn, and prints a line. */
async function compare(load: Load, rounds: number, isQuiet: boolean) {
  const curl: number[] = [];
  const httpGet: number[] = [];
  for (let round = 0; round < rounds; round++) {
    curl.push(await measure("curl", load));
    httpGet.push(await measure("http_get", load));
  }
  const ratio = median(httpGet.map((seconds, i) => seconds / curl[i]));
  const seconds = [median(curl), median(httpGet)].map((n) => n.toFixed(2));
  const times = `curl ${seconds[0]} s, http_get ${seconds[1]} s`;
  const line = `${load.name.padEnd(32)} ${times}, ratio ${ratio.toFixed(2)}`;
  if (!isQuiet) await output(`${line}\n`);
  return {
    name: load.name,
    curl: median(curl),
    http_get: median(httpGet),
    ratio,
  };
}

/** Runs a command line. Returns the exit status. */
export function main(args: string[]): Promise<number> {
  return run({ name: "bench_http", usage: USAGE, parse }, args, bench);
}

if (import.meta.main) Deno.exit(await main(Deno.args));
