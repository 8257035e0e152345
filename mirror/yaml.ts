// jsr:@std/yaml/parse, by way of npm.
// @ts-types="./yaml.d.ts"
export { parse } from "npm:deno-std@1.4.0/yaml/parse.js";
