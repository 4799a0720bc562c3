"""A backend for Triton that runs a model's ONNX file with pip's onnxruntime: the wheel's server has none of its own.

It stands where NVIDIA's backend stands, under the same name, so that the server loads the configurations of production.
Tests say how many seconds a call takes longer than it must: in a file, whose path is the parameter `test.delay_file` of
the model's configuration. In a file beside it there is a byte for each execution that has begun.
"""

import json
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance of one model."""

    def initialize(self, args):
        """Load the file that the configuration names."""
        config = json.loads(args["model_config"])
        parameters = {name: entry["string_value"] for name, entry in config.get("parameters", {}).items()}
        self._delay_file = Path(parameters["test.delay_file"])
        file = config["default_model_filename"]
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = Path(args["model_repository"]) / args["model_version"] / file
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]

    def execute(self, requests):
        """Run all requests as one batch; Triton has seen to it that they fit together."""
        with self._delay_file.with_name("begun").open("ab") as begun:
            begun.write(b".")
        time.sleep(float(self._delay_file.read_text()))
        feeds = [
            {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
            for request in requests
        ]
        joined = {name: np.concatenate([feed[name] for feed in feeds]) for name in self._inputs}
        try:
            values = self._session.run(self._outputs, joined)
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no root of their own
            failure = pb_utils.TritonError(str(error))
            return [pb_utils.InferenceResponse(error=failure) for _ in requests]
        ends = np.cumsum([len(feed[self._inputs[0]]) for feed in feeds])
        rows = [np.split(value, ends[:-1]) for value in values]
        return [
            pb_utils.InferenceResponse(
                output_tensors=[
                    pb_utils.Tensor(name, part[index]) for name, part in zip(self._outputs, rows, strict=True)
                ]
            )
            for index in range(len(requests))
        ]
