import { assert, assertEquals, assertLess } from "jsr:@std/assert@^1";
import { constants, unzipSync } from "node:zlib";
import { Answer, get, type Options } from "../http_get.ts";
import { bytes, checksum, collect, compress } from "./http_servers.ts";
import { random, RawServer, text, write } from "./http_servers.ts";
import { test } from "./helpers.ts";

const OK = "HTTP/1.1 200 OK\r\n";
const HELLO = bytes("hello, hello, hello");
const PLAIN = { body: text(HELLO), code: 0, message: "" };
const gzip = await compress("gzip", HELLO);
const zlib = await compress("deflate", HELLO);

/** Puts bytes together. */
const join = (...parts: Uint8Array[]) => bytes(parts.map(text).join(""));

/** Serves a body with a header line, and gets it. */
async function coded(
  header: string,
  body: Uint8Array,
  options: Partial<Options> = { compressed: true },
) {
  await using server = new RawServer(async (conn) => {
    const length = `Content-Length: ${body.length}\r\n\r\n`;
    await write(conn, join(bytes(`${OK}${header}\r\n${length}`), body));
  });
  return await collect({ url: server.url(), ...options });
}
const gunzip = (body: Uint8Array) => coded("Content-Encoding: gzip", body);
const inflate = (body: Uint8Array) => coded("Content-Encoding: deflate", body);

test("http_get undoes gzip and deflate with --compressed", async () => {
  assertEquals(await gunzip(gzip), PLAIN);
  assertEquals(await inflate(zlib), PLAIN);
  assertEquals(await coded("content-encoding: X-GZip", gzip), PLAIN);
  const asItIs = await coded("Content-Encoding: gzip", gzip, {});
  assertEquals(asItIs.body, text(gzip));
});

test("http_get takes identity, none and an empty coding for no coding", async () => {
  for (const coding of ["identity", "none", "", ", identity"]) {
    const header = `Content-Encoding: ${coding}`;
    assertEquals(await coded(header, HELLO), PLAIN, coding);
  }
});

test("http_get says 61 for what it cannot undo, unless there is no body", async () => {
  for (const coding of ["br", "gzip, deflate", "gzip, gzip"]) {
    const header = `Content-Encoding: ${coding}`;
    const message = `unsupported content coding "${coding}"`;
    const failed = await coded(header, HELLO);
    assertEquals(failed, { body: "", code: 61, message });
    const empty = await coded(header, bytes(""));
    assertEquals(empty, { body: "", code: 0, message: "" });
  }
  assertEquals((await gunzip(bytes(""))).code, 0);
  assertEquals(await coded("Content-Encoding: br", HELLO, {}), PLAIN);
  assertEquals((await inflate(await compress("deflate-raw", HELLO))).code, 61);
});

test("http_get undoes a transfer coding, asked or not", async () => {
  const size = gzip.length.toString(16);
  const chunk = `${size}\r\n${text(gzip)}\r\n0\r\n\r\n`;
  const answers = {
    [`gzip, chunked\r\n\r\n${chunk}`]: 0,
    [`gzip\r\n\r\n${text(gzip)}`]: 0,
    [`,gzip,,chunked,\r\nTransfer-Encoding:\r\n\r\n${chunk}`]: 0,
    [`chunked, gzip\r\n\r\n${text(gzip)}`]: 61,
    [`chunked, chunked\r\n\r\n${chunk}`]: 61,
  };
  for (const [answer, code] of Object.entries(answers)) {
    await using server = new RawServer(`${OK}Transfer-Encoding: ${answer}`);
    assertEquals((await collect({ url: server.url() })).code, code, answer);
  }
});

test("http_get gives no byte that was not sent, wherever a coded body is cut", async () => {
  for (const [get, whole] of [[gunzip, gzip], [inflate, zlib]] as const) {
    for (let length = 1; length < whole.length; length++) {
      const { body, code } = await get(whole.subarray(0, length));
      assertEquals(code, 61, `after ${length} bytes`);
      assert(PLAIN.body.startsWith(body), `${length} bytes: ${body}`);
    }
  }
  const zeros = "789cedc2010900000002a0adf57f443b02d134";
  const cut = Uint8Array.from(zeros.match(/../g)!, (hex) => parseInt(hex, 16));
  const { body, code } = await inflate(cut);
  assertEquals([body, code], ["aba", 61]);
});

/** What is in a coded body that may have no end. */
function unended(body: Uint8Array): string {
  const finishFlush = constants.Z_SYNC_FLUSH;
  return text(unzipSync(body, { finishFlush }));
}

test("http_get gives no byte that was not sent, whichever bit is flipped", async () => {
  for (const [get, whole] of [[gunzip, gzip], [inflate, zlib]] as const) {
    let unused = 0; // the time in gzip's header, say, and bits to fill a byte
    for (let bit = 0; bit < 8 * whole.length; bit++) {
      const flipped = whole.slice();
      flipped[bit >> 3] ^= 1 << (bit & 7);
      const { body, code } = await get(flipped);
      // Where the flip hides the end of the data, it looks like data cut off.
      const isSent = PLAIN.body.startsWith(body) || unended(flipped) === body;
      assert(isSent, `bit ${bit}: ${body}`);
      if (code === 61) continue;
      unused++;
      assertEquals([body, code], [PLAIN.body, 0], `bit ${bit}`);
    }
    assertLess(unused, get === gunzip ? 64 : 16);
  }
});

test("http_get takes several gzip members for one body, however they come", async () => {
  const body = PLAIN.body.repeat(3);
  const members = join(gzip, gzip, gzip);
  assertEquals(await gunzip(members), { ...PLAIN, body });
  for (let end = 0; end < members.length; end++) {
    await using server = new RawServer(async (conn) => {
      const sizes = [end, members.length - end].map((n) => n.toString(16));
      const coding = "Content-Encoding: gzip\r\nTransfer-Encoding: chunked";
      await write(conn, `${OK}${coding}\r\n\r\n`);
      if (end) await write(conn, `${sizes[0]}\r\n`);
      if (end) await write(conn, members.subarray(0, end));
      if (end) await write(conn, "\r\n");
      await write(conn, `${sizes[1]}\r\n`);
      await write(conn, members.subarray(end));
      await write(conn, "\r\n0\r\n\r\n");
    });
    const got = await collect({ url: server.url(), compressed: true });
    assertEquals(got, { ...PLAIN, body }, `cut after ${end} bytes`);
  }
});

test("http_get lets timers and signals run while members come without end", async () => {
  let isOver = false;
  setTimeout(() => isOver = true, 300);
  const head = bytes(`${OK}Content-Encoding: gzip\r\n\r\n`);
  const members = bytes(text(gzip).repeat(1000));
  let reads = 0;
  const conn = {
    write: (bytes: Uint8Array) => Promise.resolve(bytes.length),
    read(buffer: Uint8Array) {
      const piece = reads === 0 ? head : members;
      buffer.set(piece);
      reads++;
      return Promise.resolve(isOver || reads > 50 ? null : piece.length);
    },
  };
  const options = {
    url: new URL("http://a"),
    compressed: true,
    write: () => Promise.resolve(),
    signal: new AbortController().signal,
  };
  await get(conn, "GET / HTTP/1.1\r\n\r\n", new Answer(options, () => {}));
  assert(isOver, `${reads} reads, and the timer has not run`);
});

test("http_get gives all that is good before it refuses what follows a body", async () => {
  const large = random(100_000);
  for (const garbage of ["\n", "\0", "\x1f", "\x1f\x8b", "junk".repeat(9)]) {
    for (const format of ["gzip", "deflate"] as const) {
      const get = format === "gzip" ? gunzip : inflate;
      for (const plain of [HELLO, large]) {
        const whole = await compress(format, plain);
        const { body, code } = await get(join(whole, bytes(garbage)));
        assertEquals(code, 61, JSON.stringify(garbage));
        assert(body === text(plain), `${format}: ${body.length} bytes`);
      }
    }
  }
});

test("http_get says 61 for a large body that was damaged or cut", async () => {
  const noise = random(200_000);
  for (const format of ["gzip", "deflate"] as const) {
    const whole = await compress(format, noise);
    const get = format === "gzip" ? gunzip : inflate;
    assertEquals((await get(whole)).body, text(noise));
    for (const cut of [1, 5, whole.length >> 1]) {
      const { body, code } = await get(whole.subarray(0, -cut));
      assertEquals(code, 61, `${format}, without its last ${cut} bytes`);
      assert(text(noise).startsWith(body));
    }
  }
});

test("http_get says 18, not 61, when the server ends a coded body early", async () => {
  const length = "Content-Length: 99\r\n\r\n";
  await using server = new RawServer(
    `${OK}Content-Encoding: gzip\r\n${length}${text(gzip)}`,
  );
  const { body, code } = await collect({ url: server.url(), compressed: true });
  assertEquals([body, code], [PLAIN.body, 18]);
});

test("http_get expands what is highly compressed in small pieces", async () => {
  const zeros = await compress("gzip", new Uint8Array(100e6));
  let size = 0;
  let largest = 0;
  const take = (bytes: Uint8Array) => {
    size += bytes.length;
    largest = Math.max(largest, bytes.length);
    return Promise.resolve();
  };
  const options = { compressed: true, write: take };
  const { code } = await coded("Content-Encoding: gzip", zeros, options);
  assertEquals([code, size], [0, 100e6]);
  assertLess(largest, 9e6);
});

test("http_get undoes gzip of many megabytes unharmed", async () => {
  const plain = random(5e6).map((byte) => byte & 15);
  const all: Uint8Array[] = [];
  const take = (bytes: Uint8Array) => {
    all.push(bytes.slice());
    return Promise.resolve();
  };
  const options = { compressed: true, write: take };
  const body = await compress("gzip", plain);
  const { code } = await coded("Content-Encoding: gzip", body, options);
  assertEquals([code, await checksum(...all)], [0, await checksum(plain)]);
});
