# Makes .venv and installs what a requirements file names; sourced by train.sh and test.sh.
#
#   source scripts/setup.sh; ensure_environment requirements.txt
#
# Versions are those of requirements/lock.txt; LOCK= takes the newest releases instead.
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
    local requirements=$1 wanted stamp python small_torch
    if [[ $(uname -s) != Linux ]]; then
        echo "error: only Linux is supported: on Windows use WSL 2, on macOS a Linux container" >&2
        return 2
    fi
    wanted=$(cat requirements.txt requirements/*.txt - <<<"$LOCK" | cksum | tr -d ' ')
    stamp=.venv/.installed-$(basename "${requirements%.txt}")
    if [[ -x $PYTHON_BIN && -f $stamp && $(cat "$stamp") == "$wanted" ]]; then
        return
    fi
    python=$(find_python)
    small_torch=$(grep -oE '^(torch|torchvision)==[0-9.]+' requirements/lock.txt | xargs)
    if [[ ! -x $PYTHON_BIN ]]; then
        cat >&2 <<TEXT
Setting up .venv (once). This downloads about 3 GB, most of it torch with its GPU libraries, needs
8 GB of disk and takes 4 to 15 minutes. Without a GPU a tenth of that is enough; stop here (Ctrl-C)
and install the small torch first:
    python3 -m venv .venv
    .venv/bin/pip install $small_torch --index-url https://download.pytorch.org/whl/cpu
then run this command again.
TEXT
        "$python" -m venv .venv || {
            echo "error: 'python -m venv' failed: on Debian and Ubuntu, install python3-venv" >&2
            return 2
        }
    fi
    echo "Installing $requirements ..." >&2
    if ! "$PYTHON_BIN" -m pip install --quiet --disable-pip-version-check \
        --requirement "$requirements" ${LOCK:+--constraint "$LOCK"} >&2; then
        echo "error: pip could not install $requirements (see above): run the same again" >&2
        return 2
    fi
    echo "$wanted" >"$stamp"
}
