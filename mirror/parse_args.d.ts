/** What parseArgs is told about a command line. */
export interface ParseOptions<
  Switch extends string,
  Text extends string,
  Many extends string,
> {
  /** options that take no value */
  boolean?: readonly Switch[];
  /** options whose value stays text; `_` keeps words text */
  string?: readonly Text[];
  /** options that may be repeated; their values become an array */
  collect?: readonly Many[];
  /** other names of an option */
  alias?: Record<string, string>;
  /** called for what no other setting names */
  unknown?: (arg: string, key?: string, value?: unknown) => unknown;
}

/** Options by name, and the words that belong to none under `_`. */
export type Args<
  Switch extends string,
  Text extends string,
  Many extends string,
> =
  & { [Name in Exclude<Switch, Many>]: boolean }
  & { [Name in Switch & Many]: boolean[] }
  & { [Name in Exclude<Text, Many | "_">]?: string }
  & { [Name in Text & Many]: string[] }
  & { _: (string | number)[] };

export function parseArgs<
  const Switch extends string = never,
  const Text extends string = never,
  const Many extends string = never,
>(
  args: string[],
  options?: ParseOptions<Switch, Text, Many>,
): Args<Switch, Text, Many>;
