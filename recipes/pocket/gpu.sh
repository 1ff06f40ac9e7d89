#!/bin/bash
# The whole model in one call on an accelerator: data, autoencoder, judge, reader, encoder, UNet, export, report.
#
#     recipes/pocket/gpu.sh --minutes 28 --out out            # --preset cpu to rehearse without an accelerator
#
# It starts from the weights in the folder --from, by default the shipped ones (--from none starts from scratch, judges
# included), and from the files in runs/pocket: called again it repeats nothing, and more minutes continue the training.
#
# It downloads nothing. It needs torch, transformers, accelerate, safetensors, pillow and numpy, and takes its other
# imports from wheels in runs/pocket/wheels. To download those beforehand, on a machine with a network:
#
#     pip download --no-deps --dest runs/pocket/wheels diffusers jaxtyping wadler-lindig torchmetrics lightning-utilities
#
# Writes to --out: weights.tar in parts under 16 MiB (cat weights.tar.* | tar x), two sheets and a log with the figures,
# eight files at most.
set -euo pipefail
cd "$(dirname "$0")/../.."

minutes=28 out=out preset=gpu scenes=60000 from=src/wordbrush/pocket/weights
while (($#)); do
  case $1 in
    --minutes | --out | --preset | --scenes | --from) declare "${1#--}=$2"; shift 2 ;;
    *) sed -n '2,17s/^# \?//p' "$0"; exit 2 ;;
  esac
done
began=$SECONDS
mkdir -p "$out" runs/pocket
exec > >(tee -a "$out/log") 2>&1

share() { python -c "print($minutes * $1)"; }
left() { python -c "print(max(0.2, $minutes * 0.93 - 1.5 - ($SECONDS - $began) / 60))"; }
step() { echo "== $((SECONDS - began)) s: $*"; python -W ignore "recipes/pocket/$@"; }

if compgen -G "runs/pocket/wheels/*.whl" >/dev/null; then
  python -m pip install --quiet --no-index --no-deps --target runs/pocket/carried runs/pocket/wheels/*.whl
fi
docs=runs/pocket/docs
mkdir -p "$docs/gallery" "$docs/benchmarks"
cp docs/pocket.md "$docs"
cp docs/benchmarks/edits.md "$docs/benchmarks"
export PYTHONPATH=src:runs/pocket/carried OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive

if [ "$from" != none ]; then
  for part in vae tokenizer judge reader encoder; do
    [ -e "runs/pocket/$part" ] || cp -r "$from/$part" runs/pocket/
  done
  start=(--start "$from")
fi

[ -e runs/pocket/tokenizer ] || step data/tokenizer.py
step data/data.py --train "$scenes" --threes $((scenes * 2 / 3))
if [ ! -e runs/pocket/latents.npy ]; then
  if [ "$from" = none ]; then
    step training/autoencoder.py --preset "$preset" --minutes "$(share 0.3)"
  else
    step training/autoencoder.py --further --preset "$preset" --minutes "$(share 0.3)"
  fi
  step training/autoencoder.py --preset "$preset" --encode
  step training/autoencoder.py --report
fi
if [ "$from" = none ]; then
  step judges/judge.py --preset "$preset" --minutes "$(share 0.12)"
  step judges/reader.py --preset "$preset" --minutes "$(share 0.08)"
  step judges/encoder.py --preset "$preset" --minutes "$(share 0.08)"
fi
step training/diffusion.py --preset "$preset" --minutes "$(left)" ${start[@]+"${start[@]}"}
step training/export.py --out runs/pocket/exported/new
tar c -C runs/pocket/exported new | split --bytes 15M - "$out/weights.tar."
# The weights are already saved, so a failing report loses nothing.
step report/report.py --model runs/pocket/exported/new --minutes "$(share 0.07)" --count 400 --guidance --docs "$docs" &&
  cp "$docs/gallery/"{pocket-samples,edits}.webp "$out"
echo "== $((SECONDS - began)) s: $(ls "$out"/weights.tar.* | wc -l) parts in $out"
