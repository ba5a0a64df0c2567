"""Training cases of ONNX's backend tests as one small fixture: onnx-training/cases.json and tensors.safetensors.

    python -m venv venv && venv/bin/pip install onnx==1.22.0 numpy safetensors
    venv/bin/python tests/golden/onnx_training.py

The cases are those of the wheel, onnx/backend/test/data/node: Adagrad, Adam, Momentum, NegativeLogLikelihoodLoss,
SoftmaxCrossEntropyLoss and Dropout in training. A case that the wheel holds twice, as one operator and `_expanded`
into several, is taken as one operator. Equal tensors are stored once.
"""

import hashlib
import json
import pathlib

import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

assert onnx.__version__ == "1.22.0", onnx.__version__

HERE = pathlib.Path(__file__).parent / "onnx-training"
DATA = pathlib.Path(onnx.__file__).parent / "backend/test/data/node"
PATTERNS = ["adagrad*", "adam*", "momentum*", "nesterov_momentum*", "nllloss*", "sce*", "training_dropout*"]

tensors = {}


def stored(path):
    """Name of the tensor of a file; scalars have shape [1], bools and ints are int64 or uint8."""
    array = numpy_helper.to_array(onnx.load_tensor(path))
    array = array.astype("uint8") if array.dtype == bool else array
    name = hashlib.sha256(repr((array.dtype, array.shape)).encode() + array.tobytes()).hexdigest()[:12]
    tensors[name] = array.copy()
    return name


def case(folder):
    (node,) = onnx.load(folder / "model.onnx").graph.node

    def value(attribute):
        v = onnx.helper.get_attribute_value(attribute)
        return v.decode() if isinstance(v, bytes) else v

    def files(kind):
        found = sorted((folder / "test_data_set_0").glob(f"{kind}_*.pb"), key=lambda p: int(p.stem.split("_")[1]))
        return [stored(path) for path in found]

    return {
        "name": folder.name.removeprefix("test_"),
        "op": node.op_type,
        "attributes": {a.name: value(a) for a in node.attribute},
        "inputs": files("input"),
        "outputs": files("output"),
    }


folders = sorted(folder for pattern in PATTERNS for folder in DATA.glob(f"test_{pattern}"))
cases = [case(folder) for folder in folders if not folder.name.endswith("_expanded")]
HERE.mkdir(exist_ok=True)
lines = ",\n".join(json.dumps(c) for c in cases)
(HERE / "cases.json").write_text(f"[\n{lines}\n]\n")
save_file(tensors, HERE / "tensors.safetensors")
print(len(cases), "cases")
