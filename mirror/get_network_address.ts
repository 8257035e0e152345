// jsr:@std/net/get-network-address, which npm does not have.

/** The first address of this machine that is neither loopback nor link-local, where there is one. */
export function getNetworkAddress(family: Deno.NetworkInterfaceInfo["family"] = "IPv4"): string | undefined {
  const own = /^(127\.|169\.254\.|::1$|fe80:)/i;
  return Deno.networkInterfaces().find((each) => each.family === family && !own.test(each.address))?.address;
}
