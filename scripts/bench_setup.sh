#!/usr/bin/env bash
# Makes the virtual environments that scripts/bench.py compares, one for each peer:
#
#     scripts/bench_setup.sh [FOLDER]        default: .bench in the checkout; about 4 GB, minutes
#
# FOLDER/tlflax, FOLDER/keras_tf, FOLDER/keras_jax, FOLDER/torch. Run again it only adds what lacks.
# PYTHON (default python3) is the interpreter they are made with; it needs a TensorFlow wheel
# (3.11 to 3.13). On a machine with an NVIDIA GPU set TORCH=torch and JAX="jax[cuda13]".
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$root/.bench}
python=${PYTHON:-python3}
export PIP_DISABLE_PIP_VERSION_CHECK=1

# The versions that are compared. tlflax' own come from pyproject.toml.
keras="keras==3.15.1"
pillow="pillow>=11.0"
jax=${JAX:-jax>=0.10}
torch=${TORCH:-torch==2.13.0} # as released for CPU

make() { # NAME PACKAGE...
    local name=$1
    shift
    [ -x "$folder/$name/bin/python" ] || "$python" -m venv "$folder/$name"
    echo "$name: pip install $*"
    "$folder/$name/bin/python" -m pip install --quiet "$@"
}

mkdir -p "$folder"
make tlflax "$jax" --editable "$root"
make keras_tf "$keras" "tensorflow-cpu>=2.21" "$pillow"
# grain: what Keras' image_dataset_from_directory(format="grain") reads images with.
make keras_jax "$keras" "$jax" "grain>=0.2.15" "$pillow"
make torch "$torch" "torchvision>=0.28" "timm>=1.0.20" "$pillow"
echo "done: $python scripts/bench.py --envs $folder"
