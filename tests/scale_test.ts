import { assert, assertEquals, assertMatch } from "jsr:@std/assert@^1";
import { missing, ROOT, Running, serve, soon, test } from "./helpers.ts";
import { writeAll } from "../utils.ts";

const onLinux = Deno.build.os === "linux";

// assertEquals would show how random bytes differ, at length.
const same = (a: Uint8Array, b: Uint8Array) =>
  a.length === b.length && a.every((byte, i) => byte === b[i]);

/** Sends bytes and half-closes; whether they come back, all of them, and then the end. */
async function comesBack(port: number, bytes: Uint8Array): Promise<boolean> {
  using conn = await Deno.connect({ hostname: "127.0.0.1", port });
  const sending = writeAll(conn, bytes).then(() => conn.closeWrite()).catch(
    () => {},
  );
  const answer = new Uint8Array(bytes.length + 1);
  let got = 0;
  for (let n; (n = await conn.read(answer.subarray(got))) !== null;) got += n;
  await sending;
  return same(answer.subarray(0, got), bytes);
}

/** Sends a datagram, and returns what comes back; throws when nothing does. */
async function ask(
  port: number,
  bytes: Uint8Array,
  socket: Deno.DatagramConn,
): Promise<Uint8Array> {
  await socket.send(bytes, { transport: "udp", hostname: "127.0.0.1", port });
  const [answer] = await soon(
    socket.receive(new Uint8Array(65_535)),
    "an answer",
  );
  return answer;
}

const udpSocket = (port = 0) =>
  Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port });

function random(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at += 65_536) {
    crypto.getRandomValues(bytes.subarray(at, at + 65_536));
  }
  return bytes;
}

test({
  name: "two echo_tcp with --reuse-port share the connections to one port",
  ignore: !onLinux,
  async fn() {
    await using one = await serve("echo_tcp", ["--reuse-port"]);
    await using two = await serve("echo_tcp", [
      "--reuse-port",
      "--port",
      `${one.port}`,
    ]);
    assertEquals(two.port, one.port);
    await Promise.all(Array.from({ length: 64 }, async () => {
      assert(await comesBack(one.port, random(1000)));
    }));
    one.kill(), two.kill();
    const shares = (await Promise.all([one.finish(), two.finish()])).map(
      ({ code, stdout }) => {
        assertEquals(code, 0);
        return Number(stdout.match(/served (\d+) connections/)?.[1]);
      },
    );
    assertEquals(shares[0] + shares[1], 64);
    assert(
      shares[0] > 0 && shares[1] > 0,
      `one of them got nothing: ${shares}`,
    ); // by chance, once in 2^63 times
  },
});

test({
  name:
    "of two echo_udp with --reuse-port the newer one answers, and when it ends the older one again",
  ignore: !onLinux,
  async fn() {
    await using older = await serve("echo_udp", ["--reuse-port"]);
    await using newer = await serve("echo_udp", [
      "--reuse-port",
      "--port",
      `${older.port}`,
    ]);
    const sockets = Array.from({ length: 20 }, () => udpSocket());
    try {
      for (const socket of sockets) await ask(older.port, random(100), socket);
      newer.kill();
      assertMatch(
        (await newer.finish()).stdout,
        /answered 20 datagrams, 2000 bytes/,
      );
      for (const socket of sockets) await ask(older.port, random(10), socket);
      older.kill();
      assertMatch(
        (await older.finish()).stdout,
        /answered 20 datagrams, 200 bytes/,
      );
    } finally {
      for (const socket of sockets) socket.close();
    }
  },
});

const DOCUMENT = Deno.readTextFileSync(new URL("docs/scale.md", ROOT));
const CONFIGURATION = DOCUMENT.match(/```nginx\n(.*?)```/s)![1];

function missingStream(): boolean {
  const [, module] = CONFIGURATION.match(/load_module (\S+);/)!;
  try {
    return missing("nginx") || !Deno.statSync(module).isFile;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound) || Deno.env.get("CI")) {
      throw error;
    }
    return true;
  }
}

/** A port that is free over TCP and UDP. */
function freePort(): number {
  for (;;) {
    using listener = Deno.listen({ hostname: "0.0.0.0", port: 0 });
    try {
      Deno.listenDatagram({
        transport: "udp",
        hostname: "0.0.0.0",
        port: listener.addr.port,
      }).close();
      return listener.addr.port;
    } catch (error) {
      if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    }
  }
}

/** nginx with the document's configuration, on these ports instead of its own, and with its log on standard output. */
async function balancer(
  ports: Record<string, number>,
  folder: string,
): Promise<Running> {
  const configuration = CONFIGURATION.replace(
    /\b77\d\d\b/g,
    (port) => `${ports[port]}`,
  )
    .replace(/(?<=access_log )\S+/, "/dev/stdout");
  await Deno.writeTextFile(`${folder}/nginx.conf`, configuration);
  const globals = `daemon off; pid ${folder}/pid; error_log stderr notice;`;
  const nginx = new Running("nginx", [
    "-p",
    folder,
    "-c",
    `${folder}/nginx.conf`,
    "-e",
    "stderr",
    "-g",
    globals,
  ]);
  await nginx.until(/start worker process \d/, "stderr");
  return nginx;
}

/** Sends a datagram from a port. Whether that was possible: small ports want rights. */
async function sendFrom(port: number, to: number): Promise<boolean> {
  try {
    const socket = udpSocket(port);
    await socket.send(random(10), {
      transport: "udp",
      hostname: "127.0.0.1",
      port: to,
    });
    socket.close();
    return true;
  } catch (error) {
    if (
      error instanceof Deno.errors.PermissionDenied ||
      error instanceof Deno.errors.AddrInUse
    ) return false;
    throw error;
  }
}

test({
  name:
    "the nginx configuration of docs/scale.md balances TCP and UDP over two echo servers each",
  ignore: !onLinux || missingStream(),
  async fn() {
    const start = (name: string) => serve(name, ["--host", "127.0.0.1"]);
    await using tcp1 = await start("echo_tcp");
    await using tcp2 = await start("echo_tcp");
    await using udp1 = await start("echo_udp");
    await using udp2 = await start("echo_udp");
    const folder = await Deno.makeTempDir(),
      port = freePort(),
      socket = udpSocket();
    const ports = {
      7777: port,
      7771: tcp1.port,
      7772: tcp2.port,
      7781: udp1.port,
      7782: udp2.port,
    };
    const nginx = await balancer(ports, folder);
    try {
      for (let i = 0; i < 6; i++) {
        assert(
          await comesBack(port, random(300_000)),
          "what was half-closed lost its end",
        );
      }
      const [log] = await nginx.until(/(^TCP .*\n){6}/m);
      for (const { port } of [tcp1, tcp2]) {
        assertMatch(
          log,
          new RegExp(
            `^TCP 127.0.0.1:\\d+ to 127.0.0.1:${port}: 300000 bytes in, 300000 out`,
            "m",
          ),
        );
      }
      await tcp1.until(/^127\.0\.0\.1:\d+ 300000 bytes/m); // the balancer's address
      tcp1.kill();
      await tcp1.finish();
      for (let i = 0; i < 4; i++) {
        assert(
          await comesBack(port, random(10)),
          "a server that is down was noticed",
        );
      }

      for (const length of [64, 0, 1500, 20_000, 65_507, 1]) {
        const bytes = random(length);
        assert(
          same(await ask(port, bytes, socket), bytes),
          `${length} bytes did not come back`,
        );
      }
      if (await sendFrom(19, port)) {
        assertEquals(
          (await nginx.until(/^UDP 127\.0\.0\.1:19 to (.*),/m))[1],
          "-: 10 bytes in, 0 out",
        );
      }
      for (const server of [udp1, udp2]) {
        server.kill();
        assertMatch((await server.finish()).stdout, /answered 3 datagrams/);
      }
    } finally {
      socket.close();
      nginx.kill(); // not at once: its workers would live on
      await nginx.finish();
      await Deno.remove(folder, { recursive: true });
    }
  },
});
