/** What the tests of http_get share: servers that answer with given bytes, and downloads that are collected. */
import { download, type Options } from "../http_get.ts";
import { Failure } from "../utils.ts";

/** Text of one byte a character as bytes, and back. */
export const bytes = (text: string): Uint8Array<ArrayBuffer> =>
  Uint8Array.from(text, (c) => c.charCodeAt(0));
export const text = (bytes: Uint8Array): string =>
  bytes.reduce((text, byte) => text + String.fromCharCode(byte), "");

/** Bytes, compressed. */
export async function compress(
  format: CompressionFormat,
  plain: Uint8Array<ArrayBuffer>,
): Promise<Uint8Array> {
  return await new Response(
    new Blob([plain]).stream().pipeThrough(new CompressionStream(format)),
  ).bytes();
}

/** Bytes in no order, so that a piece lost, doubled or moved shows. */
export function random(length: number): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(length);
  for (let i = 0; i < length; i += 65_536) {
    crypto.getRandomValues(all.subarray(i, i + 65_536));
  }
  return all;
}

/** The SHA-256 of bytes, in hexadecimal. */
export async function checksum(...parts: Uint8Array[]): Promise<string> {
  const all = await new Blob(parts as Uint8Array<ArrayBuffer>[]).arrayBuffer();
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", all));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join(
    "",
  );
}

/** A folder that is gone afterwards. */
export function folder(
  dir?: string,
): { path: string; names: () => string[] } & Disposable {
  const path = Deno.makeTempDirSync({ dir });
  return {
    path,
    names: () => [...Deno.readDirSync(path)].map(({ name }) => name).sort(),
    [Symbol.dispose]: () => Deno.removeSync(path, { recursive: true }),
  };
}

/** A server on loopback. It is handed each connection and the header section of the request, and closes it afterwards. */
export class RawServer implements AsyncDisposable {
  readonly requests: string[] = [];
  readonly #listener: Deno.Listener;
  readonly #conns = new Set<Deno.Conn>();
  readonly #serving: Promise<void>;

  constructor(
    handle: string | ((conn: Deno.Conn, request: string) => Promise<unknown>),
    listener?: Deno.Listener,
  ) {
    this.#listener = listener ??
      Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const answer = typeof handle === "string"
      ? (conn: Deno.Conn) => write(conn, handle)
      : handle;
    this.#serving = this.#serve(answer);
  }

  get port(): number {
    return (this.#listener.addr as Deno.NetAddr).port;
  }
  url(path = "/", scheme = "http"): URL {
    return new URL(path, `${scheme}://127.0.0.1:${this.port}`);
  }

  async #serve(answer: (conn: Deno.Conn, request: string) => Promise<unknown>) {
    const sessions: Promise<void>[] = [];
    for (;;) {
      const conn = await this.#listener.accept().catch((error) => {
        if (
          error instanceof Deno.errors.BadResource ||
          error instanceof Deno.errors.Interrupted
        ) return null;
      });
      if (conn === null) break;
      if (conn) sessions.push(this.#session(conn, answer));
    }
    await Promise.all(sessions);
  }
  async #session(
    conn: Deno.Conn,
    answer: (conn: Deno.Conn, request: string) => Promise<unknown>,
  ) {
    this.#conns.add(conn);
    try {
      let request = "";
      const buffer = new Uint8Array(65_536);
      while (!request.includes("\r\n\r\n")) {
        request += text(buffer.subarray(0, await conn.read(buffer) ?? fail()));
      }
      this.requests.push(request);
      await answer(conn, request);
    } catch { /* the client left, which is its right */ }
    this.#conns.delete(conn);
    conn[Symbol.dispose]();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    for (const conn of this.#conns) conn[Symbol.dispose]();
    await this.#serving;
  }
}

function fail(): never {
  throw new Error("no request");
}

/** Writes text, all of it. */
export async function write(
  conn: Pick<Deno.Conn, "write">,
  answer: string | Uint8Array,
): Promise<void> {
  const all = typeof answer === "string" ? bytes(answer) : answer;
  for (let sent = 0; sent < all.length;) {
    sent += await conn.write(all.subarray(sent));
  }
}

/** Keeps a connection open until the other side closes it. */
export async function hold(conn: Deno.Conn): Promise<void> {
  while (await conn.read(new Uint8Array(1024)) !== null);
}

/** What came of a download: what was written, and the status that http_get would exit with. */
export async function collect(
  options: Partial<Options> & { url: URL },
): Promise<{
  body: string;
  code: number;
  message: string;
}> {
  let body = "";
  const write = (bytes: Uint8Array) =>
    Promise.resolve(void (body += text(bytes)));
  try {
    const { signal } = new AbortController();
    await download({ write, signal, ...options });
    return { body, code: 0, message: "" };
  } catch (error) {
    if (error instanceof Failure) {
      return { body, code: error.status, message: error.message };
    }
    throw error;
  }
}
