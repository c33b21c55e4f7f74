/** A signal has ended what a command waited for. Thrown by signals.ts; fail.ts says nothing of it but by the
 *  exit code. */
export class InterruptedError extends Error {}
