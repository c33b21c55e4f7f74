/** The only place that reads or waits on time, so that sim/ can replace it by virtual time. */

export interface TimerHandle {
  cancel(): void;
}

export interface Clock {
  /** Milliseconds since an arbitrary start, monotonic, with fractions. */
  nowMs(): number;
  /** Milliseconds since 1970, for people and for OpenAI's `created`. */
  wallMs(): number;
  sleep(delayMs: number): Promise<void>;
  /** Calls `fire` once after `delayMs`. Never keeps the process alive. */
  after(delayMs: number, fire: () => void): TimerHandle;
  /** Resolves in a later turn of the event loop, after pending I/O. */
  yield(): Promise<void>;
}

class SystemClock implements Clock {
  nowMs(): number {
    return performance.now();
  }

  wallMs(): number {
    return Date.now();
  }

  sleep(delayMs: number): Promise<void> {
    return new Promise((resolve) => setTimeout(resolve, delayMs));
  }

  after(delayMs: number, fire: () => void): TimerHandle {
    const timer = setTimeout(fire, delayMs);
    timer.unref();
    return { cancel: () => clearTimeout(timer) };
  }

  yield(): Promise<void> {
    return new Promise((resolve) => setImmediate(resolve));
  }
}

export const systemClock: Clock = new SystemClock();

/** The present in local time, for texts that name the date. */
export function localDate(clock: Clock): Date {
  return new Date(clock.wallMs());
}

/** Of now, in UTC, to the second. */
export function isoDate(): string {
  const format = new Intl.DateTimeFormat('sv-SE', {
    dateStyle: 'short',
    timeStyle: 'medium',
    timeZone: 'UTC',
  });
  return format.format(systemClock.wallMs()).replace(' ', 'T');
}
