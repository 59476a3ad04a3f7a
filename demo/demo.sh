#!/usr/bin/env bash
# What Chancery does, from a workspace to a caught forger, with openssl and curl as the outsiders.
# Runs inside `chancery dev --then`, which sets CHANCERY_CONFIG, CHANCERY_URL and CHANCERY_STATE.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
bin=${CHANCERY_BIN:-$here/target/debug}
PATH="$bin:$PATH"
work="$CHANCERY_STATE/demo"
mkdir -p "$work"
cd "$work"

step() { printf '\n\033[1m%s\033[0m\n' "$*"; }
tell() { printf '  %s\n' "$*"; }

step "1. The appliance is up: keys in SoftHSM, anchor and second seal in a TPM (swtpm)"
chancery status

step "2. A workspace, with a client certificate, an API key and three keys made in the token"
chancery workspace create acme
export CHANCERY_WORKSPACE=acme
chancery client enroll build-server --out .
secret=$(chancery --json apikey create ci --scope sign --scope keys:read --scope audit:read | jq -r .secret)
for kind in p256 ed25519 rsa-2048; do chancery --json key create "release-$kind" --kind "$kind" >/dev/null; done
chancery key list

step "3. A program signs a real file over mutual TLS (curl), once with each key"
head -c 100000 /dev/urandom >firmware.bin
digest=$(openssl dgst -sha256 -binary firmware.bin | base64 -w0)
call() {
  curl --silent --show-error --fail-with-body --cacert ca.pem --cert build-server.pem --key build-server.key \
    -H "Authorization: Bearer $secret" "$@"
}
sign() { printf '%s' "$2" | call -H 'Content-Type: application/json' --data-binary @- "$CHANCERY_URL/v1/keys/$1/sign"; }
sign release-p256 "{\"scheme\":\"ecdsa-sha256\",\"digest\":\"$digest\",\"context\":\"firmware 1.0\"}" >p256.json
sign release-rsa-2048 "{\"scheme\":\"rsa-pss-sha256\",\"digest\":\"$digest\"}" >rsa.json
sign release-ed25519 "{\"scheme\":\"ed25519\",\"message\":\"$(base64 -w0 firmware.bin)\"}" >ed25519.json
jq -c '{key, version, entry, use}' p256.json rsa.json ed25519.json

step "4. Anyone verifies the signatures with openssl and the public keys"
for name in p256 rsa ed25519; do jq -r .signature "$name.json" | base64 -d >"$name.sig"; done
chancery key show release-p256 --public pem >p256.pem
chancery key show release-rsa-2048 --public pem >rsa.pem
chancery key show release-ed25519 --public pem >ed25519.pem
openssl dgst -sha256 -verify p256.pem -signature p256.sig firmware.bin
openssl dgst -sha256 -verify rsa.pem -sigopt rsa_padding_mode:pss -signature rsa.sig firmware.bin
openssl pkeyutl -verify -pubin -inkey ed25519.pem -rawin -in firmware.bin -sigfile ed25519.sig

step "5. The ledger: each signature was written down before its key was touched"
chancery audit entries --action key.sign
chancery audit seal >/dev/null
entry=$(jq .entry p256.json)
call "$CHANCERY_URL/v1/audit/receipts/$entry" >receipt.json
tell "receipt.json proves that entry $entry stands under this checkpoint:"
jq -r .proof receipt.json | sed -n '/^$/,$p' | sed 's/^/    /'

step "6. A security team checks the exported log with chancery-audit, without token or daemon"
export_dir=$(unset CHANCERY_WORKSPACE; chancery --json audit export | jq -r .directory)
chancery-audit verify "$export_dir"

step "7. A forger edits one row in a copy of the ledger"
mkdir forged
sqlite3 "$CHANCERY_STATE/state/ledger.db" ".backup forged/ledger.db"
triggers=$(sqlite3 forged/ledger.db "SELECT 'DROP TRIGGER ' || name || ';' FROM sqlite_master WHERE type = 'trigger'")
sqlite3 forged/ledger.db "$triggers UPDATE entry SET actor = 'somebody-else' WHERE seq = $entry;"
tell "(the ledger's own triggers had to be removed first: they refuse updates)"
if chancery-audit verify forged/ledger.db; then
  echo "the forgery was NOT noticed" >&2
  exit 1
fi
tell "caught."

step "How to go on by hand"
tell "make dev                       leave a simulated appliance running, then in another shell:"
tell "export CHANCERY_CONFIG=...     as it prints"
tell "chancery --help                every command; add --json for programs"
tell "docs/tour.md                   the way of a request through the code"
