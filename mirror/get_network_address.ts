// jsr:@std/net/get-network-address, which npm does not have.

/**
 * The first address by which other machines may know this one. It chooses as
 * the official function does.
 */
export function getNetworkAddress(
  family: Deno.NetworkInterfaceInfo["family"] = "IPv4",
): string | undefined {
  return Deno.networkInterfaces().find((each) => {
    if (each.family !== family || each.mac === "00:00:00:00:00:00") {
      return false;
    }
    if (family === "IPv4") return !each.address.startsWith("127");
    return each.scopeid === 0 && each.address !== "::1" &&
      each.address !== "fe80::1";
  })?.address;
}
