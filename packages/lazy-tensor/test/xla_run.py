"""Compiles StableHLO programs with XLA, through JAX, and runs them on the CPU.

usage: xla_run.py FOLDER

FOLDER/jobs.json lists {name, inputs: [{dtype, shape}], outputs: [{dtype, shape}]}; FOLDER/<name>.mlir is the program,
<name>.in<i> its inputs' bytes. Writes <name>.out<i>, or <name>.error.
"""

import json
import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_ENABLE_X64"] = "1"

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.lib import xla_client

DTYPES = {
    "float32": np.float32,
    "float64": np.float64,
    "bfloat16": jnp.bfloat16,
    "float16": np.float16,
    "int32": np.int32,
    "int64": np.int64,
    "uint8": np.uint8,
    "bool": np.bool_,
}


def main(folder: str) -> None:
    device = jax.devices("cpu")[0]
    devices = xla_client.DeviceList((device,))
    options = xla_client.CompileOptions()
    # Programs run once: what compiles fast is fast.
    options.executable_build_options.debug_options.xla_backend_optimization_level = 0
    options.executable_build_options.debug_options.xla_llvm_disable_expensive_passes = True
    with open(os.path.join(folder, "jobs.json"), encoding="utf-8") as file:
        jobs = json.load(file)
    for job in jobs:
        path = os.path.join(folder, job["name"])
        try:
            with open(f"{path}.mlir", encoding="utf-8") as file:
                program = device.client.compile_and_load(file.read(), devices, options)
            inputs = []
            for i, spec in enumerate(job["inputs"]):
                data = np.fromfile(f"{path}.in{i}", dtype=DTYPES[spec["dtype"]]).reshape(spec["shape"])
                inputs.append(jax.device_put(data, device))
            results = program.execute_sharded(inputs).disassemble_into_single_device_arrays()
            for i, result in enumerate(results):
                value = np.asarray(result[0])
                spec = job["outputs"][i]
                assert list(value.shape) == spec["shape"], f"output {i}: {value.shape}"
                assert value.dtype == DTYPES[spec["dtype"]], f"output {i}: {value.dtype}"
                np.ascontiguousarray(value).tofile(f"{path}.out{i}")
        except Exception as error:  # the test reports it
            with open(f"{path}.error", "w", encoding="utf-8") as file:
                file.write(str(error))


if __name__ == "__main__":
    main(sys.argv[1])
