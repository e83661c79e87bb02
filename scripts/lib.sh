# Shared by the scripts beside it; sourced, never run.

HULL_REPO=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# rustup and cargo are looked for where their installers put them, since
# `env -i PATH=… HOME=…` and non-login shells have no ~/.cargo/bin.
[[ -n ${HOME:-} ]] || { HOME=$(getent passwd "$(id -u)" | cut -d: -f6); HOME=${HOME:-/root}; export HOME; }
case ":${PATH:-}:" in
*:"$HOME/.cargo/bin":*) ;;
*) PATH=${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}:$HOME/.cargo/bin ;;
esac
case ":$PATH:" in *:/usr/sbin:*) ;; *) PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin ;; esac
export PATH LC_ALL=C.UTF-8

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$*"; exit 1; }

# as_root CMD…: as it is for root, by sudo for others.
as_root() {
    if [[ $(id -u) = 0 ]]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else die "needs root, or sudo, for: $*"
    fi
}

# A place for what is fetched once and kept: kernels, Debian roots.
lab_cache() {
    local dir=${HULL_LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/hull-lab}
    mkdir -p "$dir" && printf '%s\n' "$dir"
}
