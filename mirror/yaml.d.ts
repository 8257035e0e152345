/** The value that a YAML document holds. Throws a SyntaxError. */
export function parse(content: string): unknown;
