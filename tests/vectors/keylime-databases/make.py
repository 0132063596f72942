"""Makes the databases of this folder with Keylime's own models and migrations.

    python make.py sqlite OUT [REVISION]   cv_data.sql and reg_data.sql in the folder OUT
    python make.py postgresql URL          the same in an empty database

Needs keylime 7.14.3 and what it imports, and `cryptography`. Keys are drawn here, each time others; ids,
names and addresses are made up.
"""

import base64
import datetime
import hashlib
import json
import os
import pathlib
import shutil
import sqlite3
import sys
import tempfile

OUT = tempfile.mkdtemp()
KIND, TARGET = sys.argv[1], sys.argv[2]
REVISION = sys.argv[3] if len(sys.argv) > 3 else "head"
URL = "sqlite" if KIND == "sqlite" else TARGET
for component in ("verifier", "registrar"):
    path = os.path.join(OUT, component + ".conf")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"[{component}]\nversion = 2.6\nuuid = default\ndatabase_url = {URL}\n")
        file.write("database_pool_sz_ovfl = 5,10\nauto_migrate_db = True\n")
        if component == "verifier":
            file.write("[revocations]\nenabled_revocation_notifications = []\n")
    os.environ[f"KEYLIME_{component.upper()}_CONFIG"] = path
with open(os.path.join(OUT, "logging.conf"), "w", encoding="utf-8") as file:
    file.write(
        "[logging]\nversion=2.6\n[loggers]\nkeys=root\n[handlers]\nkeys=h\n[formatters]\nkeys=f\n"
        "[formatter_f]\nformat=%(message)s\n[logger_root]\nlevel=WARNING\nhandlers=h\n"
        "[handler_h]\nclass=StreamHandler\nlevel=WARNING\nformatter=f\nargs=(sys.stderr,)\n"
    )
os.environ["KEYLIME_LOGGING_CONFIG"] = os.path.join(OUT, "logging.conf")
os.environ["KEYLIME_DIR"] = OUT

import alembic.config
import keylime
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from keylime.db.keylime_db import SessionManager, make_engine
from keylime.db.verifier_db import VerfierMain, VerifierAllowlist, VerifierMbpolicy
from keylime.ima import ima
from sqlalchemy import MetaData, Table, inspect

INI = str(pathlib.Path(keylime.__file__).parent / "migrations" / "alembic.ini")
for name in ("cloud_verifier", "registrar"):
    alembic.config.main(argv=["-c", INI, "-x", "db=" + name, "upgrade", REVISION])

EK_TEMPLATE = bytes.fromhex(
    "0001000b000300b20020837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
    "00060080004300100800000000000100"
)
AK_TEMPLATE = bytes.fromhex("0001000b00050072000000100014000b0800000000000100")
# Decrypts, too: no key that only attests.
WEAK_AK_TEMPLATE = bytes.fromhex("0001000b00020072000000060080004300100800000000000100")
NOW = datetime.datetime(2026, 1, 1)


def public(template, key):
    modulus = key.public_key().public_numbers().n.to_bytes(256, "big")
    area = template + modulus
    return base64.b64encode(len(area).to_bytes(2, "big") + area).decode()


def certificate(subject, key, issuer, signer):
    name = lambda text: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])
    built = x509.CertificateBuilder(name(issuer), name(subject), key.public_key(), 7, NOW,
                                    datetime.datetime(2046, 1, 1))
    return built.sign(signer, hashes.SHA256())


def rsa_key():
    return rsa.generate_private_key(65537, 2048)


class Machine:
    """The keys of one made-up machine."""

    def __init__(self, name, ak_template=AK_TEMPLATE):
        ca, ek, server = rsa_key(), rsa_key(), ec.generate_private_key(ec.SECP256R1())
        self.ek = public(EK_TEMPLATE, ek)
        self.ak = public(ak_template, rsa_key())
        der = certificate(name, ek, "made-up TPM vendor", ca).public_bytes(serialization.Encoding.DER)
        self.ekcert = base64.b64encode(der).decode()
        pem = certificate(name, server, name, server).public_bytes(serialization.Encoding.PEM)
        self.mtls = pem.decode()
        self.ip = "192.0.2." + str(10 + len(name) + sum(name.encode()) % 200 % 200 // 2)


PEM_KEY = rsa_key().private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()


def policy(name, text, generator=None):
    """As the verifier keeps a policy, whether it is a good one or not."""
    return VerifierAllowlist(
        name=name,
        ima_policy=text,
        generator=generator,
        checksum=hashlib.sha256((text or "").encode()).hexdigest(),
    )


def good(name, text):
    return VerifierAllowlist(**ima.runtime_policy_db_contents(name, text))


def runtime(paths):
    content = json.loads(json.dumps(ima.EMPTY_RUNTIME_POLICY))
    content["meta"] = {"version": 1, "generator": 3, "timestamp": "2026-01-01 00:00:00"}
    content["digests"] = {path: [hashlib.sha256(path.encode()).hexdigest()] for path in paths}
    return json.dumps(content)


here = pathlib.Path(__file__).parent
signed = (here.parent / "keylime-policy" / "signed" / "ecdsa.signed.json").read_text(encoding="utf-8")
policies = {
    "fleet": good("fleet", runtime(["/usr/bin/bash", "/usr/bin/true"])),
    "signed": policy("signed", signed, 3),
    "machine-push": good("machine-push", json.dumps(ima.EMPTY_RUNTIME_POLICY)),
    "broken": policy("broken", '{"digests": {"/bin/sh": ', 3),
    "without-text": policy("without-text", None, 3),
}
boots = {
    "empty": VerifierMbpolicy(name="empty", mb_policy="{}"),
    "refstate": VerifierMbpolicy(
        name="refstate",
        mb_policy=json.dumps({"scrtm_and_bios": [], "has_secureboot": True, "unread": "x"}),
    ),
}
# Every machine with what is peculiar to it.
PULL = {"operational_state": 3, "attestation_count": 17, "last_received_quote": 1767225600,
        "last_successful_attestation": 1767225600}
FAILED = {"operational_state": 9, "attestation_count": 4, "severity_level": 6,
          "last_event_id": "ima.validation.ima-ng.not_in_allowlist", "last_received_quote": 1767225600,
          "last_successful_attestation": 1767225000}
PUSH = {"operational_state": None, "ip": None, "port": None, "attestation_count": 9,
        "last_received_quote": 1767225600, "last_successful_attestation": 1767225600}
machines = {
    "machine-pull": ("fleet", "empty", PULL),
    "machine-signed": ("signed", "empty", PULL),
    "machine-failed": ("fleet", "empty", FAILED),
    "machine-unreachable": ("fleet", "empty", {**FAILED, "operational_state": 7, "severity_level": None,
                            "last_event_id": "internal.verifier.not_reachable"}),
    "machine-stopped": ("fleet", "empty", {**PULL, "operational_state": 10}),
    "machine-leaving": ("fleet", "empty", {**PULL, "operational_state": 8}),
    "machine-push": ("machine-push", None, PUSH),
    "machine-push-failed": ("fleet", None,
                            {**PUSH, "accept_attestations": False, "consecutive_attestation_failures": 3}),
    "machine-push-silent": ("fleet", None, {**PUSH, "accept_attestations": False}),
    "machine-broken-policy": ("broken", "empty", PULL),
    "machine-refstate": ("fleet", "refstate", PULL),
    "machine-without-policy": (None, "empty", PULL),
    "machine-other-key": ("fleet", "empty", PULL),
    "machine-weak-key": ("fleet", "empty", PULL),
    "machine-bad-pcrs": ("fleet", "empty", {**PULL, "tpm_policy": '{"77": ["00"], "mask": "0x0"}'}),
    "a machine": ("fleet", "empty", PULL),
}


def session(service):
    engine = make_engine(service)
    return engine, SessionManager().make_session(engine)


engine, db = session("cloud_verifier")
known = {column["name"] for column in inspect(engine).get_columns("verifiermain")}
with_models = REVISION == "head"
db.add_all(policies.values())
db.add_all(boots.values())
db.flush()
keys = {}
for name, (runtime_name, boot_name, more) in machines.items():
    machine = keys[name] = Machine(name, WEAK_AK_TEMPLATE if "weak" in name else AK_TEMPLATE)
    values = {
        "agent_id": name, "v": base64.b64encode(hashlib.sha256(name.encode()).digest()).decode(),
        "ip": machine.ip, "port": 9002, "verifier_id": "default", "verifier_ip": "127.0.0.1",
        "verifier_port": 8881, "public_key": "",
        "tpm_policy": '{"22": ["' + "00" * 32 + '"], "mask": "0x400400"}', "meta_data": '{"cert_serial": 1}',
        "ima_policy_id": policies[runtime_name].id if runtime_name else None,
        "mb_policy_id": boots[boot_name].id if boot_name else None, "ima_sign_verification_keys": "",
        "revocation_key": PEM_KEY if name == "machine-pull" else "",
        "accept_tpm_hash_algs": ["sha512", "sha384", "sha256"], "accept_tpm_encryption_algs": ["ecc", "rsa"],
        "accept_tpm_signing_algs": ["ecschnorr", "rsassa"], "hash_alg": "sha256", "enc_alg": "rsa",
        "sign_alg": "rsassa", "boottime": 1767220000, "ima_pcrs": [10], "pcr10": b"\x17" * 32,
        "next_ima_ml_entry": 1234, "learned_ima_keyrings": {}, "supported_version": "2.5",
        "ak_tpm": machine.ak, "mtls_cert": machine.mtls, "tpm_clockinfo": {"clock": 1, "resetCount": 1},
        "accept_attestations": True, "consecutive_attestation_failures": 0, **more,
    }
    if with_models:
        db.add(VerfierMain(**values))
    else:
        # Models of today name columns that an older database does not have.
        table = VerfierMain.__table__
        values = {key: value for key, value in values.items() if key in known}
        db.execute(table.insert().values(**values))
db.commit()

# The model of registrarmain has numbers where its migrations, and the registrar, have truth values.
engine, db = session("registrar")
table = Table("registrarmain", MetaData(), autoload_with=engine)
add = lambda **values: db.execute(table.insert().values(**values))
for name, machine in keys.items():
    if name == "machine-without-policy":
        continue
    other = name == "machine-other-key"
    values = {
        "agent_id": name, "key": base64.b64encode(b"K" * 32).decode(),
        "aik_tpm": Machine(name).ak if other else machine.ak, "ekcert": machine.ekcert, "ek_tpm": machine.ek,
        "mtls_cert": machine.mtls, "virtual": False, "ip": machine.ip, "port": 9002, "active": True,
        "provider_keys": "{}", "regcount": 2,
    }
    add(**values)
waiting, foreign = Machine("not-activated"), Machine("foreign")
common = {"key": base64.b64encode(b"K" * 32).decode(), "virtual": False, "provider_keys": "{}",
          "regcount": 1}
add(agent_id="not-activated", aik_tpm=waiting.ak, ek_tpm=waiting.ek, active=False, **common)
add(agent_id="foreign-certificate", aik_tpm=foreign.ak, ek_tpm=foreign.ek, active=True,
    ekcert=waiting.ekcert, **common)
add(agent_id="without-keys", active=True, **common)
db.commit()

if KIND == "sqlite":
    os.makedirs(TARGET, exist_ok=True)
    for file in ("cv_data", "reg_data"):
        source = sqlite3.connect(os.path.join(OUT, file + ".sqlite"))
        with open(os.path.join(TARGET, file + ".sql"), "w", encoding="utf-8") as out:
            out.writelines(line + "\n" for line in source.iterdump())
        shutil.copy(os.path.join(OUT, file + ".sqlite"), TARGET)
shutil.rmtree(OUT)
