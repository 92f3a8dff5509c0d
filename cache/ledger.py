"""Where device memory goes, in bytes, and how many KV blocks that leaves. Measures and allocates nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

_MIB = 1 << 20
_GIB = 1 << 30


class MemoryFitError(ValueError):
    """What was asked for does not fit; the message is one sentence with the numbers and a flag to change."""


class KVShape(Protocol):
    """The part of a model's configuration that decides the size of a block."""

    @property
    def num_layers(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...


def kv_bytes_per_block(config: KVShape, block_size: int, bytes_per_value: int) -> int:
    """Bytes of K and V that one block holds over all layers."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * block_size * bytes_per_value


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLedger:
    """One device's memory, in bytes; the entries and the headroom add up to `total_bytes`.

    others_bytes: what other processes hold.   activations_bytes: the largest step's peak beyond the weights.
    graphs_bytes: captured graphs, 0 on CPU.   block_bytes: one KV block over all layers.
    """

    total_bytes: int
    weights_bytes: int
    activations_bytes: int
    graphs_bytes: int
    num_blocks: int
    block_bytes: int
    block_size: int
    others_bytes: int = 0

    @classmethod
    def fit(
        cls,
        *,
        total_bytes: int,
        weights_bytes: int,
        activations_bytes: int,
        block_bytes: int,
        block_size: int,
        graphs_bytes: int = 0,
        others_bytes: int = 0,
        utilization: float = 0.9,
        kv_cache_bytes: int | None = None,
        num_blocks: int | None = None,
        max_model_len: int | None = None,
    ) -> MemoryLedger:
        """Divide the device's memory.

        KV gets `num_blocks` blocks if given, else `kv_cache_bytes`, else all that `utilization` of the total
        leaves. max_model_len: tokens that one sequence must be able to reach; None: whatever fits.
        Raises MemoryFitError.
        """
        fixed_bytes = others_bytes + weights_bytes + activations_bytes + graphs_bytes
        if num_blocks is not None:
            flag, wanted = "--num-gpu-blocks-override", num_blocks
        elif kv_cache_bytes is not None:
            flag, wanted = "--kv-cache-memory-bytes", kv_cache_bytes // block_bytes
        else:
            flag = "--gpu-memory-utilization"
            wanted = max(0, int(total_bytes * utilization) - fixed_bytes) // block_bytes
        ledger = cls(
            total_bytes=total_bytes,
            weights_bytes=weights_bytes,
            activations_bytes=activations_bytes,
            graphs_bytes=graphs_bytes,
            num_blocks=wanted,
            block_bytes=block_bytes,
            block_size=block_size,
            others_bytes=others_bytes,
        )
        ledger._check(flag, utilization, max_model_len)
        return ledger

    @property
    def kv_bytes(self) -> int:
        """Memory of the KV cache."""
        return self.num_blocks * self.block_bytes

    @property
    def headroom_bytes(self) -> int:
        """What nobody has been given."""
        return self.total_bytes - self._fixed_bytes - self.kv_bytes

    @property
    def capacity_tokens(self) -> int:
        """Tokens that the KV cache holds, over all sequences."""
        return self.num_blocks * self.block_size

    @property
    def _fixed_bytes(self) -> int:
        return self.others_bytes + self.weights_bytes + self.activations_bytes + self.graphs_bytes

    def entries(self) -> dict[str, int]:
        """Bytes by name, in the order of `table`; all but `total` add up to it."""
        return {
            "other processes": self.others_bytes,
            "weights": self.weights_bytes,
            "activations": self.activations_bytes,
            "graphs": self.graphs_bytes,
            "KV cache": self.kv_bytes,
            "headroom": self.headroom_bytes,
            "total": self.total_bytes,
        }

    def table(self) -> str:
        """The ledger as lines of text; entries of zero bytes are left out."""
        blocks = f"{self.num_blocks:,} blocks x {self.block_size} tokens = {self.capacity_tokens:,} tokens"
        notes = {"KV cache": f"  {blocks}"}
        return "\n".join(
            f"{name:<16}{format_bytes(size):>12}{notes.get(name, '')}"
            for name, size in self.entries().items()
            if size or name in ("KV cache", "total")
        )

    def _check(self, flag: str, utilization: float, max_model_len: int | None) -> None:
        chosen_by_utilization = flag == "--gpu-memory-utilization"
        if self.num_blocks < 1:
            self._refuse_empty(flag, utilization)
        if self.total_bytes - self._fixed_bytes < self.block_bytes:
            self._refuse_empty("--gpu-memory-utilization", utilization)  # no other flag would help
        if self.headroom_bytes < 0:
            raise MemoryFitError(
                f"a KV cache of {format_bytes(self.kv_bytes)} ({self.num_blocks:,} blocks) does not fit: of "
                f"{format_bytes(self.total_bytes)}, {format_bytes(self._fixed_bytes)} are taken; "
                f"lower {flag} to {self._largest(flag)}"
            )
        if max_model_len is not None and self.capacity_tokens < max_model_len:
            blocks = -(-max_model_len // self.block_size)
            raise MemoryFitError(
                f"one sequence of {max_model_len:,} tokens needs {format_bytes(blocks * self.block_bytes)} "
                f"of KV cache, but {format_bytes(self.kv_bytes)} ({self.num_blocks:,} blocks) hold "
                f"{self.capacity_tokens:,} tokens; lower --max-model-len to {self.capacity_tokens} "
                f"or raise {flag}" + (f" above {utilization:g}" if chosen_by_utilization else "")
            )

    def _refuse_empty(self, flag: str, utilization: float) -> None:
        block = f"one KV block ({format_bytes(self.block_bytes)}, {self.block_size} tokens)"
        if flag != "--gpu-memory-utilization":
            raise MemoryFitError(f"{flag} leaves no room for {block}; raise it or lower --block-size")
        parts = ", ".join(
            f"{name} {format_bytes(size)}"
            for name, size in self.entries().items()
            if size and name != "headroom"
        )
        raise MemoryFitError(
            f"no memory is left for {block}: {parts}, of which octavo may use {utilization:g}; "
            f"{self._way_out()}"
        )

    def _way_out(self) -> str:
        if self.total_bytes - self._fixed_bytes >= self.block_bytes:
            return "raise --gpu-memory-utilization or choose a smaller model"
        if self.activations_bytes + self.graphs_bytes > self.weights_bytes:
            return "lower --max-num-batched-tokens or --max-num-seqs, or choose a smaller model"
        return "choose a smaller model"

    def _largest(self, flag: str) -> str:
        left = max(0, self.total_bytes - self._fixed_bytes)
        return str(left // self.block_bytes if flag == "--num-gpu-blocks-override" else left)


def format_bytes(size: int) -> str:
    """A size for people: `1.50 GiB`, `412.0 MiB`, `96.0 KiB`."""
    if abs(size) >= _GIB:
        return f"{size / _GIB:.2f} GiB"
    if abs(size) >= _MIB:
        return f"{size / _MIB:.1f} MiB"
    return f"{size / 1024:.1f} KiB"
