#!/bin/bash
# The whole model in one call on an accelerator: data, autoencoder, judge, reader, encoder, UNet, export.
#
#     recipes/pocket/gpu.sh --minutes 28 --out out            # --preset cpu to rehearse without an accelerator
#
# Nothing is fetched: it needs torch, transformers, accelerate, safetensors, pillow and numpy, and finds what else
# it imports as wheels in runs/pocket/wheels. To fetch those beforehand, where there is a network:
#
#     pip download --no-deps --dest runs/pocket/wheels diffusers jaxtyping wadler-lindig
#
# Called again it goes on: what is finished is not done twice, and more minutes train what is there. Into --out go
# weights.tar in parts under 16 MiB (cat weights.tar.* | tar x) and a log; parts and log are eight files at most.
set -euo pipefail
cd "$(dirname "$0")/../.."

minutes=28 out=out preset=gpu scenes=60000
while (($#)); do
  case $1 in
    --minutes | --out | --preset | --scenes) declare "${1#--}=$2"; shift 2 ;;
    *) sed -n '2,13s/^# \?//p' "$0"; exit 2 ;;
  esac
done
began=$SECONDS
mkdir -p "$out" runs/pocket
exec > >(tee -a "$out/log") 2>&1

share() { python -c "print($minutes * $1)"; }
left() { python -c "print(max(0.2, $minutes - 1.5 - ($SECONDS - $began) / 60))"; }
step() { echo "== $((SECONDS - began)) s: $*"; python -W ignore "recipes/pocket/$@"; }

if compgen -G "runs/pocket/wheels/*.whl" >/dev/null; then
  python -m pip install --quiet --no-index --no-deps --target runs/pocket/carried runs/pocket/wheels/*.whl
fi
export PYTHONPATH=src:runs/pocket/carried OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive

[ -e runs/pocket/tokenizer ] || step tokenizer.py
step data.py --train "$scenes"
if [ ! -e runs/pocket/latents.npy ]; then
  step autoencoder.py --preset "$preset" --minutes "$(share 0.3)"
  step autoencoder.py --preset "$preset" --encode
  step autoencoder.py --report
fi
step judge.py --preset "$preset" --minutes "$(share 0.12)"
step reader.py --preset "$preset" --minutes "$(share 0.08)"
step encoder.py --preset "$preset" --minutes "$(share 0.08)"
step diffusion.py --preset "$preset" --minutes "$(left)"
step export.py --out "$out/weights"
tar c -C "$out" weights | split --bytes 15M - "$out/weights.tar."
rm -r "$out/weights"
echo "== $((SECONDS - began)) s: $(ls "$out"/weights.tar.* | wc -l) parts in $out"
