import { catchErrors } from "../job.js";

// What `lazuli run` loads ahead of the program on every rank.
catchErrors();
