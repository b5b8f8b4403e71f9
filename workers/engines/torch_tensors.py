"""Tensor models on PyTorch, for GPUs: on CUDA every batch size is padded to a bucket whose graph was captured at load.

The file is a `torch.export` archive (`.pt2`), a graph and its weights. Loading one is running a program (torch
unpickles parts of it): serve only what you trust; the manifest's digest is checked before. Its linear layers take any
of torch_precision's number formats. On a CPU nothing is captured or padded, and ONNX Runtime is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from workers.engines import TensorSpec, check
from workers.engines.torch_graph import Graph
from workers.engines.torch_precision import convert
from workers.memory import said

TYPES: dict[torch.dtype, tuple[str, torch.dtype]] = {
    torch.float32: ("FP32", torch.float32),
    torch.bfloat16: ("FP32", torch.float32),  # numpy has no bfloat16: cast on the way in and out
    torch.float16: ("FP16", torch.float16),
    torch.float64: ("FP64", torch.float64),
    torch.int64: ("INT64", torch.int64),
    torch.int32: ("INT32", torch.int32),
    torch.int8: ("INT8", torch.int8),
    torch.uint8: ("UINT8", torch.uint8),
    torch.bool: ("BOOL", torch.bool),
}
"""The program's type -> the Open Inference Protocol's name of what goes over the wire, and its type."""
CHECKS = (torch.ops.aten._assert_tensor_metadata.default,)
"""Nodes that only assert what the engine checks before it runs."""


class TorchEngine:
    """A tensor model whose inputs and outputs all have the batch as their first dimension."""

    def __init__(
        self,
        path: Path,
        *,
        form: str = "",
        compiled: bool = False,
        max_batch: int = 1,
        device: str = "cpu",
        memory: int | None = None,
        priority: int = 0,
    ) -> None:
        """`form` '' leaves the weights as they were exported; `memory` is how many bytes of the device it may hold,
        `priority` that of its stream. Raises ValueError that names the file: not an archive, a format this machine
        does not have, or no room on the device."""
        self.device = torch.device(device)
        cuda = self.device.type == "cuda"
        held = torch.cuda.memory_allocated(self.device) if cuda else 0
        try:
            self._stream = torch.cuda.Stream(self.device, priority=priority) if cuda else None
            program = torch.export.load(path)
            self.inputs, self.outputs, self._types = described(program)
            with torch.inference_mode(), torch.cuda.stream(self._stream):
                self._function = self._built(program, form, compiled)
                self._graphs = self._captured(max_batch)
        except torch.OutOfMemoryError as error:
            raise ValueError(f"{path}: does not fit on {self.device}: {error}".partition("\n")[0]) from error
        except Exception as error:  # torch's loaders raise whatever their parts do
            raise ValueError(f"{path}: torch cannot load it: {error}") from error
        if cuda and memory is not None:
            _hold(path, torch.cuda.memory_allocated(self.device) - held, memory)
        self._dtypes = {spec.name: np.dtype(_numpy(self._types[spec.name])) for spec in self.inputs}

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one batch. Raises ValueError naming the input at fault, MemoryError when the device has no room."""
        check(feeds, self.inputs, self._dtypes)
        rows = len(next(iter(feeds.values())))
        given = [torch.from_numpy(np.ascontiguousarray(feeds[spec.name])) for spec in self.inputs]
        try:
            with torch.inference_mode(), torch.cuda.stream(self._stream):
                outputs = self._replayed(given, rows)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise MemoryError(f"the device has no room for a batch of {rows}") from error
        return {spec.name: value for spec, value in zip(self.outputs, outputs, strict=True)}

    @property
    def buckets(self) -> Sequence[int]:
        """Batch sizes whose graphs are captured."""
        return sorted(self._graphs)

    def _replayed(self, given: Sequence[torch.Tensor], rows: int) -> list[np.ndarray]:
        bucket = next((size for size in self.buckets if size >= rows), None)
        if bucket is None:
            outputs = self._function(
                *(self._moved(value, spec) for value, spec in zip(given, self.inputs, strict=True))
            )
        else:
            graph = self._graphs[bucket]
            for buffer, value in zip(graph.inputs, given, strict=True):
                buffer[:rows].copy_(value)  # rows beyond hold an earlier batch's, whose answers nobody reads
            outputs = graph.replay()
        return [self._returned(value[:rows], spec) for value, spec in zip(outputs, self.outputs, strict=True)]

    def _moved(self, value: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
        return value.to(self.device, self._types[spec.name])

    def _returned(self, value: torch.Tensor, spec: TensorSpec) -> np.ndarray:
        return value.to("cpu", TYPES[self._types[spec.name]][1]).numpy()

    def _built(self, program: Any, form: str, compiled: bool) -> Callable[..., tuple[torch.Tensor, ...]]:
        if self.device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, str(self.device))
        module = with_linears(program.module())
        if form:
            convert(module, form)
        run = torch.compile(module, dynamic=not self._captures) if compiled else module
        return lambda *inputs: flat(run(*inputs))

    @property
    def _captures(self) -> bool:
        """Graphs have fixed shapes: no dimension but the batch may vary."""
        return self.device.type == "cuda" and all(-1 not in spec.shape[1:] for spec in self.inputs)

    def _captured(self, max_batch: int) -> dict[int, Graph]:
        """The largest first, whose memory the smaller ones share: they never run at once."""
        if not self._captures:
            return {}
        pool = torch.cuda.graph_pool_handle()
        return {size: Graph(self._function, self._buffers(size), pool) for size in reversed(buckets(max_batch))}

    def _buffers(self, rows: int) -> list[torch.Tensor]:
        return [
            torch.zeros((rows, *spec.shape[1:]), dtype=self._types[spec.name], device=self.device)
            for spec in self.inputs
        ]


def _hold(path: Path, taken: int, memory: int) -> None:
    if taken > memory:
        raise ValueError(
            f"{path}: its weights and captured batches take {said(taken)} of the device, its share is {said(memory)}: "
            "a smaller max_batch, fewer variants, or a larger weight"
        )


def buckets(max_batch: int) -> list[int]:
    """Powers of two, and the largest batch itself: padding costs at most half of what is computed."""
    sizes = [1]
    while sizes[-1] * 2 < max_batch:
        sizes.append(sizes[-1] * 2)
    return sorted({*sizes, max_batch})


def described(program: Any) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], dict[str, torch.dtype]]:
    """Inputs, outputs and the type each has inside the program, by name. Outputs that the program did not name are
    `output_0` and on."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    signature = program.graph_signature
    types: dict[str, torch.dtype] = {}

    def spec(name: str, node: str) -> TensorSpec:
        value = values[node]
        if value is None or value.dtype not in TYPES or value.dim() == 0:
            raise ValueError(f"{name!r} is not a tensor with a batch of a known type")
        types[name] = value.dtype
        shape = tuple(size if isinstance(size, int) else -1 for size in value.shape)
        return TensorSpec(name, TYPES[value.dtype][0], (-1, *shape[1:]))

    names = _output_names(program.call_spec.out_spec, len(signature.user_outputs))
    inputs = tuple(spec(name, name) for name in signature.user_inputs)
    return inputs, tuple(spec(n, node) for n, node in zip(names, signature.user_outputs, strict=True)), types


def _output_names(spec: Any, count: int) -> list[str]:
    if spec.type is dict:
        return [str(key) for key in spec.context]
    return [f"output_{index}" for index in range(count)]


def flat(outputs: Any) -> tuple[torch.Tensor, ...]:
    """What a program returned, in the order of its outputs."""
    return tuple(torch.utils._pytree.tree_leaves(outputs))


def with_linears(module: fx.GraphModule) -> fx.GraphModule:
    """Put layers where the program has bare products with weights, so that number formats can be given to them."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target in CHECKS or (node.op == "call_module" and node.target == "_guards_fn"):
            graph.erase_node(node)
        elif node.target is torch.ops.aten.linear.default and node.args[1].op == "get_attr":
            name = f"linear_{node.name}"
            module.add_submodule(name, _linear(module, *node.args[1:]))
            with graph.inserting_before(node):
                node.replace_all_uses_with(graph.call_module(name, (node.args[0],)))
            graph.erase_node(node)
    graph.eliminate_dead_code()
    module.recompile()
    module.delete_all_unused_submodules()
    return module


def _linear(module: fx.GraphModule, weight_node: fx.Node, bias_node: fx.Node | None = None) -> nn.Linear:
    weight = _attribute(module, weight_node)
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias_node is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias_node is not None:
        linear.bias = nn.Parameter(_attribute(module, bias_node).detach(), requires_grad=False)
    return linear


def _attribute(module: fx.GraphModule, node: fx.Node) -> torch.Tensor:
    owner, _, name = str(node.target).rpartition(".")
    return getattr(module.get_submodule(owner), name)


def _numpy(dtype: torch.dtype) -> Any:
    return torch.empty(0, dtype=TYPES[dtype][1]).numpy().dtype
