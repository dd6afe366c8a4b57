import { engine } from "@lazuli/lazy-tensor";
import { SingleBar } from "cli-progress";
import pino from "pino";
import { median } from "./statistics.js";
import type { StepReport } from "./train_loop.js";

export interface Summary {
  readonly steps: number;
  readonly final_loss: number;
  /** Median. */
  readonly step_ms: number;
  readonly tokens_per_s: number;
  readonly first_step_s: number;
  /** Most memory the process ever held. */
  readonly peak_mb: number;
  readonly params_m: number;
  readonly compiles: number;
}

/** Where a run's steps and messages go. */
export interface Reporter {
  info(message: string, facts?: Record<string, unknown>): void;
  start(steps: number, total: number): void;
  step(report: StepReport): void;
  /** Ends the display of steps, after a failure too. */
  stop(): void;
  summary(summary: Summary): void;
}

/** For the processes of a job that leave telling to the first. */
export const silentReporter = (): Reporter => ({
  info: () => {},
  start: () => {},
  step: () => {},
  stop: () => {},
  summary: () => {},
});

const rounded = (value: number, digits: number): number => Number(value.toFixed(digits));
const tokensPerSecond = ({ tokens, ms }: StepReport): number => (tokens / ms) * 1000;

/** One JSON object a line on standard output and nothing else there; messages by pino to standard error. */
export function jsonReporter(): Reporter {
  const logger = pino(pino.destination({ dest: 2, sync: true }));
  const print = (line: unknown): void => {
    process.stdout.write(`${JSON.stringify(line)}\n`);
  };
  return {
    info: (message, facts = {}) => logger.info(facts, message),
    start: () => {},
    step: (report) => {
      const { step, loss, lr, ms } = report;
      print({ step, loss, lr, tokens_per_s: rounded(tokensPerSecond(report), 1), step_ms: rounded(ms, 2) });
    },
    stop: () => {},
    summary: (summary) => print({ summary }),
  };
}

/** A progress bar on standard error. */
export function barReporter(): Reporter {
  const bar = new SingleBar({
    format: "{bar} {value}/{total} | loss {loss} | {rate} tokens/s | {memory} MB | {eta_formatted} left",
    barsize: 24,
    etaBuffer: 50,
    // Its handler of Ctrl-C would end the bar and not the run.
    gracefulExit: false,
    // Without a terminal: a line every few seconds.
    noTTYOutput: true,
    notTTYSchedule: 5000,
  });
  return {
    info: (message) => {
      process.stderr.write(`${message}\n`);
    },
    start: (done, total) => bar.start(total, done, { loss: "-", rate: "-", memory: "-" }),
    step: (report) => {
      const memory = Math.round(process.memoryUsage.rss() / 2 ** 20);
      bar.update(report.step, {
        loss: report.loss.toFixed(4),
        rate: Math.round(tokensPerSecond(report)),
        memory,
      });
    },
    stop: () => bar.stop(),
    summary: (summary) => {
      const { final_loss, step_ms, tokens_per_s, peak_mb, compiles } = summary;
      process.stderr.write(
        `loss ${final_loss.toFixed(4)}, ${step_ms} ms a step, ${tokens_per_s} tokens/s, peak ${peak_mb} MB, ${compiles} programs compiled\n`,
      );
    },
  };
}

/** Collects what a run's summary says. Made before the first step. */
export class RunStatistics {
  private readonly reports: StepReport[] = [];
  private compiles = 0;
  private readonly compileEvents = engine().events.compile$.subscribe(() => this.compiles++);

  add(report: StepReport): void {
    this.reports.push(report);
  }

  summary(parameters: number): Summary {
    this.compileEvents.unsubscribe();
    const [first, ...later] = this.reports;
    // The first step compiles.
    const ms = median((later.length > 0 ? later : [first]).map((report) => report.ms));
    return {
      steps: this.reports.length,
      final_loss: this.reports[this.reports.length - 1].loss,
      step_ms: rounded(ms, 2),
      tokens_per_s: rounded((first.tokens / ms) * 1000, 1),
      first_step_s: rounded(first.ms / 1000, 3),
      peak_mb: rounded(process.resourceUsage().maxRSS / 1024, 1),
      params_m: rounded(parameters / 1e6, 3),
      compiles: this.compiles,
    };
  }
}
