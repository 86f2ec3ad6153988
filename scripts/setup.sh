# Makes .venv and installs what a requirements file names; sourced by train.sh and test.sh.
#
#   source scripts/setup.sh; ensure_environment requirements.txt
#
# Versions are those of requirements/lock.txt; LOCK= takes the newest releases instead. TORCH=cpu
# takes the build of torch without GPU libraries, a tenth of the download.
# Afterwards $PYTHON_BIN is the interpreter. Nothing is downloaded when all is in place, so that
# a second run works offline. PYTHON=... chooses the Python that makes the environment.

PYTHON_BIN=.venv/bin/python
LOCK=${LOCK-requirements/lock.txt}

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3.13 python3.12 python3.11 python3; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
            2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: Python 3.11, 3.12 or 3.13 is needed: install one, or name it with PYTHON=..." >&2
    return 2
}

ensure_environment() {
    local requirements=$1 wanted stamp python install
    if [[ $(uname -s) != Linux ]]; then
        echo "error: only Linux is supported: on Windows use WSL 2, on macOS a Linux container" >&2
        return 2
    fi
    wanted=$(cat requirements.txt requirements/*.txt - <<<"$LOCK" | cksum | tr -d ' ')
    stamp=.venv/.installed-$(basename "${requirements%.txt}")
    if [[ -x $PYTHON_BIN && -f $stamp && $(cat "$stamp") == "$wanted" ]]; then
        return
    fi
    if [[ ${TORCH:=} && $TORCH != cpu ]]; then
        echo "error: TORCH=$TORCH: give TORCH=cpu, or leave it out for the build with GPUs" >&2
        return 2
    fi
    python=$(find_python)
    if [[ ! -x $PYTHON_BIN ]]; then
        echo "Setting up .venv (once): 4 to 15 minutes." >&2
        [[ $TORCH ]] || cat >&2 <<'TEXT'
This downloads about 3 GB, most of it torch with its GPU libraries, and needs 8 GB of disk. Without
a GPU a tenth is enough: stop here (Ctrl-C), remove .venv, and set TORCH=cpu before the command.
TEXT
        "$python" -m venv .venv || {
            echo "error: 'python -m venv' failed: on Debian and Ubuntu, install python3-venv" >&2
            return 2
        }
    fi
    echo "Installing $requirements ..." >&2
    install=("$PYTHON_BIN" -m pip install --quiet --disable-pip-version-check
        ${LOCK:+--constraint "$LOCK"})
    if [[ $TORCH ]] && ! "${install[@]}" --no-deps torch torchvision \
        --index-url https://download.pytorch.org/whl/cpu >&2; then
        echo "error: pip could not install torch from download.pytorch.org (see above): run the" \
            "same again, or without TORCH=cpu" >&2
        return 2
    fi
    if ! "${install[@]}" --requirement "$requirements" >&2; then
        echo "error: pip could not install $requirements (see above): run the same again" >&2
        return 2
    fi
    echo "$wanted" >"$stamp"
}
