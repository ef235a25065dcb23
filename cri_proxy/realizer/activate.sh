# shellcheck shell=bash
# Runs a program inside the environment that this file is part of:
#
#   bash --noprofile --norc -p $FLOX_ENV/activate [OPTION ...] -- PROGRAM [ARG ...]
#
# --set NAME=VALUE  sets a variable that only the program is to have, not all of its container
# --keep FILE       leaves the variables, as they are after the hook, in FILE for those that join
# --join FILE       takes the variables from FILE instead of running the hook once more
#
# Sets the environment's [vars], runs its hook with standard output turned to standard error, and
# becomes the program, which so keeps the process id, standard input, directory and signals that it
# would have had without this file. Needs bash 4.4 and nothing else: an environment need not bring
# coreutils. /proc/self/environ tells which of bash's own variables were really given.

set +euo pipefail

_cri_proxy_fail() { # MESSAGE STATUS
  printf 'cri-proxy: %s\n' "$1" >&2
  trap - EXIT
  builtin exit "$2"
}

_cri_proxy_left() { # STATUS
  _cri_proxy_fail "the hook.on-activate of $FLOX_ENV_DESCRIPTION ended the shell (status $1), so the program was not started: take 'exit' out of the hook, or mend what failed in it" "$(($1 ? $1 : 1))"
}

_cri_proxy_keep='' _cri_proxy_join=''
while [[ $# -gt 0 ]]; do
  case $1 in
    --set) export "${2?}" && shift 2 ;;
    --keep) _cri_proxy_keep=$2 && shift 2 ;;
    --join) _cri_proxy_join=$2 && shift 2 ;;
    --) shift && break ;;
    *) _cri_proxy_fail "activate does not know the option $1" 2 ;;
  esac
done
[[ $# -gt 0 ]] || _cri_proxy_fail 'activate needs a program to run' 2

# bash exports these by itself; the program shall see them only if the container had them. (SHLVL
# cannot be helped: exec writes it once more. A container that had none sees 0.)
_cri_proxy_unexported=(PWD OLDPWD)
while IFS= read -r -d '' _cri_proxy_line; do
  case $_cri_proxy_line in
    PWD=*) _cri_proxy_unexported=("${_cri_proxy_unexported[@]/#PWD/}") ;;
    OLDPWD=*) _cri_proxy_unexported=("${_cri_proxy_unexported[@]/#OLDPWD/}") ;;
  esac
done </proc/self/environ

_cri_proxy_program=("$@")
_cri_proxy_directory=$PWD
_cri_proxy_previous=${OLDPWD-}
_cri_proxy_umask=$(umask)
set --

if [[ -n $_cri_proxy_join ]]; then
  # The main program's activation may still be under way: wait for the last line of its file.
  # A read that nobody answers is the only pause that bash has of its own.
  exec {_cri_proxy_pause}<> <(:)
  for ((_cri_proxy_try = 0; ; _cri_proxy_try++)); do
    _cri_proxy_lines=()
    [[ -O $_cri_proxy_join ]] && mapfile -t _cri_proxy_lines 2>/dev/null <"$_cri_proxy_join"
    [[ ${#_cri_proxy_lines[@]} -gt 0 && ${_cri_proxy_lines[-1]} == '# complete' ]] && break
    ((_cri_proxy_try < 100)) || _cri_proxy_fail "the activation of $FLOX_ENV_DESCRIPTION has not ended yet, so nothing can join it: try again once the container's program has started" 126
    read -r -t 0.1 -u "$_cri_proxy_pause"
  done
  exec {_cri_proxy_pause}>&-
  # shellcheck disable=SC1090
  source "$_cri_proxy_join"
else
  # shellcheck disable=SC1091
  source "$FLOX_ENV/activate.d/envrc"
  if [[ -e $FLOX_ENV/activate.d/hook-on-activate ]]; then
    trap '_cri_proxy_left $?' EXIT
    trap 'exit 143' TERM
    # shellcheck disable=SC1091
    source "$FLOX_ENV/activate.d/hook-on-activate" 1>&2
    trap - EXIT TERM
    set +aeuo pipefail
  fi
fi

builtin cd -- "$_cri_proxy_directory" 2>/dev/null || true
OLDPWD=$_cri_proxy_previous
for _cri_proxy_line in "${_cri_proxy_unexported[@]}"; do
  [[ -z $_cri_proxy_line ]] || export -n "${_cri_proxy_line?}"
done

if [[ -n $_cri_proxy_keep ]]; then
  umask 077
  set -o noclobber
  { export -p && printf '# complete\n'; } 2>/dev/null >"$_cri_proxy_keep"
  set +o noclobber
fi
umask "$_cri_proxy_umask"

set -- "${_cri_proxy_program[@]}"
if [[ $1 != */* ]] && ! type -P -- "$1" >/dev/null; then
  _cri_proxy_fail "$1 was not found, neither in $FLOX_ENV_DESCRIPTION nor in the rest of PATH ($PATH)" 127
fi
builtin exec -- "$@"
