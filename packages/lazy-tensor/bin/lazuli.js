#!/usr/bin/env node
// Committed, so that it can be linked before anything is built.
import "../dist/cli/main.js";
