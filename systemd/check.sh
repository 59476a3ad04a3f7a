#!/bin/sh
# Checks the unit as it would be installed, alone and with each drop-in: it verifies, and its exposure is 1.5 or better.
# Enters: this folder. Leaves: one line per check, and a failure if any failed.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
THRESHOLD=15
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

main() {
    command -v systemd-analyze >/dev/null || die "systemd-analyze is not installed: run apt-get install systemd"
    stand_in_programs
    failed=0
    for variant in plain $(variants); do check_variant "$variant" || failed=1; done
    check_comments || failed=1
    check_round_trip || failed=1
    return $failed
}

variants() {
    for file in "$here"/drop-ins/*.conf; do basename "$file" .conf; done
}

# The checks need programs that exist and run, not the real ones.
stand_in_programs() {
    mkdir -p "$work/build"
    for program in chancery chancery-hsm chancery-audit; do
        # Asked for its manual the real one writes pages.
        printf '#!/bin/sh\nif [ "${1:-}" = manual ]; then : >"$2/%s.1"; fi\n' "$program" >"$work/build/$program"
        chmod 0755 "$work/build/$program"
    done
}

installed() {
    root=$1
    shift
    DESTDIR=$root BUILD=$work/build "$here/install.sh" "$@" >/dev/null
}

options_for() {
    case $1 in
    plain) ;;
    port-443 | encrypted-pin) echo "--$1" ;;
    *) echo "--token $1" ;;
    esac
}

check_variant() {
    root=$work/$1
    # shellcheck disable=SC2046
    installed "$root" $(options_for "$1")
    # The service manager's own units and the command that ours calls, which verification looks for.
    mkdir -p "$root/bin"
    cp /bin/kill "$root/bin/kill"
    cp /lib/systemd/system/*.target /lib/systemd/system/*.slice "$root/usr/lib/systemd/system/"
    said=$(systemd-analyze verify --root="$root" chancery.service 2>&1 | grep -i 'chancery' || true)
    exposure=$(systemd-analyze security --offline=true --root="$root" --threshold=$THRESHOLD --no-pager chancery.service 2>&1) ||
        { echo "FAIL $1: $(echo "$exposure" | tail -1)"; return 1; }
    [ -z "$said" ] || { echo "FAIL $1: $said"; return 1; }
    echo "ok   $1: $(echo "$exposure" | sed -n 's/.*Overall exposure level.*: //p')"
}

# Each directive, or the block it stands in, has its reason above it.
check_comments() {
    for file in "$here/chancery.service" "$here"/drop-ins/*.conf; do
        awk -v file="$file" '
            /^#/ { reason = 1; next }
            /^$/ || /^\[/ { reason = 0; next }
            !reason && !/^(Description|WantedBy)=/ { print "FAIL " file ": no reason above " $0; bad = 1 }
            END { exit bad }' "$file" || return 1
    done
    echo "ok   every directive has its reason"
}

# Installing twice is installing once; removing keeps the data; purging does not.
check_round_trip() {
    root=$work/trip
    installed "$root" --token tpm
    (cd "$root" && find . -type f -exec sha256sum {} + | sort) >"$work/once"
    installed "$root" --token tpm
    (cd "$root" && find . -type f -exec sha256sum {} + | sort) >"$work/twice"
    cmp -s "$work/once" "$work/twice" || { echo "FAIL installing twice changed something"; return 1; }
    mkdir -p "$root/var/lib/chancery" "$root/etc/chancery"
    echo ledger >"$root/var/lib/chancery/ledger.db"
    DESTDIR=$root "$here/uninstall.sh" >/dev/null
    [ ! -e "$root/usr/bin/chancery" ] || { echo "FAIL uninstalling left the program"; return 1; }
    [ -s "$root/var/lib/chancery/ledger.db" ] || { echo "FAIL uninstalling took the ledger"; return 1; }
    DESTDIR=$root "$here/uninstall.sh" --purge >/dev/null
    [ -z "$(find "$root" -type f)" ] || { echo "FAIL purging left $(find "$root" -type f)"; return 1; }
    echo "ok   install twice, uninstall, purge"
}

die() {
    echo "check.sh: $1" >&2
    exit 1
}

main
