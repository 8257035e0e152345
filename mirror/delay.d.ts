export interface DelayOptions {
  /** ends the wait; the promise rejects with its reason */
  signal?: AbortSignal;
  /** whether the timer keeps the process alive */
  persistent?: boolean;
}

/** Resolves after `ms` milliseconds. */
export function delay(ms: number, options?: DelayOptions): Promise<void>;
