"""The main job through the client that openapi-python-client makes of the API's description, over mutual TLS.

Usage: main_job.py URL CA.pem CLIENT.pem CLIENT.key, with the API key's secret in CHANCERY_TOKEN and the client on PYTHONPATH.
Prints what it did as one JSON object; any step that fails ends it with a traceback.
"""

import base64
import hashlib
import json
import os
import ssl
import sys
import uuid

from chancery import AuthenticatedClient
from chancery.api.audit import get_audit_entries_seq
from chancery.api.authorities import get_ca
from chancery.api.keys import get_keys, get_keys_key, post_keys, post_keys_key_sign, post_keys_key_verify
from chancery.models import CreateKey, CreateKeyKind, KeyDetail, Problem, Sign, SignScheme, Verify, VerifyScheme

url, ca, certificate, key_file = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.load_cert_chain(certificate, key_file)
client = AuthenticatedClient(
    base_url=url, token=os.environ["CHANCERY_TOKEN"], verify_ssl=context, raise_on_unexpected_status=True, timeout=60
)

made = post_keys.sync(
    client=client,
    body=CreateKey(name="python", kind=CreateKeyKind.P256),
    idempotency_key=str(uuid.uuid4()),
    chancery_deadline_ms=60_000,
)
assert isinstance(made, KeyDetail), made
read = get_keys_key.sync("python", client=client)
assert isinstance(read, KeyDetail) and read.id == made.id, read
assert made.id in [key.id for key in get_keys.sync(client=client).keys]

digest = base64.b64encode(hashlib.sha256(b"signed by a generated client").digest()).decode()
signed = post_keys_key_sign.sync(
    "python", client=client, body=Sign(scheme=SignScheme.ECDSA_SHA256, digest=digest, context="main job")
)
verdict = post_keys_key_verify.sync(
    "python",
    client=client,
    body=Verify(scheme=VerifyScheme.ECDSA_SHA256, digest=digest, signature=signed.signature),
)
entry = get_audit_entries_seq.sync(signed.entry, client=client)
assert entry.action == "key.sign" and made.id in entry.object_, entry

# A refusal is a typed problem too, and a text is a text.
refused = get_keys_key.sync("nothing", client=client)
assert isinstance(refused, Problem) and refused.code == "not_found", refused
assert "BEGIN CERTIFICATE" in get_ca.sync(client=client)

print(json.dumps({
    "key": made.id,
    "signature": signed.signature,
    "valid": verdict.valid,
    "entry": entry.seq,
    "context": entry.detail["after"]["context"],
}))
