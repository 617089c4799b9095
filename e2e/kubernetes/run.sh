#!/bin/sh
# Builds what is missing and runs both tests: run.sh [plane] [storage]. SERVER and SERVERS choose the servers, see README.md.
set -eu
cd "$(dirname "$0")"
[ $# -gt 0 ] || set -- plane storage
export GOWORK=off
stage() {
	begun=$(date +%s)
	"$@" || { echo "FAILED: $*"; exit 1; }
	echo "done in $(($(date +%s) - begun)) s: $*"
}
skip=
case "${SERVER:-shim} ${SERVERS:-shim,etcd}" in *shim*) ;; *) skip=shim ;; esac
stage go run ./build -skip "$skip"
for name in "$@"; do
	case $name in
	plane) stage go test -count=1 -v -timeout 12m ./plane ;;
	storage)
		rm -f work/storage.txt
		code=0
		(stage go test -count=1 -timeout 20m ./storage) || code=$?
		[ ! -f work/storage.txt ] || cat work/storage.txt
		[ "$code" = 0 ] || exit "$code"
		;;
	*) echo "run.sh [plane] [storage]" >&2; exit 2 ;;
	esac
done
