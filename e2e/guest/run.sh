#!/usr/bin/env bash
# Runs a command as root in a machine of its own: run.sh COMMAND [ARGUMENT...]
#
# The machine is User-Mode Linux, Debian's package: a kernel as a process. It has what the kernel of
# a test machine may lack (AppArmor, nothing but control groups v2, every capability) and sees this
# machine's files as they are; what it writes is on a disk of its own, below /mnt, and gone at its
# end. Its network is its own loopback. It is several times slower than the machine itself.
#
# Output goes to the terminal, the exit code is the command's. GUEST_LIMIT (seconds, default an hour)
# ends what hangs; GUEST_MEMORY (default 6G) is its memory. Of the environment it is told what begins
# with CRISOL_ or CARGO_. Files below CRISOL_CACHE can be written, those of the command's directory too.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
limit=${GUEST_LIMIT:-3600}
work=$(mktemp -d /tmp/crisol-guest-XXXXXX)
trap 'rm -rf "$work"' EXIT

fail() {
    echo "guest: $1" >&2
    exit 1
}
[ $# -gt 0 ] || fail "no command"
command -v linux >/dev/null || fail "user-mode-linux is not installed: make guest-tools"

# The kernel's command line is short and splits at spaces; a script is neither.
{
    declare -px | grep -E '^declare -x (PATH|HOME|CRISOL_[A-Z_]*|CARGO_[A-Z_]*)='
    printf 'cd %q\n' "$PWD"
    printf '%q ' "$@"
    echo
} >"$work/command"
truncate -s 16G "$work/disk"
mkfs.ext4 -q -F -E lazy_itable_init=1,lazy_journal_init=1 "$work/disk"

[ "$(uname -m)" = x86_64 ] || fail "User-Mode Linux is packaged for x86_64 only"
gcc -O2 -Wall -shared -fPIC -o "$work/xstate.so" "$here/xstate.c"

# Its memory is a file: on a tmpfs, not on a disk that would be written to.
status=0
TMPDIR=/dev/shm LD_PRELOAD=$work/xstate.so timeout --kill-after=10 "$limit" \
    linux "mem=${GUEST_MEMORY:-6G}" root=/dev/root rootfstype=hostfs rootflags=/ rw \
    "ubda=$work/disk" "init=$here/init.sh" "guest_work=$work" \
    con=null con0=fd:0,fd:1 loglevel=2 apparmor=1 security=apparmor umid="${work##*-}" uml_dir="$work/" \
    </dev/null || status=$?
[ "$status" != 124 ] || fail "not done after $limit seconds"
[ -s "$work/status" ] || fail "the machine ended ($status) without a word about the command"
exit "$(cat "$work/status")"
