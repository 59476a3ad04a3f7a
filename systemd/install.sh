#!/bin/sh
# Installs programs, unit, user and directories. Running it again changes nothing that is right already.
# Enters: built programs in $BUILD (default target/release). Leaves: files under $DESTDIR$PREFIX, $DESTDIR/etc and $DESTDIR/var.
#   DESTDIR=/tmp/root PREFIX=/usr systemd/install.sh [--token tpm|pkcs11-usb|pkcs11-network|softhsm]... [--port-443] [--encrypted-pin]
set -eu

here=$(cd "$(dirname "$0")" && pwd)
DESTDIR=${DESTDIR:-}
PREFIX=${PREFIX:-/usr}
BUILD=${BUILD:-$here/../target/release}
units=$DESTDIR$PREFIX/lib/systemd/system
extra=$DESTDIR/etc/systemd/system/chancery.service.d

main() {
    wanted=$(drop_ins_wanted "$@")
    install_programs
    install_manual
    install_unit
    for name in $wanted; do install_drop_in "$name"; done
    if [ -z "$DESTDIR" ]; then apply; else echo "installed under $DESTDIR; nothing was applied to this machine"; fi
}

drop_ins_wanted() {
    while [ $# -gt 0 ]; do
        case $1 in
        --token)
            case ${2:-} in
            tpm | pkcs11-usb | pkcs11-network | softhsm) echo "$2" ;;
            *) die "--token takes one of tpm, pkcs11-usb, pkcs11-network, softhsm" ;;
            esac
            shift
            ;;
        --port-443) echo port-443 ;;
        --encrypted-pin) echo encrypted-pin ;;
        *) die "unknown option $1; known are --token, --port-443, --encrypted-pin" ;;
        esac
        shift
    done
}

install_programs() {
    for program in chancery chancery-hsm chancery-audit; do
        [ -x "$BUILD/$program" ] || die "$BUILD/$program is not built; run: cargo build --release --workspace"
    done
    install -D -m 0755 "$BUILD/chancery" "$DESTDIR$PREFIX/bin/chancery"
    install -D -m 0755 "$BUILD/chancery-audit" "$DESTDIR$PREFIX/bin/chancery-audit"
    # Not in anyone's search path: only the daemon starts it.
    install -D -m 0755 "$BUILD/chancery-hsm" "$DESTDIR$PREFIX/libexec/chancery/chancery-hsm"
    # The terms of what is linked ask to travel with it.
    for paper in LICENSE THIRD-PARTY-LICENSES.txt; do
        install -D -m 0644 "$here/../$paper" "$DESTDIR$PREFIX/share/doc/chancery/$paper"
    done
}

# The programs write their own: what is in them is what they take.
install_manual() {
    share=$DESTDIR$PREFIX/share
    install -d -m 0755 "$share/man/man1" "$share/bash-completion/completions" "$share/zsh/site-functions" "$share/fish/vendor_completions.d"
    "$BUILD/chancery" manual "$share/man/man1"
    "$BUILD/chancery-audit" manual "$share/man/man1"
    chmod 0644 "$share"/man/man1/chancery*.1
    "$BUILD/chancery" completion bash >"$share/bash-completion/completions/chancery"
    "$BUILD/chancery" completion zsh >"$share/zsh/site-functions/_chancery"
    "$BUILD/chancery" completion fish >"$share/fish/vendor_completions.d/chancery.fish"
    install -D -m 0644 "$here/../docs/chancery.example.toml" "$share/doc/chancery/chancery.example.toml"
}

install_unit() {
    install -d -m 0755 "$units"
    sed "s|^ExecStart=/usr/bin/|ExecStart=$PREFIX/bin/|" "$here/chancery.service" >"$units/chancery.service.new"
    chmod 0644 "$units/chancery.service.new"
    mv "$units/chancery.service.new" "$units/chancery.service"
    install -D -m 0644 "$here/sysusers.conf" "$DESTDIR$PREFIX/lib/sysusers.d/chancery.conf"
    install -D -m 0644 "$here/tmpfiles.conf" "$DESTDIR$PREFIX/lib/tmpfiles.d/chancery.conf"
    for file in "$here"/drop-ins/*.conf; do
        install -D -m 0644 "$file" "$DESTDIR$PREFIX/share/chancery/drop-ins/$(basename "$file")"
    done
}

# A drop-in that the operator has edited is his; ours lies beside it for comparison.
install_drop_in() {
    source=$here/drop-ins/$1.conf
    target=$extra/$1.conf
    if [ -e "$target" ] && ! cmp -s "$source" "$target"; then
        echo "kept the edited $target; the shipped one is in $PREFIX/share/chancery/drop-ins"
        return
    fi
    install -D -m 0644 "$source" "$target"
}

apply() {
    systemd-sysusers chancery.conf
    systemd-tmpfiles --create chancery.conf
    # In a container or an image that is being built no service manager runs; the next boot reads the unit by itself.
    if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
    cat <<TEXT
installed. Next:
  1. /etc/chancery/chancery.toml          from $PREFIX/share/doc/chancery/chancery.example.toml; 'chancery config check' says what is wrong with it
  2. /etc/credstore/chancery.pin          the token's PIN, mode 0600 (a TPM needs none)
  3. chancery init                        makes the appliance, once, as the service's user (docs/recipes/service.md)
  4. systemctl enable --now chancery
TEXT
}

die() {
    echo "install.sh: $1" >&2
    exit 1
}

main "$@"
