"""What is imported, and when: in a process of its own, because pytest's has everything already."""

import gc
import subprocess
import sys

import pytest

from wordbrush.imports import no_collection

LOAD = "import sys, wordbrush; model = wordbrush.Model.load('pocket')\n"


def python(code: str) -> str:
    """What a new process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.slow
def test_loading_imports_no_other_models_and_nothing_of_the_extras() -> None:
    names = [
        "diffusers.models.autoencoders.autoencoder_kl_wan",
        "diffusers.models.transformers.transformer_flux",
        "diffusers.models.unets.unet_3d_condition",
        "scipy.stats.distributions",
        "transformers.models.bert",
        *("matplotlib", "pandas", "pyarrow", "skimage", "sklearn", "torchmetrics", "torchvision"),
    ]
    assert python(LOAD + f"print([name for name in {names} if name in sys.modules])") == "[]"


@pytest.mark.slow
def test_what_was_left_unread_is_there_when_asked_for() -> None:
    print_all = """
import threading
import diffusers, transformers
import diffusers.models.transformers as unread
found = []
threads = [threading.Thread(target=lambda: found.append(unread.FluxTransformer2DModel)) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(found), {kind is diffusers.FluxTransformer2DModel for kind in found})
from diffusers.models.unets import *
print(UNet2DConditionModel is diffusers.UNet2DConditionModel is type(model.denoiser.unet))
print(transformers.models.bert.BertModel is transformers.BertModel)
for package in (diffusers.models.unets, transformers.models):
    print(hasattr(package, "nothing"), hasattr(package, "__nothing__"))
"""
    assert python(LOAD + print_all).split("\n") == ["4 {True}", "True", "True", "False False", "False False"]


@pytest.mark.slow
def test_the_import_system_is_its_own_again() -> None:
    check = """
import gc
print([each for each in sys.meta_path if 'wordbrush' in type(each).__module__], gc.isenabled(), gc.get_freeze_count())
"""
    assert python(LOAD + check) == "[] True 0"


@pytest.mark.parametrize("is_on", [True, False])
def test_collection_goes_on_as_before(is_on: bool) -> None:
    was_on = gc.isenabled()
    try:
        (gc.enable if is_on else gc.disable)()
        with pytest.raises(KeyError), no_collection():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() == is_on
    finally:
        (gc.enable if was_on else gc.disable)()


def test_no_collection_puts_what_was_made_among_the_oldest() -> None:
    gc.collect()
    with no_collection():
        made: list[object] = []
    assert any(each is made for each in gc.get_objects(generation=2))
