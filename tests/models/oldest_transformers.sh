#!/usr/bin/env bash
# The lower end of pyproject's range of `transformers`: a second virtual environment with that version and every other
# pin of constraints.txt, in which the engine's tests, the selectors' and a run on the embedded model must pass.
#
#     tests/models/oldest_transformers.sh [folder]     # or: make test-oldest
#
# The folder keeps the environment, so that a second call installs nothing; without one it is a temporary folder. Takes
# a few minutes and downloads packages, and is not part of `make test`. More for pytest: PYTEST_ARGS="-x -k visionzip".
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)
if [ $# -gt 0 ]; then
    mkdir -p "$1"
    folder=$(cd "$1" && pwd)
else
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
fi
python=$folder/venv/bin/python

oldest=$(sed -nE 's/.*"transformers>=([0-9.]+),.*/\1/p' "$repository/pyproject.toml")
case $oldest in
    *.*.*) ;;
    *.*) oldest=$oldest.0 ;;
    *) echo "no lower bound of transformers in pyproject.toml" >&2; exit 2 ;;
esac

# transformers brings its own bounds on these two, so their pins, which fit the newest version, go with it.
grep -vE '^(transformers|huggingface-hub|tokenizers)==' "$repository/constraints.txt" > "$folder/constraints.txt"
echo "transformers==$oldest" >> "$folder/constraints.txt"

if ! cmp -s "$folder/constraints.txt" "$folder/installed.txt"; then
    echo "installing transformers $oldest into $folder/venv"
    "${PYTHON:-python3}" -m venv "$folder/venv"
    "$python" -m pip install --quiet --disable-pip-version-check -c "$folder/constraints.txt" -e "$repository[test]"
    cp "$folder/constraints.txt" "$folder/installed.txt"
fi

export OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1
"$python" - "$oldest" <<'EOF'
import sys
from importlib.metadata import version

names = ("transformers", "torch", "huggingface-hub", "tokenizers")
print(*(f"{name} {version(name)}" for name in names), sep=", ", flush=True)
if version("transformers") != sys.argv[1]:
    raise SystemExit(f"expected transformers {sys.argv[1]}")
EOF

cd "$repository"
# shellcheck disable=SC2086 # several arguments
"$python" -m pytest -q -p no:cacheprovider tests/models tests/contract tests/selectors ${PYTEST_ARGS:-}
cd "$folder" # the run leaves nothing in the repository
rm -rf runs  # what an earlier call recorded would be taken over
"$python" -m zoo_exp run +exp=ablation_fusion limit=8 out="$folder/runs"
