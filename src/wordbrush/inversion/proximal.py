"""Proximal guidance as an option of the inversions whose edits are guided away from the source's own prompt."""

from wordbrush.errors import OptionsError
from wordbrush.options import ProximalOptions
from wordbrush.states import Proximal

QUANTILE, START = 0.7, 0.6  # as released: recon_t = 400 of 1,000 timesteps


def settled(options: ProximalOptions) -> Proximal | None:
    """How edits are guided; None: by text alone.

    Raises `OptionsError` for options that only proximal guidance, or only inversion guidance, reads.
    """
    if options.proximal == "off":
        _require_none(
            options,
            ("proximal_quantile", "proximal_rule", "inversion_guidance", "inversion_guidance_start"),
            "proximal guidance, which is off: leave it out, or say proximal hard or soft",
        )
        return None
    pull = options.inversion_guidance or 0.0
    if pull == 0:
        _require_none(
            options,
            ("inversion_guidance_start",),
            "inversion guidance, which is off: leave it out, or say inversion_guidance 1",
        )
    start = START if options.inversion_guidance_start is None else options.inversion_guidance_start
    return Proximal(
        quantile=QUANTILE if options.proximal_quantile is None else options.proximal_quantile,
        is_soft=options.proximal == "soft",
        is_released=options.proximal_rule == "released",
        pull=pull,
        last=1 - start if pull else 0.0,
    )


def _require_none(options: ProximalOptions, names: tuple[str, ...], by: str) -> None:
    for name in names:
        if getattr(options, name) is not None:
            raise OptionsError(f"{name} is read by {by}")
