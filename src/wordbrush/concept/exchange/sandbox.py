"""The program that opens one pickle: a process of its own, which may make tensors and nothing else.

    python sandbox.py PICKLE SAFETENSORS SECONDS BYTES

It imports nothing of this package. What keeps a hostile file from doing harm, in this order: the pickle may name the
few classes of `restricted` and no other, so that nothing of its making runs; there is no network (on Linux a network
namespace of its own, where the system lets a user have one); Python's audit events of starting programs, of sockets and
of writing files end the process; and time and memory are limited by the system (not on Windows).
"""

import ctypes
import json
import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from types import ModuleType
from typing import Any

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # flags of Linux' unshare
_FORBIDDEN = (
    *(
        "socket.",
        "subprocess.",
        "shutil.",
        "os.exec",
        "os.fork",
        "os.posix_spawn",
        "os.system",
        "os.startfile",
    ),
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.truncate"),
)
_DEEPEST = 32


def main(source: str, target: str, seconds: int, memory: int) -> None:
    """Convert the file. Raises whatever is wrong with it; the caller reads the last line."""
    without_network()
    import torch
    from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

    limit(seconds, memory)
    sys.addaudithook(_refuse)
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            if any(name.endswith("constants.pkl") for name in archive.namelist()):
                raise ValueError("it is a program (TorchScript), not tensors")
    value = torch.load(source, map_location="cpu", pickle_module=restricted(), weights_only=False)
    tensors: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    flatten(value, "", tensors, rest, 0)
    if not tensors:
        raise ValueError("there are no tensors in it")
    save_file(
        {name: own.detach().clone().contiguous() for name, own in tensors.items()},
        target,
        {"format": "pt", "pickled": json.dumps(rest, sort_keys=True)},
    )


class ParameterDict(dict[Any, Any]):
    """In place of torch's, of which it is the state alone. dump_patches: asked for by torch's old format."""

    dump_patches = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.update(state["_parameters"])


def rebuilt_parameter(data: Any, *_: Any) -> Any:
    """In place of torch's: the tensor, without its hooks."""
    return data


def restricted() -> ModuleType:
    """A module in place of pickle, for torch's reader, whose unpickler knows tensors and a few containers alone."""
    import torch
    from torch import _utils

    allowed: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("builtins", "set"): set,
        ("__builtin__", "set"): set,
        ("torch", "Size"): torch.Size,
        ("torch._utils", "_rebuild_tensor"): getattr(_utils, "_rebuild_tensor"),  # noqa: B009
        ("torch._utils", "_rebuild_tensor_v2"): getattr(_utils, "_rebuild_tensor_v2"),  # noqa: B009
        ("torch._utils", "_rebuild_parameter"): rebuilt_parameter,
        ("torch.nn.modules.container", "ParameterDict"): ParameterDict,
        ("torch.storage", "UntypedStorage"): torch.UntypedStorage,
        **{("torch", name): own for name, own in vars(torch).items() if isinstance(own, torch.dtype)},
    }

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str, /) -> Any:
            if (module, name) not in allowed:
                raise ValueError(f"it wants to use {module}.{name}, which is no tensor")
            return allowed[module, name]

    made = ModuleType("restricted")
    made.Unpickler = Unpickler  # pyright: ignore[reportAttributeAccessIssue]
    made.load = lambda file, **options: Unpickler(file, **options).load()  # pyright: ignore
    return made


def flatten(value: Any, name: str, tensors: dict[str, Any], rest: dict[str, Any], depth: int) -> None:
    """The tensors of nested mappings by their keys, joined with dots; the numbers and texts among them apart."""
    import torch

    if depth > _DEEPEST:
        raise ValueError(f"its mappings are more than {_DEEPEST} deep")
    if isinstance(value, torch.Tensor):
        if name in tensors:
            raise ValueError(f"two of its tensors are called {name:.60}")
        tensors[name] = value
    elif isinstance(value, dict):
        for key, own in value.items():  # pyright: ignore[reportUnknownVariableType]
            flatten(own, f"{name}.{key}" if name else str(key), tensors, rest, depth + 1)  # pyright: ignore
    elif isinstance(value, str | int | float | bool | None):
        rest[name] = value
    else:
        raise ValueError(f"{name:.60} is neither tensor nor number nor text")


def without_network() -> None:
    """Leave the network, on a system that lets a user do so. It has to be done while there is one thread."""
    if sys.platform == "linux":
        ctypes.CDLL(None).unshare(_NEW_USER | _NEW_NETWORK)


def limit(seconds: int, memory: int) -> None:
    """Limit the processor's time, and the memory beyond what is in use now."""
    if sys.platform == "win32":
        return
    import resource

    used = 0
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE")
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    writes = event == "open" and int(arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
    if writes or event.startswith(_FORBIDDEN):
        os._exit(13)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    except MemoryError:
        sys.exit("it takes more memory than a file of its size should")
    except Exception as error:  # whatever is wrong with the file is said in one line
        sys.exit(" ".join(str(error).split())[:300] or type(error).__name__)
