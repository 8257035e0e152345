/**
 * What load.c does, for a machine without a C compiler: the same command line, the same answer, except that it does not
 * know how much of a processor it used (`NaN`). It costs as much per message as a server does, so that it may well be
 * itself what `deno task bench` measures.
 *
 *     load tcp PORT CONNECTIONS BYTES SECONDS    each connection sends a message when the one before it is back
 *     load udp PORT WINDOW BYTES SECONDS         so many datagrams are under way at a time
 *
 * @module
 */
import { delay } from "jsr:@std/async@^1/delay";
import { Failure, reason, say, writeAll } from "../utils.ts";

/** What was counted: messages that came back in time, datagrams lost, and the seconds that it took. */
type Count = { back: number; lost: number; seconds: number };

// One byte in 61: to compare them all would be most of the work, here.
function differs(answer: Uint8Array, message: Uint8Array): boolean {
  for (let i = 0; i < message.length; i += 61) {
    if (answer[i] !== message[i]) return true;
  }
  return answer.at(-1) !== message.at(-1);
}

async function loadTcp(
  port: number,
  connections: number,
  message: Uint8Array,
  seconds: number,
): Promise<Count> {
  const count = { back: 0, lost: 0, seconds },
    open = () => Deno.connect({ hostname: "127.0.0.1", port });
  const all = await Promise.all(Array.from({ length: connections }, open));
  const end = performance.now() + 1000 * seconds;
  const trips = async (conn: Deno.TcpConn) => {
    conn.setNoDelay(true);
    const answer = new Uint8Array(message.length);
    const pull = async () => {
      for (let got = 0, n; got < answer.length; got += n) {
        n = await conn.read(answer.subarray(got)) ?? 0;
        if (n === 0) throw new Failure(1, "the server closed the connection");
      }
    };
    for (; performance.now() < end; count.back++) {
      await Promise.all([writeAll(conn, message), pull()]);
      if (differs(answer, message)) {
        throw new Failure(1, "what came back is not what was sent");
      }
    }
    conn.close();
  };
  await Promise.all(all.map(trips));
  return count;
}

/** After 100 ms of silence, what is under way is taken for lost, and new datagrams are sent. */
async function loadUdp(
  port: number,
  window: number,
  message: Uint8Array,
  seconds: number,
): Promise<Count> {
  const count = { back: 0, lost: 0, seconds },
    to = { transport: "udp", hostname: "127.0.0.1", port } as const;
  const socket = Deno.listenDatagram({
    transport: "udp",
    hostname: "127.0.0.1",
    port: 0,
  });
  const answer = new Uint8Array(65_535),
    end = performance.now() + 1000 * seconds;
  const fill = () =>
    Promise.all(Array.from({ length: window }, () => socket.send(message, to)));
  const watch = async () => {
    for (let before = -1; performance.now() < end; await delay(100)) {
      if (before === count.back) count.lost += window, await fill();
      before = count.back;
    }
    socket.close();
  };
  const trips = async () => {
    for (;;) {
      const [datagram] = await socket.receive(answer);
      if (datagram.length < message.length) {
        throw new Failure(1, `cut to ${datagram.length} bytes`);
      }
      if (differs(datagram, message)) {
        throw new Failure(1, "what came back is not what was sent");
      }
      if (performance.now() < end) count.back++;
      await socket.send(message, to);
    }
  };
  const ended = (error: unknown) => {
    if (
      !(error instanceof Deno.errors.BadResource ||
        error instanceof Deno.errors.Interrupted)
    ) throw error;
  };
  await fill();
  await Promise.all([watch(), trips().catch(ended)]);
  return count;
}

if (import.meta.main) {
  const [transport, ...numbers] = Deno.args,
    [port, count, bytes, seconds] = numbers.map(Number);
  const message = Uint8Array.from({ length: bytes }, (_, i) => 33 + i % 94);
  const load = transport === "udp" ? loadUdp : loadTcp;
  const status = await load(port, count, message, seconds).then((count) => {
    say(`${count.back} ${count.lost} ${count.seconds} NaN`);
    return 0;
  }, (error) => (say(reason(error), console.error), 1));
  Deno.exit(status);
}
