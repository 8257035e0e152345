/** What parseArgs is told about a command line. */
export interface ParseOptions {
  /** other names of an option */
  alias?: Record<string, string | readonly string[]>;
  /** options that take no value */
  boolean?: boolean | string | readonly string[];
  /** options whose value stays text */
  string?: string | readonly string[];
  /** options that may be repeated; their values become an array */
  collect?: string | readonly string[];
  /** switches that `--no-NAME` turns off */
  negatable?: string | readonly string[];
  default?: Record<string, unknown>;
  /** whether what follows `--` goes into a field of that name */
  "--"?: boolean;
  /** whether everything from the first word on is a word */
  stopEarly?: boolean;
  /** called for what no other setting names; `false` leaves it out */
  unknown?: (arg: string, key?: string, value?: unknown) => unknown;
}

/** Options by name, and the words that belong to none under `_`. */
export type Args = { [name: string]: unknown; _: (string | number)[] };

export function parseArgs(args: string[], options?: ParseOptions): Args;
