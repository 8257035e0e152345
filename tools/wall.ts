#!/usr/bin/env -S deno run -A
/**
 * The wall of echo servers: examines those that people start from, as far as
 * they are installed here, and writes docs/wall.md.
 *
 *     deno task wall
 *
 * @module
 */
import { EXAMS } from "./check_cases.ts";
import { type Result, tryCase } from "./check.ts";

const ROOT = new URL("..", import.meta.url).pathname;
const WORK = Deno.makeTempDirSync({ prefix: "wall" });

const stop = new AbortController(); // at Ctrl-C

/** A server of the wall. In its words, {wall} is tools/wall, {work} is WORK. */
interface Entrant {
  name: string;
  source: string; // where the pattern is documented
  tool: string; // the program that has to be installed
  version?: string; // what prints its version (the tool with --version)
  build?: string;
  command: string;
}

const PYTHON = "https://docs.python.org/3/library/";
const SOCAT = "[socat(1)](https://manpages.debian.org/socat)";
const NCAT = "[ncat(1)](https://manpages.debian.org/ncat)";
const OURS = "[this collection](../README.md)";
const SHEET = "[the lessons](README.md)";

const TCP: Entrant[] = [
  {
    name: "echo_tcp.ts",
    source: OURS,
    tool: "deno",
    command: "deno run -A echo_tcp.ts --port {port}",
  },
  {
    name: "naive_echo_tcp.ts",
    source: "[its lesson](echo_tcp.md)",
    tool: "deno",
    command: "deno run -A {work}/naive_echo_tcp.ts {port}",
  },
  {
    name: "Deno, pipeTo",
    source: "[Deno](https://docs.deno.com/examples/tcp_echo_server/)",
    tool: "deno",
    command: "deno run -A {wall}/deno_pipe.ts {port}",
  },
  {
    name: "Node, socket.pipe(socket)",
    source: "[Node](https://nodejs.org/api/net.html)",
    tool: "node",
    command: "node {wall}/node_net.mjs {port}",
  },
  {
    name: "Python, the lab sheet",
    source: SHEET,
    tool: "python3",
    command: "python3 {work}/server.py {port}",
  },
  {
    name: "Python, socket",
    source: `[Python](${PYTHON}socket.html#example)`,
    tool: "python3",
    command: "python3 {wall}/python_socket.py {port}",
  },
  {
    name: "Python, asyncio",
    source: `[Python](${PYTHON}asyncio-stream.html#examples)`,
    tool: "python3",
    command: "python3 {wall}/python_asyncio.py {port}",
  },
  {
    name: "Python, selectors",
    source: `[Python](${PYTHON}selectors.html#examples)`,
    tool: "python3",
    command: "python3 {wall}/python_selectors.py {port}",
  },
  {
    name: "Python, socketserver",
    source: `[Python](${PYTHON}socketserver.html#asynchronous-mixins)`,
    tool: "python3",
    command: "python3 {wall}/python_socketserver.py {port}",
  },
  {
    name: "Python, socketserver with a loop",
    source: "common practice",
    tool: "python3",
    command: "python3 {wall}/python_socketserver_loop.py {port}",
  },
  {
    name: "Java, readLine",
    source: "[Oracle](https://docs.oracle.com/javase/tutorial/networking/)",
    tool: "javac",
    build: "javac -d {work} {wall}/JavaEcho.java",
    command: "java -Xshare:auto -cp {work} JavaEcho {port}",
  },
  {
    name: "Go, io.Copy",
    source: "[Go](https://pkg.go.dev/net#example-Listener)",
    tool: "go",
    version: "go version",
    build: "go build -o {work}/go_net {wall}/go_net.go",
    command: "{work}/go_net {port}",
  },
  {
    name: "Rust, io::copy",
    source: "[Rust](https://doc.rust-lang.org/std/net/struct.TcpListener.html)",
    tool: "rustc",
    build: "rustc -O -o {work}/rust_copy {wall}/rust_copy.rs",
    command: "{work}/rust_copy {port}",
  },
  {
    name: "ncat -e /bin/cat",
    source: NCAT,
    tool: "ncat",
    command: "ncat -l {port} -e /bin/cat",
  },
  {
    name: "ncat --keep-open -e /bin/cat",
    source: NCAT,
    tool: "ncat",
    command: "ncat -l {port} --keep-open -e /bin/cat",
  },
  {
    name: "socat, EXEC:cat",
    source: SOCAT,
    tool: "socat",
    version: "socat -V",
    command: "socat TCP-LISTEN:{port},fork,reuseaddr EXEC:cat",
  },
  {
    name: "socat, PIPE",
    source: SOCAT,
    tool: "socat",
    version: "socat -V",
    command: "socat TCP-LISTEN:{port},fork,reuseaddr PIPE",
  },
  {
    name: "busybox nc -e cat",
    source: "[BusyBox](https://busybox.net/downloads/BusyBox.html#nc)",
    tool: "busybox",
    version: "busybox",
    command: "busybox nc -ll -p {port} -e /bin/cat",
  },
  {
    name: "openbsd-inetd, internal",
    source: "[inetd(8)](https://manpages.debian.org/openbsd-inetd)",
    tool: "inetd",
    version: "dpkg-query -W openbsd-inetd",
    command: "unshare -rm sh {wall}/inetd.sh {port} {work}",
  },
];

const UDP: Entrant[] = [
  {
    name: "echo_udp.ts",
    source: OURS,
    tool: "deno",
    command: "deno run -A --unstable-net echo_udp.ts --port {port}",
  },
  {
    name: "naive_echo_udp.ts",
    source: "[its lesson](echo_udp.md)",
    tool: "deno",
    command: "deno run -A --unstable-net {work}/naive_echo_udp.ts {port}",
  },
  {
    name: "Deno, for await",
    source: "[Deno](https://docs.deno.com/examples/udp_listener/)",
    tool: "deno",
    command: "deno run -A --unstable-net {wall}/deno_datagram.ts {port}",
  },
  {
    name: "Node, dgram",
    source: "[Node](https://nodejs.org/api/dgram.html)",
    tool: "node",
    command: "node {wall}/node_dgram.mjs {port}",
  },
  {
    name: "Python, the lab sheet",
    source: SHEET,
    tool: "python3",
    command: "python3 {wall}/sheet_udp.py {port}",
  },
  {
    name: "Python, socketserver",
    source: `[Python](${PYTHON}socketserver.html)`,
    tool: "python3",
    command: "python3 {wall}/python_socketserver_udp.py {port}",
  },
  {
    name: "C, recvfrom",
    source: "[getaddrinfo(3)](https://man7.org/linux/man-pages/)",
    tool: "gcc",
    build: "gcc -o {work}/getaddrinfo_udp {wall}/getaddrinfo_udp.c",
    command: "{work}/getaddrinfo_udp {port}",
  },
  {
    name: "Rust, UdpSocket",
    source: "[Rust](https://doc.rust-lang.org/std/net/struct.UdpSocket.html)",
    tool: "rustc",
    build: "rustc -O -o {work}/rust_udp {wall}/rust_udp.rs",
    command: "{work}/rust_udp {port}",
  },
  {
    name: "ncat -u -e /bin/cat",
    source: NCAT,
    tool: "ncat",
    command: "ncat -u -l {port} -e /bin/cat",
  },
  {
    name: "socat, UDP-LISTEN",
    source: SOCAT,
    tool: "socat",
    version: "socat -V",
    command: "socat UDP-LISTEN:{port},fork PIPE",
  },
  {
    name: "socat, UDP-RECVFROM",
    source: SOCAT,
    tool: "socat",
    version: "socat -V",
    command: "socat UDP-RECVFROM:{port},fork EXEC:cat",
  },
];

/** The words of a command. */
function words(line: string): string[] {
  const wall = "tools/wall";
  return line.replaceAll("{wall}", wall).replaceAll("{work}", WORK)
    .replace(/^deno /, `${Deno.execPath()} `).split(" ");
}

/** Runs a command, and gives what it prints. Undefined: it is not there. */
async function printed(line: string): Promise<string | undefined> {
  const [command, ...args] = words(line);
  try {
    const child = new Deno.Command(command, { args, cwd: ROOT });
    const { stdout, stderr } = await child.output();
    return new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  } catch {
    return undefined;
  }
}

/** An entrant that has been examined. */
interface Report {
  entrant: Entrant;
  version: string;
  results: Result[];
}

/** Cases that move many bytes. */
const BULK = ["half-close", "megabyte", "late-reader"];

/** Some fail now and then only; some machines are busy for a while. */
function isUnsure({ name, verdict, came }: Result): boolean {
  const isLate = /no end for 5 s|nothing listens/.test(came ?? "");
  const isLucky = [...BULK, "gone-clients"].includes(name) && verdict === "ok";
  return isLate || isLucky;
}

/** Examines a server in all cases; undefined if it is not installed. */
async function examine(
  entrant: Entrant,
  exam: string,
): Promise<Report | undefined> {
  const { tool, version, build, command } = entrant;
  const text = await printed(version ?? `${tool} --version`);
  if (text === undefined) return undefined;
  if (build) await printed(build);
  const results: Result[] = [];
  for (const one of EXAMS[exam]) {
    const target = ["127.0.0.1", 0, words(command)] as const;
    const attempt = () => tryCase(one, [...target], stop.signal);
    let result = await attempt();
    const isLossy = results.some(({ name, verdict }) =>
      BULK.includes(name) && verdict === "FAILED"
    );
    // What depends on chance fails sooner where several tries run at once.
    for (let more = isLossy ? 16 : 4; more > 0 && isUnsure(result); more--) {
      const several = Array.from({ length: isLossy ? 8 : 1 }, attempt);
      const tried = await Promise.all(several);
      result = tried.find(({ verdict }) => verdict === "FAILED") ?? tried[0];
    }
    results.push(result);
  }
  const number = text.match(/\d+\.\d[\w.+~-]*/)?.[0] ?? "";
  return { entrant, version: `${tool} ${number}`, results };
}

const GONE = /a FIN|connection \w+|broken pipe/;

/** What happened, without what differs from run to run. */
function steady({ name, came = "", ended }: Result): string {
  const hasError = /error/i.test(ended ?? "");
  if (BULK.includes(name) && !hasError) return "only a part";
  if (name === "ten-clients") return "some get nothing, or what others sent";
  const why = ended?.replace(/\(os error \d+\)|\[Errno \d+\] /g, "").trim();
  const what = came.replace(/^0 bytes "", then /, "").replace(/:\d{5}\b/, "")
    .replace(GONE, "the connection is gone");
  return why ? `it ends, ${why}` : what;
}

const MARKS = { ok: "·", FAILED: "**✗**", warning: "!", skipped: "–" };

/** What happened to a server: for each way to fail, in which cases. */
function toFaults({ entrant, results }: Report): string {
  const bad = results.filter(({ verdict }) => /FAILED|warn/.test(verdict));
  const ways = Object.groupBy(bad, steady);
  const lines = Object.entries(ways).map(([way, all = []]) => {
    const names = all.map(({ name }) => `\`${name}\``).join(", ");
    return `- ${names}: ${way.replace(/[\\`*_<>]/g, "\\$&")}\n`;
  });
  return lines.length ? `${entrant.name}:\n\n${lines.join("")}` : "";
}

/** The table of an exam, and under it what happened. */
function toMarkdown(exam: string, reports: Report[]): string {
  const cases = EXAMS[exam];
  const numbers = cases.map((_, i) => `${i + 1}`);
  const rows = [
    ["program", "version", ...numbers, "points"],
    ["---", "---", ...numbers.map(() => ":-:"), "--:"],
  ];
  for (const { entrant, version, results } of reports) {
    const marks = results.map(({ verdict }) => MARKS[verdict]);
    const points = results.filter(({ verdict }) => verdict === "ok").length;
    const of = results.filter(({ verdict }) => verdict === "FAILED").length;
    const name = `${entrant.name} (${entrant.source})`;
    rows.push([name, version, ...marks, `${points}/${points + of}`]);
  }
  const table = rows.map((row) => `| ${row.join(" | ")} |`).join("\n");
  const legend = cases.map(({ name, asks, rule }, i) =>
    `${i + 1}. \`${name}\`: ${asks} (${rule})`
  );
  const faults = reports.map(toFaults).filter((text) => text);
  return `## ${exam}\n\n${table}\n\n${legend.join("\n")}\n\n` +
    `### What happened to ${exam}\n\n${faults.join("\n")}`;
}

/** Formats Markdown as Deno does. */
async function format(text: string): Promise<string> {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["fmt", "--ext", "md", "-"],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const writer = child.stdin.getWriter();
  await writer.write(new TextEncoder().encode(text));
  await writer.close();
  return new TextDecoder().decode((await child.output()).stdout);
}

/** Copies the servers whose port is fixed, to be given a port. */
function prepare(): void {
  const ports = {
    "naive_echo_tcp.ts": "Number(Deno.args[0])",
    "naive_echo_udp.ts": "Number(Deno.args[0])",
    "server.py": 'int(__import__("sys").argv[1])',
  };
  for (const [name, port] of Object.entries(ports)) {
    const text = Deno.readTextFileSync(`${ROOT}/docs/${name}`);
    Deno.writeTextFileSync(`${WORK}/${name}`, text.replace("7777", port));
  }
}

const INTRODUCTION = `# The wall of echo servers

Many people write an echo server as their first network program, and start from
an example. This page examines such examples, and common tools that can act as
an echo server. [\`tools/check.ts\`](../tools/check.ts) tries the cases that the
lessons explain. An example has to be short, and need not handle all of them.
But people who copy an example copy its faults too.

\`deno task wall\` writes this page again, with the programs that are installed on
your machine. The examples are in [\`tools/wall/\`](../tools/wall/). They follow
the pattern that the source in brackets shows. Below each table, a list says
what the numbers above its columns stand for. In the tables, a dot is a case
that passed, and **✗** is one that failed. An exclamation mark is a warning,
which costs no point. A dash is a case that could not be tried. Some programs
fail a case only now and then. Such cases are tried several times, and count as
failed if one attempt fails.
`;

/** Examines all of them, and writes the page. */
async function write(): Promise<void> {
  prepare();
  const missing = new Set<string>();
  let page = INTRODUCTION;
  for (const [exam, all] of Object.entries({ echo_tcp: TCP, echo_udp: UDP })) {
    const reports: Report[] = [];
    for (const entrant of all) {
      const report = await examine(entrant, exam);
      if (report) reports.push(report);
      else missing.add(entrant.name);
      console.error(`${exam}: ${entrant.name}${report ? "" : ": missing"}`);
    }
    page += `\n${toMarkdown(exam, reports)}`;
  }
  const names = [...missing].join(", ");
  if (names) page += `\nNot installed where this was written: ${names}.\n`;
  await Deno.writeTextFile(`${ROOT}/docs/wall.md`, await format(page));
}

if (import.meta.main) {
  Deno.chdir(ROOT);
  Deno.addSignalListener("SIGINT", () => stop.abort("interrupted"));
  try {
    await write();
  } catch (error) {
    if (!stop.signal.aborted) throw error;
    Deno.exitCode = 130;
  } finally {
    await Deno.remove(WORK, { recursive: true });
  }
  Deno.exit();
}
