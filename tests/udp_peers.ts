/**
 * UDP sockets for tests. On loopback a datagram is in its receiver's queue when
 * `send` returns, and queues keep their order. So that something was not sent
 * is seen by sending something else after it, and receiving that first.
 *
 * @module
 */
import { assertEquals } from "jsr:@std/assert@^1";
import { formatAddress } from "../utils.ts";
import { bytes, random, soon, text } from "./helpers.ts";

/** An address of this machine, or of another. */
export function at(port: number, hostname = "127.0.0.1"): Deno.NetAddr {
  return { transport: "udp", hostname, port };
}

/** Whether there is no IPv6 here, as in many containers: for `ignore`. */
export function withoutIPv6(): boolean {
  try {
    using _peer = new Peer("::1");
    return false;
  } catch {
    return true;
  }
}

/** A socket somewhere on loopback. */
export class Peer implements Disposable {
  readonly socket: Deno.DatagramConn;
  readonly #buffer = new Uint8Array(65_535);

  constructor(hostname = "127.0.0.1", port = 0) {
    this.socket = Deno.listenDatagram({ transport: "udp", hostname, port });
  }

  get addr(): Deno.NetAddr {
    return this.socket.addr as Deno.NetAddr;
  }

  get port(): number {
    return this.addr.port;
  }

  /** Sends to an address, or to a port of 127.0.0.1. */
  async send(
    what: Uint8Array | string,
    to: Deno.NetAddr | number,
  ): Promise<void> {
    const datagram = typeof what === "string" ? bytes(what) : what;
    await this.socket.send(datagram, typeof to === "number" ? at(to) : to);
  }

  async receive(): Promise<Uint8Array> {
    const receiving = this.socket.receive(this.#buffer);
    const expected = `a datagram at ${formatAddress(this.addr)}`;
    const [datagram] = await soon(receiving, expected);
    return datagram.slice();
  }

  /** Sends something, and returns what comes back. */
  async ask(
    what: Uint8Array | string,
    to: Deno.NetAddr | number,
  ): Promise<Uint8Array> {
    await this.send(what, to);
    return await this.receive();
  }

  /** As `ask`, and asks again: a server that is flooded may have lost it. */
  async insist(what: string, to: number): Promise<string> {
    await this.send(what, to);
    const asking = setInterval(() => this.send(what, to), 100);
    const answer = await this.receive().finally(() => clearInterval(asking));
    return text(answer);
  }

  /** Passes when nothing has arrived here until now. */
  async nothing(): Promise<void> {
    using other = new Peer(this.addr.hostname);
    const mark = random(16);
    await other.send(mark, this.addr);
    assertEquals(await this.receive(), mark, "nothing was to be answered");
  }

  [Symbol.dispose](): void {
    try {
      this.socket.close();
    } catch { /* whoever was lent it has closed it */ }
  }
}

/** Sends an answer to whoever sent a datagram. */
export type Reply = (answer: Uint8Array) => Promise<unknown>;

/** A server of a test's own; `act` is told which datagram it is, from 1. */
export class Actor implements AsyncDisposable {
  readonly received: Uint8Array[] = [];
  readonly senders: number[] = []; // ports
  readonly peer: Peer;
  readonly #done: Promise<void>;

  constructor(
    readonly act: (datagram: Uint8Array, reply: Reply, n: number) => unknown,
    hostname = "127.0.0.1",
  ) {
    this.peer = new Peer(hostname);
    this.#done = this.#run().catch((error) => {
      const { BadResource, Interrupted } = Deno.errors;
      const isClosed = error instanceof BadResource ||
        error instanceof Interrupted;
      if (!isClosed) throw error;
    });
  }

  get port(): number {
    return this.peer.port;
  }

  /** As a word of a command line. */
  get at(): string {
    return formatAddress(this.peer.addr);
  }

  async #run(): Promise<void> {
    const { socket } = this.peer;
    const buffer = new Uint8Array(65_535);
    for (;;) {
      const [datagram, sender] = await socket.receive(buffer);
      const copy = datagram.slice();
      this.received.push(copy);
      this.senders.push((sender as Deno.NetAddr).port);
      const reply = (answer: Uint8Array) => socket.send(answer, sender);
      await this.act(copy, reply, this.received.length);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.peer[Symbol.dispose]();
    await soon(this.#done, "the end of a test's server");
  }
}

/** A server that gives everything back. */
export function echoing(hostname?: string): Actor {
  return new Actor((datagram, reply) => reply(datagram), hostname);
}

/** A server that never answers. */
export function mute(): Actor {
  return new Actor(() => {});
}
