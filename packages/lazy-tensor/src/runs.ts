/** Runs handed to the device, which are done in their order. */
export class Runs {
  private last: Promise<unknown> = Promise.resolve();
  /** Those nobody waits for yet: the next that does is told of their failures. */
  private readonly unreported = new Set<Promise<void>>();

  add(done: Promise<void>): void {
    this.unreported.add(done);
    this.last = done.then(
      () => this.unreported.delete(done),
      () => undefined,
    );
  }

  /** The failure of `done` is told elsewhere. */
  leaveOut(done: Promise<void>): void {
    this.unreported.delete(done);
  }

  /** Resolves when all are done; rejects with a failure that was not told yet. */
  async report(): Promise<void> {
    const waiting = [this.last, ...this.unreported];
    this.unreported.clear();
    await Promise.all(waiting);
  }

  /** Resolves when all are done, failed or not. */
  async idle(): Promise<void> {
    await this.last;
  }
}
