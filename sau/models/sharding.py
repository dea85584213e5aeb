"""A model whose rows lie on several processes: FSDP2, one decoder block gathered at a time, gradients summed.

Every parameter is cut on dim 0, `torch.chunk` by rank: a row of a matrix lives on one process, whole, with its part of
the mask, its gradient and its optimizer state. Where rows do not divide, the last processes have fewer, or none.
What is left in whole on each of them is one decoder block at a time, the embeddings during a pass, activations of its
own rows of a batch, and whatever a redistribution holds by matrix.

This is the only file that imports torch.distributed.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from sau.errors import ConfigError, SauError, SparsityError
from sau.mask import mask_digest
from sau.models.language_model import LanguageModel
from sau.models.layers import decoder_blocks, prunable
from sau.models.packing import packs
from sau.models.placement import device_of
from sau.models.ranks import ALONE, Item, Key, Ranks, Result, set_ranks

TIMEOUT_S = 600.0
"""How long a process waits for the others. One that has died is noticed at once, one that hangs is given up so."""


@contextlib.contextmanager
def joined(device: str, timeout_s: float = TIMEOUT_S) -> Iterator["Together"]:
    """The processes that torchrun has started, together while open: gloo between CPUs, nccl between GPUs.

    Args:
        device: as in the parameters; with `cuda` each process takes the GPU of its number on its machine.

    Raises:
        ConfigError: a device that several processes cannot have.
        ConnectionError: another of them has ended, or was silent for `timeout_s`.
    """
    kind = device_of(device).type
    if kind == "mps" or ":" in device:
        raise ConfigError(f"device {device}: several processes run on cpu, or each on a GPU of its own: cuda")
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    if kind == "cuda":
        local, there = dist.get_node_local_rank(0), torch.cuda.device_count()
        if local >= there:
            raise ConfigError(f"device cuda: {local + 1} processes or more on a machine with {there} GPUs")
        torch.cuda.set_device(local)
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
        yield Together(init_device_mesh(kind, (dist.get_world_size(),)))
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo/" in str(error):
            raise ConnectionError("another process of this step has ended") from error
        raise
    dist.destroy_process_group()  # after an error the others may not come: whoever ends leaves the group, too


class Together(Ranks):
    """Several processes; of a model that lies on them undivided each has the whole, the same as the others."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self.mesh, self.rank, self.size = mesh, mesh.get_local_rank(), mesh.size()
        self._next = 0

    def divide(self, lm: LanguageModel) -> LanguageModel:
        """The model in place, each process with its rows alone, on its device; the mask is cut with it.

        Raises:
            ConfigError: matrices whose rows are not dim 0 of a parameter: Conv1D (GPT-2), fused experts.
            SparsityError: the model has no list of decoder blocks, or the processes' masks differ.
        """
        if odd := [m.parameter for _, m in prunable(lm.model) if m.transposed or m.expert is not None]:
            raise ConfigError(f"{odd[0]}: not over several processes: its rows are not those of its parameter")
        digest = mask_digest(lm.mask or {})
        if digest != self.agreed(digest):
            raise SparsityError("the processes have opened models with different masks")
        set_ranks(lm.model, Shards(lm.model, self.mesh))
        device = lm.model.device  # where its rows have gone; a copy, or the slice would keep the whole mask
        lm.mask = lm.mask and {name: self.rows_of(kept).to(device, copy=True) for name, kept in lm.mask.items()}
        packs(lm.model)  # tried once, on all of them: later only some might want to know
        return lm

    def rows_of(self, stored: Tensor) -> Tensor:
        """This process's rows of a tensor that is laid out as a parameter is; as a view."""
        parts = stored.chunk(self.size)
        return parts[self.rank] if self.rank < len(parts) else stored[:0]

    def total(self, value: Tensor) -> Tensor:
        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    def mean(self, values: Tensor) -> Tensor:
        return self.total(values.sum()) / self.total(torch.tensor(values.numel(), device=values.device))

    def norm(self, own: Tensor) -> Tensor:
        return self.total(own.double().square()).sqrt()

    def agreed(self, value: Item) -> Item:
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def merged(self, found: dict[Key, Item]) -> dict[Key, Item]:
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, found)
        return {key: value for part in parts for key, value in part.items()}

    def deal(self, items: Sequence[Item]) -> Iterator[tuple[Item, bool]]:
        if self.in_step:
            yield from super().deal(items)
            return
        first, self._next = self._next, (self._next + len(items)) % self.size  # or the first would have all single ones
        for number, item in enumerate(items, first):
            if number % self.size == self.rank:
                yield item, True

    def alike(self, work: Callable[[], Result]) -> Result:
        if self.in_step:  # who fails ends, and with it the others
            return work()
        done, failed = None, None
        try:
            done = work()
        except Exception as error:
            failed = error
        of_all = self.merged({} if failed is None else {self.rank: _to_say(failed)})
        if of_all:
            raise of_all[min(of_all)] from failed
        return cast(Result, done)


class Shards(Together):
    """The processes that a model's rows lie on, and this one's share of them."""

    in_step = True

    def __init__(self, model: Any, mesh: DeviceMesh) -> None:
        """
        Args:
            model: in whole; cut in place.
        """
        super().__init__(mesh)
        whole = dict(model.named_parameters())
        # FSDP's modules cannot be copied: what is copied is the model as it was, without its numbers.
        self._places = {name: _on_meta(parameter) for name, parameter in whole.items()}
        self._mould = _with(model, whole, self._places)
        policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
        for module in (*decoder_blocks(model)[1], model):
            # Always resharded: what is still gathered from a reading would not notice weights that are put back.
            cut: Any = fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
            cut.set_gradient_divide_factor(1.0)  # a sum: what each process adds is its share of a mean
            cut.set_force_sum_reduction_for_comms(True)  # gloo knows no other
        self._cut: dict[str, Any] = dict(model.named_parameters())
        self._own = {name: nn.Parameter(_rows(cut), requires_grad=False) for name, cut in self._cut.items()}

    def own(self, model: Any) -> dict[str, nn.Parameter]:
        for name, own in self._own.items():
            own.data = _rows(self._cut[name])  # freshly: FSDP owns the memory, and moves rows that it pads
        return self._own

    def collect(self) -> None:
        for name, own in self.own(None).items():
            cut = self._cut[name]
            if cut.grad is not None:
                gradient = cut.grad.to_local()
                own.grad = gradient if own.grad is None else own.grad.add_(gradient)
                cut.grad = None

    def outline(self, model: Any) -> Any:
        return self._mould

    def copy(self, model: Any) -> Any:
        copied = self.filled({name: _on_meta(place) for name, place in self._places.items()})
        buffers = {name: buffer.clone() for name, buffer in copied.named_buffers()}
        shards = Shards(copied, self.mesh)
        copied.to_empty(device=model.device)
        for name, buffer in copied.named_buffers():
            buffer.copy_(buffers[name])
        shards._fill(copied, self._own)
        set_ranks(copied, shards)
        packs(copied)
        return copied

    def _fill(self, model: Any, rows: dict[str, nn.Parameter]) -> None:
        """Give a model that was cut without numbers this process's rows of them."""
        self._cut = dict(model.named_parameters())
        for name, cut in self._cut.items():
            self._own[name] = nn.Parameter(_rows(cut).copy_(rows[name]), requires_grad=False)

    def filled(self, parameters: dict[str, nn.Parameter]) -> Any:
        """The model as it was before it was cut, undivided, with other parameters."""
        return _with(self._mould, self._places, parameters)


def _to_say(error: Exception) -> SauError:
    """What other processes are told of an error."""
    return error if isinstance(error, SauError) else SauError(type(error).__name__)


def _rows(cut: Any) -> Tensor:
    """This process's rows of a parameter, in its own memory."""
    return cut.to_local().detach()


def _on_meta(parameter: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.empty_like(parameter, device="meta"), parameter.requires_grad)


def _with(model: Any, parameters: dict[str, nn.Parameter], others: dict[str, nn.Parameter]) -> Any:
    """A copy of a model in which other parameters are wherever its own are, tied ones too."""
    copied = copy.deepcopy(model, {id(parameter): others[name] for name, parameter in parameters.items()})
    set_ranks(copied, ALONE)
    return copied
