#!/bin/sh
# Takes away what install.sh put there. Ledger, configuration and PIN stay unless --purge says otherwise; keys in hardware always stay.
# Enters: an installation under $DESTDIR$PREFIX, or what is left of one. Leaves: no program and no unit.
#   DESTDIR=/tmp/root PREFIX=/usr systemd/uninstall.sh [--purge]
set -eu

DESTDIR=${DESTDIR:-}
PREFIX=${PREFIX:-/usr}

main() {
    purge=no
    case ${1:-} in
    --purge) purge=yes ;;
    "") ;;
    *) die "unknown option $1; the only one is --purge" ;;
    esac
    stop
    remove_installed
    if [ "$purge" = yes ]; then remove_data; else tell_what_stays; fi
}

stop() {
    if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ] && systemctl cat chancery.service >/dev/null 2>&1; then
        systemctl disable --now chancery.service
    fi
}

remove_installed() {
    rm -f "$DESTDIR$PREFIX/bin/chancery" "$DESTDIR$PREFIX/bin/chancery-audit"
    rm -rf "$DESTDIR$PREFIX/libexec/chancery" "$DESTDIR$PREFIX/share/chancery" "$DESTDIR$PREFIX/share/doc/chancery"
    share=$DESTDIR$PREFIX/share
    rm -f "$share"/man/man1/chancery.1 "$share"/man/man1/chancery-*.1 "$share/bash-completion/completions/chancery"
    rm -f "$share/zsh/site-functions/_chancery" "$share/fish/vendor_completions.d/chancery.fish"
    rm -f "$DESTDIR$PREFIX/lib/systemd/system/chancery.service"
    rm -f "$DESTDIR$PREFIX/lib/sysusers.d/chancery.conf" "$DESTDIR$PREFIX/lib/tmpfiles.d/chancery.conf"
    if [ -z "$DESTDIR" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
}

# The user stays as well: files that are his must not fall to the next user who is given his number.
remove_data() {
    rm -rf "$DESTDIR/etc/systemd/system/chancery.service.d"
    rm -rf "$DESTDIR/var/lib/chancery" "$DESTDIR/etc/chancery"
    rm -f "$DESTDIR/etc/credstore/chancery.pin" "$DESTDIR/etc/credstore.encrypted/chancery.pin"
    echo "programs and data are gone; keys in the token and TPM objects are still there"
}

tell_what_stays() {
    echo "programs are gone; /var/lib/chancery, /etc/chancery, the PIN and drop-ins stay (--purge removes them)"
}

die() {
    echo "uninstall.sh: $1" >&2
    exit 1
}

main "$@"
