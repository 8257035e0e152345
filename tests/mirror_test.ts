/** The stand-in for a function that npm does not have chooses as the official one does. */
import { assertEquals } from "jsr:@std/assert@^1";
import { getNetworkAddress } from "jsr:@std/net@^1/get-network-address";
import { test } from "./helpers.ts";

/** The address chosen among those of `[address, MAC, scope]`. */
function chosen(
  family: "IPv4" | "IPv6",
  interfaces: [address: string, mac: string, scopeid?: number][],
) {
  const { networkInterfaces } = Deno;
  Deno.networkInterfaces = () =>
    interfaces.map(([address, mac, scopeid = null]) => ({
      ...{
        address,
        mac,
        scopeid,
        family: address.includes(":") ? "IPv6" : "IPv4",
      },
      ...{ name: "eth0", netmask: "", cidr: "" },
    } as Deno.NetworkInterfaceInfo));
  try {
    return getNetworkAddress(family);
  } finally {
    Deno.networkInterfaces = networkInterfaces;
  }
}

const NONE = "00:00:00:00:00:00";
const MAC = "02:00:00:00:00:01";

test("getNetworkAddress passes over loopback, and over interfaces that have no MAC", () => {
  assertEquals(
    chosen("IPv4", [["127.0.0.1", NONE], ["192.0.2.1", NONE], [
      "127.0.0.2",
      MAC,
    ]]),
    undefined,
  );
  assertEquals(
    chosen("IPv4", [["10.9.8.7", NONE], ["2001:db8::1", MAC, 0], [
      "192.0.2.1",
      MAC,
    ]]),
    "192.0.2.1",
  );
});

test("getNetworkAddress takes the first address of a family, 169.254 too", () => {
  assertEquals(
    chosen("IPv4", [["169.254.7.7", MAC], ["192.0.2.1", MAC]]),
    "169.254.7.7",
  );
});

test("getNetworkAddress takes no IPv6 address that is good on one link only", () => {
  assertEquals(
    chosen("IPv6", [["::1", MAC, 0], ["fe80::1", MAC, 0], ["fe80::2", MAC, 2]]),
    undefined,
  );
  const found = chosen("IPv6", [["2001:db8::9", NONE, 0], ["192.0.2.1", MAC], [
    "2001:db8::1",
    MAC,
    0,
  ]]);
  assertEquals(found, "2001:db8::1");
});
