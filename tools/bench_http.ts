/**
 * The HTTP loads of `deno task bench`: http_get beside curl, where that is
 * installed. What counts is the time of the whole process, over loopback.
 * http_load.c is the server, and for https it is OpenSSL's own.
 *
 * @module
 */
import { Failure, type Log } from "../utils.ts";
import { ask, type Effort, head, inTurn, median, path } from "./workbench.ts";
import { row, type Runs, type Workbench } from "./workbench.ts";

const MEBIBYTE = 1024 ** 2;
const PATIENCE = 120_000; // milliseconds that a download may take

const HTTPS = `openssl req -x509 -noenc -out cert.pem -keyout key.pem \
  -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -subj /CN=bench \
  -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=CA:FALSE &&
  exec openssl s_server -HTTP -no_dhe -cert cert.pem -key key.pem \
  -accept 127.0.0.1:0`;

/** In the shell's command, GET stands for the program. */
interface Load {
  name: string;
  command: string;
}

/** How long a program took: the median over the rounds. */
export interface Download {
  load: string;
  client: string;
  seconds?: number;
  /** why it could not be measured; then there are no seconds */
  note?: string;
}

/** The loads from http_load.c. */
function plainLoads(port: number, mebibytes: number): Load[] {
  const url = `http://127.0.0.1:${port}`;
  const whole = mebibytes * MEBIBYTE;
  const body = `GET ${url}/${whole}/0`;
  const chunks = (bytes: number, size: number) =>
    `GET ${url}/${bytes}/${size} > /dev/null`;
  return [
    { name: `${mebibytes} MiB`, command: `${body} > /dev/null` },
    { name: "to a pipe", command: `${body} | cat > /dev/null` },
    { name: "to a file", command: `${body} -o out` },
    {
      name: "1/8 as gzip",
      command: `GET --compressed ${url} | cat > /dev/null`,
    },
    { name: "in 1 KiB chunks", command: chunks(whole, 1024) },
    { name: "1/16 in 100 B chunks", command: chunks(whole / 16, 100) },
    { name: "1/16 in 16 B chunks", command: chunks(whole / 16, 16) },
  ];
}

/** The loads from OpenSSL's server. */
function secureLoads(port: number): Load[] {
  const body = `GET --cacert cert.pem https://127.0.0.1:${port}/zeros`;
  return [
    { name: "https to a pipe", command: `${body} | cat > /dev/null` },
    { name: "https to a file", command: `${body} -o out` },
  ];
}

/** Writes the answers that the servers send as they are. */
async function writeAnswers(folder: string, mebibytes: number): Promise<void> {
  const gzip = `${folder}/gzip`;
  const zeros = `${folder}/zeros`;
  let words = "";
  for (let i = 1; words.length < MEBIBYTE; i = i * 48_271 % 2_147_483_647) {
    words += `${(i % 9973).toString(36)} `;
  }
  const text = new Blob(Array(Math.ceil(mebibytes / 8)).fill(words)).stream();
  const status = "HTTP/1.1 200 OK\r\n";
  await Deno.writeTextFile(gzip, `${status}Content-Encoding: gzip\r\n\r\n`);
  const coded = text.pipeThrough(new CompressionStream("gzip"));
  await Deno.writeFile(gzip, coded, { append: true });
  const bytes = mebibytes * MEBIBYTE;
  const fields = `${status}Content-Length: ${bytes}\r\n\r\n`;
  await Deno.writeTextFile(zeros, fields);
  await Deno.truncate(zeros, fields.length + bytes);
}

/** What takes the place of GET. */
interface Client {
  name: string;
  command: string;
}

async function installed(): Promise<Client[]> {
  const script = path("http_get.ts");
  const ours = `${Deno.execPath()} run -A ${script} -s`;
  const clients = [{ name: "http_get.ts", command: ours }];
  const isCurl = await ask("curl", "--version");
  if (isCurl) clients.push({ name: "curl", command: "curl -sS" });
  return clients;
}

function cell({ runs, note }: Runs<number>): string {
  return note ?? `${median(runs).toFixed(2)} s`;
}

/** How many times as long one took as the other, in the median round. */
function ratio([one, other]: Runs<number>[]): string {
  if (!other || one.note || other.note) return "";
  const ratios = one.runs.map((seconds, i) => seconds / other.runs[i]);
  return median(ratios).toFixed(2);
}

/** Starts the servers, and returns what they have. */
async function serveLoads(workbench: Workbench, mebibytes: number, log: Log) {
  const program = await workbench.compile("http_load");
  await writeAnswers(workbench.folder, mebibytes);
  const plain = { name: "http_load", program, args: ["gzip"] };
  const { port } = await workbench.serve(plain);
  const loads = plainLoads(port, mebibytes);
  const https = { name: "openssl", program: "sh", args: ["-c", HTTPS] };
  const [secure] = await workbench.serveAll([https], log);
  if (secure) loads.push(...secureLoads(secure.port));
  return loads;
}

/** Measures all loads, and prints a table row by row. */
export async function benchHttp(
  workbench: Workbench,
  effort: Effort,
  mebibytes: number,
  log: Log,
): Promise<Download[]> {
  const loads = await serveLoads(workbench, mebibytes, log);
  const clients = await installed();
  log(head("HTTP", [...clients.map(({ name }) => name), "ratio"]));
  const downloads: Download[] = [];
  for (const { name: load, command } of loads) {
    const measure = async (client: Client) => {
      const shell = ["-c", command.replace("GET", client.command)];
      const started = performance.now();
      await workbench.run("sh", shell, PATIENCE);
      return (performance.now() - started) / 1000;
    };
    const found = await inTurn(clients, effort, workbench.signal, measure);
    const [{ note }] = found;
    if (note) throw new Failure(1, `http_get.ts, ${load}: ${note}`);
    log(row(load, [...found.map(cell), ratio(found)]));
    for (const [i, { runs, note }] of found.entries()) {
      const result = note ? { note } : { seconds: median(runs) };
      downloads.push({ load, client: clients[i].name, ...result });
    }
  }
  log("");
  return downloads;
}
