/** The stand-in for what npm does not have chooses as the official one. */
import { assertEquals } from "jsr:@std/assert@^1";
import { getNetworkAddress } from "jsr:@std/net@^1/get-network-address";
import { test } from "./helpers.ts";

type Interface = [address: string, mac: string, scopeid?: number];

const NONE = "00:00:00:00:00:00";
const MAC = "02:00:00:00:00:01";

/** The address chosen if the machine had these interfaces. */
function choose(family: "IPv4" | "IPv6", interfaces: Interface[]) {
  const { networkInterfaces } = Deno;
  const rest = { name: "eth0", netmask: "", cidr: "" };
  Deno.networkInterfaces = () =>
    interfaces.map(([address, mac, scopeid = null]) => {
      const family = address.includes(":") ? "IPv6" : "IPv4";
      const found = { ...rest, address, mac, scopeid, family };
      return found as Deno.NetworkInterfaceInfo;
    });
  try {
    return getNetworkAddress(family);
  } finally {
    Deno.networkInterfaces = networkInterfaces;
  }
}

test("getNetworkAddress passes over loopback, and over what has no MAC", () => {
  const local: Interface[] = [["127.0.0.1", NONE], ["127.0.0.2", MAC]];
  const bare: Interface = ["192.0.2.7", NONE];
  assertEquals(choose("IPv4", [...local, bare]), undefined);
  const good: Interface = ["192.0.2.1", MAC];
  assertEquals(choose("IPv4", [...local, bare, good]), "192.0.2.1");
});

test("getNetworkAddress takes the first address of a family", () => {
  const all: Interface[] = [
    ["2001:db8::1", MAC, 0],
    ["169.254.7.7", MAC],
    ["192.0.2.1", MAC],
  ];
  assertEquals(choose("IPv4", all), "169.254.7.7");
  assertEquals(choose("IPv6", all), "2001:db8::1");
});

test("getNetworkAddress takes no IPv6 address of a single link", () => {
  const links: Interface[] = [
    ["::1", MAC, 0],
    ["fe80::1", MAC, 0],
    ["fe80::2", MAC, 2],
  ];
  assertEquals(choose("IPv6", links), undefined);
  assertEquals(
    choose("IPv6", [...links, ["2001:db8::1", MAC, 0]]),
    "2001:db8::1",
  );
});
