export interface ClosestStringOptions {
  caseSensitive?: boolean;
  /** the distance of two strings; Levenshtein's unless given */
  compareFn?: (a: string, b: string) => number;
}

/** The one of the possible words that is nearest to the given one. */
export function closestString(
  givenWord: string,
  possibleWords: readonly string[],
  options?: ClosestStringOptions,
): string;
