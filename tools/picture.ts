/**
 * Draws docs/picture.svg, a terminal in which http_get shows an exchange. Its
 * lines are what the programs print, so that the picture stays true:
 *
 *     deno run -A tools/picture.ts
 *
 * @module
 */
const ROOT = new URL("..", import.meta.url);
const PICTURE = new URL("docs/picture.svg", ROOT);
const COMMAND = "deno run -A http_get.ts -v localhost:8080/chunked";

const COLUMN = 8.4; // pixels
const LINE = 20;
const MARGIN = 20;
const COLORS: Record<string, string> = {
  "*": "#9198a1",
  ">": "#56d4dd",
  "<": "#7ee787",
};
const FONT = "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace";

/** Runs the server of the lesson and the client. Returns what is printed. */
async function film(): Promise<string[]> {
  const server = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "docs/web_server.ts"],
    cwd: ROOT,
    stdout: "piped",
  }).spawn();
  try {
    for await (const _line of server.stdout) break; // it listens
    const [, ...args] = COMMAND.split(" ");
    // A shell brings both outputs together, in their order.
    const script = `exec "$0" ${args.join(" ")} 2>&1`;
    const client = new Deno.Command("sh", {
      args: ["-c", script, Deno.execPath()],
      cwd: ROOT,
      env: { NO_COLOR: "1" },
    });
    const { stdout, success } = await client.output();
    const text = new TextDecoder().decode(stdout);
    if (!success) throw new Error(text);
    return [`$ ${COMMAND}`, ...text.trimEnd().split("\n")];
  } finally {
    server.kill();
    await server.status;
  }
}

function drawLine(line: string, i: number): string {
  const mark = line.match(/^\d+\.\d+ ([*<>])/)?.[1] ?? "";
  const color = COLORS[mark] ?? "#f0f6fc";
  const text = line.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  const y = MARGIN + LINE * (i + 0.75);
  const width = (line.length * COLUMN).toFixed(1); // whatever the font
  return `<text x="${MARGIN}" y="${y}" fill="${color}"` +
    ` textLength="${width}">${text}</text>`;
}

/** Draws lines as a terminal of 80 columns. */
function draw(lines: string[]): string {
  const width = 80 * COLUMN + 2 * MARGIN;
  const height = lines.length * LINE + 2 * MARGIN;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" role="img"` +
    ` viewBox="0 0 ${width} ${height}" width="${width}" height="${height}"`,
    `  font-family="${FONT}" font-size="14" xml:space="preserve">`,
    `<title>http_get -v shows an exchange, line by line</title>`,
    `<rect width="100%" height="100%" rx="10" fill="#151b23"/>`,
    ...lines.map(drawLine),
    `</svg>`,
    ``,
  ].join("\n");
}

if (import.meta.main) {
  await Deno.writeTextFile(PICTURE, draw(await film()));
}
