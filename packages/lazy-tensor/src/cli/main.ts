import { Command, InvalidArgumentError } from "commander";
import { CheckError, check } from "./check.js";
import { LaunchError, launch } from "./launch.js";

const count = (text: string): number => {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1)
    throw new InvalidArgumentError("It is not a whole number of at least 1.");
  return value;
};

const program = new Command("lazuli")
  .description("Lazuli's launcher and checker.")
  .enablePositionalOptions()
  .showHelpAfterError("(lazuli --help)")
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2));
program
  .command("run")
  .description("Starts a program as one process a device, by Open MPI's mpirun.")
  .requiredOption("--nprocs <n>", "processes", count)
  .option(
    "--hosts <names>",
    "machines, separated by commas; name:slots for more than an even share",
    (text) => text.split(","),
  )
  .option("--timeout <seconds>", "how long a device waits for another (default: 300)", count)
  .argument("<script>", "the program, JavaScript or TypeScript")
  .argument("[args...]", "its arguments")
  .passThroughOptions()
  .action(
    async (
      script: string,
      args: string[],
      options: { nprocs: number; hosts?: string[]; timeout?: number },
    ) => {
      process.exitCode = await launch({ script, args, ...options });
    },
  );
program
  .command("check")
  .description("Finds tensors used as truth values or numbers, which they are not before they are computed.")
  .argument("<files...>", "TypeScript or JavaScript files")
  .action((files: string[]) => {
    process.exitCode = check(files) > 0 ? 1 : 0;
  });

try {
  await program.parseAsync();
} catch (error) {
  if (!(error instanceof LaunchError || error instanceof CheckError)) throw error;
  console.error(`lazuli: ${error.message}`);
  process.exitCode = 2;
}
